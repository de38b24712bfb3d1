"""What a run shows while it goes: metrics.jsonl, TensorBoard files, progress bars, peak memory."""

from __future__ import annotations

import json
import math
import os
import pathlib
import resource
import sys
from collections.abc import Mapping
from typing import Any

import tensorboardX
import tqdm

from alignjax.runtime import processes

Path = str | os.PathLike[str]


class MetricsWriter:
    """Appends {"stage", "step", name: value, ...} lines to WORKDIR/metrics.jsonl, and to TensorBoard files.

    Every line is flushed, so a killed run keeps what it logged. TensorBoard files are in
    WORKDIR/tensorboard/STAGE, one curve a stage. Use it as a context manager, or close it.
    """

    def __init__(self, workdir: Path, *, active: bool = True):
        """Open the files.

        Args:
          workdir: the run's folder; made if missing.
          active: False writes nothing: for every process but the first.
        """
        self._workdir, self._active = pathlib.Path(workdir), active
        self._boards: dict[str, tensorboardX.SummaryWriter] = {}
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

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Log one step.

        Args:
          stage: the stage's name.
          step: steps done in this stage.
          metrics: name -> number; one that is not finite is written as null (JSON has no nan).
        """
        if self._file is None:
            return
        values = {name: _number(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"stage": stage, "step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()
        board = self._board(stage)
        for name, value in values.items():
            if value is not None:
                board.add_scalar(name, value, step)
        board.flush()

    def rewind(self, stage: str, step: int) -> None:
        """Remove a stage's lines after `step`: those steps will be done again.

        Args:
          stage: the stage that resumes.
          step: steps that were saved; 0 removes all its lines.
        """
        if self._file is None:
            return
        self._file.close()
        kept = [line for line in _read_lines(self.path) if not _is_redone(line, stage, step)]
        fresh = self.path.with_suffix(".jsonl.new")
        fresh.write_text("".join(kept), encoding="utf-8")
        os.replace(fresh, self.path)
        self._file = open(self.path, "a", encoding="utf-8")
        if stage in self._boards:
            self._boards.pop(stage).close()
        self._purge[stage] = step + 1

    def close(self) -> None:
        """Close all files."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def __enter__(self) -> MetricsWriter:
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all files."""
        self.close()

    def _board(self, stage: str) -> tensorboardX.SummaryWriter:
        """The stage's TensorBoard writer, opened at its first line."""
        if stage not in self._boards:
            folder = self._workdir / "tensorboard" / stage
            # After purge_step TensorBoard hides what an earlier file of the folder holds for those steps.
            self._boards[stage] = tensorboardX.SummaryWriter(
                str(folder), purge_step=self._purge.get(stage), write_to_disk=True
            )
        return self._boards[stage]


def read_metrics(path: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl, all or one stage's.

    Args:
      path: the file.
      stage: keep this stage's lines; None: all.

    Returns:
      One dict a line, in the order of the file; a last line that was cut off by a kill is left out.
    """
    records = [json.loads(line) for line in _read_lines(pathlib.Path(path))]
    return [record for record in records if stage is None or record["stage"] == stage]


def progress(
    total: int, description: str, *, initial: int = 0, unit: str = "step", leave: bool = True
) -> tqdm.tqdm:
    """Progress bar on standard error, with rate and time left.

    Args:
      total: steps in all.
      description: what is being done.
      initial: steps done before (a resumed run).
      unit: what is counted.
      leave: whether the bar stays when it is done; not where it runs beside another.

    Returns:
      The bar: `update(n)`, `set_postfix(...)`, `close()`; a context manager.
    """
    # In a log file (no terminal) every refresh is a line: one in 10 seconds is enough.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    # Not False where it is shown, which would overrule TQDM_DISABLE.
    hidden: dict[str, Any] = {} if processes.is_primary() else {"disable": True}
    return tqdm.tqdm(
        total=total,
        desc=description,
        initial=initial,
        unit=unit,
        leave=leave,
        file=sys.stderr,
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        dynamic_ncols=sys.stderr.isatty(),
        **hidden,
    )


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB, macOS bytes


def _number(value: Any) -> float | int | None:
    """A plain JSON number, or None where there is none."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _read_lines(path: pathlib.Path) -> list[str]:
    """Complete lines of a file, each with its newline."""
    with open(path, encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")]


def _cut_torn_line(path: pathlib.Path) -> None:
    """Drop a last line without newline, which a killed process leaves, before more is appended to it."""
    if path.exists():
        content = path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            with open(path, "r+b") as file:
                file.truncate(complete)


def _is_redone(line: str, stage: str, step: int) -> bool:
    """Whether a line of `stage` is after `step`; 0 is a fresh start, which logs its step 0 too."""
    record = json.loads(line)
    return record["stage"] == stage and (record["step"] > step or step == 0)
