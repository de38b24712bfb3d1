"""Makes the table of docs/scaling.md: plans of 1B, 7B, 8B and 70B on slices, one line a case.

    python tools/scaling_table.py [CASE ...]

Without names all cases; each takes some minutes of one core, since every program of the run is compiled.
Needs libtpu, no TPU.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any, NamedTuple

from alignjax.aot.chips import GIB
from alignjax.config import Config, from_mapping
from alignjax.errors import InputError
from alignjax.planning import architectures, targets
from alignjax.planning.run import Line, Plan, make_plan, setup_of
from alignjax.planning.unnamed_files import with_placeholder_paths

_CONFIGS = Path(__file__).parents[1] / "configs"
_PAIRS = 30_000
_STEPS = ("align", "prealign", "score_training")


class Case(NamedTuple):
    """One line of the table."""

    method: str
    preset: str
    model: str  # empty: the preset's
    topology: str
    changes: dict[str, dict[str, Any] | int]  # of the configuration, by table
    batch: int | None = None  # of every training; accumulate makes 16 rows an update, where batch is less


CASES = {
    "1b": Case("pecan", "llama3-8b", "llama3.2-1b", "v5e:1x1", {}),
    "7b-pecan": Case("pecan", "alpaca-7b", "", "v5e:1x1", {}),
    "7b-mocan": Case("mocan", "alpaca-7b", "", "v5e:1x1", {}),
    "7b-v5e-8": Case("pecan", "alpaca-7b", "", "v5e:2x4", {"mesh": {"data": 1, "fsdp": 8}}, 8),
    "8b-full": Case(
        "pecan", "llama3-8b", "", "v5p:2x2x1", {"mesh": {"data": 1, "fsdp": 4}, "lora": {"rank": 0}}, 4
    ),
    "70b": Case("pecan", "llama3-8b", "llama3-70b", "v5e:4x4", {"mesh": {"data": 1, "fsdp": 2, "tensor": 8}}),
}


def main() -> None:
    """Prints the table."""
    targets.compile_only()
    names = sys.argv[1:] or list(CASES)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise SystemExit(f"{unknown[0]}: no such case; choose from {', '.join(CASES)}.")
    print("| case | slice | mesh | most memory, GiB a chip | train step | sampler | hours, longest rows |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        print(row(name, plan_of(CASES[name])), flush=True)


def plan_of(case: Case) -> Plan:
    """The plan of one case."""
    target, config = targets.parse(case.topology), config_of(case)
    decoder, name = architectures.decoder_of(config.model, case.model, case.preset)
    setup = setup_of(config, decoder, name, target.chip, targets.devices(target), pairs=_PAIRS)
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    return make_plan(setup, target.chip, mean_length=None, say=say)


def config_of(case: Case) -> Config:
    """The preset with the case's changes."""
    spec = importlib.util.spec_from_file_location(case.method, _CONFIGS / f"{case.method}.py")
    if spec is None or spec.loader is None:
        raise InputError(f"{_CONFIGS}: holds no {case.method}.py.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    values = with_placeholder_paths(module.get_config(case.preset).to_dict())
    for table, change in case.changes.items():
        values[table] = {**values[table], **change} if isinstance(change, dict) else change
    if case.batch is not None:
        for run in (name for name in _STEPS if name in values):
            values[run] |= {"batch_size": case.batch, "accumulate": max(1, 16 // case.batch)}
    return from_mapping(values)


def row(name: str, plan: Plan) -> str:
    """One line of the table."""
    lines = {(line.step.stage, line.step.what): line for line in plan.lines}
    train, sampler, worst = lines["policy", "train step"], lines["samples", "sampler"], plan.worst
    mesh = " x ".join(str(size) for size in plan.setup.batching.mesh.shape.values())
    case = CASES[name]
    fits = "" if plan.fits else " (does not fit)"
    memory = f"{worst.needed / GIB:.2f} of {plan.chip.usable / GIB:.2f}, {worst.step.stage}{fits}"
    hours = "-" if plan.hours is None else f"{plan.hours:.1f}"
    return f"| {name} | {case.topology} | {mesh} | {memory} | {shown(train)} | {shown(sampler)} | {hours} |"


def shown(line: Line) -> str:
    """Memory and time of one program."""
    time = "" if line.estimate is None else f", {line.estimate.longest:.3g} s ({line.estimate.bound})"
    return f"{line.needed / GIB:.2f} GiB{time}"


if __name__ == "__main__":
    main()
