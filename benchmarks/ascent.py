"""One shot against dual ascent from lambda = 0: trainings, FLOPs and seconds until the margin is met.

    python benchmarks/ascent.py [--worlds enumerable assistant] [--rounds 10] [--workdir DIR] [--plot PNG]

Both ways share everything: the world's true scores, the reference and its samples, the pairs, the optax run
of a round, which begins at the last round's policy, and how a round is measured (workflow/rounds.py). They
differ in where lambda begins. "one shot" begins at lambda* of the dual; "ascent" begins at 0. Both step by
eta (asked - achieved), as primal-dual methods do, ascent for several eta. A way has arrived when the
margin, in true scores, is within 0.05 of the asked one and stays there in the rounds that follow.

FLOPs are 2 a parameter and token forward and 4 backward; the dual is not counted, it is less than a step.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import measuring
from matplotlib.figure import Figure
from shared import load_preset, read_data

from alignjax.config import Config, from_mapping
from alignjax.data.batches import pair_lengths
from alignjax.models import load_pretrained
from alignjax.report.style import style, to_png
from alignjax.runs import run

NEAR = 0.05
EPOCHS = {"enumerable": 5.0, "assistant": 5.0}  # of a round
STEPS = (0.3, 1.0)  # eta


class Way(NamedTuple):
    """What one way did, by round."""

    name: str
    asked: float
    lams: list[float]
    margins: list[float]
    kls: list[float]
    seconds: list[float]  # of each round: training and measuring
    flops: list[float]

    def arrived(self) -> int | None:
        """Trainings until the margin is near the asked one for good; None: not in these rounds."""
        far = [abs(margin - self.asked) > NEAR for margin in self.margins]
        if far[-1]:
            return None
        return len(far) - far[::-1].index(True) + 1 if any(far) else 1


def main() -> None:
    """Prints the table, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="+", default=["enumerable", "assistant"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workdir", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=None)
    given = measuring.with_json(parser).parse_args()
    found: dict[str, list[Way]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = given.workdir or Path(folder)
        for world in given.worlds:
            ways = [go(root, world, "one shot", None, 3)]
            ways += [go(root, world, f"ascent, eta {eta:g}", eta, given.rounds) for eta in STEPS]
            found[world] = ways
    columns = ["world", "way", "trainings", "GFLOP", "seconds", "lambda there", "margin there"]
    rows = [line(world, way) for world, ways in found.items() for way in ways]
    measuring.finish(given, [measuring.Table("ascent", [*columns, "margin by training"], rows)])
    if given.plot is not None:
        given.plot.write_bytes(to_png(draw(found)))


def go(root: Path, world: str, name: str, eta: float | None, rounds: int) -> Way:
    """One way in one world; the reference and its samples are computed once for all ways."""
    config = settings(world, eta, rounds)
    shared, workdir = root / f"{world}-one shot", root / f"{world}-{name}"
    if shared.exists() and not workdir.exists():
        shutil.copytree(shared, workdir, ignore=shutil.ignore_patterns("rounds", "policy"))
    print(run(config, workdir).table)
    records = [json.loads((workdir / "rounds" / f"{i}.json").read_text()) for i in range(1, rounds + 1)]
    stages = json.loads((workdir / "run.json").read_text())["stages"]
    trained = ["policy", *(f"rounds/{i}" for i in range(2, rounds + 1))]
    seconds = [
        stages[stage]["seconds"] + stages[f"rounds/{i}.json"]["seconds"] for i, stage in enumerate(trained, 1)
    ]
    (asked,) = records[0]["asked"].values()
    lams, margins = ([next(iter(r[key].values())) for r in records] for key in ("lam", "achieved"))
    flops = [round_flops(config, workdir)] * rounds
    return Way(name, asked, lams, margins, [r["kl"] for r in records], seconds, flops)


def settings(world: str, eta: float | None, rounds: int) -> Config:
    """True scores, one constraint; lambda solved, or from 0 by steps."""
    config = load_preset("mocan", {"assistant": "tiny"}.get(world, world))
    for source in config.scores.values():
        source.exact = True
    config.calibrate, config.baselines.single, config.baselines.lams = False, False, ()
    config.align.epochs = EPOCHS[world]
    if world == "assistant":  # as published: with few samples a prompt the multiplier itself is biased
        config.sampling.num_prompts, config.sampling.num_samples = 100, 128
    # A round is measured where its test refuses it; no policy but the reference has so small a KL.
    config.rounds.count, config.test.kl = rounds + 1, 1e-9
    config.confidence = None  # no guard: how near the margin comes is the question
    config.rounds.step = STEPS[0] if eta is None else eta
    if eta is not None:
        config.lam = 0.0
    return from_mapping(config.to_dict())


def round_flops(config: Config, workdir: Path) -> float:
    """Of one round: its training, and sampling and scoring its policy."""
    model = load_pretrained(workdir / "reference")
    data = read_data(config, workdir)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    tokens = float(pair_lengths(data.align)[:, 0].sum())
    sampled = [json.loads(row) for row in (workdir / "samples.jsonl").read_text().splitlines()]
    drawn = float(sum(len(row["response_ids"]) for row in sampled))
    return parameters * (6.0 * tokens * config.align.epochs + (2.0 + 2 * 2.0) * drawn)


def line(world: str, way: Way) -> list[str]:
    """A row of the table."""
    count = way.arrived()
    shown = " ".join(f"{margin:.2f}" for margin in way.margins)
    if count is None:
        cost = f"not in {len(way.margins)}", f"> {sum(way.flops) / 1e9:.0f}", f"> {sum(way.seconds):.0f}"
        there = "", ""
    else:
        cost = str(count), f"{sum(way.flops[:count]) / 1e9:.0f}", f"{sum(way.seconds[:count]):.0f}"
        there = f"{way.lams[count - 1]:.3f}", f"{way.margins[count - 1]:.3f}"
    return [world, way.name, *cost, *there, shown]


def draw(found: dict[str, list[Way]]) -> Figure:
    """True margin by training, a panel a world."""
    with style():
        figure = Figure(figsize=(4.6 * len(found), 3.4), layout="constrained")
        grid = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (world, ways) in zip(grid, found.items(), strict=True):
            asked = ways[0].asked
            axes.axhspan(asked - NEAR, asked + NEAR, color="0.85", linewidth=0)
            for way in ways:
                axes.plot(range(1, len(way.margins) + 1), way.margins, "o-", label=way.name, markersize=4)
            axes.set_xlabel("policy trainings")
            axes.set_ylabel("true safety margin")
            axes.set_title(f"{world}; the band is {NEAR} about the asked margin")
            axes.legend()
    return figure


if __name__ == "__main__":
    main()
