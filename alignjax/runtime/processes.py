"""Several processes that are one run: all compute, the first one writes, and all see what it wrote.

Every process does the same work in the same order on its own devices; what they do differently is decided
here. The run's folder must be one that all of them see.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from alignjax.errors import InputError
from alignjax.runtime import preemption

_ADDRESS, _COUNT, _NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def start() -> None:
    """Joins the other processes of the run; call it before anything that asks for devices.

    They are found by JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID
    if these are set, and otherwise through the cluster: Cloud TPU, Kubernetes, SLURM, Open MPI.

    Raises:
      InputError: no address is given and no cluster is found, a number cannot be used, or the other processes
        cannot be reached.
    """
    given: dict[str, Any] = {}
    if os.environ.get(_ADDRESS):
        given = {"coordinator_address": os.environ[_ADDRESS], "cluster_detection_method": "deactivate"}
        given |= {"num_processes": _number(_COUNT), "process_id": _number(_NUMBER)}
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--distributed: the other processes cannot be joined ({reason}); set {_ADDRESS}, {_COUNT} and "
            f"{_NUMBER}, or leave the flag out where there is one process."
        ) from None
    preemption.share()


def is_multiprocess() -> bool:
    """Whether this process is one of several; if it is not, no backend is started."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_primary() -> bool:
    """Whether this process is the one that writes and prints."""
    return not is_multiprocess() or jax.process_index() == 0


def barrier(name: str) -> None:
    """All processes wait here for each other; with one process nothing happens.

    Args:
      name: of this place; processes that wait at different places end in an error, not in a deadlock.
    """
    if is_multiprocess():
        multihost_utils.sync_global_devices(name)


def broadcast(value: bool) -> bool:
    """The first process's value, in all of them: for decisions that depend on whether a file exists."""
    if not is_multiprocess():
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def to_host(values: Any) -> np.ndarray:
    """The whole array on the host of every process, also if its parts lie on the devices of several.

    All processes call this, in the same order.
    """
    if not isinstance(values, jax.Array) or values.is_fully_addressable or values.is_fully_replicated:
        return np.asarray(values)
    return np.asarray(multihost_utils.process_allgather(values, tiled=True))


def check_shared(folder: Path, what: str) -> None:
    """Refuses a folder that is not the same one for all processes.

    Args:
      folder: an existing folder.
      what: how the user gave it, for the message.

    Raises:
      InputError: some process does not see a file that the first one makes there.
    """
    if not is_multiprocess():
        return
    mark = folder / f".shared-{int(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31))))}"
    if is_primary():
        mark.touch()
    barrier(f"mark {mark.name}")
    seen = multihost_utils.process_allgather(np.array(mark.exists()))
    if is_primary():
        mark.unlink()
    if not seen.all():
        raise InputError(
            f"{what}: processes {np.flatnonzero(~seen.ravel()).tolist()} do not see what process 0 writes "
            "there; give a folder that all processes share (network file system, mounted bucket)."
        )


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise InputError(f"{name}: is {text!r}, must be a whole number wherever {_ADDRESS} is set.")
    return int(text)
