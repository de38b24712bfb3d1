"""What the dual says of a score table: the record behind dual.json and `alignjax solve --json`."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from alignjax.records.figure import Figure


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of one constraint: exactly one of the three, or nothing.

    Attributes:
      margin: how much the mean utility must rise above the reference's, in the units of the utility. In a
        `DualAnswer` it is always filled in, also where a level or a fraction was asked; None: nothing asked.
      level: the mean utility to reach, in the same units.
      fraction: the margin as a share, in (0, 1), of the largest that the constraint alone can reach.
    """

    margin: float | None = None
    level: float | None = None
    fraction: float | None = None


@dataclasses.dataclass(frozen=True)
class Ends:
    """An interval of a quantity that may be unbounded: None stands for infinite."""

    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Reference:
    """Mean scores of the reference's samples."""

    reward: float
    utilities: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class EffectiveSamples:
    """Effective samples of a prompt, 1 / sum_k w_ik^2, over the prompts.

    Attributes:
      median: over prompts.
      least: of all prompts.
      num_samples: K, the most samples that a prompt has.
      saturated: share of the prompts with fewer than 2 effective samples, in [0, 1].
    """

    median: float
    least: float
    num_samples: int
    saturated: float


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What the tilted policy pi_lam has on the samples.

    Attributes:
      reward: E r.
      kl: KL(pi_lam || reference), nats a prompt.
      utilities: E g, by constraint.
      margins: E g minus the reference's.
      reward_gain: E r minus the reference's.
      ess: effective samples.
    """

    reward: Figure
    kl: Figure
    utilities: Mapping[str, Figure]
    margins: Mapping[str, Figure]
    reward_gain: Figure
    ess: EffectiveSamples


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How much the multiplier moves when the problem is solved anew on every resample.

    Attributes:
      lam: by constraint; a resample that cannot be met counts as an infinite multiplier.
      feasible_share: share of the resamples that can be met, in [0, 1].
    """

    lam: Mapping[str, Ends]
    feasible_share: float


@dataclasses.dataclass(frozen=True)
class Corrected:
    """The estimates with the bias of finitely many samples a prompt taken off, and their intervals.

    Attributes:
      lam: by constraint; None where no corrected multiplier was found or its interval is infinite.
      margins: by constraint.
      reward: E r.
      kl: nats.
    """

    lam: Mapping[str, Figure | None]
    margins: Mapping[str, Figure]
    reward: Figure
    kl: Figure


@dataclasses.dataclass(frozen=True)
class Conservative:
    """What was asked on top, so that the margins hold with confidence.

    Attributes:
      guard: added to each margin.
      low: lower confidence bound of each margin at lam; None where the raised margins cannot be met.
    """

    guard: Mapping[str, float]
    low: Mapping[str, float] | None


@dataclasses.dataclass(frozen=True)
class FrontierCurve:
    """What pi_lam has along the ray from 0 through lambda* to three times lambda* (to 3 where it is 0).

    Attributes:
      lams: [P, m].
      margins: [P, m].
      margin_errors: [P, m], standard errors of the margins over prompts.
      reward: [P].
      kl: [P], nats.
      objective: [P], the dual function.
    """

    lams: np.ndarray
    margins: np.ndarray
    margin_errors: np.ndarray
    reward: np.ndarray
    kl: np.ndarray
    objective: np.ndarray


@dataclasses.dataclass(frozen=True)
class PromptMargin:
    """The margin of one prompt: its id (or its row in the table) and the value."""

    prompt: str | int
    margin: float


@dataclasses.dataclass(frozen=True)
class PromptMargins:
    """How a constraint's margin is spread over the prompts.

    Attributes:
      quartiles: least, lower quartile, median, upper quartile, largest.
      least: the prompts with the least margin, ascending.
      most: the prompts with the largest margin, descending.
      share_of_top_tenth: share of the mean margin that the best tenth of the prompts brings; None where the
        mean is not above 0.
    """

    quartiles: tuple[float, ...]
    least: tuple[PromptMargin, ...]
    most: tuple[PromptMargin, ...]
    share_of_top_tenth: float | None


@dataclasses.dataclass(frozen=True)
class SolverState:
    """How the solver ended.

    Attributes:
      iterations: evaluations of the dual.
      error: largest entry of the projected gradient, relative to the spread of its utility; None where it is
        not finite.
      objective: D(lam) at the end; None where infeasible.
    """

    iterations: int
    error: float | None
    objective: float | None


@dataclasses.dataclass(frozen=True)
class DualAnswer:
    """All that the dual says of a score table. Mappings are by the constraint's name.

    Every `Figure` here has a percentile interval over `num_resamples` resamples, widened to the estimate
    itself where it would not hold it. With `num_resamples` 0 there are no intervals: low = mean = high.

    Attributes:
      names: the m constraints, in the order of arrays.
      beta: KL weight.
      confidence: of the intervals, and of the margins where conservative.
      num_prompts: N.
      num_samples: number of responses in the table.
      num_resamples: of the intervals.
      holds: the uncertainties that the intervals hold, in words; empty: none, they have no width.
      asked: with the margin filled in.
      reference: mean scores of the reference.
      reachable: the largest margin of each constraint alone.
      multiple: the largest multiple of the margins that can be met together; None: infinite, or a margin is
        not asked.
      solved: False where the multiplier was given.
      feasible: False: lam, predicted, intervals, corrected, frontier and prompts are None.
      certificate: weights of a combination of constraints which proves that the margins cannot be met.
      certificate_reachable: the largest margin of that combination.
      conservative: None where not asked for.
      lam: the multipliers.
      predicted: at lam.
      intervals: of lam; None where not solved or without resamples.
      corrected: None where not solved, without resamples, or with too few samples a prompt.
      frontier: the curve along lam.
      prompts: the margins of single prompts.
      solver: None where not solved.
      warnings: what to know before believing the prediction.
    """

    FORMAT: ClassVar[int] = 2

    names: tuple[str, ...]
    beta: float
    confidence: float
    num_prompts: int
    num_samples: int
    num_resamples: int
    holds: tuple[str, ...]
    asked: Mapping[str, Asked]
    reference: Reference
    reachable: Mapping[str, float]
    multiple: float | None
    solved: bool
    feasible: bool
    certificate: Mapping[str, float] | None
    certificate_reachable: float | None
    conservative: Conservative | None
    lam: Mapping[str, float] | None
    predicted: Predicted | None
    intervals: Intervals | None
    corrected: Corrected | None
    frontier: FrontierCurve | None
    prompts: Mapping[str, PromptMargins] | None
    solver: SolverState | None
    warnings: tuple[str, ...]

    @property
    def multipliers(self) -> np.ndarray:
        """The multipliers in the order of `names`, [m] float64.

        Raises:
          ValueError: the constraints cannot be met, there are none.
        """
        if self.lam is None:
            raise ValueError("DualAnswer.multipliers: the answer is infeasible; call dual.require_answer.")
        return np.array([self.lam[name] for name in self.names])
