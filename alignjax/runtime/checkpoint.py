"""Checkpoints by orbax: one tree in a folder, and a series of them to resume from.

Orbax writes to a temporary folder and renames it, so a killed run leaves no half checkpoint. It does not
notice a changed byte in a finished one (orbax 0.12.8 restored wrong values without an error), so a list of
file sizes and CRC-32 sums is written beside the files and compared before anything is read.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pathlib
import shutil
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from alignjax.errors import InputError
from alignjax.runtime import preemption
from alignjax.runtime.processes import barrier, is_multiprocess, is_primary

Path = str | os.PathLike[str]
Tree = Any
CHECKSUMS = "checksums.json"
_BLOCK = 1 << 22  # values checked at a time


class Restored(NamedTuple):
    """What `Checkpoints.restore` found.

    Attributes:
      step: steps done when it was saved.
      state: the tree.
      data: the JSON value saved with it: the position in the data.
    """

    step: int
    state: Tree
    data: Any


@preemption.uninterrupted()
def save_tree(path: Path, tree: Tree, metadata: Any = None) -> None:
    """Saves one tree of arrays and a JSON value as a folder, replacing what was there.

    The new folder is complete before the old one goes; a signal takes effect afterwards.

    Args:
      path: the folder.
      tree: arrays (also PRNG keys, sharded arrays; every process calls this).
      metadata: anything JSON can hold.

    Raises:
      OSError: the folder cannot be written; a ValueError of orbax where its own writes fail. What was there
        before still is, and no part of the new one is left.
    """
    final = pathlib.Path(path).absolute()
    fresh = final.with_name(final.name + ".new")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**_handlers())) as checkpointer:
            checkpointer.save(fresh, args=_save_args(tree, metadata), force=True)
        if is_primary():
            _write_checksums(fresh)
    except BaseException:
        _remove_unfinished(final.parent, glob.escape(fresh.name) + "*")
        raise
    if is_primary():
        if final.exists():
            shutil.rmtree(final)
        os.replace(fresh, final)
    barrier(f"save_tree {final.name}")


@preemption.uninterrupted()
def restore_tree(path: Path, like: Tree, *, finite: bool = True) -> tuple[Tree, Any]:
    """Reads what `save_tree` wrote; a signal takes effect afterwards.

    Args:
      path: the folder.
      like: tree of arrays or ShapeDtypeStructs with the wanted shapes, dtypes and shardings.
      finite: refuse NaN and infinity in the floating-point arrays, as no weights may have.

    Returns:
      The tree, and the metadata.

    Raises:
      InputError: no checkpoint there, a damaged one, one of another structure than `like`, or (`finite`) one
        that holds a value that is not finite.
    """
    folder = pathlib.Path(path).absolute()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no checkpoint; run the stage that writes it.")
    if damage := _find_damage(folder):
        raise InputError(
            f"{folder}: the checkpoint is damaged ({damage}); delete it and run its stage again."
        )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**_handlers())) as checkpointer:
        info = checkpointer.restore(folder, args=ocp.args.Composite(info=ocp.args.JsonRestore())).info
        _check_structure(folder, info["structure"], like)
        tree = checkpointer.restore(folder, args=_restore_args(like)).state
    if finite and (name := _not_finite(tree)):
        raise InputError(
            f"{folder}: the checkpoint holds a value that is not finite in {name}; delete it and run its "
            "stage again."
        )
    return tree, info["data"]


class Checkpoints:
    """A series of checkpoints of one training, the last few kept. A context manager.

    Files are written while training continues; `save` only copies the arrays off the devices, because the
    next step overwrites them. A checkpoint is complete once its list of sums is there: one that a kill cut
    off is skipped, and the one before it is used. A signal that asks the run to stop interrupts no method.
    """

    def __init__(self, path: Path, *, max_to_keep: int = 2):
        """Opens the folder.

        Args:
          path: folder of the series; made if missing.
          max_to_keep: checkpoints kept, >= 1; with 2 a damaged last one costs little.
        """
        self._path = pathlib.Path(path).absolute()
        _remove_unfinished(self._path)
        options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._path, options=options, item_handlers=_handlers())
        self._thread = ThreadPoolExecutor(1, "checksums")
        self._sealed: Future[None] | None = None

    @preemption.uninterrupted()
    def save(self, step: int, state: Tree, data: Any) -> None:
        """Saves the state after `step` steps; waits for the save before it, whose errors it raises.

        Args:
          step: steps done; larger than that of every checkpoint in the series.
          state: tree of arrays.
          data: JSON value: the position in the data.
        """
        self.wait()
        if jax.default_backend() == "cpu":
            # Nothing is copied off a CPU: orbax would read the memory that the next step overwrites.
            state = jax.tree.map(jnp.copy, state)
        data = json.loads(json.dumps(data))  # written later, when the caller's lists have grown
        self._manager.save(step, args=_save_args(state, data))
        self._sealed = self._thread.submit(self._seal, step)

    @preemption.uninterrupted()
    def wait(self) -> None:
        """Waits until what was saved is complete, and raises the errors of that."""
        if self._sealed is not None:
            sealed, self._sealed = self._sealed, None
            try:
                sealed.result()
            except BaseException:
                _remove_unfinished(self._path)
                raise
            barrier("checkpoint")

    def _seal(self, step: int) -> None:
        """Lists the sums of a checkpoint when orbax has written it; in a thread, so without a barrier."""
        self._manager.wait_until_finished()
        if is_primary():
            _write_checksums(self._folder(step))

    @preemption.uninterrupted()
    def restore(self, like: Tree) -> Restored | None:
        """Reads the last checkpoint that is whole.

        A damaged one is named in a warning and renamed to damaged-STEP, and the one before it is used.

        Args:
          like: tree of arrays or ShapeDtypeStructs with the wanted shapes, dtypes and shardings.

        Returns:
          The checkpoint, or None where there is none.

        Raises:
          InputError: the checkpoint has another structure than `like` (another model or optimizer).
        """
        self.wait()
        for step in sorted(self._manager.all_steps(), reverse=True):
            folder = self._folder(step)
            if damage := _find_damage(folder):
                logging.warning(
                    "%s: the checkpoint is damaged (%s); renamed to damaged-%d, using the one before it.",
                    folder,
                    damage,
                    step,
                )
                self._set_aside(step)
                continue
            info = self._manager.restore(step, args=ocp.args.Composite(info=ocp.args.JsonRestore()))["info"]
            _check_structure(folder, info["structure"], like)
            return Restored(
                step, self._manager.restore(step, args=_restore_args(like))["state"], info["data"]
            )
        return None

    @preemption.uninterrupted()
    def close(self) -> None:
        """Waits for what is being saved, and closes."""
        try:
            self.wait()
        except BaseException:
            self._thread.shutdown()
            with contextlib.suppress(Exception):  # the manager raises the error of the failed save again
                self._manager.close()
            raise
        self._thread.shutdown()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        """The series itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the series."""
        self.close()

    def _folder(self, step: int) -> pathlib.Path:
        return self._path / str(step)

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that its step can be saved again."""
        barrier(f"damaged {step}")  # no process may look for damage while another renames
        if is_primary():
            aside = self._path / f"damaged-{step}"
            if aside.exists():
                shutil.rmtree(aside)
            os.replace(self._folder(step), aside)
        barrier(f"set aside {step}")
        self._manager.reload()


