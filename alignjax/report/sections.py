"""The page's tables as plain rows of text: what the template prints, without any mark-up."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.records.answer import DualAnswer, Ends
from alignjax.records.calibration import CalibrationRecord
from alignjax.records.evaluation import Evaluation
from alignjax.report import tables
from alignjax.report.cards import Card
from alignjax.report.style import policy_mark
from alignjax.report.tables import MISSING, Estimate


class StageTime(NamedTuple):
    """What a stage of the run took.

    Attributes:
      name: of the stage.
      seconds: of its computation; None: not known.
      peak_memory_mib: largest resident memory of the process when it ended, MiB; None: not known.
    """

    name: str
    seconds: float | None
    peak_memory_mib: float | None


class Strip(NamedTuple):
    """Estimates of one constraint on a common scale, in percent of its width.

    Attributes:
      zero: position of the reference.
      asked: position of the asked margin, or None.
      bars: (kind, low, mean, high); kind is forecast, delivered or true.
    """

    zero: float
    asked: float | None
    bars: tuple[tuple[str, float, float, float], ...]


class Grid(NamedTuple):
    """A table of the page.

    Attributes:
      title: heading above it.
      head: of every column.
      rows: label, colour of a mark before it or "", and a text for every other column.
      notes: sentences below it.
    """

    title: str
    head: list[str]
    rows: list[tuple[str, str, list[str]]]
    notes: list[str]

    @property
    def cells(self) -> list[list[str]]:
        """Every row as text."""
        return [[label, *cells] for label, _, cells in self.rows]


def facts(
    config: Mapping[str, Any], environment: Mapping[str, Any], times: Sequence[StageTime]
) -> list[tuple[str, str]]:
    """The line below the title: method, seed, beta, time, peak memory and devices, where known."""
    rows = [(key, str(config[key])) for key in ("method", "seed", "beta") if key in config]
    seconds = sum(time.seconds or 0.0 for time in times)
    peak = max((time.peak_memory_mib or 0.0 for time in times), default=0.0)
    rows += [("time", duration(seconds))] if seconds else []
    rows += [("peak memory", f"{peak:,.0f} MiB")] if peak else []
    devices = list(environment.get("devices", ()))
    if devices:
        rows.append(("devices", devices[0] if len(devices) == 1 else f"{len(devices)} x {devices[0]}"))
    return rows


def strip(card: Card) -> Strip | None:
    """Positions of a card's estimates, without a forecast behind a closed gate; None where there are none."""
    forecast = card.forecast if card.gate_open else None
    entries = {"forecast": forecast, "delivered": card.delivered, "true": card.truth}
    bars = {
        kind: estimate
        for kind, estimate in entries.items()
        if estimate is not None and math.isfinite(estimate.mean)
    }
    if not bars:
        return None
    asked = [] if card.asked is None else [card.asked]
    ends = [0.0, *asked, *(end for bar in bars.values() for end in (bar.low, bar.high))]
    low, high = min(ends), max(ends)
    pad = 0.08 * (high - low) if high > low else 1.0

    def place(x: float) -> float:
        return round(100.0 * (x - low + pad) / (high - low + 2 * pad), 2)

    placed = tuple((kind, place(bar.low), place(bar.mean), place(bar.high)) for kind, bar in bars.items())
    return Strip(place(0.0), place(asked[0]) if asked else None, placed)


def lam_text(answer: DualAnswer, name: str) -> str:
    """lambda* of one constraint with its interval, as "0.62 [0.53, infinite]"; "-" where it has none."""
    value = None if answer.lam is None else answer.lam.get(name)
    text = tables.format_number(value, 3)
    interval = None if answer.intervals is None else answer.intervals.lam.get(name)
    return text if value is None or interval is None else f"{text} {ends_text(interval)}"


def ends_text(interval: Ends | Estimate, decimals: int = 3) -> str:
    """An interval as "[0.53, infinite]"."""
    low, high = (
        "infinite" if end is None else tables.format_number(end, decimals)
        for end in (interval.low, interval.high)
    )
    return f"[{low}, {high}]"


def dual_rows(answer: DualAnswer) -> list[tuple[str, str]]:
    """What dual.json says besides its margins; behind a closed gate no number of the tilted policy."""
    gate_open = answer.gate is None or answer.gate.open
    rows = [(f"lambda*, {name}", lam_text(answer, name)) for name in answer.lam or {}]
    for name, most in answer.reachable.items():
        rows.append((f"largest reachable margin, {name}", tables.format_number(most)))
    if answer.predicted is not None:
        predicted, ess = answer.predicted, answer.predicted.ess
        if gate_open:
            rows.append(("predicted reward", tables.format_estimate(predicted.reward)))
            rows.append(("predicted KL, nats", tables.format_estimate(predicted.kl)))
        rows.append(("effective samples per prompt, median", f"{ess.median:.1f} of {ess.num_samples}"))
    if answer.gate is not None:
        rows.append(("forecast of the tilt", "open" if answer.gate.open else "closed"))
    if answer.forecast is not None:
        for name, margin in answer.forecast.draw_k.margins.items():
            rows.append((f"forecast margin of draw-K, {name}", tables.format_estimate(margin)))
    if answer.corrected is not None and gate_open:
        for name, lam in answer.corrected.lam.items():
            rows.append((f"lambda*, {name}, corrected for finite samples", tables.format_estimate(lam, 3)))
    if answer.guard is not None:
        for name, room in answer.guard.room.items():
            label = f"room above what is asked of {name}, confidence {answer.guard.confidence:g}"
            rows.append((label, tables.format_number(room, 3)))
        if answer.predicted is not None and gate_open:
            cost = answer.guard.plain.reward - answer.predicted.reward.mean
            rows.append(("reward that this costs", tables.format_number(cost, 3)))
    if answer.solver is not None:
        error = answer.solver.error
        shown = "not finite" if error is None else f"{error:.1e}"
        rows.append(("solver", f"{answer.solver.iterations} iterations, error {shown}"))
    return rows


