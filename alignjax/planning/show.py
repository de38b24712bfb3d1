"""A plan as text and as JSON."""

from collections.abc import Sequence
from typing import Any

from alignjax.aot.chips import EFFICIENCY
from alignjax.aot.measure import gib
from alignjax.planning.mean_rows import SMALL
from alignjax.planning.run import Line, Plan
from alignjax.planning.targets import Target
from alignjax.workflow.stand_ins import REAL_SHARE

_HEAD = ("stage", "program", "fits", "params", "adapt", "optim", "cache", "temp", "held", "all GiB")
_COST = ("TFLOP", "GB moved", "MB sent", "s/call", "bound", "tok/s", "calls", "hours")


def text_of(plan: Plan, target: Target) -> str:
    """What the command prints: two tables, and what the figures assume."""
    mesh = plan.setup.batching.mesh.shape
    usable = gib(plan.chip.usable)
    head = [
        f"{plan.name} on {target.name}: {plan.devices} x {plan.chip.name}, {usable:.2f} GiB usable; "
        f"mesh data={mesh['data']} fsdp={mesh['fsdp']} tensor={mesh['tensor']}",
        "",
        "Memory, GiB a chip",
        *_table([_HEAD, *map(_memory, plan.lines)]),
        "",
        "Cost of a call, a chip; tokens, calls and hours of the whole slice",
        *_table([("stage", "program", *_COST), *map(_cost, plan.lines)]),
        "",
        *_notes(plan, target),
    ]
    return "\n".join([*head, *_suggestion(plan)])


def json_of(plan: Plan, target: Target) -> dict[str, Any]:
    """The same figures, in bytes and seconds."""
    return {
        "topology": target.name,
        "chips": plan.devices,
        "model": plan.name,
        "mesh": dict(plan.setup.batching.mesh.shape),
        "usable_bytes": plan.chip.usable,
        "memory_from": "the CPU's compiler" if target.simulated else "the TPU's compiler",
        "efficiency": EFFICIENCY,
        "mean_lengths": None if plan.lengths is None else plan.lengths._asdict(),
        "real_share": None if plan.lengths is None else REAL_SHARE,
        "notes": _unseen(plan),
        "pairs": plan.counts._asdict(),
        "fits": plan.fits,
        "hours": plan.hours,
        "longest_hours": plan.longest_hours,
        "session_hours": target.session_hours,
        "sessions": None if plan.hours is None else target.sessions(plan.hours),
        "suggested": None if plan.suggested is None else plan.suggested._asdict(),
        "stages": [_record(line) for line in plan.lines],
    }


def refusal_of(plan: Plan, target: Target) -> str:
    """One line: which stages do not fit, and what to try."""
    failing = [line for line in plan.lines if not line.fits]
    worst = max(failing, key=lambda line: line.needed)
    names = ", ".join(dict.fromkeys(f"{line.step.stage} ({line.step.what})" for line in failing))
    return (
        f"does not fit {target.name}: {names}; {worst.step.stage} needs {gib(worst.needed):.2f} GiB of "
        f"{gib(plan.chip.usable):.2f} a chip. Try --suggest, more chips with --config.mesh.fsdp, a smaller "
        "batch_size with more accumulate, or --config.model.remat=True."
    )


def _memory(line: Line) -> tuple[str, ...]:
    kinds, found = line.step.program.kinds, line.measured
    cells = [kinds.get(kind, 0) for kind in ("parameters", "adapters", "optimizer")]
    # The caches of a sampler are arguments that the compiler updates in place.
    temporaries = max(0, found.needed - sum(kinds.values()) - line.step.program.cache)
    cells += [line.step.program.cache, temporaries, sum(line.step.held.values()), line.needed]
    fits = "yes" if line.fits else "NO"
    return (line.step.stage, line.step.what, fits, *(f"{gib(cell):.2f}" for cell in cells))


def _cost(line: Line) -> tuple[str, ...]:
    timed = line.timed
    found, estimate = timed.measured, timed.estimate
    names = line.step.stage, line.step.what
    moved = sent = "-"
    if found.traffic is not None:
        moved = f"{found.traffic.memory / 1e9:.2f}"
        sent = f"{sum(found.traffic.sent.values()) / 1e6:.1f}"
    flops, calls = f"{found.flops / 1e12:.3g}", f"{timed.step.calls:,.0f}"
    if estimate is None:
        return (*names, flops, moved, sent, "-", "-", "-", calls, "-")
    return (
        *names, flops, moved, sent, f"{estimate.longest:.4g}", estimate.bound,
        f"{timed.tokens_per_second:,.0f}", calls, f"{timed.hours:.2f}",
    )  # fmt: skip


