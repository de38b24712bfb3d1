"""Feeds hostile inputs to everything that reads a file, and counts how each ends.

    python tools/fuzz.py [--inputs=10000] [--seed=0] [--kinds=gguf,tables] [--processes=2] [--output=FOLDER]
    python tools/fuzz.py --read=FOLDER/KIND-SEED-I

An input is a valid file (rows, Parquet, safetensors, GGUF, tokenizers, templates, configurations, score
tables, adapters, labels, a run's records) with a few hostile changes, made from (seed, kind, number) alone. A
reader may accept it, or refuse it by an InputError of one line. All else is a fault: another exception or a
warning, more than 5 seconds of processor time (or 60 on the clock, which says little on a busy machine),
more than 1 GB of memory beyond the file's size, the end of the process, a connection, or code of the input
that was run.

Each faulty input stays in the output folder with what happened; --read reads it again, in this process. Linux
only: memory is read from /proc. Exit status 1 where there was a fault.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tools.fuzzing

from alignjax.runtime.metrics import progress

KINDS = (
    *("jsonl", "tables", "safetensors", "gguf", "tokenizers", "templates", "configs", "run_configs"),
    *("scores", "adapters", "labels", "records"),
)
SECONDS = 5.0  # of processor time for one input
_WALL_SECONDS = 60.0  # for one that waits; on a busy machine the clock says little
MEMORY = 2**30  # bytes beyond the size of the input
_START_SECONDS = 300.0  # for a process that imports JAX, on a busy machine
_LINE = 2000  # characters of a refusal; a longer one is a fault
ACCEPTED, REFUSED, FAULT = "accepted", "refused", "fault"


class Task(NamedTuple):
    """One input."""

    kind: str
    seed: int
    number: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.seed}-{self.number}"


class Ended(NamedTuple):
    """How an input ended: accepted, refused or fault, and its line or traceback."""

    outcome: str
    detail: str = ""


def make(task: Task, folder: Path) -> Path:
    """Writes an input into a new folder and returns it."""
    from tools.fuzzing.inputs import MAKERS

    place = folder / task.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MAKERS[task.kind](random.Random(f"{task.seed}/{task.kind}/{task.number}"), place)
    return place


def read(kind: str, folder: Path) -> Ended:
    """Reads an input in this process.

    Args:
      kind: one of KINDS.
      folder: of the input; it is the working directory meanwhile.
    """
    from tools.fuzzing.readers import READERS, Refused
    from tools.fuzzing.writing import MARK

    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    before, start = Path.cwd(), _fresh_peak()
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # it would be printed beside the one line
            READERS[kind](folder)
        ended = Ended(ACCEPTED)
    except Refused as refusal:
        line = str(refusal)
        long = f"a refusal of {len(line)} characters: {line[:_LINE]}"
        ended = Ended(REFUSED, line) if len(line) <= _LINE else Ended(FAULT, long)
    except KeyboardInterrupt:
        raise
    except BaseException:  # also the panic of a library in Rust, which is no Exception
        ended = Ended(FAULT, traceback.format_exc())
    finally:
        os.chdir(before)
    if (folder / MARK).exists():
        return Ended(FAULT, "code of the input was run")
    used = _memory("VmHWM") - start - size
    return Ended(FAULT, f"{used / 1e9:.1f} GB of memory beyond the input's size") if used > MEMORY else ended


def _memory(field: str, process: int | str = "self") -> int:
    """Bytes of a field of /proc/PID/status; 0 of a process that is gone."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(field)), 0)


