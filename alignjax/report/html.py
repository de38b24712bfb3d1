"""The report: one HTML file with everything in it, and the figures beside it."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alignjax.records.answer import DualAnswer
from alignjax.records.calibration import CalibrationRecord
from alignjax.records.dial import DialRecord
from alignjax.records.erosion import Erosion
from alignjax.records.evaluation import Evaluation, Round
from alignjax.records.verdict import TestRecord
from alignjax.report import (
    cards,
    comparison,
    contests,
    diagnostics,
    dial_policies,
    erosion,
    figures,
    pages,
    rounds,
    score_models,
    sections,
    tables,
)
from alignjax.report.browser import Sample, browser
from alignjax.report.comparison import EarlierAnswer
from alignjax.report.dial import dials
from alignjax.report.flips import Flips, flip_section
from alignjax.report.histograms import histograms
from alignjax.report.plates import Plate, inline
from alignjax.report.sections import Grid, StageTime
from alignjax.report.style import to_svg

# Beginnings of the names of a report's own figures: an earlier report's are removed by these.
_OWN_FIGURES = (
    "dual-",
    "margin-",
    "plane-",
    "scores.",
    "wins.",
    "rounds.",
    "training.",
    "reliability.",
    "erosion.",
)

_CAPTIONS = {
    "dual": (
        "The dual function along the multipliers. It is convex, and the solution is its minimum; the band is "
        "the multiplier's interval."
    ),
    "margin": (
        "The predicted margin above the reference grows with the multiplier. The solution is where the curve "
        "meets the dotted line, the margin asked."
    ),
    "plane": (
        "Policies right of the dotted line keep the constraint, whose margin is above the reference; higher "
        "is more helpful. The dashed curve is what the dual predicts; crosses are 95% intervals."
    ),
    "plane-true": (
        "The same on the world's true scores, which no training saw: policies near the curve show that the "
        "prediction was right."
    ),
    "scores": (
        "One row per policy, one column per score. The solid line is the policy's mean, the dashed line the "
        "reference's."
    ),
    "wins": (
        "How often, in percent, the row's policy beats the column's policy on the same prompt. Blue: it wins "
        "more often; orange: it loses more often."
    ),
    "rounds": "How each round's correction changed the multiplier; the dotted line is the margin asked.",
    "erosion": erosion.CAPTION,
    "training": (
        "Held-out loss that rises while training loss falls means over-fitting. The dotted line is ln 2, "
        "where preference training starts."
    ),
    "reliability": (
        "Points on the diagonal: calibrated scores predict held-out labels as well as they claim. Bars are "
        "95% intervals."
    ),
}


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """All that the page shows; what is empty is left out.

    Attributes:
      title: heading, such as "pecan on assistant".
      answer: of the dual; its frontier is the curve of the figures.
      evaluation: of the policies.
      calibration: of the scores.
      config: content of config.json.
      environment: versions and devices of the run.
      stages: what each stage took, in the order of the work.
      counts: by data set, how many pairs or texts were read, dropped and cut.
      metrics: lines of metrics.jsonl.
      scores: policy -> dimension ("reward" or a constraint) -> calibrated scores of its responses, any shape.
      samples: responses of the policies to the same prompts.
      shown_samples: prompts of a page of the browser of responses.
      accuracies: by score, share of held-out pairs that it orders as the label does.
      findings: sentences that a reader must not miss, as of `findings_of`.
      rounds: what refused rounds measured, in order.
      tests: of every round, in order.
      others: earlier answers of the run, the latest first.
      flips: by dimension, the pairs whose label was turned over.
      erosion: what is left of the margins under attack; None: no audit was asked for.
      dial: policies of the same multiplier without a training; None: none were asked for.
    """

    title: str
    answer: DualAnswer
    evaluation: Evaluation
    calibration: CalibrationRecord
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: Sequence[StageTime] = ()
    counts: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    scores: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    samples: Sequence[Sample] = ()
    shown_samples: int = 20
    accuracies: Mapping[str, float] = dataclasses.field(default_factory=dict)
    findings: Sequence[str] = ()
    rounds: Sequence[Round] = ()
    tests: Sequence[TestRecord] = ()
    others: Sequence[EarlierAnswer] = ()
    flips: Sequence[Flips] = ()
    erosion: Erosion | None = None
    dial: DialRecord | None = None


def plates(inputs: ReportInputs) -> list[Plate]:
    """The figures that the inputs have data for, in the order of the page."""
    result = [
        Plate(name, _CAPTIONS[kind], False, to_svg(figure))
        for name, kind, figure in (*_dual_figures(inputs), *_plane_figures(inputs))
    ]
    unit = _unit(inputs)
    order = [name for name in tables.policy_names(inputs.evaluation) if name in inputs.scores]
    order += [name for name in inputs.scores if name not in order]
    shown = {name: inputs.scores[name] for name in order}
    wide = {
        "scores": histograms(shown, inputs.answer.names, unit=unit) if shown else None,
        "wins": contests.win_matrix(inputs.evaluation),
        "rounds": rounds.figure(rounds.tried(inputs.answer, inputs.tests, inputs.rounds)),
        "erosion": erosion.figure(inputs.erosion),
        "training": diagnostics.training_curves(inputs.metrics),
        "reliability": diagnostics.reliability(inputs.calibration),
    }
    result += [
        Plate(k, _CAPTIONS[k], True, to_svg(figure)) for k, figure in wide.items() if figure is not None
    ]
    return result


def render(inputs: ReportInputs, drawn: Sequence[Plate] | None = None) -> str:
    """One self-contained HTML page; equal inputs give equal text.

    Args:
      inputs: what to show.
      drawn: figures of `plates`; None: they are made.

    Returns:
      The page.
    """
    evaluation, answer, calibration = inputs.evaluation, inputs.answer, inputs.calibration
    drawn = plates(inputs) if drawn is None else drawn
    promise = cards.cards_of(evaluation, answer)
    samples = browser(
        inputs.samples,
        tables.policy_names(evaluation),
        calibration.dimensions,
        first=inputs.shown_samples,
    )
    times = sections.stages(inputs.stages)
    values: dict[str, Any] = {
        "findings": inputs.findings,
        "dials": dials(answer),
        "policies": sections.policies(evaluation),
        "samples": samples,
        "flips": flip_section(inputs.flips, calibration.dimensions),
        "contests": contests.grid(evaluation),
        "plates": [(plate, inline(plate)) for plate in drawn],
        "dual": sections.dual_rows(answer),
        "slopes": sections.slopes(calibration, inputs.accuracies),
        "grids": _grids(inputs),
        "counts": sections.counts(inputs.counts),
        "stages": times,
        "versions": sections.versions(inputs.environment),
        "config": list(sections.flatten(inputs.config)) if inputs.config else [],
    }
    return pages.render(
        "report.html",
        scripts=[*(["dial.js"] if values["dials"] else []), *(["samples.js"] if samples else [])],
        title=inputs.title,
        facts=sections.facts(inputs.config, inputs.environment, inputs.stages),
        headline=evaluation.headline,
        contents=_contents(values),
        promise=cards.grid(promise),
        cards=[(card, sections.strip(card), sections.lam_text(answer, card.name)) for card in promise],
        unit=tables.unit_note(calibrated=calibration.kind != "none"),
        tested=bool(evaluation.verdicts),
        look=evaluation.look,
        spent=f"{evaluation.spent:.0%}",
        estimate=tables.format_estimate,
        number=tables.format_number,
        intervals=sections.intervals_note(answer),
        matrix=sections.matrix(calibration),
        stage_cells=[[name, seconds, peak] for name, seconds, peak, _ in times],
        **values,
    )


def _grids(inputs: ReportInputs) -> list[Grid]:
    """The tables of several answers, of several rounds, and of the score models, where there are any."""
    latest = EarlierAnswer("latest", inputs.answer, inputs.evaluation)
    found = (
        comparison.grid([latest, *inputs.others]),
        rounds.grid(rounds.tried(inputs.answer, inputs.tests, inputs.rounds)),
        score_models.grid(inputs.metrics, inputs.config),
        *erosion.grids(inputs.erosion),
        dial_policies.grid(inputs.dial),
    )
    return [grid for grid in found if grid is not None]


def _contents(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchor and name of every section that has something to show, in the order of the page."""
    names = {
        "policies": "Policies",
        "samples": "Responses",
        "flips": "Labels",
        "contests": "Contests",
        "plates": "Figures",
        "dual": "Dual",
        "slopes": "Calibration",
    }
    anchors = {"plates": "figures", "slopes": "calibration"}
    found = [("promise", "Promised and delivered")]
    found += [(pages.slug(f"dial {dial.name}"), f"Dial of {dial.name}") for dial in values["dials"]]
    found += [(anchors.get(key, key), name) for key, name in names.items() if values[key]]
    titles = [grid.title for grid in values["grids"]]
    titles += [values["counts"].title] if values["counts"] else []
    found += [(pages.slug(title), title.split(":")[0]) for title in titles]
    last = {"stages": "Time", "versions": "Versions", "config": "Configuration"}
    return found + [({"config": "configuration"}.get(k, k), name) for k, name in last.items() if values[k]]


