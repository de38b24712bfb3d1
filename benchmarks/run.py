"""Remakes the measured tables of README.md: one benchmark at a time, results kept as JSON.

    python benchmarks/run.py --peer=PYTHON --smollm2=PATH --stories=FOLDER [--out=runs/benchmarks]
    python benchmarks/run.py --list
    python benchmarks/run.py --only=sampling,dual [...]          again, although they are done
    python benchmarks/run.py --all [...]                         the slow statistics too
    python benchmarks/run.py --render                            only README.md, from what is in --out

PYTHON is an interpreter with the extra `bench` (torch, transformers, trl, peft, scipy), which may be this
one. --smollm2 is SmolLM2-135M-Instruct, a folder or a .gguf file, --stories a folder of stories260k; what
needs a model that is not given is left out, and named.

Every benchmark writes OUT/NAME.json (its command, machine, versions and tables) and OUT/NAME.log. What is
done with the same arguments is not done again, so the same command resumes. In README.md a table stands
between `<!-- table: NAME -->` and `<!-- end -->`. Let nothing else run beside: how many cores were busy
before each benchmark is kept, and the README says where there were any.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
_MODELS = ("smollm2", "stories")


class Benchmark(NamedTuple):
    """One script with its arguments.

    Attributes:
      name: of its JSON file.
      script: in this folder.
      arguments: `{smollm2}` and `{stories}` stand for the models.
      minutes: on two quiet cores.
      tables: names of the tables that it makes, as in README.md; none: what it prints is kept as text only.
      peer: whether it takes --peer.
      slow: done only with --all, or by its name.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    minutes: float
    tables: tuple[str, ...] = ()
    peer: bool = False
    slow: bool = False

    def needs(self) -> tuple[str, ...]:
        """Models that its arguments name."""
        return tuple(name for name in _MODELS if any(f"{{{name}}}" in one for one in self.arguments))


_PAIRS = ("even", "hh", "pku")
_WHOLE, _COMPILED = "whole process", "after compilation"
_SCORED = (
    ("pairs-30m-64", _WHOLE),
    ("pairs-30m-64", _COMPILED),
    ("pairs-30m-256", _WHOLE),
    ("pairs-135m-16", _WHOLE),
    ("pairs-135m-16", _COMPILED),
    ("shared-30m", _WHOLE),
)

BENCHMARKS = (
    Benchmark(
        "dpo_step",
        "dpo_step.py",
        ("--models=135m", "--repeats=2"),
        12,
        tuple(f"dpo_step_135m_{kind}" for kind in _PAIRS),
        peer=True,
    ),
    Benchmark(
        "dpo_step_30m",
        "dpo_step.py",
        ("--models=30m", "--repeats=2"),
        7,
        tuple(f"dpo_step_30m_{kind}" for kind in _PAIRS),
        peer=True,
        slow=True,
    ),
    Benchmark(
        "scoring",
        "scoring.py",
        ("--repeats=2",),
        14,
        tuple(f"scoring: {work}, {way}" for work, way in _SCORED),
        peer=True,
    ),
    Benchmark(
        "end_to_end",
        "end_to_end.py",
        ("--pairs=32", "--repeats=1"),
        13,
        ("end_to_end", "end_to_end_stages"),
        peer=True,
    ),
    Benchmark(
        "sampling_even",
        "sampling.py",
        ("--lengths=even", "--repeats=2"),
        8,
        ("sampling: even lengths",),
        peer=True,
    ),
    Benchmark(
        "sampling_uneven",
        "sampling.py",
        ("--lengths=uneven", "--repeats=1", "--sides=0,1"),
        11,
        ("sampling: uneven lengths",),
        peer=True,
    ),
    Benchmark("dual", "dual.py", ("speed",), 4, ("dual",)),
    Benchmark("solve", "dual.py", ("solve",), 2, ("solve",)),
    Benchmark("memory", "memory.py", (), 1, ("memory",)),
    Benchmark("mixture", "mixture.py", ("--rows=1,4,8",), 2, ("mixture",)),
    Benchmark("plan_memory", "plan_memory.py", (), 2, slow=True),
    Benchmark(
        "int8_smollm2",
        "int8.py",
        ("--model={smollm2}", "--name=smollm2", "--num_prompts=8", "--new_tokens=32"),
        3,
        ("int8_smollm2",),
    ),
    Benchmark(
        "int8_stories",
        "int8.py",
        ("--model={stories}", "--name=stories", "--num_prompts=8"),
        1,
        ("int8_stories",),
    ),
    Benchmark("int8_assistant", "int8.py", ("--run",), 12, ("int8_assistant", "int8_assistant_reference")),
    Benchmark(
        "int8_runs_stories",
        "int8.py",
        ("--model={stories}", "--name=stories", "--runs", "--num_prompts=48", "--epochs=4"),
        5,
        ("int8_runs_stories",),
    ),
    Benchmark(
        "int8_runs_smollm2",
        "int8.py",
        ("--model={smollm2}", "--name=smollm2", "--runs", "--num_prompts=16", "--epochs=2"),
        40,
        ("int8_runs_smollm2",),
        slow=True,
    ),
    Benchmark("checkpoints", "checkpoints.py", ("--full",), 15, ("checkpoints_full",), slow=True),
    Benchmark("coverage", "coverage.py", (), 60, ("coverage",), slow=True),
    Benchmark(
        "promise",
        "promise.py",
        ("--worlds=heavy,mix,gauss", "--runs=4"),
        6,
        ("promise_forecasts", "promise_draw_k"),
        slow=True,
    ),
    Benchmark("calibration", "calibration.py", (), 120, ("calibration",), slow=True),
    Benchmark("ascent", "ascent.py", (), 20, ("ascent",), slow=True),
    Benchmark("kl", "kl.py", (), 2, slow=True),
    Benchmark("promise_test", "promise_test.py", (), 10, slow=True),
    Benchmark("promise_calibration", "promise_calibration.py", (), 10, slow=True),
)


