"""Calibrates scores on held-out labels, and checks whether the calibration survives selection by a tilt."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax

from alignjax.data.preferences import Labelled
from alignjax.records.calibration import CalibrationRecord, Check, Reliability, Slope
from alignjax.records.codec import read_record
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.runtime.files import write_record
from alignjax.scores import calibration as calib
from alignjax.scores import curves, reliability
from alignjax.scores.calibration import Calibration, Finding
from alignjax.scores.rate import RateFit, rate_of
from alignjax.scores.table import ScoreTable, read_table, write_table

_BINS = 10  # of the reliability diagram
_LABEL_OUTPUTS = "let people label outputs of the aligned policy (evaluate --labels)"
_NO_INTERVAL = f"no interval of a margin holds this error: {_LABEL_OUTPUTS}"


class Calibrated(NamedTuple):
    """Scores in the logits of held-out labels, and how they came to be.

    Attributes:
      fit: maps raw scores to calibrated ones.
      record: the fit as calibration.json holds it.
      table: the reference's samples under the calibrated scores.
      held_out: raw scores [n, 2, 1+m] of each dimension's held-out pairs.
      labels: held-out labels by dimension. In a value that was loaded they hold labels and groups, no texts.
    """

    fit: Calibration
    record: CalibrationRecord
    table: ScoreTable
    held_out: Mapping[str, np.ndarray]
    labels: Mapping[str, Labelled]


class _Pairs(NamedTuple):
    """Held-out pairs of one dimension: raw scores [n, 2, 1+m], labels [n], groups [n]."""

    raw: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def calibrate(
    raw: np.ndarray,
    held_out: Mapping[str, Labelled],
    scores: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    kind: str,
    clustered: bool,
    say: Callable[[str], None],
) -> Calibrated:
    """Fits held-out labels on score differences and applies the fit to the reference's samples.

    Where labels fall short of the linear fit at high scores, the dimension gets a monotone curve of its own
    score, if the curve predicts labels better that it has not seen. Constraints whose pairs say which
    responses are safe also get a rate.

    Args:
      raw: [N, K, 1+m] scores of the reference's samples.
      held_out: labelled pairs by dimension. Where a dimension has none, all scores are believed as they are.
      scores: raw scores [n, 2, 1+m] of these pairs, by dimension.
      names: of the dimensions, the reward first.
      kind: joint, slope or none, see `scores.calibration.fit`.
      clustered: whether pairs of one prompt depend on each other. Not in a world whose prompts are all there
        are: there they are independent draws.
      say: prints a line for the user.

    Returns:
      The calibrated scores; `record.stops` tells of scores on which no margin can be promised.
    """
    known = [name for name in names if name in held_out]
    pairs = {name: _pairs(scores[name], held_out[name], clustered) for name in known}
    fit, slopes, checks, found = calib.identity(len(names)), dict[str, Slope](), {}, list[Finding]()
    if len(known) == len(names):
        fit, slopes, found = _linear(pairs, names, kind)
        fit, checks, bends = _bent(fit, pairs, raw, names)
        found += [Finding(line, False) for line in bends]
    rates = _rates(fit, scores, held_out, names, clustered)
    found += [Finding(line, False) for one in rates.values() for line in one.findings]
    for one in found:
        say(f"  {one.message}")
    record = dataclasses.replace(
        record_of(fit, names),
        slopes=slopes,
        num_held_out={name: len(one.labels) for name, one in pairs.items()},
        findings=tuple(one.message for one in found),
        stops=tuple(one.message for one in found if one.stop),
        reliability={name: _reliability(fit, names.index(name), one) for name, one in pairs.items()},
        rates={name: one.rate for name, one in rates.items() if one.rate is not None},
        checks=checks | {name: (*checks.get(name, ()), *one.checks) for name, one in rates.items()},
        clustered=clustered,
    )
    table = ScoreTable(*calib.apply(fit, raw[..., 0], raw[..., 1:]), tuple(names[1:]), None)
    return Calibrated(fit, record, table, scores, {name: held_out[name] for name in known})


def tilt_findings(
    found: Calibrated,
    lam: np.ndarray,
    beta: float,
    dimensions: Sequence[str],
    *,
    exponent: np.ndarray | None = None,
) -> list[str]:
    """Where held-out labels fall short of the calibration for the responses that a tilt takes.

        weights of sample k of prompt i: softmax_k((r_ik + <lam, g_ik>) / beta)

    Args:
      found: with the reference's samples and the held-out pairs.
      lam: [m], multiplier of each constrained dimension.
      beta: KL weight.
      dimensions: the reward first.
      exponent: [N, K], what the tilt adds up in place of r + <lam, g>, where utilities are not the scores;
        every dimension is then checked.

    Returns:
      A sentence for the reward and for each constraint with a multiplier above 0 whose labels fall short by
      more than chance.
    """
    scores = np.concatenate([found.table.rewards[..., None], found.table.utilities], axis=-1)
    if exponent is None:
        exponent = scores[..., 0] + scores[..., 1:] @ np.asarray(lam, np.float64)
        asked = [True, *(np.asarray(lam) > 0)]
    else:
        asked = [True] * len(dimensions)
    weights = softmax(exponent / beta, axis=-1) * exponent.shape[-1]
    said = []
    for d, name in enumerate(dimensions):
        if not asked[d] or name not in found.held_out:
            continue
        pairs = _pairs(found.held_out[name], found.labels[name], found.record.clustered)
        under = _fitted(found.fit, d, pairs)._replace(scores=calib.calibrated(found.fit, pairs.raw)[..., d])
        one = reliability.tilted(under, scores[..., d], weights)
        if not one.holds:
            said.append(
                f"{name}: in held-out pairs weighted by where the tilt goes, its responses are preferred in "
                f"{_against(one)}: less may be delivered than is forecast; ask for more, hold out more "
                f"labelled pairs, or {_LABEL_OUTPUTS}."
            )
    return said


def record_of(fit: Calibration, names: Sequence[str]) -> CalibrationRecord:
    """A fit as calibration.json holds it, without what is said of its held-out labels."""
    return CalibrationRecord(
        kind=fit.kind,
        dimensions=tuple(names),
        matrix=fit.matrix,
        covariances=fit.covariances,
        unexplained=fit.unexplained,
        curves=fit.curves,
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
    """Reads what `save` wrote."""
    record = read_record(CalibrationRecord, workdir / "calibration.json")
    arrays = read_npz(workdir / "held_out_scores.npz")
    held_out = {name: arrays[name] for name in record.dimensions if name in arrays}
    labels = {name: Labelled([], arrays[f"{name}_labels"], arrays[f"{name}_groups"], []) for name in held_out}
    return Calibrated(fit_of(record), record, read_table(workdir / "scores.npz"), held_out, labels)


def fit_of(record: CalibrationRecord) -> Calibration:
    """The fit that a record holds."""
    return Calibration(record.matrix, record.covariances, record.kind, record.unexplained, record.curves)


def _pairs(raw: np.ndarray, labelled: Labelled, clustered: bool) -> _Pairs:
    labels = labelled.labels.astype(np.float64)
    return _Pairs(raw, labels, labelled.groups if clustered else np.arange(len(labels)))


def _linear(
    pairs: Mapping[str, _Pairs], names: Sequence[str], kind: str
) -> tuple[Calibration, dict[str, Slope], list[Finding]]:
    """The linear fit, each score's own slope, and what the slopes say."""
    given = [one.raw[:, 0] - one.raw[:, 1] for one in pairs.values()]
    labels, groups = [one.labels for one in pairs.values()], [one.groups for one in pairs.values()]
    slopes = calib.fit(given, labels, kind="slope", groups=groups)
    named = {name: Slope(**one) for name, one in zip(names, calib.slopes(slopes), strict=True)}
    # Scores that are believed as they are need no scale of these labels.
    separated = [
        kind != "none" and calib.separates(x[:, d], y)
        for d, (x, y) in enumerate(zip(given, labels, strict=True))
    ]
    return calib.fit(given, labels, kind=kind, groups=groups), named, calib.findings(slopes, names, separated)


