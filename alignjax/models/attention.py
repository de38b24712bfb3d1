"""The attention mask, and attention over rows and over caches."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from alignjax.models.config import DecoderConfig
from alignjax.models.layers import layer_windows

# Finite, so that a row without visible keys (padding) gives a mean and not nan, and so far below any score
# that its exponential is exactly 0 in every other row.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


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


class RowIds(NamedTuple):
    """The ids from which a kernel makes its own mask, instead of `attention_mask`.

    Attributes:
      segments: [B, T] int32, 0 padding.
      branches: [B, T] int32, 0 for the shared prompt, 1 and 2 for the responses of a pair; None: one response
        per row.
    """

    segments: Array
    branches: Array | None


def visible_keys(
    config: DecoderConfig, positions: Array, segment_ids: Array, branch_ids: Array | None
) -> tuple[Array, ...] | tuple[RowIds, ...]:
    """Which keys a query sees, as `attend` needs it: masks, or ids from which the kernel makes its own.

    Args:
      config: the decoder's shape and kernel.
      positions: [B, T] int32.
      segment_ids: [B, T] int32, 0 for padding.
      branch_ids: [B, T] int32, 0 for the shared prompt; None: all 0.

    Returns:
      [B, T, T] bool, for each of `layer_windows`; ids for "splash".

    Raises:
      ValueError: a window shorter than the rows together with "splash", which would count it in tokens of the
        row instead of positions.
    """
    if config.attention != "splash":
        branches = jnp.zeros_like(segment_ids) if branch_ids is None else branch_ids
        windows = layer_windows(config)
        return tuple(attention_mask(positions, segment_ids, branches, window) for window in windows)
    window, length = config.sliding_window, segment_ids.shape[1]
    if window is not None and window < length:
        raise ValueError(f"attention: splash has no window, but rows of {length} have one of {window}.")
    return tuple(RowIds(segment_ids, branch_ids) for _ in layer_windows(config))


def attend(
    q: Array,
    k: Array,
    v: Array,
    visible: Array | RowIds,
    *,
    kernel: str = "xla",
    soft_cap: float | None = None,
) -> Array:
    """Attention over rows, softmax(cap(q k^T / sqrt(H))) v with cap(s) = c tanh(s / c).

    Args:
      q: [B, T, KV * G, H].
      k: [B, S, KV, H].
      v: [B, S, KV, H].
      visible: mask [B, T, S] bool; the ids of the rows for "splash".
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
    if kernel == "xla":
        return _attend_folded(q, k, v, visible, soft_cap)
    return attend_fused(q, k, v, visible, "cudnn")


def attend_fused(q: Array, k: Array, v: Array, mask: Array, implementation: Literal["xla", "cudnn"]) -> Array:
    """`attend` by an implementation of `jax.nn.dot_product_attention`, with the same arguments and result."""
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], implementation=implementation, return_residual=False
    )


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
    scores = _capped(scores, soft_cap).reshape(batch, keys, groups, length, -1)
    scores = jnp.where(jnp.broadcast_to(mask[:, None, None], scores.shape), scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype).reshape(batch, keys, groups * length, -1)
    out = jnp.einsum("bkqs,bksh->bkqh", weights, v).reshape(batch, keys, groups, length, width)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def attend_cached(
    q: Array,
    k: Array,
    v: Array,
    prompt_k: Array,
    prompt_v: Array,
    cache_k: Array,
    cache_v: Array,
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
    own = _capped(own, soft_cap)
    to_self = _Part(own, jnp.ones_like(own), v[:, :, :, None].astype(jnp.float32))
    whole = _join(_join(to_prompt, to_cache), to_self)
    return (whole.out / whole.total).astype(q.dtype).reshape(num, samples, heads, width)


class _Part(NamedTuple):
    """Attention of rows to some of their keys, float32; without visible keys it gets weight 0 in `_join`."""

    largest: Array  # [..., R, 1], the largest score
    total: Array  # [..., R, 1], sum of exp(score - largest)
    out: Array  # [..., R, H], the sum of the values with these weights


def _attend_part(q: Array, k: Array, v: Array, mask: Array, soft_cap: float | None) -> _Part:
    """Attention to one part: q [..., R, H], already scaled, k and v [..., S, H], mask [..., R, S]."""
    # Keys are on the left: in the other order XLA's CPU backend transposes all of them first.
    scores = jnp.einsum("...sh,...rh->...sr", k, q, preferred_element_type=jnp.float32)
    seen = jnp.broadcast_to(mask.swapaxes(-1, -2), scores.shape)
    scores = jnp.where(seen, _capped(scores, soft_cap), _MASKED).swapaxes(-1, -2)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    out = jnp.einsum("...rs,...sh->...rh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return _Part(largest, jnp.sum(weights, axis=-1, keepdims=True), out)


def _join(a: _Part, b: _Part) -> _Part:
    """Combines attention to two parts of the keys."""
    largest = jnp.maximum(a.largest, b.largest)
    of_a, of_b = jnp.exp(a.largest - largest), jnp.exp(b.largest - largest)
    return _Part(largest, of_a * a.total + of_b * b.total, of_a * a.out + of_b * b.out)


def _capped(scores: Array, soft_cap: float | None) -> Array:
    return scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)
