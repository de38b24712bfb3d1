"""Activations along the rows of a batch: what a compiled function is told of them where it runs on a mesh.

Left to itself the compiler may keep weights in parts and add up partial products of all rows on every device,
which sends activations instead of weights and takes several times as long.
"""

import math

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.runtime.mesh import LOGICAL_RULES

_AXES = tuple(LOGICAL_RULES["batch"] or ())


def along_rows(x: Array) -> Array:
    """The same array, its first dimension divided over `data` and `fsdp`, the others whole.

    The mesh is that of the arguments of the compiled function at hand; without one, and for rows that it does
    not divide, nothing changes.

    Args:
      x: [B, ...], traced or not.
    """
    parts = parts_of(x)
    if parts == 1 or x.shape[0] % parts:
        return x
    mesh = jax.typeof(x).sharding.mesh
    axes = tuple(name for name in _AXES if name in mesh.shape)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(axes)))


def parts_of(x: Array) -> int:
    """Parts that rows are divided into on the mesh of the arguments of the compiled function at hand."""
    mesh = jax.typeof(x).sharding.mesh
    return math.prod(size for name, size in mesh.shape.items() if name in _AXES)