def _bent(
    fit: Calibration, pairs: Mapping[str, _Pairs], raw: np.ndarray, names: Sequence[str]
) -> tuple[Calibration, dict[str, tuple[Check, ...]], list[str]]:
    """The fit with curves where it needs them, the checks by dimension, and what is to be said."""
    if fit.kind == "none":
        return fit, {}, []
    found, checks, said = fit, dict[str, tuple[Check, ...]](), list[str]()
    for d, name in enumerate(names):
        linear = reliability.checks(_fitted(fit, d, pairs[name]), raw[..., d])
        checks[name] = linear
        short = [one for one in linear if not one.holds]
        if not short or fit.matrix[d, d] <= 0:
            continue
        worst = max(short, key=reliability.shortfall)
        line = (
            f"{name}: labels fall short of a linear score where scores are high (in {worst.where}, the "
            f"higher one is preferred in {_against(worst)}): a monotone curve of the score "
        )
        bent = _curve(fit, found, d, pairs[name], raw[..., d], worst)
        if bent is None:
            said.append(f"{line}predicts them no better, and the linear one is kept; {_NO_INTERVAL}.")
            continue
        found, curved = bent
        checks[name] = (*linear, *curved)
        if all(one.holds for one in curved):
            said.append(f"{line}is used, which they follow; to be sure of a margin, {_LABEL_OUTPUTS}.")
        else:
            said.append(
                f"{line}predicts them better and is used, but they fall short of it too; {_NO_INTERVAL}."
            )
    return found, checks, said


