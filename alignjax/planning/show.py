"""A plan as text and as JSON."""

from typing import Any

from alignjax.aot.chips import EFFICIENCY
from alignjax.aot.measure import gib
from alignjax.planning.run import Line, Plan
from alignjax.planning.targets import Target

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
    if plan.overrides:
        best = "The fastest that fits, by these estimates" if plan.fits else "What comes nearest"
        head.append(f"{best}: {' '.join(plan.overrides)}")
    return "\n".join(head)


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
        "mean_share": plan.share,
        "notes": _unseen(plan),
        "pairs": plan.counts._asdict(),
        "fits": plan.fits,
        "hours": plan.hours,
        "overrides": list(plan.overrides),
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
    temporaries = max(0, found.temporaries + found.results - line.step.program.cache)
    cells += [line.step.program.cache, temporaries, sum(line.step.held.values()), line.needed]
    fits = "yes" if line.fits else "NO"
    return (line.step.stage, line.step.what, fits, *(f"{gib(cell):.2f}" for cell in cells))


def _cost(line: Line) -> tuple[str, ...]:
    found, estimate = line.measured, line.estimate
    names = line.step.stage, line.step.what
    moved = sent = "-"
    if found.traffic is not None:
        moved = f"{found.traffic.memory / 1e9:.2f}"
        sent = f"{sum(found.traffic.sent.values()) / 1e6:.1f}"
    if estimate is None:
        return (*names, f"{found.flops / 1e12:.3g}", moved, sent, "-", "-", "-", f"{line.calls:,.0f}", "-")
    return (
        *names, f"{found.flops / 1e12:.3g}", moved, sent, f"{estimate.longest:.4g}", estimate.bound,
        f"{line.tokens_per_second:,.0f}", f"{line.calls:,.0f}", f"{line.hours:.2f}",
    )  # fmt: skip


def _notes(plan: Plan, target: Target) -> list[str]:
    shares = ", ".join(f"{name} {share:g}" for name, share in EFFICIENCY.items())
    rows = "as long as they may be" if plan.share == 1.0 else f"{plan.share:.0%} of the longest on average"
    found = "the CPU's compiler for simulated devices: a GPU's own compiler may need more or less"
    notes = [
        f"Memory: of the largest rows, by {found if target.simulated else 'the compiler for this slice'}; "
        "held: what the run keeps beside the program.",
        "Seconds: the largest of products / peak, bytes / memory rate, bytes sent / link rate, at these "
        f"shares of the published figures: {shares}.",
        f"Hours: rows {rows}; {plan.counts.pairs} pairs to learn from and {plan.counts.held_out} held out a "
        f"dimension, {plan.counts.align} to align on; loading and saving not counted.",
        f"Figures of the chip: {plan.chip.source}.",
        *_unseen(plan),
    ]
    if plan.hours is not None:
        notes.append(f"The whole run: {plan.hours:.2f} hours.")
    elif plan.chip.flops is None:
        notes.append(f"No times: of {plan.chip.name} only the memory is known.")
    return notes


def _unseen(plan: Plan) -> list[str]:
    """Which score models are planned without their config.json."""
    missing = [f"{name} ({plan.setup.config.scores[name].path})" for name in plan.unseen]
    if not missing:
        return []
    return [f"Score models without a config.json, taken to have the reference's shape: {', '.join(missing)}."]


def _record(line: Line) -> dict[str, Any]:
    found, estimate = line.measured, line.estimate
    traffic = found.traffic
    memory = {**line.step.program.kinds, "cache": line.step.program.cache, "held": dict(line.step.held)}
    memory["temporaries"] = max(0, found.temporaries + found.results - line.step.program.cache)
    return {
        "stage": line.step.stage,
        "program": line.step.what,
        "fits": line.fits,
        "needed_bytes": line.needed,
        "memory_bytes": memory,
        "rows_per_call": line.step.program.rows,
        "tokens_per_call": line.step.program.tokens,
        "flops": found.flops,
        "bytes": None if traffic is None else traffic.memory,
        "sent_bytes": None if traffic is None else traffic.sent,
        "unknown_loops": None if traffic is None else traffic.unknown_loops,
        "seconds": None if estimate is None else estimate.seconds,
        "bound": None if estimate is None else estimate.bound,
        "tokens_per_second": line.tokens_per_second,
        "calls": line.calls,
        "hours": line.hours,
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
