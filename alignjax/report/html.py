"""The report: one HTML file with everything in it, and the figures beside it."""

import dataclasses
import importlib.resources
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np
from matplotlib.figure import Figure

from alignjax.report import contests, diagnostics, figures, rounds, score_models, sections, tables
from alignjax.report.figures import Curve
from alignjax.report.style import policy_mark, to_svg

# What a report's own figures are called; stale ones are removed by these beginnings.
_OWN_FIGURES = ("dual-", "margin-", "plane-", "scores.", "wins.", "rounds.", "training.", "reliability.")

_CAPTIONS = {
    "dual": "The multiplier is at the lowest point of this convex curve; the band is its 95% interval.",
    "margin": "The margin grows with the multiplier; where the curve meets the dotted line it is as asked.",
    "plane": (
        "Right of the dotted line the constraint is kept, and higher is more helpful. The dashed curve is "
        "what the dual promises; crosses are 95% intervals."
    ),
    "plane-true": (
        "The same on the world's true scores, which no training saw; points near the curve mean that the "
        "promise held."
    ),
    "scores": (
        "Each row is a policy, each column a score; the solid line is the policy's mean, the dashed one "
        "the reference's."
    ),
    "wins": (
        "In percent, how often the row's policy wins against the column's on one prompt; blue: it wins more "
        "often, orange: it loses."
    ),
    "rounds": "What correcting the multiplier round by round did; the dotted line is the margin asked.",
    "training": (
        "Held-out points that rise while training falls mean over-fitting; the dotted line is ln 2, where "
        "preference training starts."
    ),
    "reliability": (
        "Points on the diagonal: the calibrated scores predict held-out labels as well as they claim; bars "
        "are 95% intervals for single labels."
    ),
}


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """All that the page shows; what is empty or None is left out.

    Attributes:
      title: heading, as "PeCAN on assistant".
      dual: content of dual.json.
      evaluation: content of evaluation.json.
      config: content of config.json.
      run: content of run.json: versions, devices, stages with seconds.
      calibration: content of calibration.json.
      counts: what was read, dropped and cut, by data set.
      metrics: lines of metrics.jsonl.
      scores: policy -> dimension ("reward" or a constraint) -> scores of its responses, any shape.
      frontier: what the dual predicts along a ray of multipliers.
      samples: {"prompt": text, "responses": {policy: text}}.
      findings: sentences that a reader must not miss.
      rounds: contents of rounds/N.json, in order.
      score_unit: what rewards, utilities and margins are measured in.
    """

    title: str
    dual: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calibration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    scores: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    frontier: Curve | None = None
    samples: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[str] = ()
    rounds: Sequence[Mapping[str, Any]] = ()
    score_unit: str = "units of the scores"


class Plate(NamedTuple):
    """A figure on the page.

    Attributes:
      name: file name without its ending.
      caption: one sentence that says how to read it.
      wide: takes the page's whole width.
      svg: the figure's text.
    """

    name: str
    caption: str
    wide: bool
    svg: str


def plates(inputs: ReportInputs) -> list[Plate]:
    """The figures that the inputs have data for, in the order of the page."""
    names = tables.constraint_names(inputs.evaluation) or list(inputs.dual.get("names") or ())
    result = [
        Plate(name, _CAPTIONS[kind], False, to_svg(figure))
        for name, kind, figure in (*_dual_figures(inputs, names), *_plane_figures(inputs, names))
    ]
    order = [name for name in tables.policy_names(inputs.evaluation) if name in inputs.scores]
    order += [name for name in inputs.scores if name not in order]
    wide = {
        "scores": figures.histograms({name: inputs.scores[name] for name in order}, names) if order else None,
        "wins": contests.win_matrix(inputs.evaluation),
        "rounds": rounds.figure(inputs.rounds),
        "training": diagnostics.training_curves(inputs.metrics),
        "reliability": diagnostics.reliability(inputs.calibration),
    }
    result += [
        Plate(k, _CAPTIONS[k], True, to_svg(figure)) for k, figure in wide.items() if figure is not None
    ]
    return result


