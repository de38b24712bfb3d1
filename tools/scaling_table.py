"""Makes the tables of docs/scaling.md: plans of 1B to 70B on slices that people can get, one line a case.

    python tools/scaling_table.py [--json=FILE] [--only=STAGE,...] [CASE ...]

Without names all cases; each takes some minutes of one core, since every program of the run is compiled,
most of them twice: at the longest rows, which say what fits, and at the mean lengths of PKU-SafeRLHF (prompts
of 16 tokens and responses of 75), which say how long the run takes. Needs libtpu, no TPU.
"""

import argparse
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from alignjax.aot.measure import gib
from alignjax.config import Config, from_mapping
from alignjax.errors import InputError
from alignjax.planning import architectures, show, targets
from alignjax.planning.run import Line, Plan, make_plan, setup_of
from alignjax.planning.targets import Target
from alignjax.planning.unnamed_files import with_placeholder_paths
from alignjax.workflow.stand_ins import Lengths

_CONFIGS = Path(__file__).parents[1] / "configs"
_PAIRS = 30_000
_STEPS = ("align", "prealign", "score_training")
_PKU = Lengths(prompt=16, response=75)
# Everything that makes a run cheaper: what changes results a little, and what does not.
_INT8 = {"weights": "int8", "remat": "auto"}
_CACHE = {"cache": "int8"}


class Case(NamedTuple):
    """One line of a table.

    Attributes:
      method: pecan or mocan.
      preset: of its configuration.
      topology: as of `plan`.
      changes: of the configuration, by table.
      model: a known shape; empty: the preset's.
      batch: of every training; accumulate makes 16 rows an update where batch is less. None: the preset's.
      only: stages; empty: the whole run.
      positions: the context of the model, where the case asks for a longer one; 0: its own.
      lengths: mean tokens; None: the longest rows alone.
    """

    method: str
    preset: str
    topology: str
    changes: dict[str, dict[str, Any] | int]
    model: str = ""
    batch: int | None = None
    only: tuple[str, ...] = ()
    positions: int = 0
    lengths: Lengths | None = _PKU


def _of_long_rows(tokens: int) -> Case:
    """The final alignment of 7B on pairs whose row, a prompt and two responses, has so many tokens."""
    model = {**_INT8, "attention": "splash", "remat": "layers", "max_length": tokens // 2}
    return Case(
        "pecan",
        "alpaca-7b",
        "colab-v5e",
        {"model": model},
        batch=1,
        only=("policy",),
        positions=tokens,
        lengths=None,
    )


_EIGHT = {"data": 8}
CASES = {
    "7b": Case("pecan", "alpaca-7b", "colab-v5e", {}),
    "7b-int8": Case("pecan", "alpaca-7b", "colab-v5e", {"model": _INT8, "sampling": _CACHE}),
    "7b-kaggle": Case("pecan", "alpaca-7b", "kaggle", {"mesh": _EIGHT, "ref_batch_size": 64}, batch=8),
    "7b-kaggle-int8": Case(
        "pecan",
        "alpaca-7b",
        "kaggle",
        {"mesh": _EIGHT, "ref_batch_size": 64, "model": _INT8, "sampling": _CACHE},
        batch=8,
    ),
    "7b-v6e-int8": Case("pecan", "alpaca-7b", "colab-v6e", {"model": _INT8, "sampling": _CACHE}),
    "7b-mocan": Case("mocan", "alpaca-7b", "colab-v5e", {}, lengths=None),
    "7b-long-rows": _of_long_rows(8192),
    "1b": Case("pecan", "llama3-8b", "colab-v5e", {}, model="llama3.2-1b", lengths=None),
    "8b-full": Case(
        "pecan",
        "llama3-8b",
        "v5p:2x2x1",
        {"mesh": {"data": 1, "fsdp": 4}, "lora": {"rank": 0}},
        batch=4,
        lengths=None,
    ),
    "70b": Case(
        "pecan",
        "llama3-8b",
        "v5e:4x4",
        {"mesh": {"data": 1, "fsdp": 2, "tensor": 8}},
        model="llama3-70b",
        lengths=None,
    ),
    "70b-int8": Case(
        "pecan",
        "llama3-8b",
        "kaggle",
        {"mesh": {"data": 1, "tensor": 8}, "model": _INT8, "sampling": _CACHE},
        model="llama3-70b",
        lengths=None,
    ),
}
_HEAD = (
    "case", "slice", "mesh", "most memory, GiB a chip", "train step", "sampler",
    "hours, longest rows", "hours, rows of PKU", "sessions",
)  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}")
    parser.add_argument("--only", default="", help="stages, with commas; default: those of the case")
    parser.add_argument("--json", type=Path, help="file for all figures, written after every case")
    given = parser.parse_args()
    unknown = [name for name in given.cases if name not in CASES]
    if unknown:
        parser.error(f"{unknown[0]}: no such case; choose from {', '.join(CASES)}.")
    targets.compile_only()
    plans = dict[str, Any]()
    print(f"| {' | '.join(_HEAD)} |\n| {' | '.join('---' for _ in _HEAD)} |", flush=True)
    for name in given.cases or CASES:
        case = CASES[name]
        target, plan = plan_of(case._replace(only=tuple(given.only.split(","))) if given.only else case)
        print(row(name, target, plan), flush=True)
        plans[name] = show.json_of(plan, target)
        if given.json:
            given.json.write_text(json.dumps(plans, indent=2) + "\n")


def plan_of(case: Case) -> tuple[Target, Plan]:
    """The slice and the plan of one case."""
    target, config = targets.parse(case.topology), config_of(case)
    decoder, name = architectures.decoder_of(config.model, case.model, case.preset)
    if case.positions:
        decoder = dataclasses.replace(decoder, max_positions=case.positions)
    setup = setup_of(config, decoder, name, target.chip, targets.devices(target), pairs=_PAIRS)
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    return target, make_plan(setup, target.chip, lengths=case.lengths, only=case.only, say=say)


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


def row(name: str, target: Target, plan: Plan) -> str:
    """One line of the table; the train step and the sampler at the longest rows."""
    lines = {(line.step.stage, line.step.what): line for line in plan.lines}
    worst = plan.worst
    fits = "" if plan.fits else " (does not fit)"
    sessions = None if plan.hours is None else target.sessions(plan.hours)
    mean_hours = None if plan.lengths is None else plan.hours
    cells = [
        name,
        target.slice or target.name,
        " x ".join(str(size) for size in plan.setup.batching.mesh.shape.values()),
        f"{gib(worst.needed):.2f} of {gib(plan.chip.usable):.2f}, {worst.step.stage}{fits}",
        shown(lines.get(("policy", "train step"))),
        shown(lines.get(("samples", "sampler"))),
        *("-" if one is None or plan.partial else f"{one:.1f}" for one in (plan.longest_hours, mean_hours)),
        "-" if sessions is None or plan.partial else str(sessions),
    ]
    return f"| {' | '.join(cells)} |"


def shown(line: Line | None) -> str:
    """Memory and time of one program; - where it is not planned."""
    if line is None:
        return "-"
    estimate = line.longest.estimate
    time = "" if estimate is None else f", {estimate.longest:.3g} s ({estimate.bound})"
    return f"{gib(line.needed):.2f} GiB{time}"


if __name__ == "__main__":
    main()
