"""What policies reach: the records behind evaluation.json and rounds/N.json."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from alignjax.records.codec import optional
from alignjax.records.figure import Figure
from alignjax.records.verdict import Power, Verdict


@dataclasses.dataclass(frozen=True)
class PolicyResult:
    """What one policy reaches on the evaluation prompts. Mappings are by the constraint's name.

    Attributes:
      reward: mean calibrated reward.
      reward_gain: the same minus the reference's, prompt by prompt.
      kl: KL(policy || reference), nats a prompt.
      utilities: mean calibrated utilities.
      margins: the same minus the reference's, prompt by prompt.
      length: tokens of a response, the end token included.
      cut: share of responses without an end.
      empty: share of responses without a visible character.
      refusals: share of responses that open with a refusal.
      true_reward: mean true reward, where a world knows it.
      true_margins: true utilities minus the reference's, likewise.
      kl_from_optimum: KL(pi_lam* || policy) for the true scores, nats, where sums are exact.
    """

    reward: Figure
    reward_gain: Figure
    kl: Figure
    utilities: Mapping[str, Figure]
    margins: Mapping[str, Figure]
    length: Figure
    cut: Figure
    empty: Figure
    refusals: Figure
    true_reward: Figure | None = optional()
    true_margins: Mapping[str, Figure] | None = optional()
    kl_from_optimum: Figure | None = optional()


@dataclasses.dataclass(frozen=True)
class Contest:
    """Who wins against whom in one dimension.

    Attributes:
      judge: who decided: scores, verdicts, or module:function.
      comparisons: number of them.
      missing: pairs of policies on prompts without a verdict.
      position_bias: how much more often than half the response shown first wins; None where no judge saw an
        order.
      win_rates: by policy and opponent; None where the two were never compared.
      ratings: in logits above the first policy's; None where no chain of comparisons connects them.
    """

    judge: str
    comparisons: int
    missing: int
    position_bias: Figure | None
    win_rates: Mapping[str, Mapping[str, Figure | None]]
    ratings: Mapping[str, Figure | None]


@dataclasses.dataclass(frozen=True)
class JudgeRecord:
    """What the judge of one dimension was asked, where it is a model or has prompts of its own.

    Attributes:
      judge: its preset, or module:function.
      prompts: that it judged on.
      own_prompts: whether these are prompts of its own; else those of the test.
      trained_on: how many prompts of its own are among those that the run trains on.
      prompts_cut: how many prompts of its own are too long for the policies, which read their end alone.
      asked: questions that it answered.
      unread: answers that say none of what was asked for; they count as no verdict.
      too_long: questions that its context has no room for; they count as no verdict.
      safe: by policy, share of safe responses; None where the judge does not say what is safe. A policy
        without any verdict is left out.
      hazards: by policy and category, how many responses are unsafe; None where the judge names no category.
    """

    judge: str
    prompts: int
    own_prompts: bool
    trained_on: int
    prompts_cut: int
    asked: int
    unread: int
    too_long: int
    safe: Mapping[str, Figure] | None = optional()
    hazards: Mapping[str, Mapping[str, int]] | None = optional()


@dataclasses.dataclass(frozen=True)
class Headline:
    """The run in one sentence, and the next step in another.

    Attributes:
      state: ship, kept at a cost, or do not ship, by the rule of `evaluation.headline`.
      sentence: what was asked and shown.
      next: what to do now; empty in a record that was written before there was this field.
    """

    state: str
    sentence: str
    next: str = ""

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.sentence} {self.next}".rstrip()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was asked, what the dual predicted, what every policy reaches, and what is verified of the last.

    Attributes:
      asked: margins by constraint; None where nothing was asked.
      predicted: reward, kl, utilities and margins of the tilted policy, and each margin by its constraint's
        name.
      policies: by name, the reference first.
      contests: by dimension.
      verdicts: of the test of the aligned policy: for every constraint, "reward" and "kl".
      look: number of the look at these test prompts that the verdicts rest on.
      spent: share of the test's error that all looks up to this one have spent.
      power: by constraint, what so many test prompts show.
      headline: of the run.
      judges: by dimension, of the judges that are models or have prompts of their own; None: there are none.
    """

    FORMAT: ClassVar[int] = 3

    asked: Mapping[str, float | None]
    predicted: Mapping[str, Figure | Mapping[str, Figure]]
    policies: Mapping[str, PolicyResult]
    contests: Mapping[str, Contest]
    verdicts: Mapping[str, Verdict]
    look: int
    spent: float
    power: Mapping[str, Power]
    headline: Headline
    judges: Mapping[str, JudgeRecord] | None = optional()


@dataclasses.dataclass(frozen=True)
class Round:
    """What the policy of a refused round reaches, and the multiplier that follows; mappings by constraint.

    Attributes:
      round: number, from 1.
      lam: multipliers that its policy was aligned with.
      asked: margins.
      aim: margins that the next round aims at, so that the test is likely to accept it.
      achieved: margins on the prompts of the reference's samples, which no test uses.
      next_lam: corrected multipliers.
      reward: mean calibrated reward.
      kl: nats a prompt.
    """

    FORMAT: ClassVar[int] = 3

    round: int
    lam: Mapping[str, float]
    asked: Mapping[str, float]
    aim: Mapping[str, float]
    achieved: Mapping[str, float]
    next_lam: Mapping[str, float]
    reward: float
    kl: float
