"""What the dual says of a score table: the record behind dual.json and `alignjax solve --json`."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from alignjax.records.codec import optional
from alignjax.records.figure import Figure
from alignjax.records.units import Unit


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of one constraint: exactly one of the four, or nothing.

    Attributes:
      margin: how much the mean utility must rise above the reference's, in the units of the utility. In a
        `DualAnswer` it is always filled in, also where something else was asked; None: nothing asked.
      level: the mean utility to reach, in the same units.
      fraction: the margin as a share, in (0, 1), of that of the safety-only tilt at this beta, whose weights
        are softmax_k(g_ik / beta).
      rate: a level, in (0, 1), of a utility that is a probability: the mean probability to reach.
    """

    margin: float | None = None
    level: float | None = None
    fraction: float | None = None
    rate: float | None = None

    @property
    def target(self) -> float | None:
        """The mean utility to reach, whichever of level and rate it was asked as; None: neither."""
        return self.level if self.level is not None else self.rate


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
    """Effective samples of a prompt, 1 / sum_k w_ik^2, over the prompts by their weights.

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
    """What a policy has, as the reference's samples say; `Forecast` names the policies.

    Attributes:
      reward: E r.
      kl: KL(policy || reference), nats a prompt.
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
class Forecast:
    """What two policies of one multiplier have.

    Attributes:
      draw_k: of the policy that draws K responses from the reference and keeps one of them with the weights
        of the tilt: the plain estimates, exact in expectation at any K. Its KL is an upper bound, because
        choosing among K draws says less about the response than the weights do.
      tilt: of the tilted policy pi_lam itself, at which alignment aims: the estimates with the bias of
        finitely many samples taken off, and intervals widened by the size of that bias on both sides. An
        extrapolation, to be believed only where the gate is open.
    """

    draw_k: Predicted
    tilt: Predicted


@dataclasses.dataclass(frozen=True)
class Gate:
    """Whether the samples say anything of pi_lam: from K samples no KL above log K can be seen.

    Attributes:
      open: True where `forecast.tilt` may be believed.
      share: share of the prompts, by weight, whose KL is too near to log K.
      reasons: in words, with numbers; empty where it is open.
      remedies: what would open it, in words, with numbers; empty where it is open.
      samples: the least K that may open it; None where it is open.
      beta: the smallest beta found at which this table passes; None where it is open, or where none passes.
    """

    open: bool
    share: float
    reasons: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    samples: int | None = None
    beta: float | None = None


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
class Plain:
    """What the answer without a guard has, with the bias of finitely many samples taken off.

    Attributes:
      lam: by constraint.
      margins: by constraint.
      reward: E r.
      kl: nats.
    """

    lam: Mapping[str, float]
    margins: Mapping[str, float]
    reward: float
    kl: float


@dataclasses.dataclass(frozen=True)
class Guard:
    """What was asked on top, so that what is asked holds with confidence; each mapping is by constraint.

        room = q sqrt(standard_error^2 + calibration^2) + |bias| + 0.75 spread

    Attributes:
      confidence: that all hold together, one-sided.
      room: added to what is asked, in the units of the utility.
      standard_error: of the margin (of the mean utility where a level is asked) over the draw of prompts.
      calibration: standard deviation that the calibration of the scores brings.
      bias: what finite K adds to the margin; taken off it, and its size added to the room.
      spread: the size that the bias can have, the mean over prompts of sd_i (1 / ESS_i - 1 / K_i), where sd_i
        is the standard deviation of the utility over the responses to prompt i.
      low: lower confidence bound of the margin at lam; None where the guarded problem has no solution.
      plain: the answer without the guard.
      settled: False where the room, which depends on lam, did not come to rest: then nothing is promised.
    """

    confidence: float
    room: Mapping[str, float]
    standard_error: Mapping[str, float]
    calibration: Mapping[str, float]
    bias: Mapping[str, float]
    spread: Mapping[str, float]
    low: Mapping[str, float] | None
    plain: Plain
    settled: bool = True


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
class DialPoint:
    """What another question about one constraint would have had for an answer, the others as they are.

    Attributes:
      name: of the constraint, or of a dimension whose categories are all asked for the same.
      kind: what is asked of it: margin, level or rate; of a tail its cost; multiplier, where that is given.
      asked: the number.
      own: whether it is what the run asked.
      open: whether the gate is open; where it is not, the forecasts are those of draw-K.
      lam: the multipliers of all constraints; empty: it cannot be met.
      reached: forecast of what is asked, of all categories together the least, of a multiplier the margin;
        None: it cannot be met.
      reward_gain: forecast of the reward above the reference's; None likewise.
      kl: forecast, nats; of draw-K an upper bound; None likewise.
    """

    name: str
    kind: str
    asked: float
    own: bool
    open: bool
    lam: Mapping[str, float]
    reached: Figure | None
    reward_gain: Figure | None
    kl: Figure | None


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
      confidence: of the intervals, and of the guard.
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
      feasible: False: lam, predicted, forecast, intervals, corrected, frontier and prompts are None.
      certificate: weights of a combination of constraints which proves that the margins cannot be met.
      certificate_reachable: the largest margin of that combination.
      guard: None where not asked for, or where what is asked cannot be met without one either.
      lam: the multipliers.
      predicted: the forecast of the tilted policy, `forecast.tilt`.
      intervals: of lam; None where not solved or without resamples.
      corrected: None where not solved, without resamples, with too few samples a prompt, or with a guard:
        then lam itself is that of the estimates without the bias.
      frontier: the curve along lam.
      prompts: the margins of single prompts.
      solver: None where not solved.
      warnings: what to know before believing the prediction; a closed gate is one of them.
      gate: whether `predicted` may be believed; where nothing is feasible, that of the answer without the
        guard, and None where there is none either.
      forecast: both policies of lam.
      units: what each constraint is a constraint on, as it was given; may be empty.
      dial: answers to other questions, by constraint in the order of what is asked; None: none were asked.
    """

    FORMAT: ClassVar[int] = 3

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
    guard: Guard | None
    lam: Mapping[str, float] | None
    predicted: Predicted | None
    intervals: Intervals | None
    corrected: Corrected | None
    frontier: FrontierCurve | None
    prompts: Mapping[str, PromptMargins] | None
    solver: SolverState | None
    warnings: tuple[str, ...]
    gate: Gate | None = None
    forecast: Forecast | None = None
    units: Mapping[str, Unit] = dataclasses.field(default_factory=dict)
    dial: tuple[DialPoint, ...] | None = optional()

    @property
    def multipliers(self) -> np.ndarray:
        """The multipliers in the order of `names`, [m] float64.

        Raises:
          ValueError: the constraints cannot be met, there are none.
        """
        if self.lam is None:
            raise ValueError("DualAnswer.multipliers: the answer is infeasible; call dual.require_answer.")
        return np.array([self.lam[name] for name in self.names])
