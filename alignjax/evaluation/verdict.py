"""The test of a policy on prompts that nothing else used: verified, refuted, or not shown."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from alignjax.evaluation.bounds import (
    Bound,
    Labels,
    Measured,
    bound,
    calibration_width,
    method_of,
    scatter_of_bound,
    spread,
)
from alignjax.records.verdict import Power, TestRecord, Verdict

__all__ = [
    "Bound",
    "Labels",
    "Measured",
    "accepted",
    "bound",
    "judge",
    "look",
    "look_share",
    "more_prompts",
    "power",
    "powers",
    "verdict",
]

VERIFIED, NOT_SHOWN, REFUTED, NOT_ASKED = "verified", "not shown", "refuted", "not asked"
PROBABILITY = 0.9  # with which a test of the size named decides
_MOST_PROMPTS = 10**9
# Of the permitted error, what the planned looks share. The rest is for looks that nobody planned.
_PLANNED_SHARE = 0.8


def verdict(
    measured: Measured,
    asked: float | None,
    error: float,
    *,
    upper: bool = False,
    population: bool = False,
    method: str | None = None,
) -> Verdict:
    """Whether a mean is shown to be at least what was asked.

        verified: low >= asked;   refuted: high < asked;   else not shown

    Each of the two statements is wrong with at most the probability `error`.

    Args:
      measured: the values on T test prompts.
      asked: in the units of the values; None: nothing was asked.
      error: in (0, 1).
      upper: True where the mean shall be at most what was asked, as for the KL divergence: verified where
        high <= asked, refuted where low > asked.
      population: True where the prompts are all there are.
      method: of the bounds, see `bound`.

    Raises:
      ValueError: see `bound`.
    """
    found = bound(measured, error, population=population, method=method)
    more = None
    if asked is None:
        state = NOT_ASKED
    elif found.high <= asked if upper else found.low >= asked:
        state = VERIFIED
    elif found.low > asked if upper else found.high < asked:
        state = REFUTED
    else:
        state = NOT_SHOWN
        more = more_prompts(measured, asked, error, population=population, method=method)
    return Verdict(
        state=state,
        asked=asked,
        mean=found.mean,
        low=found.low if np.isfinite(found.low) else None,
        high=found.high if np.isfinite(found.high) else None,
        confidence=1.0 - error,
        prompts=len(measured.values),
        more=more,
        labels=0 if measured.labels is None else measured.labels.number,
        bound=method_of(measured, method, population=population),
    )


def more_prompts(
    measured: Measured,
    asked: float,
    error: float,
    *,
    probability: float = PROBABILITY,
    population: bool = False,
    method: str | None = None,
) -> int | None:
    """By how many the test prompts would have to be more for a test to decide.

    The smallest T' for which

        |mean - asked| >= sqrt(h^2 T / T' + z_{1-error}^2 c^2) + z_probability sqrt(s^2 / T' + c^2)

    h and s^2 / T being this test's half-width and the variance of its end for which prompts were drawn, c the
    standard error of the calibration, which more prompts do not reduce. It is the size of a new test, on T'
    prompts that nobody has looked at. Labelled prompts are taken to become more in the same proportion.

    Args:
      measured: the values on T test prompts.
      asked: in the units of the values.
      error: in (0, 1), of the new test.
      probability: with which it decides if the mean measured here is the truth, in (0.5, 1).
      population: True where the prompts are all there are.
      method: of the bounds, see `bound`.

    Returns:
      T' - T, at least 1; None where no number is enough: the truth may be so near to what was asked, or the
      calibration so uncertain, or the prompts are all there are, or one prompt does not tell the spread.
    """
    now = bound(measured, error, population=population, method=method)
    if population or not np.isfinite(now.low):
        return None
    distance = abs(now.mean - asked)
    width = now.high - now.mean if now.mean < asked else now.mean - now.low
    reach = _Reach.of(measured, width, error, probability, upper=now.mean < asked)
    if distance < reach.at(_MOST_PROMPTS):
        return None
    total = len(measured.values)
    low, high = total, _MOST_PROMPTS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if distance >= reach.at(middle) else (middle, high)
    return high - total


def power(
    measured: Measured,
    error: float,
    *,
    prompts: int | None = None,
    probability: float = PROBABILITY,
    upper: bool = False,
    population: bool = False,
    method: str | None = None,
) -> Power | None:
    """What a test of this size shows: by how much the truth has to exceed what was asked.

    The right side of `more_prompts` at a number of prompts, in the units of the values: with so much to spare
    the test verifies with the given probability.

    Args:
      measured: values whose spread is like that of the test, such as the test's own.
      error: in (0, 1).
      prompts: of the test; None: as many as were measured.
      probability: in (0.5, 1).
      upper: see `verdict`.
      population: True where the prompts are all there are.
      method: of the bounds, see `bound`.

    Returns:
      The power; None where one prompt does not tell the spread.
    """
    now = bound(measured, error, population=population, method=method)
    if not np.isfinite(now.low):
        return None
    width = now.high - now.mean if upper else now.mean - now.low
    prompts = len(measured.values) if prompts is None else prompts
    reach = _Reach.of(measured, width, error, probability, upper=upper, population=population)
    return Power(prompts, reach.at(prompts), probability)


class _Reach(NamedTuple):
    """How far the truth has to be from what was asked for a test to decide."""

    total: int  # prompts that were measured
    width: float  # half-width of the bound for which prompts were drawn, at this number
    fixed: float  # that for the calibration
    sampling: float  # standard error, at this number
    calibration: float
    score: float  # normal quantile of the probability

    @classmethod
    def of(
        cls,
        measured: Measured,
        width: float,
        error: float,
        probability: float,
        *,
        upper: bool,
        population: bool = False,
    ) -> "_Reach":
        """`width`: half-width of the whole bound, at the number of prompts that were measured."""
        sampling, calibration = spread(measured, population=population)
        sampling *= scatter_of_bound(measured, error, upper=upper)
        fixed = calibration_width(measured, error)
        score = float(special.ndtri(probability))
        own = math.sqrt(max(width**2 - fixed**2, 0.0))
        return cls(len(measured.values), own, fixed, sampling, calibration, score)

    def at(self, prompts: int) -> float:
        """The distance, with another number of prompts."""
        ratio = (self.total / prompts) ** 0.5
        scatter = math.hypot(self.sampling * ratio, self.calibration)
        return math.hypot(self.width * ratio, self.fixed) + self.score * scatter


def look_share(spent: Sequence[float], planned: int) -> float:
    """Share of the permitted error that the next look at the same test prompts may spend.

    The planned looks share 0.8 of it equally. A look that was not planned, the k-th after them, may spend
    0.2 / (k (k + 1)), and never more than half of what is left. So there is always something left, and the
    sum is at most 1 whatever is planned in between.

    Such shares bound the error of all looks together if nothing of a look but "not accepted" goes back into
    the training. Whoever sets lambda by the margins measured on test prompts fits the test.

    Args:
      spent: shares of the looks so far, of all runs.
      planned: number of looks that this run plans in all, those of `spent` included; at least 1.

    Returns:
      In (0, 1].

    Raises:
      ValueError: no look is planned, or the shares given are not positive or sum to more than 1.
    """
    total = sum(spent)
    if planned < 1:
        raise ValueError(f"look_share: {planned} looks are planned; plan at least 1.")
    if any(not 0.0 < share <= 1.0 for share in spent) or total > 1.0 + 1e-9:
        raise ValueError(f"look_share: the shares {list(spent)} are not positive with a sum of at most 1.")
    number, even = len(spent) + 1, _PLANNED_SHARE / planned
    if number <= planned and total + even <= _PLANNED_SHARE * (1.0 + 1e-9):
        return even
    late = max(number - planned, 1)
    return min((1.0 - _PLANNED_SHARE) / (late * (late + 1)), (1.0 - total) / 2.0)


def judge(
    measured: Mapping[str, Measured],
    asked: Mapping[str, float | None],
    *,
    error: float,
    population: bool = False,
    method: str | None = None,
) -> dict[str, Verdict]:
    """Verdicts on everything that was measured; those that were asked for share the error.

    m questions at error / m each: with probability 1 - error none of them is wrongly called verified.

    Args:
      measured: by constraint; "reward" is the gain of reward, "kl" the KL divergence.
      asked: by constraint, at least; "kl": at most. None or missing: not asked for. The reward's gain is then
        judged against 0 and the KL divergence against nothing, at the error of the others.
      error: of all questions together, in (0, 1).
      population: True where the prompts are all there are.
      method: of the bounds, see `bound`.

    Returns:
      By constraint, in the order of `measured`.

    Raises:
      ValueError: something was asked for that was not measured, or see `bound`.
    """
    wanted = {name: value for name, value in asked.items() if value is not None}
    if missing := [name for name in wanted if name not in measured]:
        raise ValueError(f"judge: {missing[0]} was asked for and not measured; measure it.")
    each = error / max(len(wanted), 1)
    return {
        name: verdict(
            one,
            wanted.get(name, 0.0 if name == "reward" else None),
            each,
            upper=name == "kl",
            population=population,
            method=method,
        )
        for name, one in measured.items()
    }


def accepted(verdicts: Mapping[str, Verdict], asked: Mapping[str, float | None]) -> bool:
    """Whether everything that was asked for is verified; True where nothing was."""
    return all(verdicts[name].state == VERIFIED for name, value in asked.items() if value is not None)


def powers(
    measured: Mapping[str, Measured],
    verdicts: Mapping[str, Verdict],
    *,
    population: bool = False,
    method: str | None = None,
) -> dict[str, Power]:
    """What a test of this size shows of everything that was judged, each at the error of its verdict.

    Args:
      measured: see `judge`.
      verdicts: of `judge`.
      population: True where the prompts are all there are.
      method: of the bounds, see `bound`.

    Returns:
      By constraint; what too few prompts tell nothing of is left out.
    """
    lines = {
        name: power(
            one, 1.0 - verdicts[name].confidence, upper=name == "kl", population=population, method=method
        )
        for name, one in measured.items()
    }
    return {name: line for name, line in lines.items() if line is not None}


def look(
    measured: Mapping[str, Measured],
    asked: Mapping[str, float | None],
    *,
    confidence: float,
    spent: Sequence[float] = (),
    planned: int = 1,
    population: bool = False,
    method: str | None = None,
) -> TestRecord:
    """One look at the test prompts, as a record.

    Args:
      measured: see `judge`.
      asked: see `judge`.
      confidence: of everything that is called verified in all looks at these prompts, in (0, 1).
      spent: shares of the error that earlier looks spent, see `look_share`.
      planned: looks that are planned in all.
      population: True where the prompts are all there are.
      method: of the bounds, see `bound`.

    Raises:
      ValueError: see `judge` and `look_share`.
    """
    share = look_share(spent, planned)
    error = (1.0 - confidence) * share
    verdicts = judge(measured, asked, error=error, population=population, method=method)
    return TestRecord(
        look=len(spent) + 1,
        share=share,
        spent=sum(spent) + share,
        verdicts=verdicts,
        power=powers(measured, verdicts, population=population, method=method),
        accepted=accepted(verdicts, asked),
    )
