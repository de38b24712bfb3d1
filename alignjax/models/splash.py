"""Attention by the splash kernel for TPUs, which never holds the scores of all keys at once."""

from typing import cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu import splash_attention as kernels
from jax.sharding import PartitionSpec

from alignjax.data.shared_rows import MOST
from alignjax.models.attention import RowIds
from alignjax.models.rows import row_axes
from alignjax.runtime.mesh import LOGICAL_RULES

_LANES = 128  # block sizes are multiples of it
_LARGEST_BLOCK = 512
# Added to the score of a key that only another branch may see. Exact in bfloat16, so far below any score that
# its exponential is 0, and above the value of the kernel's own mask.
_HIDDEN = -(2.0**100)
# Responses of a row that can be told apart. The kernel fills the width of a head up to a multiple of 128, so
# that 16 more cost no more than one.
_BRANCHES = MOST


def attend_splash(q: Array, k: Array, v: Array, ids: RowIds, *, interpret: bool = False) -> Array:
    """softmax(q k^T / sqrt(H)) v with the mask of `attention_mask`, without a window.

    The kernel supports causal masks and segments. Branches are encoded in more dimensions of every query and
    key, whose product is 0 for visible keys and very negative for hidden ones:

        k' = [k, branch = 1, branch = 2, ...],   q' = [q, hidden if branch != 1, hidden if branch != 2, ...]

    so that all branches see the prompt, whose added dimensions are 0. On a mesh each device computes its own
    rows and heads.

    Args:
      q: [B, T, KV * G, H].
      k: [B, T, KV, H].
      v: [B, T, KV, H].
      ids: of the rows.
      interpret: interpret the kernel, slowly, on a device other than a TPU.

    Returns:
      [B, T, KV * G, H] in the dtype of q; values of padding mean nothing.
    """
    length, width = q.shape[1], q.shape[3]
    q = q * jnp.asarray(width**-0.5, q.dtype)
    if ids.branches is not None:
        q, k = _with_branches(q, k, ids.branches)
    more = -length % _LANES
    q, k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (q, k, v))
    segments = jnp.pad(ids.segments, ((0, 0), (0, more)))
    return _on_mesh(q, k, v, segments, interpret)[:, :length]


def _with_branches(q: Array, k: Array, branches: Array) -> tuple[Array, Array]:
    """Appends the dimensions that encode branches to queries and keys."""
    own = branches[:, :, None] == jnp.arange(1, 1 + _BRANCHES, dtype=jnp.int32)[None, None, :]
    hides = jnp.where(own, 0.0, _HIDDEN).astype(q.dtype)
    both = zip((q, k), (hides, own.astype(k.dtype)), strict=True)
    wide = [
        jnp.concatenate([x, jnp.broadcast_to(more[:, :, None], (*x.shape[:3], _BRANCHES))], axis=3)
        for x, more in both
    ]
    return wide[0], wide[1]


def _on_mesh(q: Array, k: Array, v: Array, segments: Array, interpret: bool) -> Array:
    """Runs the kernel on each device's rows and heads, since the partitioner cannot divide it."""
    mesh = jax.typeof(q).sharding.mesh

    def own(q: Array, k: Array, v: Array, segments: Array) -> Array:
        return _by_rows(q, k, v, segments, interpret)

    if mesh.empty or mesh.size == 1:
        return own(q, k, v, segments)
    rows = row_axes(q)
    heads = PartitionSpec(rows, None, LOGICAL_RULES["heads"], None)
    specs = (heads, heads, heads, PartitionSpec(rows, None))
    return jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, segments)


def _by_rows(q: Array, k: Array, v: Array, segments: Array, interpret: bool) -> Array:
    """Calls the kernel for each row and key/value head, with the G query heads that share it."""
    batch, length, heads, _ = q.shape
    keys = k.shape[2]
    q = q.reshape(batch, length, keys, heads // keys, -1).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    block = next(size for size in (_LARGEST_BLOCK, 256, _LANES) if length % size == 0)
    causal = kernels.CausalMask((length, length))
    kernel = kernels.make_splash_mqa(
        kernels.MultiHeadMask([causal] * (heads // keys)),
        block_sizes=_blocks(block),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    one_row = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    # The kernel's type includes residuals; without them it returns one array.
    out = cast("Array", jax.vmap(one_row)(q, k, v, kernels.SegmentIds(segments, segments)))
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, -1)


def _blocks(size: int) -> kernels.BlockSizes:
    """Blocks of one size for queries and keys, forward and backward."""
    return kernels.BlockSizes(
        block_q=size,
        block_kv=size,
        block_kv_compute=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_kv_dkv_compute=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
