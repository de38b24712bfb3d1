"""The page's tables as plain rows of text: what the template prints, without any mark-up."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.report import tables
from alignjax.report.style import policy_mark
from alignjax.report.tables import MISSING, Estimate, Verdict

Record = Mapping[str, Any]


class Strip(NamedTuple):
    """Estimates of one constraint on a common scale, in percent of its width.

    Attributes:
      zero: where the reference is.
      asked: where the asked margin is, or None.
      bars: (kind, low, mean, high); kind is promised, delivered or true.
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


def facts(config: Record, run: Record) -> list[tuple[str, str]]:
    """The line below the title: method, seed, beta, time, peak memory, devices, as far as known."""
    rows = [(key, str(config[key])) for key in ("method", "seed", "beta") if key in config]
    records = (run.get("stages") or {}).values()
    seconds = sum(record.get("seconds") or 0.0 for record in records)
    peak = max((record.get("peak_memory_mib") or 0 for record in records), default=0)
    rows += [("time", duration(seconds))] if seconds else []
    rows += [("peak memory", f"{peak:,.0f} MiB")] if peak else []
    devices = list(run.get("devices") or ())
    if devices:
        rows.append(("devices", devices[0] if len(devices) == 1 else f"{len(devices)} x {devices[0]}"))
    return rows


def findings(given: Sequence[str], calibration: Record) -> list[str]:
    """The caller's findings and the calibration's, each once."""
    return list(dict.fromkeys([*given, *(calibration.get("findings") or ())]))


def strip(verdict: Verdict) -> Strip | None:
    """Places of a constraint's estimates; None where there is nothing to place."""
    entries = {"promised": verdict.predicted, "delivered": verdict.achieved, "true": verdict.truth}
    bars = {kind: bounds for kind, estimate in entries.items() if (bounds := _bounds(estimate)) is not None}
    if not bars:
        return None
    asked = [] if verdict.asked is None else [verdict.asked]
    ends = [0.0, *asked, *(end for bounds in bars.values() for end in bounds)]
    low, high = min(ends), max(ends)
    pad = 0.08 * (high - low) if high > low else 1.0

    def place(x: float) -> float:
        return round(100.0 * (x - low + pad) / (high - low + 2 * pad), 2)

    placed = tuple((kind, place(a), place(b), place(c)) for kind, (a, b, c) in bars.items())
    return Strip(place(0.0), place(asked[0]) if asked else None, placed)


def lam_text(dual: Record, name: str) -> str:
    """lambda* of one constraint with its interval."""
    interval = ((dual.get("intervals") or {}).get("lam") or {}).get(name) or {}
    estimate = {"mean": (dual.get("lam") or {}).get(name), "low": None, "high": None, **interval}
    return tables.format_estimate(estimate, 3)


def dual_rows(dual: Record) -> list[tuple[str, str]]:
    """What dual.json says besides its margins."""
    rows = [(f"lambda*, {name}", lam_text(dual, name)) for name in dual.get("lam") or {}]
    for name, most in (dual.get("reachable") or {}).items():
        rows.append((f"largest reachable margin, {name}", tables.format_number(most)))
    predicted = dual.get("predicted") or {}
    for key, label in (("reward", "predicted reward"), ("kl", "predicted KL, nats")):
        if key in predicted:
            rows.append((label, tables.format_estimate(predicted[key])))
    ess, solver = predicted.get("ess") or {}, dual.get("solver") or {}
    if ess.get("median") is not None:
        of = f" of {ess['num_samples']}" if "num_samples" in ess else ""
        rows.append(("effective samples a prompt, median", f"{ess['median']:.1f}{of}"))
    if "iterations" in solver:
        rows.append(("solver", f"{solver['iterations']} iterations, error {solver['error']:.1e}"))
    return rows


def slopes(calibration: Record) -> list[tuple[str, str, str]]:
    """Score, slope with interval, number of held-out pairs."""
    held = calibration.get("num_held_out") or {}
    rows = []
    for name, fit in (calibration.get("slopes") or {}).items():
        slope = tables.format_estimate(
            {"mean": fit.get("slope"), "low": fit.get("low"), "high": fit.get("high")}
        )
        rows.append((name, slope, f"{held[name]:,}" if name in held else MISSING))
    return rows


def matrix(calibration: Record) -> list[tuple[str, list[str]]]:
    """Rows of a joint fit, a row a calibrated score; empty for other fits, whose slopes say it all."""
    names: Sequence[str] = calibration.get("dimensions") or ()
    values: Sequence[Sequence[float]] = calibration.get("matrix") or ()
    if calibration.get("kind") != "joint":
        return []
    return [(n, [tables.format_number(x, 3) for x in row]) for n, row in zip(names, values, strict=True)]


def counts(records: Mapping[str, Record]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """One table of all data sets: heads (every count that some set has), and rows."""
    keys = list(dict.fromkeys(key for record in records.values() for key in record))
    rows = []
    for name, record in records.items():
        rows.append((name, [f"{record[key]:,}" if key in record else MISSING for key in keys]))
    return [key.replace("_", " ") for key in keys], rows


def samples(
    given: Sequence[Record], policies: Sequence[str], constraints: Sequence[str]
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Prompt and (label, colour, text) of every policy's response, policies in the order of the table."""
    rows = []
    for sample in given:
        texts = sample["responses"]
        order = [
            *(name for name in policies if name in texts),
            *(name for name in texts if name not in policies),
        ]
        answers = []
        for name in order:
            label, colour = tables.policy_label(name, constraints), policy_mark(name, constraints)[0]
            answers.append((label, colour, texts[name]))
        rows.append((sample["prompt"], answers))
    return rows


def stages(run: Record) -> list[tuple[str, str, str, float]]:
    """Name, time, peak memory in MiB, and percent of the longest stage."""
    records = run.get("stages") or {}
    longest = max((record.get("seconds") or 0.0 for record in records.values()), default=0.0)
    rows = []
    for name, record in records.items():
        seconds, peak = record.get("seconds"), record.get("peak_memory_mib")
        share = round(100.0 * seconds / longest, 1) if seconds and longest else 0.0
        time = MISSING if seconds is None else duration(seconds)
        rows.append((name, time, MISSING if peak is None else f"{peak:,.0f}", share))
    return rows


def versions(run: Record) -> list[tuple[str, str]]:
    """Versions and machine."""
    rows = [(key, str(run[key])) for key in ("alignjax", "python", "platform", "processes") if key in run]
    return rows + [(name, str(version)) for name, version in (run.get("versions") or {}).items()]


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A nested configuration as (dotted name, value), in its own order."""
    if isinstance(value, Mapping) and (value or not path):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bounds(estimate: Estimate) -> tuple[float, float, float] | None:
    """Low, mean, high of an estimate, or None where it has no mean."""
    values = estimate if isinstance(estimate, Mapping) else {"mean": estimate}
    mean = values.get("mean")
    if mean is None or not math.isfinite(mean):
        return None
    low, high = (mean if (end := values.get(key)) is None else end for key in ("low", "high"))
    return low, mean, high
