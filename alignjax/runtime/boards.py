"""Where the numbers of a run are drawn: TensorBoard's files, Weights & Biases, trackio."""

from __future__ import annotations

import hashlib
import importlib
import netrc
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from alignjax.errors import InputError
from alignjax.runtime.files import names

_Event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]  # protobuf makes it on import
_SessionLog: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]  # likewise
_PROJECT = "alignjax"


class Board(Protocol):
    """Draws the numbers of a run, one curve for each stage and name."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One point of each named curve."""
        ...

    def rewind(self, stage: str, step: int) -> None:
        """What was drawn of a stage after this step will be drawn again."""
        ...

    def close(self) -> None:
        """Nothing more is drawn."""
        ...


def open_boards(kinds: Sequence[str], workdir: pathlib.Path, config: Mapping[str, Any]) -> list[Board]:
    """The boards of a run.

    Args:
      kinds: tensorboard, wandb, trackio.
      workdir: the run's folder, whose name the run has on a board.
      config: the configuration as JSON, for boards that show it.

    Raises:
      InputError: a package is not installed, or does not start.
    """
    return [
        TensorBoard(workdir) if kind == "tensorboard" else _Tracked(kind, workdir, config) for kind in kinds
    ]


class TensorBoard:
    """Files in WORKDIR/tensorboard/STAGE."""

    def __init__(self, workdir: pathlib.Path):
        """Opens nothing yet.

        Args:
          workdir: the run's folder.
        """
        self._folder = workdir / "tensorboard"
        self._curves: dict[str, _Curves] = {}
        self._purge: dict[str, int] = {}

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """See `Board`; a stage's file is opened at its first line."""
        if stage not in self._curves:
            self._curves[stage] = _Curves(self._folder / stage, self._purge.get(stage))
        self._curves[stage].write(step, values)

    def rewind(self, stage: str, step: int) -> None:
        """See `Board`."""
        if stage in self._curves:
            self._curves.pop(stage).close()
        self._purge[stage] = step + 1

    def close(self) -> None:
        """Closes all files."""
        for curves in self._curves.values():
            curves.close()
        self._curves.clear()


class _Curves:
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


class _Tracked:
    """A run of Weights & Biases or trackio, which have the same functions: init, log, finish.

    Names are STAGE/NAME, with STAGE/step beside them: stages count their steps apart. The same folder is the
    same run. Points that are done again after a stop are drawn a second time, since neither takes any back.
    """

    def __init__(self, kind: str, workdir: pathlib.Path, config: Mapping[str, Any]):
        """Starts the run; the package is imported here and not before.

        Args:
          kind: wandb or trackio.
          workdir: as of `open_boards`.
          config: as of `open_boards`.
        """
        try:
            package: Any = importlib.import_module(kind)
        except ImportError as error:
            raise InputError(
                f"config.log_to: {kind} cannot be imported ({error}); pip install {kind}, or leave it out."
            ) from None
        place = workdir.absolute()
        name = place.name
        options: dict[str, Any] = {"project": _PROJECT, "name": name, "config": config, "resume": "allow"}
        if kind == "wandb":
            options["id"] = hashlib.sha256(str(place).encode()).hexdigest()[:16]
            options |= {"dir": str(place), "mode": _wandb_mode()}
        else:  # its runs are told apart by their names alone
            options["name"] = f"{name}-{hashlib.sha256(str(place).encode()).hexdigest()[:6]}"
        try:
            self._run = package.init(**options)
        except Exception as error:  # of the package: no network, no account, an old version
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"config.log_to: {kind} does not start ({reason}); leave it out.") from None
        self._package, self._with_steps = package, kind == "wandb"
        self._stages: set[str] = set()

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """See `Board`."""
        if self._with_steps and stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self._package.log({**named, f"{stage}/step": step})

    def rewind(self, stage: str, step: int) -> None:
        """See the class."""

    def close(self) -> None:
        """Ends the run."""
        self._package.finish()


def _wandb_mode() -> str:
    """What WANDB_MODE says; else online where an account is known, so that nobody is asked for one."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rpartition("//")[2].rstrip("/")
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        known = False
    return "online" if known else "offline"