def _against(one: Check) -> str:
    return (
        f"{one.observed:.1%} of cases where {one.predicted:.1%} are predicted, a shortfall of "
        f"{reliability.shortfall(one):.1f} standard errors"
    )


def _curve(
    fit: Calibration, found: Calibration, own: int, pairs: _Pairs, raw: np.ndarray, worst: Check
) -> tuple[Calibration, tuple[Check, ...]] | None:
    """`found` with a curve for one dimension, and its checks; None: it is no better on unseen labels."""
    knots = curves.knots_of(raw)
    given = (pairs.raw, own, fit.matrix[own], pairs.labels, pairs.groups, knots)
    losses = curves.held_out_losses(*given)
    row, curve = curves.fit(*given)
    under = reliability.fitted(pairs.raw, own, row, curve, pairs.labels, pairs.groups)
    checks = reliability.checks(under, raw)
    if losses.curve >= losses.linear or max(map(reliability.shortfall, checks)) > reliability.shortfall(
        worst
    ):
        return None
    return calib.bend(found, own, row, curve, under.logits, pairs.labels), checks


def _fitted(fit: Calibration, own: int, pairs: _Pairs) -> reliability.Fitted:
    curve = None if fit.curves is None else fit.curves[own]
    under = reliability.fitted(pairs.raw, own, fit.matrix[own], curve, pairs.labels, pairs.groups)
    # Scores that were believed as they are have matched nothing to these labels.
    return under._replace(design=under.design[:, :0]) if fit.kind == "none" else under


def _rates(
    fit: Calibration,
    scores: Mapping[str, np.ndarray],
    held_out: Mapping[str, Labelled],
    names: Sequence[str],
    clustered: bool,
) -> dict[str, RateFit]:
    """By constraint with held-out pairs, how likely a response is safe at its calibrated score."""
    found = {}
    for d, name in enumerate(names):
        if d == 0 or name not in scores:
            continue
        rows = [(i, pair.safe) for i, pair in enumerate(held_out[name].texts) if pair.safe is not None]
        places = np.array([i for i, _ in rows], np.int64)
        safe = np.array([one for _, one in rows], bool).reshape(len(rows), 2)
        responses = calib.calibrated(fit, scores[name][places])[..., d]
        # Both responses of a pair are of one prompt, and one pair may be in several rows.
        groups = held_out[name].groups[places] if clustered else places
        found[name] = rate_of(name, responses.ravel(), safe.ravel(), np.repeat(groups, 2))
    return found


def _reliability(fit: Calibration, own: int, pairs: _Pairs) -> Reliability:
    """Held-out label means in ten equal-count bins of the calibrated probability."""
    predicted = expit(_fitted(fit, own, pairs).logits)
    order = np.array_split(np.argsort(predicted, kind="stable"), min(_BINS, len(predicted)))
    return Reliability(
        predicted=tuple(float(predicted[i].mean()) for i in order),
        observed=tuple(float(pairs.labels[i].mean()) for i in order),
        count=tuple(len(i) for i in order),
    )
