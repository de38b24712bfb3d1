"""What a run shows while it works: metrics.jsonl and boards, progress bars, peak memory."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

from alignjax.errors import InputError
from alignjax.runtime import preemption, processes
from alignjax.runtime.boards import Board, TensorBoard
from alignjax.runtime.files import names

Path = str | os.PathLike[str]


class MetricsWriter:
    """Appends {"stage", "step", name: value, ...} lines to WORKDIR/metrics.jsonl, and draws them on boards.

    Every line is flushed, so a killed run keeps what it logged. Use it as a context manager, or close it.
    """

    def __init__(self, workdir: Path, *, active: bool = True, boards: Sequence[Board] | None = None):
        """Opens the files.

        Args:
          workdir: the run's folder; made if it is missing.
          active: False writes nothing: for every process but the first.
          boards: that show the same numbers, and are closed with this; None: TensorBoard's files.
        """
        self._workdir, self._active = pathlib.Path(workdir), active
        self._boards: Sequence[Board] = [TensorBoard(self._workdir)] if boards is None else boards
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
        known = {name: value for name, value in values.items() if value is not None}
        for board in self._boards:
            board.write(stage, step, known)

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
        for board in self._boards:
            board.rewind(stage, step)

    @preemption.uninterrupted()
    def close(self) -> None:
        """Closes all files."""
        if self._file is not None:
            file, self._file = self._file, None
            with names(self.path):
                file.close()
        for board in self._boards:
            board.close()

    def __enter__(self) -> MetricsWriter:
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes all files."""
        self.close()


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


_LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt}{unit}, {speed}{time}{postfix}"
_COUNT = re.compile(r": \d+/\d+")
_BAR_FORMAT = _LOG_FORMAT + " |{bar}|"


class _Bar(tqdm.tqdm):
    """A bar that says how much time is left, and once all is done how much it took."""

    _ended = False

    def close(self) -> None:
        """Shows the bar for the last time; what ended early took its time too."""
        self._ended = True
        super().close()

    @property
    def format_dict(self) -> dict[str, Any]:
        found = super().format_dict
        n, total, elapsed = found["n"], found["total"], found["elapsed"]
        if n >= total or (self._ended and n):
            return {**found, "speed": "", "time": f"in {self.format_interval(elapsed)}"}
        rate = found["rate"] or (n - found["initial"]) / max(elapsed, 1e-9)
        if not rate:  # before the first step
            return {**found, "speed": "", "time": "begun"}
        left = self.format_interval((total - n) / rate)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return {**found, "speed": f"{speed}{found['unit']}/s, ", "time": f"{left} left"}


def progress(
    total: int, description: str, *, initial: int = 0, unit: str = "step", leave: bool = True
) -> tqdm.tqdm:
    """Progress bar on standard error, with rate and time left: whose, how many, how fast.

    Args:
      total: steps in all.
      description: what is being done.
      initial: steps done before (a resumed run).
      unit: what is counted, in the singular; empty where the description says it.
      leave: whether the bar stays when it is done; False for one that runs beside another.

    Returns:
      The bar: `update(n)`, `set_postfix(...)`, `close()`; a context manager.
    """
    terminal = sys.stderr.isatty()
    # In a log file every refresh is a line: one in 10 seconds is enough.
    interval = 0.2 if terminal else 10.0
    # In the first process `disable` is not given: False would overrule TQDM_DISABLE.
    hidden: dict[str, Any] = {} if processes.is_primary() else {"disable": True}
    return _Bar(
        total=total,
        desc=description,
        initial=initial,
        unit=f" {unit}s" if unit else "",
        leave=leave,
        file=sys.stderr if terminal else _LogLines(),
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        dynamic_ncols=terminal,
        position=None if terminal else 0,  # bars beside each other need a cursor that moves
        bar_format=_BAR_FORMAT if terminal else _LOG_FORMAT,
        **hidden,
    )


class _LogLines:
    """Standard error that is no terminal, where a bar writes lines and never moves a cursor."""

    def __init__(self) -> None:
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        count = _COUNT.search(line)
        done = line if count is None else line[: count.end()]  # a bar is drawn again when it is closed
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
