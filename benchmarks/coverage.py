"""How often the intervals hold the truth, and how often the guarded margin is missed, where both are known.

    python benchmarks/coverage.py [--repetitions 400] [--prompts 300] [--responses 128 256] [--workers 2]

The world `enumerable`: every response of its prompts is listed, so that lambda* and the margin of any tilt
are exact sums. Each repetition draws prompts and responses anew, solves the dual on them, and asks: does the
interval of lambda hold the exact lambda*, does the interval of the margin hold the exact margin of the tilt
to the estimated multiplier, with and without the estimated bias of finite K taken off; and does that tilt,
solved plainly and conservatively, truly have the margin that was asked?
"""

import argparse
import multiprocessing
from typing import Any, NamedTuple

import jax
import measuring
import numpy as np
from jax.typing import ArrayLike

from alignjax import dual
from alignjax.data.worlds import world_for

BETA, ASKED = 0.5, 1.0


class Truth(NamedTuple):
    """All responses: rewards [P, Y], utilities [P, Y, 1], probabilities [Y], and lambda*."""

    rewards: np.ndarray
    utilities: np.ndarray
    probabilities: np.ndarray
    lam: float


class Outcome(NamedTuple):
    """One repetition; the last by confidence."""

    lam_covers: bool
    lam_covers_corrected: bool
    margin_covers: bool
    margin_covers_corrected: bool
    plain_missed: bool
    guarded_missed: dict[float, bool]


CONFIDENCES = (0.8, 0.9, 0.95)


def truth() -> Truth:
    """The world's exact sums."""
    listed = world_for("enumerable").enumeration
    assert listed is not None
    rewards, utilities = listed.scores[..., 0], listed.scores[..., 1:]
    probabilities = np.exp(listed.base_log_probs)
    importance = np.tile(probabilities, (len(rewards), 1))
    found = dual.solve(rewards, utilities, beta=BETA, margins=np.array([ASKED]), importance=importance)
    return Truth(rewards, utilities, probabilities / probabilities.sum(), float(found.lam[0]))


def exact_margin(world: Truth, lam: ArrayLike) -> float:
    """Margin of the tilt to lam over all prompts and responses."""
    importance = np.tile(world.probabilities, (len(world.rewards), 1))
    given: dict[str, Any] = {"beta": BETA, "lams": np.asarray(lam)[None], "importance": importance}
    return float(dual.frontier(world.rewards, world.utilities, **given).margins[0, 0])


def one(world: Truth, seed: int, prompts: int, responses: int, resamples: int) -> Outcome:
    """Draws, solves and compares."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(world.rewards), size=prompts)
    columns = rng.choice(len(world.probabilities), size=(prompts, responses), p=world.probabilities)
    rewards, utilities = world.rewards[rows[:, None], columns], world.utilities[rows[:, None], columns]
    given: dict[str, Any] = {"beta": BETA, "margins": np.array([ASKED])}
    found = dual.solve(rewards, utilities, **given)
    plain, corrected = (
        dual.bootstrap(
            jax.random.key(seed),
            rewards,
            utilities,
            **given,
            num_resamples=resamples,
            confidence=0.95,
            correct_bias=correct,
        )
        for correct in (False, True)
    )
    margin = exact_margin(world, found.lam)

    def holds(bounds: dual.Bounds, value: float) -> bool:
        return float(np.ravel(bounds.low)[0]) <= value <= float(np.ravel(bounds.high)[0])

    guarded = {
        confidence: exact_margin(
            world, dual.solve_conservative(rewards, utilities, **given, confidence=confidence).solution.lam
        )
        < ASKED
        for confidence in CONFIDENCES
    }
    return Outcome(
        holds(plain.lam, world.lam),
        holds(corrected.lam, world.lam),
        holds(plain.margins, margin),
        holds(corrected.margins, margin),
        margin < ASKED,
        guarded,
    )


def _several(job: tuple[range, int, int, int]) -> list[Outcome]:
    world = truth()
    return [one(world, seed, *job[1:]) for seed in job[0]]


def main() -> None:
    """Runs all repetitions and prints the shares, a column for each number of responses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--responses", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    given = measuring.with_json(parser).parse_args()
    columns = []
    # Spawned, not forked: a forked process cannot use jax.
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        for responses in given.responses:
            size = given.prompts, responses, given.resamples
            jobs = [(range(w, given.repetitions, given.workers), *size) for w in range(given.workers)]
            columns.append(shares([one for part in pool.map(_several, jobs) for one in part]))
            measuring.progress(f"{responses} responses: {columns[-1]}")
    rows = [[words, *(f"{column[words]:.1%}" for column in columns)] for words in columns[0]]
    first = f"{given.repetitions} repetitions, {given.prompts} prompts, beta {BETA}"
    headings = [first, *(f"{responses} responses" for responses in given.responses)]
    measuring.finish(given, [measuring.Table("coverage", headings, rows)])


def shares(found: list[Outcome]) -> dict[str, float]:
    """How often something held, by what it is."""
    held = {
        "lambda*: 95% interval covers, plain": [one.lam_covers for one in found],
        "lambda*: the bias of finite K taken off": [one.lam_covers_corrected for one in found],
        "margin of the tilt, plain": [one.margin_covers for one in found],
        "margin of the tilt, the bias taken off": [one.margin_covers_corrected for one in found],
        "asked margin missed, plain": [one.plain_missed for one in found],
    }
    for confidence in CONFIDENCES:
        missed = [one.guarded_missed[confidence] for one in found]
        held[f"asked margin missed, conservative at {confidence:g}"] = missed
    return {words: float(np.mean(values)) for words, values in held.items()}


if __name__ == "__main__":
    main()
