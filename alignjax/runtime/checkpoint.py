"""Checkpoints by orbax: one tree in a folder, and a series of them to resume from.

Orbax writes to a temporary folder and renames it, so a killed run leaves no half checkpoint. It does not
notice a changed byte in a finished one (orbax 0.12.8 restored wrong values without an error), so a list of
file sizes and CRC-32 sums is written beside the files and compared before anything is read.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

from alignjax.errors import InputError
from alignjax.runtime.processes import barrier, is_primary

Path = str | os.PathLike[str]
Tree = Any
CHECKSUMS = "checksums.json"


class Restored(NamedTuple):
    """What `Checkpoints.restore` found.

    Attributes:
      step: steps done when it was saved.
      state: the tree.
      data: the JSON value saved with it: where the data stood.
    """

    step: int
    state: Tree
    data: Any


def save_tree(path: Path, tree: Tree, metadata: Any = None) -> None:
    """Save one tree of arrays and a JSON value as a folder, replacing what was there.

    The new folder is complete before the old one goes.

    Args:
      path: the folder.
      tree: arrays (also PRNG keys, sharded arrays; every process calls this).
      metadata: anything JSON can hold.
    """
    final = pathlib.Path(path).absolute()
    fresh = final.with_name(final.name + ".new")
    final.parent.mkdir(parents=True, exist_ok=True)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**_handlers())) as checkpointer:
        checkpointer.save(fresh, args=_save_args(tree, metadata), force=True)
    if is_primary():
        _write_checksums(fresh)
        if final.exists():
            shutil.rmtree(final)
        os.replace(fresh, final)
    barrier(f"save_tree {final.name}")


def restore_tree(path: Path, like: Tree) -> tuple[Tree, Any]:
    """Read what `save_tree` wrote.

    Args:
      path: the folder.
      like: tree of arrays or ShapeDtypeStructs with the wanted shapes, dtypes and shardings.

    Returns:
      The tree, and the metadata.

    Raises:
      InputError: no checkpoint there, a damaged one, or one of another structure than `like`.
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
        return checkpointer.restore(folder, args=_restore_args(like)).state, info["data"]


class Checkpoints:
    """A series of checkpoints of one training, the last few kept. A context manager.

    Files are written while the training goes on; saving itself only takes the arrays off the devices, because
    the next step overwrites them. A checkpoint counts from when its list of sums is there: one that a kill
    cut off is passed over for the one before.
    """

    def __init__(self, path: Path, *, max_to_keep: int = 2):
        """Open the folder.

        Args:
          path: folder of the series; made if missing.
          max_to_keep: checkpoints kept, >= 1; with 2 a damaged last one costs little.
        """
        self._path = pathlib.Path(path).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._path, options=options, item_handlers=_handlers())
        self._thread = ThreadPoolExecutor(1, "checksums")
        self._sealed: Future[None] | None = None

    def save(self, step: int, state: Tree, data: Any) -> None:
        """Save the state after `step` steps; waits for the save before it, whose errors it raises.

        Args:
          step: steps done; larger than that of every checkpoint in the series.
          state: tree of arrays.
          data: JSON value, where the data stands.
        """
        self.wait()
        if jax.default_backend() == "cpu":
            # There is nothing to take off: orbax would read the very memory that the next step overwrites.
            state = jax.tree.map(jnp.copy, state)
        data = json.loads(json.dumps(data))  # written later, when the caller's lists have grown
        self._manager.save(step, args=_save_args(state, data))
        self._sealed = self._thread.submit(self._seal, step)

    def wait(self) -> None:
        """Until what was saved is complete."""
        if self._sealed is not None:
            sealed, self._sealed = self._sealed, None
            sealed.result()
            barrier("checkpoint")

    def _seal(self, step: int) -> None:
        """Lists the sums of a checkpoint when orbax is done with it; in a thread, so without any meeting."""
        self._manager.wait_until_finished()
        if is_primary():
            _write_checksums(self._folder(step))

    def restore(self, like: Tree) -> Restored | None:
        """Read the last checkpoint that is whole.

        A damaged one is named in a warning, renamed to damaged-STEP, and the one before it is taken.

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
                    "%s: the checkpoint is damaged (%s); renamed to damaged-%d, taking the one before.",
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

    def close(self) -> None:
        """Wait for everything and close."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        """The series itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _folder(self, step: int) -> pathlib.Path:
        return self._path / str(step)

    def _set_aside(self, step: int) -> None:
        """Rename a damaged checkpoint, so that its step can be saved again."""
        barrier(f"damaged {step}")  # no process may look for damage while another renames
        if is_primary():
            aside = self._path / f"damaged-{step}"
            if aside.exists():
                shutil.rmtree(aside)
            os.replace(self._folder(step), aside)
        barrier(f"set aside {step}")
        self._manager.reload()


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


def _structure(tree: Tree) -> dict[str, str]:
    """Path of each leaf -> its dtype and shape, as JSON keeps them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _check_structure(folder: pathlib.Path, saved: dict[str, str], like: Tree) -> None:
    """Refuse a checkpoint of another tree, naming the first leaf that differs."""
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
    """What is wrong with a checkpoint's files, or the empty string."""
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