def main() -> int:
    """Runs what is asked for, and renders the tables; status 1 where a benchmark failed."""
    given = _parser().parse_args()
    models = {name: value for name in _MODELS if (value := getattr(given, name))}
    if given.list:
        _show()
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    failed = [] if given.render else run_all(chosen(given.only, everything=given.all), models, given)
    print(f"{README}: {render(given.out, README)} tables", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}; their .log files in {given.out} say why", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", default=sys.executable, help="interpreter with the extra `bench`")
    parser.add_argument("--smollm2", default="", help="SmolLM2-135M-Instruct: a folder or a .gguf file")
    parser.add_argument("--stories", default="", help="stories260k: a folder")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--all", action="store_true", help="the slow ones too")
    parser.add_argument("--list", action="store_true", help="names, minutes and commands")
    parser.add_argument("--render", action="store_true", help="only write the tables into README.md")
    return parser


def chosen(only: str, *, everything: bool) -> list[Benchmark]:
    """What is to be done.

    Args:
      only: names with commas between; empty: all but the slow ones.
      everything: the slow ones too.

    Raises:
      SystemExit: a name is unknown.
    """
    if not only:
        return [one for one in BENCHMARKS if everything or not one.slow]
    known = {one.name: one for one in BENCHMARKS}
    names = only.split(",")
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--only: no benchmark {', '.join(unknown)}; choose from {', '.join(known)}.")
    return [known[name] for name in names]


def _show() -> None:
    for one in BENCHMARKS:
        command = " ".join((one.script, *one.arguments, *(("--peer=PYTHON",) if one.peer else ())))
        print(f"{one.name:<22}{one.minutes:>5.0f} min  {'slow  ' if one.slow else '      '}{command}")
    quick = sum(one.minutes for one in BENCHMARKS if not one.slow)
    print(f"{'without the slow ones':<22}{quick:>5.0f} min")


def run_all(asked: list[Benchmark], models: dict[str, str], given: argparse.Namespace) -> list[str]:
    """Runs one benchmark after the other.

    Args:
      asked: in order.
      models: paths of the models that there are, by name.
      given: parsed options.

    Returns:
      Names of those that failed.
    """
    failed, left = [], sum(one.minutes for one in asked)
    for number, one in enumerate(asked, 1):
        place = f"[{number} of {len(asked)}] {one.name}"
        left -= one.minutes
        if missing := [name for name in one.needs() if name not in models]:
            print(f"{place}: left out, needs --{' and --'.join(missing)}", flush=True)
            continue
        arguments = [part.format(**models) for part in one.arguments]
        if not given.only and _is_done(given.out / f"{one.name}.json", arguments):
            print(f"{place}: done before, kept", flush=True)
            continue
        print(f"{place}: about {one.minutes:.0f} minutes, then {left:.0f} more", flush=True)
        begun = time.perf_counter()
        if not _measure(one, arguments, given):
            failed.append(one.name)
        print(f"{place}: {(time.perf_counter() - begun) / 60:.1f} minutes", flush=True)
    return failed


