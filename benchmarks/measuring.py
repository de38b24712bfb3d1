"""What benchmarks against peers share: a process for each side, turns, peak memory, tables.

Nothing of alignjax is imported here, so that a peer's interpreter (`--peer`) needs none of it.

A script names its sides, `sides(...)`, and measures them in one of two ways. `take_turns` keeps a process of
each side and lets them work in turns, after a first run apart, which compiles. `whole_processes` starts a new
process for every turn and counts everything from its start to its end. `finish` prints the tables, and
with `--json` one JSON object on the last line, which `run.py` keeps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OURS = "alignjax"
# glibc then does not give freed memory back to the system, which is worth 1.5 times to torch on a CPU.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


class Side(NamedTuple):
    """One side of a comparison.

    Attributes:
      name: as tables show it.
      command: the process, interpreter first.
      environment: variables added to those of this process.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}


class Turn(NamedTuple):
    """One run of one side.

    Attributes:
      seconds: wall clock.
      processor: processor seconds of all cores, user and system.
      peak_mib: most resident memory of the process so far, MiB.
      told: what the side found: losses, log-probabilities, seconds of its parts.
    """

    seconds: float
    processor: float
    peak_mib: float
    told: dict[str, Any]


class Measured(NamedTuple):
    """All runs of one side.

    Attributes:
      turns: the runs that count.
      first: the run before them, which compiles; None where every turn is a whole process.
    """

    turns: list[Turn]
    first: Turn | None

    def median(self, field: str = "seconds") -> float:
        """Of `seconds`, `processor` or `peak_mib` over the turns."""
        return statistics.median(turn._asdict()[field] for turn in self.turns)


class Table(NamedTuple):
    """A table of the README.

    Attributes:
      name: of its markers in README.md.
      columns: headings.
      rows: cells, as text.
    """

    name: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Lines of the table."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parser_of(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """A parser with the options that all these scripts have.

    Args:
      description: the script's docstring.
      repeats: default of `--repeats`.

    Returns:
      It knows --repeats, --peer, --sides, --json and, for the processes that a script starts, --serve.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="turns of each side that count")
    parser.add_argument("--peer", default=sys.executable, help="interpreter that has the peer's packages")
    parser.add_argument("--sides", default="0,1,2", help="0: ours, 1: the peer, 2: it with freed memory kept")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # the side that this process is
    return with_json(parser)