def _fresh_peak() -> int:
    """Resident memory now, from which the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _refuse_connections(event: str, _: Any) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event}: an input must not reach the network")


def serve(connection: Connection, output: str) -> None:
    """A process that reads one input after another."""
    from tools.fuzzing.readers import warm_up

    os.setsid()  # it is ended with the processes that it starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.addaudithook(_refuse_connections)
    most = _memory("VmSize") + 6 * MEMORY  # no fault may take the whole machine's memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    warm_up(Path(output) / f"valid-{os.getpid()}")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    connection.send(None)
    while (task := connection.recv()) is not None:
        try:
            folder = make(task, Path(output))
        except Exception:
            connection.send(Ended(FAULT, "not made: " + traceback.format_exc()))
            continue
        connection.send(None)  # its time begins
        ended = read(task.kind, folder)
        if ended.outcome != FAULT:
            shutil.rmtree(folder)
        connection.send(ended)


class Worker:
    """A process that reads inputs, with its time and memory watched."""

    def __init__(self, output: Path):
        self._output = output
        self._start()
        self.task: Task | None = None
        self._began: tuple[float, float] | None = None  # wall clock and processor time

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, str(self._output)), daemon=True)
        self._process.start()
        theirs.close()
        try:
            if not self.connection.poll(_START_SECONDS):
                raise EOFError
            self.connection.recv()
        except EOFError:
            raise SystemExit("a process that reads inputs did not start") from None
        self._usual = _memory("VmRSS", self._process.pid or 0)

    def give(self, task: Task) -> None:
        """Begins an input."""
        self.task, self._began = task, None
        self.connection.send(task)

    def ended(self) -> Ended | None:
        """How the input ended; None: it goes on."""
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if message is not None:
                    return message
                self._began = time.monotonic(), self._processor_seconds()
        except EOFError:
            self._process.join()
            return self._again(f"the process ended with status {self._process.exitcode}")
        if self._began is not None:
            wall, used = time.monotonic() - self._began[0], self._processor_seconds() - self._began[1]
            if used > SECONDS or wall > _WALL_SECONDS:
                return self._again(f"{used:.0f} seconds of processor time, {wall:.0f} in all")
        # The process measures its peak itself; here only the machine is protected.
        if self._began is not None and _memory("VmRSS", self._process.pid or 0) > self._usual + 3 * MEMORY:
            return self._again("more than 3 GB of memory")
        return None

    def _processor_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime

    def _again(self, detail: str) -> Ended:
        """Ends the process and starts another."""
        self.stop()
        self._start()
        return Ended(FAULT, detail)

    def stop(self) -> None:
        """Ends the process, and those that it started."""
        if self._process.pid is not None and self._process.is_alive():
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()
        self.connection.close()


def run(tasks: list[Task], output: Path, processes: int) -> dict[str, Counter[str]]:
    """Reads all inputs; the number of each outcome by kind."""
    counts = {kind: Counter[str]() for kind in dict.fromkeys(task.kind for task in tasks)}
    left = iter(tasks)
    workers = [Worker(output) for _ in range(min(processes, len(tasks)))]
    busy = [worker for worker in workers if _next(worker, left)]
    try:
        with progress(len(tasks), "fuzz", unit="input") as bar:
            while busy:
                wait([worker.connection for worker in busy], timeout=0.05)
                for worker in list(busy):
                    ended, task = worker.ended(), worker.task
                    if ended is None or task is None:
                        continue
                    counts[task.kind][ended.outcome] += 1
                    if ended.outcome == FAULT:
                        _keep(task, ended, output)
                    bar.set_postfix(faults=sum(count[FAULT] for count in counts.values()), refresh=False)
                    bar.update(1)
                    if not _next(worker, left):
                        busy.remove(worker)
    finally:
        for worker in workers:
            worker.stop()
    return counts


def _next(worker: Worker, left: Any) -> bool:
    task = next(left, None)
    if task is not None:
        worker.give(task)
    return task is not None


def _keep(task: Task, ended: Ended, output: Path) -> None:
    """Notes what happened beside the input."""
    how = f"python tools/fuzz.py --read={output / task.name}"
    (output / task.name / "FAULT.txt").write_text(f"{how}\n\n{ended.detail}\n", errors="backslashreplace")


def table(counts: dict[str, Counter[str]]) -> str:
    """The counts as a table."""
    rows = [f"{'kind':<12} {'inputs':>7} {ACCEPTED:>9} {REFUSED:>8} {FAULT + 's':>7}"]
    total = sum(counts.values(), Counter[str]())
    for kind, count in [*counts.items(), ("all", total)]:
        numbers = count[ACCEPTED], count[REFUSED], count[FAULT]
        rows.append(f"{kind:<12} {sum(numbers):>7} {numbers[0]:>9} {numbers[1]:>8} {numbers[2]:>7}")
    return "\n".join(rows)


def main() -> None:
    """Reads many inputs, or one again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated; all: " + ", ".join(KINDS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(tempfile.gettempdir()) / "alignjax-fuzz")
    parser.add_argument("--read", type=Path, help="folder of one input")
    given = parser.parse_args()
    if given.read is not None:
        ended = read(given.read.name.partition("-")[0], given.read.resolve())
        print(f"{ended.outcome}\n{ended.detail}")
        sys.exit(ended.outcome == FAULT)
    kinds = given.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"no kind {unknown[0]}; choose from {', '.join(KINDS)}")
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    # Programs this small are compiled, not run.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    tasks = [Task(kinds[i % len(kinds)], given.seed, i // len(kinds)) for i in range(given.inputs)]
    counts = run(tasks, output, given.processes)
    print(table(counts))
    faults = sum(count[FAULT] for count in counts.values())
    if faults:
        print(f"{faults} faulty inputs are in {output}")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