def write_report(inputs: ReportInputs, workdir: str | os.PathLike[str]) -> Path:
    """Writes WORKDIR/report.html and WORKDIR/figures/*.svg, each atomically.

    Figures of an earlier report that this one does not have are removed, so that none is out of date.

    Args:
      inputs: what to show.
      workdir: the run's folder; made where it is missing.

    Returns:
      Path of the page.
    """
    folder = Path(workdir)
    drawn = plates(inputs)
    page = render(inputs, drawn)
    for plate in drawn:
        pages.write(folder / "figures" / f"{plate.name}.svg", plate.svg)
    kept = {f"{plate.name}.svg" for plate in drawn}
    for path in (folder / "figures").glob("*.svg"):
        if path.name not in kept and path.name.startswith(_OWN_FIGURES):
            path.unlink()
    return pages.write(folder / "report.html", page)


def _unit(inputs: ReportInputs) -> str:
    """The unit of the scores, for the axes of figures."""
    return tables.score_unit(calibrated=inputs.calibration.kind != "none")


def _dual_figures(inputs: ReportInputs) -> Iterator[tuple[str, str, Figure]]:
    """File name, kind and figure of the dual and of the margin, for every constraint."""
    answer = inputs.answer
    if answer.frontier is None:
        return
    if answer.gate is not None and not answer.gate.open:
        # The curve is what the samples have; the forecast, which goes beyond them, is not to be believed.
        answer = dataclasses.replace(answer, predicted=None)
    for name in answer.names:
        yield f"dual-{name}", "dual", figures.dual_function(answer, name, unit=_unit(inputs))
        yield f"margin-{name}", "margin", figures.margin_curve(answer, name, unit=_unit(inputs))


def _plane_figures(inputs: ReportInputs) -> Iterator[tuple[str, str, Figure]]:
    """File name, kind and figure of reward against every margin, and of the same on true scores."""
    evaluation = inputs.evaluation
    for name in inputs.answer.names if evaluation.policies else ():
        yield (
            f"plane-{name}",
            "plane",
            figures.plane(evaluation, name, answer=inputs.answer, unit=_unit(inputs)),
        )
        if any(name in (policy.true_margins or {}) for policy in evaluation.policies.values()):
            # Labels of a world are drawn from its true scores, which are therefore their logits.
            unit = tables.score_unit(calibrated=True)
            figure = figures.plane(evaluation, name, answer=inputs.answer, truth=True, unit=unit)
            yield f"plane-true-{name}", "plane-true", figure