def render(inputs: ReportInputs, drawn: Sequence[Plate] | None = None) -> str:
    """One self-contained HTML page; equal inputs give equal text.

    All text is escaped: prompts and responses are whatever a model wrote. The page runs no script and loads
    nothing.

    Args:
      inputs: what to show.
      drawn: figures of `plates`; None: they are made.

    Returns:
      The page.
    """
    evaluation, dual = inputs.evaluation, inputs.dual
    names = tables.constraint_names(evaluation)
    shown = tables.columns(evaluation)
    drawn = plates(inputs) if drawn is None else drawn
    source = (importlib.resources.files("alignjax.report") / "template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    judged = tables.verdicts(evaluation)
    heads, counted = sections.counts(inputs.counts)
    return environment.from_string(source).render(
        title=inputs.title,
        facts=sections.facts(inputs.config, inputs.run),
        verdicts=[(v, sections.strip(v), sections.lam_text(dual, v.name)) for v in judged],
        estimate=tables.format_estimate,
        number=tables.format_number,
        columns=shown,
        rows=[(row, policy_mark(row.name, names)[0]) for row in tables.rows(evaluation, shown)],
        notes=tables.notes(shown, inputs.score_unit),
        contests=contests.grid(evaluation),
        grids=[
            grid
            for grid in (rounds.grid(inputs.rounds), score_models.grid(inputs.metrics, inputs.config))
            if grid is not None
        ],
        findings=sections.findings(inputs.findings, inputs.calibration),
        plates=[(plate, _inline(plate)) for plate in drawn],
        slopes=sections.slopes(inputs.calibration),
        matrix=sections.matrix(inputs.calibration),
        count_heads=heads,
        counts=counted,
        samples=sections.samples(inputs.samples, tables.policy_names(evaluation), names),
        dual=sections.dual_rows(dual),
        stages=sections.stages(inputs.run),
        versions=sections.versions(inputs.run),
        config=list(sections.flatten(inputs.config)),
    )


def write_report(inputs: ReportInputs, workdir: str | os.PathLike[str]) -> Path:
    """Writes WORKDIR/report.html and WORKDIR/figures/*.svg, each atomically.

    Figures of an earlier report that this one does not have are removed, so that none is out of date.

    Args:
      inputs: what to show.
      workdir: the run's folder; made where missing.

    Returns:
      Path of the page.
    """
    folder = Path(workdir)
    drawn = plates(inputs)
    page = render(inputs, drawn)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for plate in drawn:
        _write(folder / "figures" / f"{plate.name}.svg", plate.svg)
    kept = {f"{plate.name}.svg" for plate in drawn}
    for path in (folder / "figures").glob("*.svg"):
        if path.name not in kept and path.name.startswith(_OWN_FIGURES):
            path.unlink()
    _write(folder / "report.html", page)
    return folder / "report.html"


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read it; a report is there to be shown
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _dual_figures(inputs: ReportInputs, names: Sequence[str]) -> Iterator[tuple[str, str, Figure]]:
    """File name, kind and figure of the dual and of the margin, for every constraint."""
    curve, dual = inputs.frontier, inputs.dual
    lams = dual.get("lam") or {}
    intervals = (dual.get("intervals") or {}).get("lam") or {}
    predicted = (dual.get("predicted") or {}).get("margins") or {}
    for index, name in enumerate(names):
        if curve is None or lams.get(name) is None:
            continue
        lam, interval = lams[name], intervals.get(name)
        yield f"dual-{name}", "dual", figures.dual_function(curve, index, name, lam, interval=interval)
        asked = (inputs.evaluation.get("asked") or {}).get(name)
        figure = figures.margin_curve(
            curve, index, name, lam, asked=asked, predicted=predicted.get(name), interval=interval
        )
        yield f"margin-{name}", "margin", figure


def _plane_figures(inputs: ReportInputs, names: Sequence[str]) -> Iterator[tuple[str, str, Figure]]:
    """File name, kind and figure of reward against every utility, and of the same in truth."""
    policies = inputs.evaluation.get("policies") or {}
    predicted = inputs.dual.get("predicted") or {}
    reward, gain = predicted.get("reward"), predicted.get("reward_gain")
    reference = reward["mean"] - gain["mean"] if reward and gain else None
    for name in names if policies else ():
        figure = figures.plane(inputs.evaluation, name, curve=inputs.frontier, reference_reward=reference)
        yield f"plane-{name}", "plane", figure
        true = (tables.estimate_at(policy, ("true_margins", name)) for policy in policies.values())
        if any(estimate is not None for estimate in true):
            figure = figures.plane(
                inputs.evaluation, name, curve=inputs.frontier, truth=True, reference_reward=reference
            )
            yield f"plane-true-{name}", "plane-true", figure


def _inline(plate: Plate) -> markupsafe.Markup:
    """SVG as an element of the page: ids made unique to the figure, the XML prologue left out.

    Nothing of it comes from a user as mark-up: matplotlib escapes the texts that it draws.
    """
    svg = plate.svg[plate.svg.index("<svg") :]
    prefix = re.sub(r"[^A-Za-z0-9]", "-", plate.name)
    for mark in (' id="', "url(#", 'href="#'):
        svg = svg.replace(mark, f"{mark}{prefix}.")
    label = markupsafe.escape(plate.caption)
    return markupsafe.Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
