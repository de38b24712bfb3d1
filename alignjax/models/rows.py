"""Sharding constraints on activations, along the rows of a batch, for compiled functions on a mesh.

Without them the compiler may keep weights in parts and sum partial products of all rows on every device,
which sends activations instead of weights and takes several times as long.
"""

import math

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.runtime.mesh import LOGICAL_RULES

_AXES = tuple(LOGICAL_RULES["batch"] or ())


def along_rows(x: Array) -> Array:
    """Constrains an array to be divided over `data` and `fsdp` along its first dimension only.

    The mesh is that of the arguments of the function being compiled. Without a mesh, or if it does not divide
    B, nothing is constrained.

    Args:
      x: [B, ...], traced or not.

    Returns:
      The same values.
    """
    parts = parts_of(x)
    if parts == 1 or x.shape[0] % parts:
        return x
    mesh = jax.typeof(x).sharding.mesh
    axes = tuple(name for name in _AXES if name in mesh.shape)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(axes)))


def row_axes(x: Array) -> tuple[str, ...] | None:
    """The mesh's axes that rows are divided over where each device runs its own; None: they do not divide.

    Args:
      x: [B, ...], an array of the function being compiled.

    Returns:
      The names, for a PartitionSpec.
    """
    return _AXES if x.shape[0] % parts_of(x) == 0 else None


def parts_of(x: Array) -> int:
    """Number of parts that rows are divided into on the mesh of the function being compiled; 1 without one.

    Args:
      x: an array of that function.

    Returns:
      The product of the sizes of `data` and `fsdp`.
    """
    mesh = jax.typeof(x).sharding.mesh
    return math.prod(size for name, size in mesh.shape.items() if name in _AXES)
