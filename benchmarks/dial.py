"""Every margin from one run: the product of its policies, their merge and draw-K against trained policies.

    python benchmarks/dial.py --workdir DIR [--worlds assistant enumerable] [--plot PNG]

assistant: at every margin of MARGINS the run is asked again on one folder, so that all but the final
alignment and its evaluation is done once. The trained policy, the product, the merge and draw-K stand on the
same test prompts, in the world's true scores.

enumerable: every response is listed, so that all numbers are exact sums: at every multiplier of LAMS the
product's margin in calibrated and in true scores against the forecast, and its distance from the tilted
policy. No final policy is trained.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from shared import load_preset

from alignjax.config import from_mapping
from alignjax.records.codec import read_record
from alignjax.records.dial import DialRecord
from alignjax.report.style import style, to_png
from alignjax.runs import run

MARGINS = (0.4, 0.7, 1.0, 1.3, 0.2)
LAMS = (0.25, 0.5, 1.0, 2.0, 3.0)
NEAR = 0.1


class Row(NamedTuple):
    """One policy at one margin: what was asked or the multiplier, and what it reaches."""

    asked: float
    name: str
    margin: float
    gain: float
    true_margin: float
    true_gain: float
    kl: float
    distance: float | None
    passes: int
    draws: int
    trainings: int


def main() -> None:
    """Prints the tables, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--worlds", nargs="+", default=["assistant", "enumerable"])
    parser.add_argument("--plot", type=Path, default=None)
    given = parser.parse_args()
    if "assistant" in given.worlds:
        rows, forecasts = assistant(given.workdir / "assistant")
        print(table("margin", rows))
        print("\n".join(compared(rows)))
        if given.plot is not None:
            given.plot.write_bytes(to_png(draw(rows, forecasts)))
    if "enumerable" in given.worlds:
        print(exact(given.workdir / "enumerable"))


def assistant(workdir: Path) -> tuple[list[Row], list[tuple[float, float]]]:
    """The policies of every margin, and the forecast of margin and reward gain."""
    rows, forecasts = [], []
    for margin in MARGINS:
        config = load_preset("pecan", "tiny")
        config.constraints.safety.margin, config.dial = margin, ("product", "merged", "best_of")
        config.align.preview = 0
        run(from_mapping(config.to_dict()), workdir)
        rows += rows_of(workdir, margin)
        said = json.loads((workdir / "dual.json").read_text())
        kind = "tilt" if said["gate"]["open"] else "draw_k"
        found = said["forecast"][kind]
        forecasts.append((found["margins"]["safety"]["mean"], found["reward_gain"]["mean"]))
        print(f"margin {margin}: lambda {said['lam']['safety']:.3f}, forecast of {kind} {forecasts[-1]}")
    return rows, forecasts


def rows_of(workdir: Path, asked: float) -> list[Row]:
    """What the run's dial.json holds."""
    record = read_record(DialRecord, workdir / "dial.json")
    evaluated = json.loads((workdir / "evaluation.json").read_text())["policies"]["reference"]
    rows = []
    for name, one in record.policies.items():
        found = one.result
        assert found.true_margins is not None and found.true_reward is not None
        rows.append(
            Row(
                asked,
                name,
                found.margins["safety"].mean,
                found.reward_gain.mean,
                found.true_margins["safety"].mean,
                found.true_reward.mean - evaluated["true_reward"]["mean"],
                found.kl.mean,
                None if one.distance is None else one.distance.mean,
                one.passes,
                one.draws,
                one.trainings,
            )
        )
    return rows


def table(what: str, rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        f"| {what} | policy | margin | reward gain | true margin | true reward gain | KL | from the tilt | "
        "passes | draws | trainings |",
        "| --- " * 11 + "|",
    ]
    for row in rows:
        away = "" if row.distance is None else f"{row.distance:.3f}"
        numbers = [row.margin, row.gain, row.true_margin, row.true_gain, row.kl]
        cells = [f"{row.asked:g}", row.name, *(f"{x:.3f}" for x in numbers), away]
        lines.append("| " + " | ".join([*cells, str(row.passes), str(row.draws), str(row.trainings)]) + " |")
    return "\n".join(lines)


def compared(rows: list[Row]) -> list[str]:
    """Whether true margins and rewards are within NEAR of the trained policy's, or above."""
    trained = {row.asked: row for row in rows if row.name == "aligned"}
    lines = []
    for row in rows:
        if row.name == "aligned":
            continue
        other = trained[row.asked]
        behind = max(other.true_margin - row.true_margin, other.true_gain - row.true_gain)
        state = "within" if behind <= NEAR else "NOT within"
        lines.append(
            f"margin {row.asked:g}, {row.name}: true margin {row.true_margin - other.true_margin:+.3f}, true "
            f"reward {row.true_gain - other.true_gain:+.3f} against the trained policy: {state} {NEAR}"
        )
    return lines


def exact(workdir: Path) -> str:
    """The product at every multiplier in the world of listed responses."""
    lines = [
        "| lambda | forecast margin | margin | true margin | forecast reward gain | reward gain | KL "
        "| from the tilt |",
        "| --- " * 8 + "|",
    ]
    for lam in LAMS:
        config: Any = load_preset("pecan", "enumerable")
        config.lam, config.align.skip, config.dial = lam, True, ("best_of",)
        run(from_mapping(config.to_dict()), workdir)
        (row, *_) = rows_of(workdir, lam)
        said = json.loads((workdir / "dual.json").read_text())["forecast"]["tilt"]
        numbers = [
            said["margins"]["safety"]["mean"],
            row.margin,
            row.true_margin,
            said["reward_gain"]["mean"],
            row.gain,
            row.kl,
            row.distance or 0.0,
        ]
        lines.append("| " + " | ".join([f"{lam:g}", *(f"{x:.4f}" for x in numbers)]) + " |")
    return "\n".join(lines)


def draw(rows: list[Row], forecasts: list[tuple[float, float]]) -> Figure:
    """True reward gain against true margin, a line for every kind of policy."""
    with style():
        figure = Figure(figsize=(6.2, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            *zip(*sorted(forecasts), strict=True), "k--", linewidth=1, label="forecast (calibrated scores)"
        )
        for name, marker in (("aligned", "o"), ("product", "s"), ("merged", "^"), ("best_of", "x")):
            own = sorted(row for row in rows if row.name == name)
            spent = sum(row.trainings for row in own)
            label = f"{name}, {own[0].passes} passes, {own[0].draws} draws, {spent} trainings"
            xs, ys = [row.true_margin for row in own], [row.true_gain for row in own]
            axes.plot(xs, ys, marker=marker, markersize=5, linewidth=1, label=label)
        axes.set_xlabel("true safety margin")
        axes.set_ylabel("true reward above the reference's")
        axes.set_title("assistant: five margins of one run")
        axes.legend()
    return figure


if __name__ == "__main__":
    main()
