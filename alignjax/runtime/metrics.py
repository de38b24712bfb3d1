"""What a run shows while it works: metrics.jsonl, TensorBoard files, progress bars, peak memory."""

from __future__ import annotations

import json
import math
import os
import pathlib
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from alignjax.errors import InputError
from alignjax.runtime import preemption, processes
from alignjax.runtime.files import names

Path = str | os.PathLike[str]
_Event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]  # protobuf makes it on import
_SessionLog: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]  # likewise


class MetricsWriter:
    """Appends {"stage", "step", name: value, ...} lines to WORKDIR/metrics.jsonl, and to TensorBoard files.

    Every line is flushed, so a killed run keeps what it logged. TensorBoard files are in
    WORKDIR/tensorboard/STAGE, one curve per stage. Use it as a context manager, or close it.
    """

    def __init__(self, workdir: Path, *, active: bool = True):
        """Opens the files.

        Args:
          workdir: the run's folder; made if it is missing.
          active: False writes nothing: for every process but the first.
        """
        self._workdir, self._active = pathlib.Path(workdir), active
        self._boards: dict[str, _Board] = {}
        self._purge: dict[str, int] = {}
        self._file = None
        if active:
            self._workdir.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self.path)
            self._file = open(self.path, "a", encoding="utf-8")

    @property
    def path(self) -> pathlib.Path:
        """The JSON Lines file."""
        return self._workdir / "metrics.jsonl"

    @preemption.uninterrupted()
    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs one step.

        Args:
          stage: the stage's name.
          step: steps done in this stage.
          metrics: name -> number; one that is not finite is written as null (JSON has no NaN).

        Raises:
          OSError: the line cannot be written; it names the file.
        """
        if self._file is None:
            return
        values = {name: _number(value) for name, value in metrics.items()}
        with names(self.path):
            self._file.write(json.dumps({"stage": stage, "step": step, **values}, allow_nan=False) + "\n")
            self._file.flush()
        self._board(stage).write(step, {name: value for name, value in values.items() if value is not None})

    @preemption.uninterrupted()
    def rewind(self, stage: str, step: int) -> None:
        """Removes a stage's lines after `step`: those steps will be done again.

        Args:
          stage: the stage that resumes.
          step: steps that were saved; 0 removes all its lines.

        Raises:
          InputError: a line of metrics.jsonl is damaged; the message names it.
        """
        if self._file is None:
            return
        self._file.close()
        kept = [line for line, record in _read_lines(self.path) if not _is_redone(record, stage, step)]
        fresh = self.path.with_suffix(".jsonl.new")
        with names(self.path):
            fresh.write_text("".join(kept), encoding="utf-8")
            os.replace(fresh, self.path)
            self._file = open(self.path, "a", encoding="utf-8")
        if stage in self._boards:
            self._boards.pop(stage).close()
        self._purge[stage] = step + 1

    @preemption.uninterrupted()
    def close(self) -> None:
        """Closes all files."""
        if self._file is not None:
            file, self._file = self._file, None
            with names(self.path):
                file.close()
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def __enter__(self) -> MetricsWriter:
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes all files."""
        self.close()

    def _board(self, stage: str) -> _Board:
        """The stage's TensorBoard file, opened at its first line."""
        if stage not in self._boards:
            self._boards[stage] = _Board(self._workdir / "tensorboard" / stage, self._purge.get(stage))
        return self._boards[stage]


class _Board:
    """One TensorBoard file, written in this thread.

    tensorboardX's SummaryWriter has a thread of its own. On a full disk that thread prints a traceback and
    ends, and the queue to it, once full, blocks for ever.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int | None):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with names(folder):
            # The library's names hold whole seconds: a second file of one second would replace the first.
            self._events = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
            if purge_step is not None:
                # TensorBoard hides what an earlier file of the folder holds from this step on.
                start = _SessionLog(status=_SessionLog.START)
                self._events.write_event(_Event(step=purge_step, session_log=start, wall_time=time.time()))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each named curve."""
        with names(self._folder):
            for name, value in values.items():
                event = _Event(step=step, summary=scalar(name, value), wall_time=time.time())
                self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        with names(self._folder):
            self._events.close()


def read_metrics(path: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl, all or one stage's.

    Args:
      path: the file.
      stage: keep this stage's lines; None: all.

    Returns:
      One dict per line, in the order of the file; a last line that was cut off by a kill is left out.

    Raises:
      InputError: the file is missing, or a line is damaged; the message names file and line.
    """
    records = [record for _, record in _read_lines(pathlib.Path(path))]
    return [record for record in records if stage is None or record["stage"] == stage]


_LOG_FORMAT = (
    "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt} [{elapsed}, {remaining} left, {rate_fmt}{postfix}]"
)


def progress(
    total: int, description: str, *, initial: int = 0, unit: str = "step", leave: bool = True
) -> tqdm.tqdm:
    """Progress bar on standard error, with rate and time left.

    Args:
      total: steps in all.
      description: what is being done.
      initial: steps done before (a resumed run).
      unit: what is counted.
      leave: whether the bar stays when it is done; False for one that runs beside another.

    Returns:
      The bar: `update(n)`, `set_postfix(...)`, `close()`; a context manager.
    """
    terminal = sys.stderr.isatty()
    # In a log file every refresh is a line: one in 10 seconds is enough.
    interval = 0.2 if terminal else 10.0
    # In the first process `disable` is not given: False would overrule TQDM_DISABLE.
    hidden: dict[str, Any] = {} if processes.is_primary() else {"disable": True}
    return tqdm.tqdm(
        total=total,
        desc=description,
        initial=initial,
        unit=unit,
        leave=leave,
        file=sys.stderr if terminal else _LogLines(),
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        dynamic_ncols=terminal,
        position=None if terminal else 0,  # bars beside each other need a cursor that moves
        bar_format=None if terminal else _LOG_FORMAT,
        **hidden,
    )


class _LogLines:
    """Standard error that is no terminal, where a bar writes lines and never moves a cursor."""

    def __init__(self) -> None:
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        done = line.partition(" [")[0]  # a bar is drawn again when it is closed
        if line and done != self._last:
            sys.stderr.write(f"{line}\n")
        self._last = done or self._last

    def flush(self) -> None:
        sys.stderr.flush()


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB, macOS bytes


def _number(value: Any) -> float | int | None:
    """A plain JSON number, or None where there is none."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _read_lines(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Complete lines of a metrics.jsonl, each with its newline, and what they hold."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; it is written by the run.") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode()
            record = json.loads(text)
            if not (isinstance(record["stage"], str) and isinstance(record["step"], int)):
                raise TypeError("stage must be a text and step a whole number")
        except (ValueError, TypeError, LookupError, RecursionError):
            raise InputError(
                f"{path}:{number}: is not a line of metrics ({line[:40].decode(errors='replace')!r}...); "
                "remove the line."
            ) from None
        found.append((text + "\n", record))
    return found


def _cut_torn_line(path: pathlib.Path) -> None:
    """Drops a last line without newline, which a killed process leaves, before more is appended to it."""
    if path.exists():
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            with open(path, "r+b") as file:
                file.truncate(complete)


def _is_redone(record: dict[str, Any], stage: str, step: int) -> bool:
    """Whether a line of `stage` is after `step`; 0 is a fresh start, which logs its step 0 too."""
    return record["stage"] == stage and (record["step"] > step or step == 0)
