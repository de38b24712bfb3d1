"""How the aligned policy's margins survive other ways of sampling it: the record behind audit.json."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from alignjax.records.codec import optional
from alignjax.records.figure import Figure


@dataclasses.dataclass(frozen=True)
class ErosionPoint:
    """What the policy reaches at one strength of an attack. Mappings are by the constraint's name.

    Attributes:
      strength: on the attack's own scale.
      text: that was put before the prompt or at the start of the response; empty: none was.
      margins: mean utilities minus the plain reference's, prompt by prompt, in calibrated units.
      utilities: mean utilities; of a constraint on a rate, mean probabilities.
      reward_gain: mean reward minus the plain reference's.
      length: tokens of a response, the end token and a given start included.
      refusals: share of responses that open with a refusal.
      true_margins: by the true scores, where a world knows them.
    """

    strength: float
    text: str
    margins: Mapping[str, Figure]
    utilities: Mapping[str, Figure]
    reward_gain: Figure
    length: Figure
    refusals: Figure
    true_margins: Mapping[str, Figure] | None = optional()


@dataclasses.dataclass(frozen=True)
class ErosionCurve:
    """One attack at rising strengths.

    Attributes:
      attack: its name in `config.audit.attacks`.
      start: the strength at which nothing is changed.
      points: in the order of their strengths, with that of `start`.
      gone: by constraint, the interpolated strength nearest to `start` at which the mean margin over the
        reference has fallen to 0; None: at no strength that was tried.
      unshown: the same for the lower end of its interval, from where on the margin is not told apart from 0.
      below: the same for what was asked; None: at no strength that was tried, or nothing was asked.
    """

    attack: str
    start: float
    points: tuple[ErosionPoint, ...]
    gone: Mapping[str, float | None]
    unshown: Mapping[str, float | None]
    below: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Erosion:
    """The audit of one policy.

    Attributes:
      asked: of every constraint, in its own kind; None: nothing.
      kinds: what is asked: margin, or level or rate, which are about the policy's own mean.
      prompts: test prompts.
      samples: responses to each, at every strength.
      curves: one for each attack.
      left_out: attacks that were not tried, and why.
      remarks: what to know before the numbers are believed.
    """

    FORMAT: ClassVar[int] = 1

    asked: Mapping[str, float | None]
    kinds: Mapping[str, str]
    prompts: int
    samples: int
    curves: tuple[ErosionCurve, ...]
    left_out: Mapping[str, str]
    remarks: tuple[str, ...]