def intervals_note(answer: DualAnswer) -> str:
    """Which uncertainties the intervals of the prediction hold."""
    if not answer.holds:
        return "The prediction and the multipliers have no intervals."
    return (
        f"The {answer.confidence:.0%} intervals of the prediction and of the multipliers hold the "
        f"uncertainty about {' and '.join(answer.holds)}, and no other."
    )


def slopes(calibration: CalibrationRecord, accuracies: Mapping[str, float]) -> Grid | None:
    """How well each score agrees with held-out labels; None where nothing was fitted.

    Args:
      calibration: with the slopes.
      accuracies: by score, the share of held-out pairs that it orders as the label does; a tie counts half.
    """
    if not calibration.slopes:
        return None
    rows = []
    for name, fit in calibration.slopes.items():
        slope = tables.format_estimate(Estimate(fit.slope, fit.low, fit.high))
        pairs = calibration.num_held_out.get(name)
        accuracy = tables.format_number(accuracies.get(name), 3)
        rows.append((name, "", [slope, accuracy, MISSING if pairs is None else f"{pairs:,}"]))
    notes = [
        "Slope 1: the scores are the logits of the labels. Below 1 the scores are over-confident, and "
        "calibration shrinks them before the dual uses them. Accuracy: share of held-out pairs that the "
        "calibrated score orders as the label does, a tie counts half. [..]: 95% interval."
    ]
    return Grid("Scores on held-out labels", ["score", "slope", "accuracy", "pairs"], rows, notes)


def matrix(calibration: CalibrationRecord) -> Grid | None:
    """One row per calibrated score of a joint fit; None for other fits, whose slopes say it all."""
    if calibration.kind != "joint":
        return None
    rows = zip(calibration.dimensions, calibration.matrix, strict=True)
    cells = [(name, "", [tables.format_number(float(x), 3) for x in row]) for name, row in rows]
    head = ["calibrated", *(f"raw {name}" for name in calibration.dimensions)]
    return Grid("Calibrated scores from raw ones", head, cells, [])


def counts(records: Mapping[str, Mapping[str, int]]) -> Grid | None:
    """One table of all data sets, with a column for every count that some set has; None: no data."""
    if not records:
        return None
    keys = list(dict.fromkeys(key for record in records.values() for key in record))
    rows = [
        (name, "", [f"{record[key]:,}" if key in record else MISSING for key in keys])
        for name, record in records.items()
    ]
    return Grid(
        "Data: pairs read, dropped and cut", ["data", *(key.replace("_", " ") for key in keys)], rows, []
    )


def policies(evaluation: Evaluation) -> Grid | None:
    """What every policy reaches; None where none was evaluated."""
    shown, names = tables.columns(evaluation), tables.constraint_names(evaluation)
    order = tables.policy_names(evaluation)
    rows = [
        (row.label, policy_mark(row.name, names, order)[0], list(row.cells))
        for row in tables.rows(evaluation, shown)
    ]
    if not rows:
        return None
    notes = [*tables.notes(shown), *tables.policy_notes(evaluation)]
    return Grid("Policies", ["policy", *(column.header for column in shown)], rows, notes)


def stages(times: Sequence[StageTime]) -> list[tuple[str, str, str, float]]:
    """Name, time, peak memory in MiB, and time in percent of the longest stage."""
    longest = max((time.seconds or 0.0 for time in times), default=0.0)
    rows = []
    for name, seconds, peak in times:
        share = round(100.0 * seconds / longest, 1) if seconds and longest else 0.0
        time = MISSING if seconds is None else duration(seconds)
        rows.append((name, time, MISSING if peak is None else f"{peak:,.0f}", share))
    return rows


def versions(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions and machine."""
    keys = ("alignjax", "python", "platform", "processes")
    rows = [(key, str(environment[key])) for key in keys if key in environment]
    return rows + [(name, str(version)) for name, version in environment.get("versions", {}).items()]


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A nested configuration as (dotted name, value), in its own order."""
    if isinstance(value, Mapping) and (value or not path):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def duration(seconds: float) -> str:
    """Seconds in the units in which one would say them."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
