"""Whether what the dual says of a table is true: how often it speaks, is wrong, and what caution costs.

    python benchmarks/promise.py [--quick] [--runs 12] [--worlds heavy,mix] [--workers 2]

Worlds whose tilted policies are known exactly (promise_worlds.py): `gauss`, `mix` and `heavy`, and, with
fewer settings, others with rare harm, prompts of very different scales, two and three constraints,
constraints that are nearly the same, and a constraint for each of two categories. Each run draws N prompts
and K responses, asks for a margin below 0 (half of what the reward alone loses), of 0, or of 0.2, and calls
`dual.answer(..., conservative=True)`. Then, by exact sums or closed forms: does the tilt to its multipliers
miss a margin, and would that of the answer without a guard? By fresh draws: do the intervals of the policy
that draws K and keeps one hold what it truly has?

Printed as Markdown, in percent of the runs unless a unit is given:
  open: the guarded problem has a solution and the gate is open.
  missed: of the open runs, those whose exact tilt misses a margin; "worst" is that of the K, N and margin
    with the most (of those with at least 10 open runs).
  unguarded: of the same runs, those in which the tilt of the answer without a guard misses.
  all unguarded: of all runs that have an answer without a guard.
  margin, reward: what the guard costs in the open runs: the true margin above what was asked, and the true
    reward below that of the answer without a guard.
  draw-K: intervals at 0.95 that hold the truth, of margins and of the reward; "least": of the margins, in the
    beta and K with the least.
"""

import argparse
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import measuring
import numpy as np
from promise_worlds import Drawn, World, categories, chosen, gauss, heavy, mix, rare, scales

from alignjax import dual
from alignjax.records.answer import DualAnswer

CONFIDENCE, RESAMPLES = 0.95, 200
_POOL = {8: 60_000, 16: 60_000, 64: 40_000}  # fresh draws of K that the truth of draw-K is a mean over
_ENOUGH = 10  # open runs for a share of a single setting


class Grid(NamedTuple):
    """The settings of a world."""

    betas: tuple[float, ...]
    responses: tuple[int, ...]
    prompts: tuple[int, ...]


FULL = Grid((0.05, 0.1, 0.5), (8, 16, 64), (100, 300, 1000))
SOME = Grid((0.1, 0.5), (16, 64), (100, 300))
QUICK = Grid((0.1, 0.5), (16,), (100, 300))

WORLDS: dict[str, tuple[Callable[[], World], Grid]] = {
    "gauss": (gauss, FULL),
    "mix": (mix, FULL),
    "heavy": (heavy, FULL),
    "rare": (rare, SOME),
    "scales": (scales, SOME),
    "two": (lambda: heavy("two", 2), SOME),
    "three": (lambda: heavy("three", 3), SOME),
    "collinear": (lambda: heavy("collinear", 2, alike=0.99), SOME),
    "categories": (categories, SOME),
}


class Outcome(NamedTuple):
    """One run. Margins are held [m], of the intervals of draw-K; nan where there is nothing to say."""

    world: str
    beta: float
    responses: int
    prompts: int
    sign: str
    open: bool
    missed: float
    unguarded: float
    margin: float
    reward: float
    margins_held: tuple[bool, ...]
    reward_held: float


def asked_of(world: World, beta: float) -> dict[str, np.ndarray]:
    """Margins to ask for, by their sign: half of what the reward alone loses, 0, and 0.2."""
    lost = world.tilt(beta, np.zeros(world.m)).margins
    return {
        "negative": 0.5 * np.minimum(lost, 0.0),
        "zero": np.zeros(world.m),
        "positive": np.full(world.m, 0.2),
    }


def one(
    world: World, beta: float, sign: str, asked: np.ndarray, drawn: Drawn, pool: Drawn, seed: int
) -> Outcome:
    """Asks the library, and compares with the truth."""
    names = [f"u{j}" for j in range(world.m)]
    found = dual.answer(
        drawn.rewards,
        drawn.utilities,
        names=names,
        asked=[dual.Asked(margin=float(b)) for b in asked],
        beta=beta,
        exposure=drawn.exposure,
        confidence=CONFIDENCE,
        conservative=True,
        num_resamples=RESAMPLES,
        seed=seed,
    )
    speaks = found.feasible and found.gate is not None and found.gate.open
    nan = float("nan")
    missed = unguarded = margin = reward = nan
    plain = None
    if found.guard is not None:
        plain = world.tilt(beta, np.array([found.guard.plain.lam[name] for name in names]))
        unguarded = float(np.any(plain.margins < asked - 1e-9))
    if speaks and plain is not None:
        truth = world.tilt(beta, found.multipliers)
        missed, margin = float(np.any(truth.margins < asked - 1e-9)), float(np.mean(truth.margins - asked))
        reward = plain.reward - truth.reward
    held, reward_held = _held(found, pool, beta)
    settings = world.name, beta, drawn.rewards.shape[1], len(drawn.rewards), sign
    return Outcome(*settings, speaks, missed, unguarded, margin, reward, held, reward_held)


def _held(found: DualAnswer, pool: Drawn, beta: float) -> tuple[tuple[bool, ...], float]:
    """Whether the intervals of draw-K hold the means over fresh draws."""
    if found.forecast is None:
        return (), float("nan")
    truth, said = chosen(pool, beta, found.multipliers), found.forecast.draw_k
    margins = tuple(
        said.margins[name].low <= value <= said.margins[name].high
        for name, value in zip(found.names, truth.margins, strict=True)
    )
    return margins, float(said.reward_gain.low <= truth.reward <= said.reward_gain.high)


