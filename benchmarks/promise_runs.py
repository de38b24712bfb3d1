"""The whole promise over seeds: forecast, guard, training, test and further rounds, where the truth is known.

    python benchmarks/promise_runs.py [--world enumerable|assistant] [--method pecan|mocan] [--seeds 20]
        [--rounds 3] [--confidence 0.95] [--workdir DIR]

Each seed is a run of its own data, reference, scores, policy and test. `true` is the margin on the true
scores of the world: an exact sum in `enumerable`, a mean over responses to the test prompts in `assistant`. A
run is accepted by its first test, rescued by a later round, or refused. False acceptance is a true margin
below what was asked in a run that was accepted. Runs that are done are read from the folder.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from shared import load_preset

from alignjax.config import Config, from_mapping
from alignjax.errors import InfeasibleError
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.evaluation import Evaluation
from alignjax.records.verdict import TestRecord
from alignjax.runs import run

NAME = "safety"


class Found(NamedTuple):
    """One run.

    Attributes:
      seed: of everything.
      lam: multiplier of the dual, and of the last round.
      open: whether the forecast was.
      forecast: margin of the tilt, with its interval.
      first: true margin of the first policy.
      last: true margin of the last one; the same where there was one round.
      looks: number of tests.
      accepted: by the first test, by the last.
      low: bound of the last test.
      reward: true reward of the last policy, above the reference's.
      kl: of the last policy.
    """

    seed: int
    lam: tuple[float, float]
    open: bool
    forecast: tuple[float, float, float]
    first: float
    last: float
    looks: int
    accepted: tuple[bool, bool]
    low: float
    reward: float
    kl: float


def main() -> None:
    """Prints a row for each seed, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="enumerable", choices=("enumerable", "assistant"))
    parser.add_argument("--method", default="pecan", choices=("pecan", "mocan"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--margin", type=float, default=1.0)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--workdir", type=Path, default=None)
    given = parser.parse_args()
    workdir = given.workdir or Path(tempfile.mkdtemp())
    print("| seed | lambda | forecast | open | true margin, one shot | first test | last | shown |", end="")
    print(" looks | reward | KL |\n|" + " --- |" * 11)
    found = []
    for seed in range(given.first, given.first + given.seeds):
        config = config_of(given, seed)
        folder = workdir / f"{given.method}-{given.world}-{seed}"
        try:
            one = measure(config, folder)
        except InfeasibleError as error:
            print(f"| {seed} | {error} |", flush=True)
            continue
        found.append(one)
        print(row(one), flush=True)
    print(summary(found, given.margin))


def config_of(given: argparse.Namespace, seed: int) -> Config:
    """The configuration of one run."""
    config = load_preset(given.method, "tiny" if given.world == "assistant" else given.world)
    config.seed, config.rounds.count, config.confidence = seed, given.rounds, given.confidence
    config.constraints[NAME].margin = given.margin
    if given.world == "enumerable":  # 4,000 single draws in place of exact labels
        config.data.labels, config.data.num_pairs, config.calibrate = "draws", 4000, True
        if given.method == "pecan":
            config.prealign.evals = 4  # of 8,000 pairs each, which is half of a run's time
    if given.method == "mocan":
        config.baselines.single, config.baselines.lams = False, ()
        for source in config.scores.values():
            source.exact = False
    return from_mapping(config.to_dict())


def measure(config: Config, folder: Path) -> Found:
    """Runs one configuration, or reads what is done, and collects what it says."""
    if not (folder / "evaluation.json").exists():
        run(config, folder)
    answer = read_record(DualAnswer, folder / "dual.json")
    evaluation = read_record(Evaluation, folder / "evaluation.json")
    tests = [read_record(TestRecord, folder / "test.json")]
    later = sorted(folder.glob("rounds/*.test.json"), key=lambda path: int(path.name.split(".")[0]))
    tests += [read_record(TestRecord, path) for path in later]
    last = evaluation.policies["aligned"]
    first = evaluation.policies.get("one-shot", last)
    reference = evaluation.policies["reference"]
    assert first.true_margins and last.true_margins and last.true_reward and reference.true_reward
    assert answer.predicted is not None and answer.gate is not None and answer.lam is not None
    forecast = answer.predicted.margins[NAME]
    lams = [answer.lam[NAME]]
    for path in sorted(folder.glob("rounds/[0-9]*.json")):
        if "test" not in path.name:
            lams.append(json.loads(path.read_text())["next_lam"][NAME])
    return Found(
        seed=config.seed,
        lam=(lams[0], lams[-1]),
        open=answer.gate.open,
        forecast=(forecast.mean, forecast.low, forecast.high),
        first=first.true_margins[NAME].mean,
        last=last.true_margins[NAME].mean,
        looks=len(tests),
        accepted=(tests[0].accepted, tests[-1].accepted),
        low=tests[-1].verdicts[NAME].low or float("nan"),
        reward=last.true_reward.mean - reference.true_reward.mean,
        kl=last.kl.mean,
    )


def row(one: Found) -> str:
    """One run as a row of Markdown."""
    mean, low, high = one.forecast
    states = {(True, True): "accepted", (False, True): "rescued", (False, False): "refused"}
    cells = [
        str(one.seed),
        f"{one.lam[0]:.2f}" + (f", then {one.lam[1]:.2f}" if one.looks > 1 else ""),
        f"{mean:.2f} [{low:.2f}, {high:.2f}]",
        "yes" if one.open else "no",
        f"{one.first:.2f}",
        states[one.accepted],
        f"{one.last:.2f}",
        f"{one.low:.2f}",
        str(one.looks),
        f"{one.reward:.2f}",
        f"{one.kl:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def summary(found: list[Found], asked: float) -> str:
    """What the runs show together."""
    first = [one for one in found if one.accepted[0]]
    refused = [one for one in found if not one.accepted[0]]
    rescued = [one for one in refused if one.accepted[1]]
    wrong = [one for one in found if one.accepted[1] and one.last < asked]
    covered = [one for one in found if one.open and one.forecast[1] <= one.first <= one.forecast[2]]
    opened = sum(one.open for one in found)
    missed = sum(one.first < asked for one in found)
    return "\n".join(
        [
            "",
            f"{len(found)} runs, {asked:g} asked: {len(first)} accepted by the first test, {len(rescued)} of "
            f"{len(refused)} refused ones rescued by a further round.",
            f"Accepted with a true margin below what was asked: {len(wrong)}. One-shot policies below it, "
            f"whatever the test said: {missed}.",
            f"Forecast open in {opened}; the first policy's true margin in its interval in {len(covered)}. "
            f"Mean true margin of the last policies {np.mean([one.last for one in found]):.2f}.",
        ]
    )


if __name__ == "__main__":
    main()