def _is_done(path: Path, arguments: list[str]) -> bool:
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["arguments"] == arguments


def _measure(one: Benchmark, arguments: list[str], given: argparse.Namespace) -> bool:
    """Runs one benchmark and writes its JSON; False: it failed."""
    options = [*(["--json"] if one.tables else []), *([f"--peer={given.peer}"] if one.peer else [])]
    command = [sys.executable, str(HERE / one.script), *arguments, *options]
    busy, begun = _busy_cores(), time.perf_counter()
    log = given.out / f"{one.name}.log"
    with log.open("w", encoding="utf-8") as file:
        found = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True, check=False)
    with log.open("a", encoding="utf-8") as file:
        file.write(found.stdout)
    if found.returncode != 0:
        return False
    lines = found.stdout.rstrip().splitlines()
    result: dict[str, Any] = json.loads(lines[-1]) if one.tables else {"tables": [], "text": found.stdout}
    made = [table["name"] for table in result["tables"]]
    if made != list(one.tables):
        raise SystemExit(f"{one.script} made the tables {made}, run.py names {list(one.tables)}.")
    record = {
        "script": one.script,
        "arguments": arguments,
        # Of paths only the last part: where a model lies is of no use to a reader.
        "shown": " ".join(["python", f"benchmarks/{one.script}", *map(_without_folders, arguments)]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "busy_cores_before": round(busy, 2),
        "machine": _machine(),
        "versions": _versions(given.peer if one.peer else None),
    }
    path = given.out / f"{one.name}.json"
    path.write_text(json.dumps(record | result, indent=1) + "\n", encoding="utf-8")
    return True


def _without_folders(argument: str) -> str:
    option, equals, value = argument.partition("=")
    return option + equals + Path(value).name if "/" in value else argument


def _busy_cores(seconds: float = 3.0) -> float:
    """Cores at work while this process sleeps; the load average would count the benchmark before, too."""
    before = _processor_times()
    time.sleep(seconds)
    idle, all_of_them = (after - then for after, then in zip(_processor_times(), before, strict=True))
    return (os.cpu_count() or 1) * (1.0 - idle / max(all_of_them, 1))


def _processor_times() -> tuple[int, int]:
    """Of all cores since the start, in ticks: idle or waiting for a disk, and all."""
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    times = [int(field) for field in first.split()[1:9]]  # the guests' are a part of the users'
    return times[3] + times[4], sum(times)


def _machine() -> str:
    """Processor and number of cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores"


def _versions(peer: str | None) -> dict[str, str]:
    """Of our packages, and of the peer's."""
    found = {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")}
    if peer is not None:
        names = ("torch", "transformers", "trl", "peft")
        code = f"import importlib.metadata as m; print(*[m.version(n) for n in {names}])"
        told = subprocess.run([peer, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
        found |= dict(zip(names, told.split(), strict=True))
    return found


def render(folder: Path, page: Path) -> int:
    """Writes all tables that there are results of between their markers.

    Args:
      folder: with JSON files of results.
      page: README.md.

    Returns:
      How many tables were written.

    Raises:
      SystemExit: the page lacks the markers of a table.
    """
    text, count = page.read_text(encoding="utf-8"), 0
    for one in BENCHMARKS:
        path = folder / f"{one.name}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        for table in record["tables"]:
            made = _told(record) if table is record["tables"][-1] else ""  # once for all of a script
            text, count = _placed(text, table["name"], _markdown(table) + made), count + 1
    page.write_text(text, encoding="utf-8")
    return count


def markers(text: str) -> list[str]:
    """Names of the tables that a page has a place for, in order."""
    return re.findall(r"^<!-- table: (.+) -->$", text, flags=re.MULTILINE)


def _placed(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"README.md: no place for the table {name!r}; add {begin.strip()} and {end}.")
    return f"{before}{begin}\n{table}\n\n{end}{after}"


def _markdown(table: dict[str, Any]) -> str:
    rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _told(record: dict[str, Any]) -> str:
    """How and where the tables of a record were made."""
    beside = "" if record["busy_cores_before"] < 0.2 else ", other work beside"
    packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"\n\n`{record['shown']}`, {record['date']}, {record['machine']}{beside}; {packages}."


if __name__ == "__main__":
    sys.exit(main())
