"""Calibrates scores on held-out labels."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignjax.data.preferences import Labelled
from alignjax.records.calibration import CalibrationRecord, Reliability, Slope
from alignjax.records.codec import read_record
from alignjax.runtime.arrays import write_npz
from alignjax.runtime.files import write_record
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration
from alignjax.scores.table import ScoreTable, read_table, write_table

_BINS = 10  # of the reliability diagram


class Calibrated(NamedTuple):
    """Scores in the logits of held-out labels, and how they came to be.

    Attributes:
      fit: maps raw scores to calibrated ones.
      record: the fit as calibration.json holds it.
      table: the reference's samples under the calibrated scores.
      held_out: raw scores [n, 2, 1+m] of each dimension's held-out pairs.
      labels: held-out labels by dimension; none in a value that was loaded.
    """

    fit: Calibration
    record: CalibrationRecord
    table: ScoreTable
    held_out: Mapping[str, np.ndarray]
    labels: Mapping[str, Labelled]


def calibrate(
    raw: np.ndarray,
    held_out: Mapping[str, Labelled],
    score: Callable[[Labelled], np.ndarray],
    names: Sequence[str],
    *,
    kind: str,
    clustered: bool,
    say: Callable[[str], None],
) -> Calibrated:
    """Fits held-out labels on score differences and applies the fit to the reference's samples.

    Args:
      raw: [N, K, 1+m] scores of the reference's samples.
      held_out: labelled pairs by dimension. Where a dimension has none, all scores are believed as they are.
      score: gives the raw scores [n, 2, 1+m] of pairs.
      names: of the dimensions, the reward first.
      kind: joint, slope or none, see `scores.calibration.fit`.
      clustered: whether pairs of one prompt depend on each other. Not in a world whose prompts are all there
        are: there they are independent draws.
      say: prints a line for the user.

    Returns:
      The calibrated scores; `record.stops` tells of scores on which no margin can be promised.
    """
    known = [name for name in names if name in held_out]
    scores = {name: score(held_out[name]) for name in known}
    differences = {name: values[:, 0] - values[:, 1] for name, values in scores.items()}
    labels = [held_out[name].labels.astype(np.float64) for name in known]
    if len(known) == len(names):
        groups = [held_out[name].groups for name in known] if clustered else None
        fit = calib.fit(list(differences.values()), labels, kind=kind, groups=groups)
        slopes = calib.fit(list(differences.values()), labels, kind="slope", groups=groups)
        findings = calib.findings(slopes, names)
        named = {name: Slope(**one) for name, one in zip(names, calib.slopes(slopes), strict=True)}
    else:
        fit, findings, named = calib.identity(len(names)), [], {}
    for finding in findings:
        say(f"  {finding.message}")
    record = dataclasses.replace(
        record_of(fit, names),
        slopes=named,
        num_held_out={name: len(y) for name, y in zip(known, labels, strict=True)},
        findings=tuple(finding.message for finding in findings),
        stops=tuple(finding.message for finding in findings if finding.stop),
        reliability={
            name: _reliability(differences[name] @ fit.matrix[list(names).index(name)], y)
            for name, y in zip(known, labels, strict=True)
        },
    )
    rewards, utilities = calib.apply(fit, raw[..., 0], raw[..., 1:])
    table = ScoreTable(np.asarray(rewards), np.asarray(utilities), tuple(names[1:]), None)
    return Calibrated(fit, record, table, scores, {name: held_out[name] for name in known})


def record_of(fit: Calibration, names: Sequence[str]) -> CalibrationRecord:
    """A fit as calibration.json holds it, without what is said of its held-out labels."""
    return CalibrationRecord(
        kind=fit.kind,
        dimensions=tuple(names),
        matrix=fit.matrix,
        covariances=fit.covariances,
        unexplained=fit.unexplained,
        slopes={},
        num_held_out={},
        findings=(),
        stops=(),
        reliability={},
    )


def save(workdir: Path, found: Calibrated) -> None:
    """Writes calibration.json, scores.npz and held_out_scores.npz: NAME, NAME_labels and NAME_groups."""
    kept: dict[str, np.ndarray] = {}
    for name, scores in found.held_out.items():
        pairs = found.labels[name]
        kept |= {name: scores, f"{name}_labels": pairs.labels, f"{name}_groups": pairs.groups}
    write_npz(workdir / "held_out_scores.npz", **kept)
    write_record(workdir / "calibration.json", found.record)
    write_table(workdir / "scores.npz", found.table)


def load(workdir: Path) -> Calibrated:
    """Reads what `save` wrote; the held-out pairs stay on disk, since no later stage reads them."""
    record = read_record(CalibrationRecord, workdir / "calibration.json")
    fit = Calibration(record.matrix, record.covariances, record.kind, record.unexplained)
    return Calibrated(fit, record, read_table(workdir / "scores.npz"), {}, {})


def _reliability(logits: np.ndarray, labels: np.ndarray) -> Reliability:
    """Held-out label means in ten equal-count bins of the calibrated probability."""
    predicted = 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))
    order = np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(predicted)))
    return Reliability(
        predicted=tuple(float(predicted[i].mean()) for i in order),
        observed=tuple(float(labels[i].mean()) for i in order),
        count=tuple(len(i) for i in order),
    )
