"""Devices: a mesh with three axes, and the table of which dimension is split along which axis.

    data    rows of the batch; parameters are copied
    fsdp    rows of the batch, and parameters along their model dimension, gathered layer by layer
    tensor  heads, hidden units and vocabulary

With one device every axis has size 1 and the same code runs; no function asks how many devices there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from alignjax.errors import InputError

Tree = Any

MESH_AXES = ("data", "fsdp", "tensor")

# Names that models give to the dimensions of their parameters -> the mesh axis they are split along.
LOGICAL_RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "vocab": "tensor",
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "layers": None,  # scanned over
    "lora_rank": None,  # too small to split
}


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """Mesh with the axes data, fsdp and tensor.

    Args:
      data: copies of the parameters that share the batch; -1: as many as the other two leave.
      fsdp: parts into which parameters and optimizer state are split, >= 1, or -1.
      tensor: parts into which heads, hidden units and vocabulary are split, >= 1, or -1.
      devices: the devices to use; None: all.

    Returns:
      The mesh; its axes are Auto: the compiler chooses the sharding of what is not annotated.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes: dict[str, int] = {"data": data, "fsdp": fsdp, "tensor": tensor}
    unknown = [name for name, size in sizes.items() if size == -1]
    wrong = [name for name, size in sizes.items() if size < 1 and size != -1]
    if wrong or len(unknown) > 1:
        raise InputError(
            f"config.mesh: {', '.join(f'{name}={size}' for name, size in sizes.items())} cannot be used; "
            "give sizes >= 1, at most one of them -1 (what the others leave)."
        )
    known = math.prod(size for size in sizes.values() if size != -1)
    if unknown and len(devices) % known == 0:
        sizes[unknown[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        asked = " x ".join(f"{name}={size}" for name, size in sizes.items())
        raise InputError(
            f"config.mesh: {asked} does not make {len(devices)} devices; the product must be {len(devices)}."
        )
    return jax.make_mesh(
        tuple(sizes.values()), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch divided over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(LOGICAL_RULES["batch"]))


def row_parts(mesh: Mesh | None) -> int:
    """Parts that the rows of a batch are divided into; 1 without a mesh."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def batch_rows(batch_size: int, count: int, mesh: Mesh | None) -> int:
    """Rows per batch of `count` examples: `batch_size`, or fewer if there are fewer examples.

    A smaller batch is rounded up to a multiple of `row_parts(mesh)`.
    """
    parts = row_parts(mesh)
    return min(batch_size, -(-count // parts) * parts)


def placer(mesh: Mesh | None) -> Callable[[Tree], Tree]:
    """A function that puts a batch on the mesh's devices; without a mesh it returns the batch unchanged."""
    return lambda batch: batch if mesh is None else shard_batch(batch, mesh)


def array_of_parts(
    shape: tuple[int, ...], sharding: Sharding, make_part: Callable[[tuple[slice, ...]], np.ndarray]
) -> Array:
    """A sharded array whose parts are made one after another, so that the host holds one at a time.

    Args:
      shape: of the whole array.
      sharding: where it goes.
      make_part: slices of the whole, one per dimension -> their values. It is called once for each part of
        this process, however many devices hold a copy of it; its result must not be changed afterwards.
    """
    holders: dict[tuple[tuple[int, int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        where = tuple(part.indices(size) for part, size in zip(index or (), shape, strict=True))
        holders.setdefault(where, []).append(device)
    arrays = []
    for where, devices in holders.items():
        part = make_part(tuple(slice(*bounds) for bounds in where))
        arrays += [jax.device_put(part, device) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def tree_shardings(axes: Tree, mesh: Mesh, like: Tree | None = None) -> Tree:
    """Sharding of every parameter from the logical names of its dimensions.

    Args:
      axes: tree whose leaves are tuples of names, one per dimension, None for no name.
      mesh: from `make_mesh`.
      like: tree of arrays or shapes with the same structure, to check that sizes divide; None: no check.

    Returns:
      Tree of NamedSharding. If two dimensions of a parameter name the same mesh axis, the first is split.

    Raises:
      InputError: a name that is not in LOGICAL_RULES, or a size that its mesh axes do not divide; the
        message names the parameter.
    """
    shardings = jax.tree_util.tree_map_with_path(
        lambda path, names: NamedSharding(mesh, _spec(names, mesh, jax.tree_util.keystr(path))),
        axes,
        is_leaf=_is_names,
    )
    if like is not None:
        jax.tree_util.tree_map_with_path(
            lambda path, sharding, leaf: _check_divides(sharding, leaf.shape, jax.tree_util.keystr(path)),
            shardings,
            like,
        )
    return shardings


def shard_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Puts a batch on the devices, its rows divided over them.

    Args:
      batch: tree of [B, ...] arrays; every process passes the whole batch, and its devices take their rows.
      mesh: from `make_mesh`.

    Returns:
      Tree of global arrays.

    Raises:
      InputError: the rows do not divide over the devices.
    """
    sharding = batch_sharding(mesh)
    parts = row_parts(mesh)
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % parts:
        raise InputError(
            f"mesh: a batch of {rows} rows does not divide over {parts} devices (data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}); make the batch size a multiple of {parts}."
        )

    def put(array: Any) -> Array:
        # With the global shape given, JAX takes a process's data for all rows, not for its part of them.
        return jax.make_array_from_process_local_data(sharding, np.asarray(array), np.shape(array))

    return jax.tree.map(put, batch)


def _is_names(node: Any) -> bool:
    """Whether a node of an axes tree is a leaf: a tuple of names (a NamedTuple of subtrees is not)."""
    return type(node) is tuple and all(name is None or isinstance(name, str) for name in node)


def _spec(names: tuple[str | None, ...], mesh: Mesh, where: str) -> PartitionSpec:
    """Mesh axes for one parameter's dimensions; a mesh axis is used once."""
    used: set[str] = set()
    spec: list[str | tuple[str, ...] | None] = []
    for name in names:
        if name is not None and name not in LOGICAL_RULES:
            raise InputError(
                f"mesh: parameter {where} has a dimension named {name!r}, which is not in the table of "
                f"logical axes; use one of {', '.join(LOGICAL_RULES)}."
            )
        rule = None if name is None else LOGICAL_RULES[name]
        wanted = () if rule is None else (rule,) if isinstance(rule, str) else rule
        free = tuple(axis for axis in wanted if axis not in used and mesh.shape[axis] > 1)
        used.update(free)
        spec.append(None if not free else free[0] if len(free) == 1 else free)
    while spec and spec[-1] is None:  # as jit writes the specs of its outputs: equal layouts compare equal
        spec.pop()
    return PartitionSpec(*spec)


def _check_divides(sharding: NamedSharding, shape: tuple[int, ...], where: str) -> None:
    """Refuses a parameter that its mesh axes do not divide."""
    for dimension, (size, axes) in enumerate(zip(shape, sharding.spec, strict=False)):
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        parts = math.prod(sharding.mesh.shape[name] for name in names)
        if size % parts:
            raise InputError(
                f"mesh: dimension {dimension} of parameter {where} has size {size}, which does not divide "
                f"over {'x'.join(names)}={parts}; choose a size of that mesh axis that divides {size}."
            )