def _notes(plan: Plan, target: Target) -> list[str]:
    shares = ", ".join(f"{name} {share:g}" for name, share in EFFICIENCY.items())
    found = "the CPU's compiler for simulated devices: a GPU's own compiler may need more or less"
    notes = [
        f"Memory: of the largest rows, by {found if target.simulated else 'the compiler for this slice'}; "
        "held: what the run keeps beside the program.",
        "Seconds: the largest of products / peak, bytes / memory rate, bytes sent / link rate, at these "
        f"shares of the published figures: {shares}.",
        f"Hours: {_rows(plan)}; {plan.counts.pairs} pairs to learn from and {plan.counts.held_out} held out "
        f"a dimension, {plan.counts.align} to align on; loading and saving not counted.",
        f"Figures of the chip: {plan.chip.source}.",
        *_unseen(plan),
    ]
    if plan.hours is not None:
        notes.append(f"{_whole(plan, target)}.")
    elif plan.chip.flops is None:
        notes.append(f"No times: of {plan.chip.name} only the memory is known.")
    return notes


def _suggestion(plan: Plan) -> list[str]:
    """The overrides that were found, and which of them change what a run finds."""
    found = plan.suggested
    if found is None:
        return []
    best = "The fastest that fits, by these estimates" if plan.fits else "What comes nearest"
    lines = [f"{best}: {' '.join(found.overrides)}"]
    updates = "; batch_size and accumulate keep the pairs of an update in number and share them out anew"
    equal = "leave results equal but for the rounding of sums"
    if not found.changing:
        return [*lines, f"These {equal}{updates if _has_updates(found.overrides) else ''}."]
    changing = f"Of these, {' '.join(found.changing)} change results a little, by rounding to 8 bits"
    lines.append(f"{changing}; the others {equal}{updates if _has_updates(found.overrides) else ''}.")
    if not found.equal:
        return [*lines, "Without these nothing that was tried fits."]
    hours = "" if found.equal_hours is None else f"{found.equal_hours:.2f} hours with "
    return [*lines, f"Without these: {hours}{' '.join(found.equal)}"]


def _has_updates(overrides: Sequence[str]) -> bool:
    return any(".batch_size=" in one and "ref_batch_size" not in one for one in overrides)


def _rows(plan: Plan) -> str:
    """Which rows the hours are for."""
    if plan.lengths is None:
        return "all rows as long as they may be"
    return (
        f"prompts of {plan.lengths.prompt} and responses of {plan.lengths.response} tokens on average, "
        f"{REAL_SHARE:.0%} of a batch's tokens real and the rest padding, responses of geometric lengths "
        f"(both assumed); programs of less than {SMALL:.0%} of the hours reckoned from the longest rows"
    )


def _whole(plan: Plan, target: Target) -> str:
    """Hours of the stages together, and the sessions that they take where a slice is lent by the session."""
    assert plan.hours is not None, "asked for where it is known"
    stages = "The stages asked for" if plan.partial else "The whole run"
    both = plan.lengths is not None and plan.longest_hours is not None
    longest = f" (at the longest rows {plan.longest_hours:.2f})" if both else ""
    sessions = target.sessions(plan.hours)
    if sessions is None:
        return f"{stages}: {plan.hours:.2f} hours{longest}"
    number = "one session" if sessions == 1 else f"{sessions} sessions"
    return (
        f"{stages}: {plan.hours:.2f} hours{longest}, {number} of at most {target.session_hours:g} hours on "
        f"{target.name}; a run is resumed by the same command"
    )


def _unseen(plan: Plan) -> list[str]:
    """Which score models are planned without their config.json."""
    missing = [f"{name} ({plan.setup.config.scores[name].path})" for name in plan.unseen]
    if not missing:
        return []
    return [f"Score models without a config.json, taken to have the reference's shape: {', '.join(missing)}."]


def _record(line: Line) -> dict[str, Any]:
    found, timed = line.measured, line.timed
    estimate, traffic, program = timed.estimate, timed.measured.traffic, timed.step.program
    memory = {**line.step.program.kinds, "cache": line.step.program.cache, "held": dict(line.step.held)}
    memory["temporaries"] = max(
        0, found.needed - sum(line.step.program.kinds.values()) - line.step.program.cache
    )
    return {
        "stage": line.step.stage,
        "program": line.step.what,
        "fits": line.fits,
        "needed_bytes": line.needed,
        "memory_bytes": memory,
        "rows_per_call": program.rows,
        "tokens_per_call": program.tokens,
        "flops": timed.measured.flops,
        "bytes": None if traffic is None else traffic.memory,
        "sent_bytes": None if traffic is None else traffic.sent,
        "unknown_loops": None if traffic is None else traffic.unknown_loops,
        "seconds": None if estimate is None else estimate.seconds,
        "bound": None if estimate is None else estimate.bound,
        "tokens_per_second": timed.tokens_per_second,
        "calls": timed.step.calls,
        "hours": timed.hours,
        "longest_hours": line.longest.hours,
    }


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
