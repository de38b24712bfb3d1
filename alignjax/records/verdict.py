"""What the test of a policy says: verdicts on prompts that nothing else used."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was shown about one constraint, the reward or the KL divergence.

    Attributes:
      state: "verified": the bound meets what was asked; "refuted": the bound on the other side rules it out;
        "not shown": neither; "not asked": there was nothing to compare with.
      asked: at least this much (the KL divergence: at most); None: nothing was asked.
      mean: the estimate, in the units of what was asked.
      low: lower confidence bound; None: one test prompt gives none.
      high: upper confidence bound, at the same confidence; None: likewise.
      confidence: of each bound by itself. That of several verdicts together is lower: their errors add up.
      prompts: test prompts that it rests on.
      more: by how many the test prompts would have to be more for a test that decides with probability 0.9,
        if the estimate is the truth; None: it is decided, or no number would be enough.
      labels: human labels that it rests on; 0: it rests on calibrated scores.
      bound: how the bounds were computed: "student", "gaffke" or "bernstein", see `evaluation.bounds`;
        "exact" where the prompts are all there are.
    """

    state: str
    asked: float | None
    mean: float
    low: float | None
    high: float | None
    confidence: float
    prompts: int
    more: int | None
    labels: int
    bound: str


@dataclasses.dataclass(frozen=True)
class Power:
    """What a test of this size can show.

    Attributes:
      prompts: test prompts.
      above: how far the truth has to be on the right side of what was asked.
      probability: with which it is then shown.
    """

    prompts: int
    above: float
    probability: float


@dataclasses.dataclass(frozen=True)
class TestRecord:
    """One look at the test prompts.

    Attributes:
      look: its number among all looks at these test prompts, from 1.
      share: the part of the permitted error that it spends.
      spent: the part that all looks so far have spent, this one included; at most 1.
      verdicts: by constraint; the reward and the KL divergence as "reward" and "kl".
      power: likewise; empty where the prompts are too few to tell.
      accepted: whether every verdict that was asked for is "verified".
    """

    __test__: ClassVar[bool] = False  # its name begins like that of a class of tests
    FORMAT: ClassVar[int] = 1

    look: int
    share: float
    spent: float
    verdicts: Mapping[str, Verdict]
    power: Mapping[str, Power]
    accepted: bool
