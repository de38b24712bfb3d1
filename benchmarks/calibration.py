"""What calibration is worth where every sum is exact: the share of the asked margin that is kept.

    python benchmarks/calibration.py [--seeds 0 1] [--labels exact draws] [--pairs 20000 4000] [--workdir DIR]

Runs `configs/pecan.py:enumerable` with exact labels and with single draws, each with a joint calibration (the
default), with one slope a score, and as published; what they share is computed once. "kept" is the true
margin of the aligned policy over the asked one; "covers" whether the interval that the run reports for its
margin, predicted and achieved, holds the true one. A folder that was given keeps the runs: a second call
reads them.
"""

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from shared import load_preset

from alignjax.config import from_mapping
from alignjax.runs import run

ASKED = 1.0


class Result(NamedTuple):
    """One run."""

    lam: float
    kept: float
    predicted_covers: bool
    achieved_covers: bool
    kl_from_optimum: float
    true_reward: float
    seconds: float


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--labels", nargs="+", default=["exact", "draws"])
    parser.add_argument("--pairs", type=int, nargs="+", default=[20000, 4000])
    parser.add_argument("--kinds", nargs="+", default=["joint", "slope", "raw"])
    parser.add_argument("--workdir", type=Path, default=None)
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        root = given.workdir or Path(folder)
        for labels, pairs in itertools.product(given.labels, given.pairs):
            seeds, counts = (given.seeds, pairs) if labels == "draws" else (given.seeds[:1], max(given.pairs))
            if counts != pairs:
                continue
            found = {kind: [one(root, seed, labels, pairs, kind) for seed in seeds] for kind in given.kinds}
            for kind, results in found.items():
                lines += [
                    _line(f"{pairs:,} {labels}", seed, kind, r)
                    for seed, r in zip(seeds, results, strict=True)
                ]
                lines.append(_summary(results))
    print(
        f"\n{'labels':<14}{'seed':>5}{'scores':>12}{'lambda':>9}{'kept':>8}"
        f"{'covers: predicted':>19}{'achieved':>10}{'KL(opt||pi)':>13}{'true reward':>13}{'seconds':>9}"
    )
    print("\n".join(lines))


def one(root: Path, seed: int, labels: str, pairs: int, kind: str) -> Result:
    """One run; what it shares with an earlier run in the same folder is kept."""
    config = load_preset("pecan", "enumerable")
    config.seed, config.calibrate = seed, kind != "raw"
    config.calibration = "slope" if kind == "slope" else "joint"
    config.data.labels, config.data.num_pairs = labels, pairs
    first, workdir = (root / f"{labels}-{pairs}-{seed}-{name}" for name in ("joint", kind))
    if first.exists() and not workdir.exists():
        shutil.copytree(first, workdir)  # the reference, pre-alignment and samples are the same
    print(run(from_mapping(config.to_dict()), workdir))
    stages = json.loads((workdir / "run.json").read_text())["stages"]
    seconds = sum(stage["seconds"] for stage in stages.values())
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    dual = json.loads((workdir / "dual.json").read_text())
    aligned = evaluation["policies"]["aligned"]
    truth = aligned["true_margins"]["safety"]["mean"]
    predicted, achieved = evaluation["predicted"]["margins"]["safety"], aligned["margins"]["safety"]
    return Result(
        dual["lam"]["safety"],
        truth / ASKED,
        predicted["low"] <= truth <= predicted["high"],
        achieved["low"] <= truth <= achieved["high"],
        aligned["kl_from_optimum"]["mean"],
        aligned["true_reward"]["mean"],
        seconds,
    )


def _line(labels: str, seed: int, kind: str, r: Result) -> str:
    covers = f"{r.predicted_covers!s:>19}{r.achieved_covers!s:>10}"
    rest = f"{r.kl_from_optimum:>13.4f}{r.true_reward:>13.3f}{r.seconds:>9.0f}"
    return f"{labels:<14}{seed:>5}{kind:>12}{r.lam:>9.4f}{r.kept:>8.3f}{covers}{rest}"


def _summary(results: list[Result]) -> str:
    kept = np.mean([r.kept for r in results])
    shares = [f"{sum(column)}/{len(results)}" for column in zip(*(r[2:4] for r in results), strict=True)]
    return f"{'':<14}{'mean':>5}{'':>21}{kept:>8.3f}{shares[0]:>19}{shares[1]:>10}"


if __name__ == "__main__":
    main()