def _remove_unfinished(folder: pathlib.Path, pattern: str = "*.orbax-checkpoint-tmp*") -> None:
    """Removes what a save that failed or was killed left in `folder`, to give the space back."""
    if not is_primary():
        return
    for _ in range(10):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
        if not any(folder.glob(pattern)):
            return
        time.sleep(0.1)  # TensorStore's other writes end after the one that failed, and make the folder again


def _handlers() -> dict[str, Any]:
    """What writes and reads the parts of a checkpoint."""
    # Compressing costs as much as writing, on cores that a CPU run computes on, and leaves 92% of the bytes.
    return {"state": ocp.PyTreeCheckpointHandler(use_compression=False), "info": ocp.JsonCheckpointHandler()}


def _save_args(tree: Tree, data: Any) -> ocp.args.Composite:
    info = {"data": data, "structure": _structure(tree)}
    return ocp.args.Composite(state=ocp.args.PyTreeSave(tree), info=ocp.args.JsonSave(info))


def _restore_args(like: Tree) -> ocp.args.Composite:
    where = ocp.checkpoint_utils.construct_restore_args(like)
    return ocp.args.Composite(state=ocp.args.PyTreeRestore(like, restore_args=where))


def _not_finite(tree: Tree) -> str:
    """Path of the first leaf with a NaN or an infinity in any process, or the empty string.

    On the host, part by part: a restored checkpoint has just come from there, and nothing is compiled.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    wrong = np.array([jnp.issubdtype(x.dtype, jnp.floating) and not _finite(x) for _, x in leaves], bool)
    if is_multiprocess():
        wrong = multihost_utils.process_allgather(wrong).any(axis=0)
    return jax.tree_util.keystr(leaves[np.flatnonzero(wrong)[0]][0]) if wrong.any() else ""


def _finite(array: jax.Array | np.ndarray) -> bool:
    """Whether the parts of an array that this process has are finite; copies of a part are skipped."""
    if isinstance(array, jax.Array):
        parts = [shard.data for shard in array.addressable_shards if shard.replica_id == 0]
    else:
        parts = [array]
    flat = (np.asarray(part).reshape(-1) for part in parts)
    return all(np.isfinite(x[i : i + _BLOCK]).all() for x in flat for i in range(0, x.size, _BLOCK))


def _structure(tree: Tree) -> dict[str, str]:
    """Path of each leaf -> its dtype and shape, as JSON keeps them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _check_structure(folder: pathlib.Path, saved: dict[str, str], like: Tree) -> None:
    """Refuses a checkpoint of another tree, naming the first leaf that differs."""
    wanted = _structure(like)
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise InputError(
                f"{folder}: the checkpoint holds {name} as {saved.get(name, 'nothing')}, but this model "
                f"and optimizer need {wanted.get(name, 'nothing')}; use the settings it was saved with, or "
                "delete it."
            )


def _checksums(folder: pathlib.Path) -> dict[str, list[int]]:
    """Relative path of each file -> [bytes, CRC-32]."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CHECKSUMS)
    return {p.relative_to(folder).as_posix(): [p.stat().st_size, _crc32(p)] for p in files}


def _crc32(path: pathlib.Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _write_checksums(folder: pathlib.Path) -> None:
    fresh = folder / (CHECKSUMS + ".new")
    fresh.write_text(json.dumps(_checksums(folder), indent=0, sort_keys=True), encoding="utf-8")
    os.replace(fresh, folder / CHECKSUMS)


def _find_damage(folder: pathlib.Path) -> str:
    """What is wrong with a checkpoint's files, or the empty string if nothing is."""
    sums = folder / CHECKSUMS
    if not sums.exists():
        return f"{CHECKSUMS} is missing: saving was cut off"
    try:
        listed = json.loads(sums.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not even text
        return f"{CHECKSUMS} cannot be read"
    for name, (size, crc) in listed.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size or _crc32(file) != crc:
            return f"{name} has changed since it was written"
    return ""
