"""The attention mask, and attention over rows and over caches."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from alignjax.data.shared_rows import Branches
from alignjax.models.branches import MASKED, BranchMasks, attend_responses, capped
from alignjax.models.caches import Stored
from alignjax.models.config import DecoderConfig
from alignjax.models.layers import layer_windows

# Queries of a block, and blocks of a row at most: more of them take longer to compile.
_BLOCK, _MOST_BLOCKS = 128, 4


def attention_mask(positions: Array, segment_ids: Array, branch_ids: Array, window: int | None) -> Array:
    """The attention mask: True where query i (first T) sees key j.

        j <= i, segment_i = segment_j > 0, branch_j in {0, branch_i}, position_i - position_j < window

    Args:
      positions: [B, T] int32.
      segment_ids: [B, T] int32, 0 padding.
      branch_ids: [B, T] int32, 0 the shared prompt.
      window: in positions; None: no limit.

    Returns:
      [B, T, T] bool.
    """
    length = segment_ids.shape[1]
    causal = jnp.tril(jnp.ones((1, length, length), dtype=bool))
    segments = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, None, :]
    branches = (branch_ids == 0)[:, None, :] | (branch_ids[:, :, None] == branch_ids[:, None, :])
    mask = causal & segments & branches
    if window is not None:
        mask &= positions[:, :, None] - positions[:, None, :] < window
    return mask


def branch_masks(positions: Array, segment_ids: Array, branches: Branches, window: int | None) -> BranchMasks:
    """`attention_mask` for rows whose parts have fixed places, without the parts that are never visible.

    Args:
      positions: [B, T] int32.
      segment_ids: [B, T] int32, 0 padding.
      branches: places in the row.
      window: in positions; None: no limit.

    Returns:
      The masks of the prompt and of the responses.
    """
    size, (prompt, number, length) = len(positions), branches
    of_prompt, queries = positions[:, :prompt], positions[:, prompt:].reshape(size * number, length)
    segments, own = segment_ids[:, :prompt], segment_ids[:, prompt:].reshape(size * number, length)
    to_prompt = (segments > 0)[:, None, None, :]
    if window is not None:
        distances = queries.reshape(size, number, length, 1) - of_prompt[:, None, None, :]
        to_prompt = to_prompt & (distances < window)
    return BranchMasks(
        attention_mask(of_prompt, segments, jnp.zeros_like(segments), window),
        to_prompt,
        attention_mask(queries, own, jnp.zeros_like(own), window).reshape(size, number, length, length),
    )


class RowIds(NamedTuple):
    """The ids from which a kernel makes its own mask, instead of `attention_mask`.

    Attributes:
      segments: [B, T] int32, 0 padding.
      branches: [B, T] int32, 0 for the shared prompt, 1, 2, ... for responses to it; None: one response per
        row.
    """

    segments: Array
    branches: Array | None


def visible_keys(
    config: DecoderConfig, positions: Array, segment_ids: Array, branches: Array | Branches | None
) -> tuple[Array, ...] | tuple[BranchMasks, ...] | tuple[RowIds, ...]:
    """Which keys a query sees, as `attend` needs it: masks, or ids from which the kernel makes its own.

    Args:
      config: the decoder's shape and kernel.
      positions: [B, T] int32.
      segment_ids: [B, T] int32, 0 for padding.
      branches: [B, T] int32, 0 for the shared prompt; places in the row where they are the same in all rows;
        None: one response per row.

    Returns:
      [B, T, T] bool, or its parts, for each of `layer_windows`; ids for "splash".

    Raises:
      ValueError: a window shorter than the rows together with "splash", which would count it in tokens of the
        row instead of positions.
    """
    windows = layer_windows(config)
    if config.attention != "splash":
        if isinstance(branches, Branches):
            return tuple(branch_masks(positions, segment_ids, branches, window) for window in windows)
        ids = jnp.zeros_like(segment_ids) if branches is None else branches
        return tuple(attention_mask(positions, segment_ids, ids, window) for window in windows)
    window, length = config.sliding_window, longest_text(segment_ids.shape[1], branches)
    if window is not None and window < length:
        raise ValueError(f"attention: splash has no window, but rows of {length} have one of {window}.")
    if isinstance(branches, Branches):
        branches = jnp.broadcast_to(jnp.asarray(branches.ids())[None], segment_ids.shape)
    return tuple(RowIds(segment_ids, branches) for _ in windows)


def longest_text(length: int, branches: Array | Branches | None) -> int:
    """Tokens of the longest text in a row of T tokens, where a text is a prompt and a response."""
    return branches.prompt + branches.length if isinstance(branches, Branches) else length


def attend(
    q: Array,
    k: Array,
    v: Array,
    visible: Array | BranchMasks | RowIds,
    *,
    kernel: str = "xla",
    soft_cap: float | None = None,
) -> Array:
    """Attention over rows, softmax(cap(q k^T / sqrt(H))) v with cap(s) = c tanh(s / c).

    Args:
      q: [B, T, KV * G, H].
      k: [B, S, KV, H].
      v: [B, S, KV, H].
      visible: one of `visible_keys`, of which no query sees a later key: mask [B, T, S] bool, its parts, or
        the ids of the rows for "splash".
      kernel: "xla", or "cudnn" (NVIDIA GPUs, bfloat16) or "splash" (TPUs), which never hold the scores of all
        keys at once.
      soft_cap: c, for "xla" only; None: scores stay.

    Returns:
      [B, T, KV * G, H] in the dtype of q.
    """
    if isinstance(visible, RowIds):
        # Imported here, because it takes 0.2 s and only TPUs need it.
        from alignjax.models.splash import attend_splash

        return attend_splash(q, k, v, visible)
    if isinstance(visible, BranchMasks):
        size = visible.prompt.shape[1]
        of_prompt = attend(
            q[:, :size], k[:, :size], v[:, :size], visible.prompt, kernel=kernel, soft_cap=soft_cap
        )
        of_responses = attend_responses(q[:, size:], k, v, visible, soft_cap=soft_cap)
        return jnp.concatenate([of_prompt, of_responses], axis=1)
    if kernel == "xla":
        return _attend_in_blocks(q, k, v, visible, soft_cap)
    return attend_fused(q, k, v, visible, "cudnn")


def attend_fused(q: Array, k: Array, v: Array, mask: Array, implementation: Literal["xla", "cudnn"]) -> Array:
    """`attend` by an implementation of `jax.nn.dot_product_attention`, with the same arguments and result."""
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], implementation=implementation, return_residual=False
    )


def _attend_in_blocks(q: Array, k: Array, v: Array, mask: Array, soft_cap: float | None) -> Array:
    """`attend` by blocks of queries, which see no key behind their last one: 5/8 of the scores with four."""
    length = q.shape[1]
    block = max(_BLOCK, -(-length // (_MOST_BLOCKS * _BLOCK)) * _BLOCK)
    parts = [
        _attend_folded(
            q[:, end - block : end], k[:, :end], v[:, :end], mask[:, end - block : end, :end], soft_cap
        )
        for end in range(block, length + block, block)  # the last block may be shorter
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _attend_folded(q: Array, k: Array, v: Array, mask: Array, soft_cap: float | None) -> Array:
    """`attend` with the query heads of a key/value head folded into the rows of one product.

    There is one large product per key/value head instead of G small ones; keys and values are not repeated.
    """
    batch, length, heads, width = q.shape
    keys, groups = k.shape[2], heads // k.shape[2]
    q = q.reshape(batch, length, keys, groups, width).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, keys, groups * length, width)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bkqh,bksh->bkqs", q, k, preferred_element_type=jnp.float32) * width**-0.5
    scores = capped(scores, soft_cap).reshape(batch, keys, groups, length, -1)
    scores = jnp.where(jnp.broadcast_to(mask[:, None, None], scores.shape), scores, MASKED)
    # Softmax whose sum divides the result instead of the weights: less to compute and to store for gradients.
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights.astype(v.dtype).reshape(batch, keys, groups * length, -1)
    out = jnp.einsum("bkqs,bksh->bkqh", weights, v, preferred_element_type=jnp.float32)
    out = (out.reshape(batch, keys, groups, length, width) / total).astype(q.dtype)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def attend_cached(
    q: Array,
    k: Array,
    v: Array,
    prompt_k: Stored,
    prompt_v: Stored,
    cache_k: Stored,
    cache_v: Stored,
    prompt_mask: Array,
    slot_mask: Array,
    *,
    soft_cap: float | None = None,
) -> Array:
    """Attention of one new token per continuation to its prompt, its earlier tokens and itself.

    The softmax is computed for each of the three parts relative to its own largest score, and the parts are
    then combined. So the keys are not concatenated, and attention to the shared prompt is one product per
    head for all K continuations.

    Args:
      q: [N, K, KV * G, H].
      k: [N, K, KV, H], of the new token.
      v: [N, K, KV, H], of the new token.
      prompt_k: [N, KV, P, H], shared by the K continuations.
      prompt_v: [N, KV, P, H].
      cache_k: [N, K, KV, S, H].
      cache_v: [N, K, KV, S, H].
      prompt_mask: [N, K, P] bool.
      slot_mask: [N, K, S] bool.
      soft_cap: as in `attend`.

    Returns:
      [N, K, KV * G, H] in the dtype of q.
    """
    num, samples, heads, width = q.shape
    keys, groups = k.shape[2], heads // k.shape[2]
    q = q.reshape(num, samples, keys, groups, width) * jnp.asarray(width**-0.5, q.dtype)
    rows = q.swapaxes(1, 2).reshape(num, keys, samples * groups, width)
    mask = jnp.repeat(prompt_mask, groups, axis=1)[:, None]
    to_prompt = _Part(
        *(
            x.reshape(num, keys, samples, groups, -1).swapaxes(1, 2)
            for x in _attend_part(rows, prompt_k, prompt_v, mask, soft_cap)
        )
    )
    to_cache = _attend_part(q, cache_k, cache_v, slot_mask[:, :, None, None], soft_cap)
    own = jnp.sum(q.astype(jnp.float32) * k[:, :, :, None].astype(jnp.float32), axis=-1, keepdims=True)
    own = capped(own, soft_cap)
    to_self = _Part(own, jnp.ones_like(own), v[:, :, :, None].astype(jnp.float32))
    whole = _join(_join(to_prompt, to_cache), to_self)
    return (whole.out / whole.total).astype(q.dtype).reshape(num, samples, heads, width)


class _Part(NamedTuple):
    """Attention of rows to some of their keys, float32; without visible keys it gets weight 0 in `_join`."""

    largest: Array  # [..., R, 1], the largest score
    total: Array  # [..., R, 1], sum of exp(score - largest)
    out: Array  # [..., R, H], the sum of the values with these weights


def _attend_part(q: Array, k: Stored, v: Stored, mask: Array, soft_cap: float | None) -> _Part:
    """Attention to one part: q [..., R, H], already scaled, k and v [..., S, H], mask [..., R, S]."""
    # Keys are on the left: in the other order XLA's CPU backend transposes all of them first.
    keys = k.values.astype(q.dtype)
    scores = jnp.einsum("...sh,...rh->...sr", keys, q, preferred_element_type=jnp.float32)
    if k.scale is not None:
        # Scales are applied to scores and weights, so that no converted copy of the cache is made.
        scores *= jnp.broadcast_to(k.scale[..., None], scores.shape)
    seen = jnp.broadcast_to(mask.swapaxes(-1, -2), scores.shape)
    scores = jnp.where(seen, capped(scores, soft_cap), MASKED).swapaxes(-1, -2)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if v.scale is not None:
        weights *= jnp.broadcast_to(v.scale[..., None, :], weights.shape)
    weights, values = weights.astype(q.dtype), v.values.astype(q.dtype)
    out = jnp.einsum("...rs,...sh->...rh", weights, values, preferred_element_type=jnp.float32)
    return _Part(largest, total, out)


def _join(a: _Part, b: _Part) -> _Part:
    """Combines attention to two parts of the keys."""
    largest = jnp.maximum(a.largest, b.largest)
    of_a, of_b = jnp.exp(a.largest - largest), jnp.exp(b.largest - largest)
    return _Part(largest, of_a * a.total + of_b * b.total, of_a * a.out + of_b * b.out)