def with_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser with the option `--json`, which `finish` reads."""
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    return parser


def sides(script: str, given: argparse.Namespace, peer: str, arguments: Sequence[str] = ()) -> list[Side]:
    """Ours, the peer as installed, and the peer with freed memory kept; those that --sides names.

    Args:
      script: `__file__` of the benchmark; the processes run it with --serve=SIDE.
      given: parsed options.
      peer: name of the peer, the value of its --serve.
      arguments: further ones for the processes of all sides.
    """
    ours = (sys.executable, script, *arguments, f"--serve={OURS}")
    theirs = (given.peer, script, *arguments, f"--serve={peer}")
    known = [
        Side(OURS, ours),
        Side(peer, theirs),
        Side(f"{peer}, freed memory kept", theirs, KEEP_MEMORY),
    ]
    return [known[int(number)] for number in given.sides.split(",")]


def serve(run: Callable[[], Mapping[str, Any] | None]) -> None:
    """The loop of a side's process: one run for every line that comes in.

    What libraries print goes to the standard error output, so that answers stay readable.

    Args:
      run: the work that is timed; what it returns arrives as `Turn.told`, so it must be JSON.
    """
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for _ in sys.stdin:
        begun, processor = time.perf_counter(), time.process_time()
        told = dict(run() or {})
        seconds, used = time.perf_counter() - begun, time.process_time() - processor
        answers.write(json.dumps({"turn": [seconds, used, peak_mib(), told]}) + "\n")
        answers.flush()


def take_turns(chosen: Sequence[Side], repeats: int) -> dict[str, Measured]:
    """Starts a process for each side, runs each once apart, then lets all take turns.

    All processes are in memory at once; use `whole_processes` where they do not fit together.

    Args:
      chosen: from `sides`; each process calls `serve`.
      repeats: turns of each.

    Returns:
      The runs, by the name of the side.
    """
    workers = {side.name: _start(side) for side in chosen}
    first = {name: _turn(name, worker) for name, worker in workers.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in workers}
    for number in range(repeats):
        for name, worker in workers.items():
            turns[name].append(_turn(name, worker))
            progress(f"turn {number + 1} of {repeats}, {name}: {turns[name][-1].seconds:.2f} s")
    for worker in workers.values():
        worker.communicate()
    return {name: Measured(turns[name], first[name]) for name in workers}


def whole_processes(chosen: Sequence[Side], repeats: int) -> dict[str, Measured]:
    """Runs every side from start to end in a process of its own, `repeats` times, in turns.

    Args:
      chosen: sides; what a process prints last, if it is a JSON object, arrives as `Turn.told`.
      repeats: turns of each.

    Returns:
      The runs, by the name of the side; `first` is None.

    Raises:
      SystemExit: a process failed.
    """
    turns: dict[str, list[Turn]] = {side.name: [] for side in chosen}
    for number in range(repeats):
        for side in chosen:
            turns[side.name].append(_whole(side))
            progress(f"turn {number + 1} of {repeats}, {side.name}: {turns[side.name][-1].seconds:.1f} s")
    return {name: Measured(found, None) for name, found in turns.items()}


def speed_table(
    name: str, measured: Mapping[str, Measured], *, amount: float, unit: str, digits: int = 0
) -> Table:
    """Speeds, ratios and peak memory of all sides; ours is the first.

    Args:
      name: of the table.
      measured: by side.
      amount: of work in a turn, such as the new tokens.
      unit: of the amount by second, such as "new tokens/s".
      digits: of the speed after the point.

    Returns:
      A row for each side. "ours is" has how many times as fast we are: by seconds, by processor seconds.
    """
    ours = next(iter(measured.values()))
    rows = []
    for side, found in measured.items():
        wall, used, peak = (found.median(field) for field in ("seconds", "processor", "peak_mib"))
        ratios = [wall / ours.median(), used / ours.median("processor"), ours.median("peak_mib") / peak]
        by_wall, by_used, of_peak = ("" if found is ours else f"{ratio:.2f}" for ratio in ratios)
        each = ", ".join(f"{turn.seconds:.3g}" for turn in found.turns)
        first = "" if found.first is None else f"{found.first.seconds:.1f}"
        speed = f"{amount / wall:,.{digits}f}"
        rows.append([side, speed, by_wall, f"{used:.1f}", by_used, f"{peak:,.0f}", of_peak, first, each])
    headings = ["side", unit, "ours is", "processor s", "ours is", "peak MiB", "ours has", "first run, s"]
    return Table(name, [*headings, "turns, s"], rows)


def finish(given: argparse.Namespace, tables: Sequence[Table], **details: Any) -> None:
    """Prints the tables and, with --json, all of it as one JSON object on the last line.

    Args:
      given: parsed options.
      tables: for the README.
      details: further numbers, for the JSON only.
    """
    for table in tables:
        print(f"\n{table.name}\n\n{table.markdown()}", flush=True)
    if given.json:
        print(json.dumps({"tables": [table._asdict() for table in tables], "details": details}), flush=True)


def as_json(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """All runs, for `finish`."""
    return {
        name: {
            "turns": [turn._asdict() for turn in found.turns],
            "first": None if found.first is None else found.first._asdict(),
        }
        for name, found in measured.items()
    }


def progress(line: str) -> None:
    """A line for whoever waits, on the standard error output."""
    print(line, file=sys.stderr, flush=True)


def peak_mib() -> float:
    """Most resident memory of this process, MiB; what getrusage tells may be the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _start(side: Side) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    environment = os.environ | dict(side.environment)
    return subprocess.Popen(side.command, stdin=pipe, stdout=pipe, text=True, env=environment)


def _turn(name: str, worker: subprocess.Popen[str]) -> Turn:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith('{"turn"'):
            return Turn(*json.loads(line)["turn"])
        progress(f"{name}: {line.rstrip()}")  # what was printed while it loaded
    raise SystemExit(f"{name}: its process ended with status {worker.wait()}; its messages are above.")


def _whole(side: Side) -> Turn:
    begun = time.perf_counter()
    environment = os.environ | dict(side.environment)
    process = subprocess.Popen(side.command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{side.name}: status {process.returncode}; its messages are above.")
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    used = usage.ru_utime + usage.ru_stime
    # Linux counts the parent's memory at the start too; this process is small.
    return Turn(time.perf_counter() - begun, used, usage.ru_maxrss / 1024, told)
