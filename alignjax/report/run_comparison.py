"""Several runs on one page: what each was asked, promised and delivered, and which settings differ."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Evaluation, Headline, PolicyResult
from alignjax.report import pages, sections, tables
from alignjax.report.cards import CLOSED, Card, cards_of
from alignjax.report.figures import legend_below, point
from alignjax.report.plates import Plate, inline
from alignjax.report.sections import Grid
from alignjax.report.style import FIXED, INK, MUTED, OTHERS, short_name, style, to_svg

MOST = 8  # runs on one page: as many as have a colour and a marker of their own
_MARKS = (
    OTHERS[0],
    FIXED["reward"],
    ("#009E73", "D"),
    OTHERS[1],
    OTHERS[3],
    OTHERS[2],
    ("#5f2d63", "p"),
    ("#8c6d31", "h"),
)
_CAPTION = (
    "One point for each run's aligned policy: its margin and its gain of reward, each above its own "
    "reference, with 95% intervals. The dashed curve of the same colour is the run's forecast before "
    "training; the dotted line of the same colour is the margin that it was asked for. "
    "The cross at 0 is the reference."
)


class ComparedRun(NamedTuple):
    """A finished run.

    Attributes:
      name: what it is called on the page.
      config: content of config.json.
      environment: versions and devices.
      answer: of the dual.
      evaluation: of the policies.
      calibrated: whether its scores were fitted to labels.
      reference: what determines the reference; equal texts: the same one.
      scores: what determines the calibrated scores, likewise.
      prompts: what the test prompts are, likewise; empty: not known.
    """

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    answer: DualAnswer
    evaluation: Evaluation
    calibrated: bool
    reference: str
    scores: str
    prompts: str

    @property
    def gate_open(self) -> bool:
        """Whether the forecast is to be believed."""
        return self.answer.gate is None or self.answer.gate.open


class _Said(NamedTuple):
    """The verdict of one run, and the colour of its mark."""

    name: str
    colour: str
    headline: Headline


def glance(runs: Sequence[ComparedRun]) -> Grid:
    """One row per run: its verdict, and what the aligned policy reaches.

    Args:
      runs: in the order of the rows.
    """
    names = _constraints(runs)
    head = ["run", "verdict", *(f"{name} margin" for name in names), "reward gain", "KL, nats"]
    head += ["tokens", "refusals"]
    rows = []
    for place, run in enumerate(runs):
        aligned = run.evaluation.policies.get("aligned")
        found = [
            *(None if aligned is None else aligned.margins.get(name) for name in names),
            *([None] * 4 if aligned is None else _figures(aligned)),
        ]
        cells = [tables.format_estimate(one) for one in found]
        rows.append((run.name, _MARKS[place][0], [run.evaluation.headline.state, *cells]))
    notes = [
        "Of the aligned policy of each run on its test prompts. Margins and the gain of reward are above the "
        "reference; KL: to the reference, nats a prompt; tokens: mean length of a response; refusals: share "
        "of responses that open with one; [..]: 95% interval."
    ]
    return Grid("Aligned policies", head, rows, notes)


def quantities(runs: Sequence[ComparedRun]) -> list[Grid]:
    """A table for each promise: every constraint in the way it was asked, the gain of reward, and KL.

    Args:
      runs: in the order of the rows. A run that promised nothing of the kind has no row.
    """
    found: dict[str, list[tuple[int, Card]]] = {}
    for place, run in enumerate(runs):
        for card in cards_of(run.evaluation, run.answer):
            found.setdefault(card.label, []).append((place, card))
    last = [label for label in ("reward gain", "KL, nats") if label in found]
    order = [label for label in found if label not in last] + last
    return [_quantity(label, found[label], runs) for label in order]


def settings(runs: Sequence[ComparedRun]) -> Grid | None:
    """The settings and versions in which the runs differ; None where they are the same in all.

    Args:
      runs: in the order of the columns.
    """
    all_of = [
        dict([*sections.flatten(run.config), *sections.versions(run.environment)]) if run.config else {}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for one in all_of for key in one))
    different = [key for key in keys if len({one.get(key) for one in all_of}) > 1]
    if not different:
        return None
    rows = [(key, "", [one.get(key, tables.MISSING) for one in all_of]) for key in different]
    notes = [
        f"{len(keys) - len(different)} further settings and versions are the same; -: has no such setting."
    ]
    return Grid("Settings that differ", ["setting", *(run.name for run in runs)], rows, notes)


def cautions(runs: Sequence[ComparedRun]) -> list[str]:
    """What keeps these numbers from being compared as they stand, a sentence each.

    Args:
      runs: all that are compared.
    """
    found = []
    if any(not run.calibrated for run in runs):
        found.append(
            "Scores of at least one run were not fitted to labels: its reward and margins are in units of "
            "its own scores, and a number of one run says nothing of another's."
        )
    elif len({run.scores for run in runs}) > 1:
        found.append(
            "The runs do not share their scores and calibration: reward and margins are in logits of the "
            "labels that each was calibrated on. Where the labels differ, so does what 1 means."
        )
    if len({run.reference for run in runs}) > 1:
        found.append(
            "The runs do not start from the same reference: margins, gains of reward and KL are each "
            "measured from another model."
        )
    if len({run.prompts for run in runs}) > 1:
        found.append(
            "The runs were not tested on the same prompts: part of a difference between two of them is the "
            "difference of the prompts."
        )
    return found


def trade_off(runs: Sequence[ComparedRun], name: str) -> Figure:
    """Margin of one constraint against the gain of reward: a point and a forecast for every run.

    Args:
      runs: at most MOST; those that do not have the constraint are left out.
      name: of the constraint.
    """
    with style():
        figure = Figure(figsize=(4.3, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(0.0, 0.0, "+", color=INK, markersize=11, markeredgewidth=1.6, label="reference", zorder=5)
        for place, run in enumerate(runs):
            aligned = run.evaluation.policies.get("aligned")
            colour, marker = _MARKS[place]
            curve, asked = run.answer.frontier, run.answer.asked.get(name)
            if name not in run.answer.names:
                continue
            if curve is not None and run.gate_open:
                x = curve.margins[:, run.answer.names.index(name)]
                look = {"color": colour, "linewidth": 1.3, "linestyle": (0, (5, 2)), "zorder": 2}
                axes.plot(x, curve.reward - run.answer.reference.reward, **look)
            if asked is not None and asked.margin is not None:
                axes.axvline(asked.margin, color=colour, linewidth=1.2, linestyle=(0, (1, 2)), zorder=1)
            if aligned is not None and name in aligned.margins:
                x, y = aligned.margins[name], aligned.reward_gain
                point(axes, x, y, colour, marker, short_name(run.name))
        axes.axhline(0.0, color=MUTED, linewidth=0.9, zorder=1)
        unit = tables.score_unit(calibrated=all(run.calibrated for run in runs))
        axes.set_xlabel(f"{short_name(name)} margin ({unit})")
        axes.set_ylabel(f"reward gain ({unit})")
        axes.set_title(f"Reward against {short_name(name)}")
        axes.margins(0.06)
        legend_below(figure, axes)
    return figure


def console(runs: Sequence[ComparedRun], width: int) -> str:
    """The first table of the page for a terminal.

    Args:
      runs: in the order of the rows.
      width: of the terminal, characters.
    """
    grid = glance(runs)
    cells = [grid.head, *([short_name(label), *row] for label, _, row in grid.rows)]
    blocks = ["\n".join(tables.layout(block)) for block in tables.blocks(cells, width)]
    return "\n\n".join([*blocks, *cautions(runs)])


def write_run_comparison(runs: Sequence[ComparedRun], path: str | os.PathLike[str]) -> Path:
    """Writes one self-contained page that compares runs, atomically.

    Args:
      runs: from 2 to MOST, in the order of rows and columns; their names differ.
      path: of the page; its folder is made where it is missing.

    Returns:
      Path of the page.

    Raises:
      ValueError: too few or too many runs.
    """
    if not 2 <= len(runs) <= MOST:
        raise ValueError(f"report.write_run_comparison: {len(runs)} runs were given; give 2 to {MOST}.")
    names = _constraints(runs)
    plates = [
        Plate(f"runs-{i}", _CAPTION, False, to_svg(trade_off(runs, name))) for i, name in enumerate(names)
    ]
    values = {
        "said": [_Said(run.name, _MARKS[i][0], run.evaluation.headline) for i, run in enumerate(runs)],
        "cautions": cautions(runs),
        "glance": glance(runs),
        "plates": [(plate, inline(plate)) for plate in plates],
        "quantities": quantities(runs),
        "settings": settings(runs),
    }
    title = f"Comparison of {len(runs)} runs"
    unit = tables.unit_note(calibrated=all(run.calibrated for run in runs))
    return pages.write(Path(path), pages.render("runs.html", title=title, unit=unit, **values))


def _figures(aligned: PolicyResult) -> list[tables.Estimate]:
    return [aligned.reward_gain, aligned.kl, aligned.length, aligned.refusals]


def _constraints(runs: Sequence[ComparedRun]) -> list[str]:
    """Constraints of any of the runs, in the order in which they appear."""
    return list(dict.fromkeys(name for run in runs for name in run.answer.names))


def _quantity(label: str, found: Sequence[tuple[int, Card]], runs: Sequence[ComparedRun]) -> Grid:
    """One promise in all runs that made it."""
    is_constraint = found[0][1].name in _constraints(runs)
    on_truth = any(card.truth is not None for _, card in found)
    head = ["run", "verdict", "asked", *(["multiplier"] if is_constraint else [])]
    head += ["forecast", "delivered", "shown", *(["true"] if on_truth else [])]
    rows = []
    for place, card in found:
        run = runs[place]
        confidence = f" ({card.confidence})" if card.confidence else ""
        cells = [card.state, tables.format_number(card.asked)]
        cells += [sections.lam_text(run.answer, card.name)] if is_constraint else []
        cells.append(tables.format_estimate(card.forecast) if run.gate_open else CLOSED)
        cells += [tables.format_estimate(card.delivered), f"{card.shown}{confidence}"]
        cells += [tables.format_estimate(card.truth)] if on_truth else []
        rows.append((run.name, _MARKS[place][0], cells))
    notes = ["shown: bound of the run's own test, with its confidence."]
    if any(not run.gate_open for run in runs):
        notes.append(f"{CLOSED}: the samples say too little of the tilted policy for a forecast.")
    return Grid(f"{label[0].upper()}{label[1:]}", head, rows, notes)