def _runs(job: tuple[str, Grid, int, int]) -> list[Outcome]:
    """All runs of one world and one K, each on a table of its own."""
    name, grid, responses, runs = job
    world = WORLDS[name][0]()
    pool = world.evenly(np.random.default_rng([responses, 1]), _POOL[responses], responses)
    found = []
    for at, beta in enumerate(grid.betas):
        for which, (sign, asked) in enumerate(asked_of(world, beta).items()):
            for prompts, seed in itertools.product(grid.prompts, range(runs)):
                rng = np.random.default_rng([responses, prompts, at, which, seed])
                drawn = world.draw(rng, prompts, responses)
                found.append(one(world, beta, sign, asked, drawn, pool, seed))
    return found


def percent(values: Iterable[float]) -> str:
    """The mean of the numbers there are, as a percentage."""
    there = [value for value in values if not np.isnan(value)]
    return f"{100 * np.mean(there):.1f}" if there else "-"


def mean(values: Iterable[float]) -> str:
    """The mean of the numbers there are."""
    there = [value for value in values if not np.isnan(value)]
    return f"{np.mean(there):.3f}" if there else "-"


def forecasts(outcomes: list[Outcome]) -> measuring.Table:
    """The gate and the guard: forecasts of the tilt."""
    columns = ["world", "beta", "runs", "open", "missed", "worst", "unguarded", "all unguarded"]
    rows = []
    for (world, beta), group in _grouped(outcomes, lambda one: (one.world, one.beta)):
        speak = [one for one in group if one.open]
        settings = _grouped(speak, lambda one: (one.responses, one.prompts, one.sign))
        worst = max(
            (np.mean([one.missed for one in some]) for _, some in settings if len(some) >= _ENOUGH),
            default=np.nan,
        )
        cells = [
            percent(one.open for one in group),
            percent(one.missed for one in speak),
            percent([float(worst)]),
            percent(one.unguarded for one in speak),
            percent(one.unguarded for one in group),
            mean(one.margin for one in speak),
            mean(one.reward for one in speak),
        ]
        rows.append([world, f"{beta:g}", str(len(group)), *cells])
    return measuring.Table("promise_forecasts", [*columns, "margin", "reward"], rows)


def openings(outcomes: list[Outcome]) -> measuring.Table:
    """How often the gate is open, and how often an open one is wrong, by beta and K."""
    ks = sorted({one.responses for one in outcomes})
    rows = []
    for (world, beta), group in _grouped(outcomes, lambda one: (one.world, one.beta)):
        cells = []
        for k in ks:
            own = [one for one in group if one.responses == k]
            cells.append(f"{percent(one.open for one in own)}, {percent(one.missed for one in own)}")
        rows.append([world, f"{beta:g}", *cells])
    return measuring.Table("promise_gate", ["world", "beta", *(f"K {k}: open, missed" for k in ks)], rows)


def coverage(outcomes: list[Outcome]) -> measuring.Table:
    """How often the intervals of draw-K hold the truth, by the number of prompts."""
    sizes = sorted({one.prompts for one in outcomes})
    rows = []
    for world, group in _grouped(outcomes, lambda one: one.world):
        cells = []
        for n in sizes:
            own = [one for one in group if one.prompts == n]
            settings = [some for _, some in _grouped(own, lambda one: (one.beta, one.responses))]
            least = min((np.mean(held) for some in settings if (held := _all_held(some))), default=np.nan)
            margins = percent(float(held) for one in own for held in one.margins_held)
            cells.append(f"{margins}, {percent(one.reward_held for one in own)}, {percent([float(least)])}")
        rows.append([world, *cells])
    headings = ["world", *(f"N {n}: margins, reward, least" for n in sizes)]
    return measuring.Table("promise_draw_k", headings, rows)


def _all_held(group: list[Outcome]) -> list[float]:
    return [float(held) for one in group for held in one.margins_held]


def _grouped(group: list[Outcome], key: Callable[[Outcome], Any]) -> list[tuple[Any, list[Outcome]]]:
    """The outcomes by a key, in the order in which the keys first occur."""
    found: dict[Any, list[Outcome]] = {}
    for one in group:
        found.setdefault(key(one), []).append(one)
    return list(found.items())


def main() -> None:
    """Runs all worlds and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two betas, K 16, N 100 and 300, 4 runs")
    parser.add_argument("--runs", type=int, help="of each setting; 12, with --quick 4")
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--workers", type=int, default=2)
    given = measuring.with_json(parser).parse_args()
    runs = given.runs or (4 if given.quick else 12)
    jobs = []
    for name in given.worlds.split(","):
        grid = QUICK if given.quick else WORLDS[name][1]
        jobs += [(name, grid, responses, runs) for responses in grid.responses]
    began = time.monotonic()
    # Spawned, not forked: a forked process cannot use jax.
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        found = [outcome for part in pool.imap(_runs, jobs) for outcome in part]
    print(f"{len(found)} answers in {(time.monotonic() - began) / 60:.1f} minutes, {runs} of each setting")
    by_responses = openings(found)
    print(f"\n{by_responses.markdown()}")
    measuring.finish(given, [forecasts(found), coverage(found)], gate=by_responses._asdict())


if __name__ == "__main__":
    main()
