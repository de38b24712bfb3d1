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

import measuring
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
    given = measuring.with_json(parser).parse_args()
    lines: list[list[str]] = []
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
                lines.append(_summary(f"{pairs:,} {labels}", kind, results))
    columns = ["labels", "seed", "scores", "lambda", "kept", "predicted covers", "achieved covers"]
    columns += ["KL of the optimum", "true reward", "seconds"]
    measuring.finish(given, [measuring.Table("calibration", columns, lines)])


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


def _line(labels: str, seed: int, kind: str, r: Result) -> list[str]:
    covers = ("yes" if r.predicted_covers else "no", "yes" if r.achieved_covers else "no")
    rest = f"{r.kl_from_optimum:.4f}", f"{r.true_reward:.3f}", f"{r.seconds:.0f}"
    return [labels, str(seed), kind, f"{r.lam:.4f}", f"{r.kept:.3f}", *covers, *rest]


def _summary(labels: str, kind: str, results: list[Result]) -> list[str]:
    kept, reward = (np.mean([getattr(r, name) for r in results]) for name in ("kept", "true_reward"))
    covers = (f"{sum(column)} of {len(results)}" for column in zip(*(r[2:4] for r in results), strict=True))
    return [labels, "mean", kind, "", f"{kept:.3f}", *covers, "", f"{reward:.3f}", ""]


if __name__ == "__main__":
    main()
