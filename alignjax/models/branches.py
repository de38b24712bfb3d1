"""Attention in rows whose prompt and responses have fixed places, see `data.shared_rows`.

The masked square of such a row has T^2 scores, of which P^2 + M r (P + r) are visible: the prompt's own, and
those of each response to the prompt and to itself. Only these are computed here.

Letters: B rows, P places of the prompt, M responses of r places, T = P + M r, H head width, KV key/value
heads, G query heads per key/value head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Finite, so that a row without visible keys (padding) gives a mean and not nan, and so far below any score
# that its exponential is exactly 0 in every other row.
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


class BranchMasks(NamedTuple):
    """Which keys the queries of each part see.

    Attributes:
      prompt: [B, P, P] bool, of the prompt to itself.
      to_prompt: [B, M, r, P] bool, of responses to the prompt; without a window [B, 1, 1, P].
      own: [B, M, r, r] bool, of each response to itself.
    """

    prompt: Array
    to_prompt: Array
    own: Array


def attend_responses(
    q: Array, k: Array, v: Array, masks: BranchMasks, *, soft_cap: float | None = None
) -> Array:
    """Attention of all responses to their prompt and to themselves.

    The prompt's keys are those of all M responses of a row: one product. The softmax over both parts is
    computed relative to the largest score of both, so that the parts are never joined in memory.

    Args:
      q: [B, M r, KV * G, H].
      k: [B, T, KV, H], of the whole row.
      v: [B, T, KV, H].
      masks: of `attention.branch_masks`.
      soft_cap: as in `attention.attend`.

    Returns:
      [B, M r, KV * G, H] in the dtype of q.
    """
    size, count, response = masks.own.shape[:3]
    prompt, (heads, width) = masks.prompt.shape[1], q.shape[2:]
    keys = k.shape[2]
    groups = heads // keys
    q = q.reshape(size, count, response, keys, groups, width).transpose(0, 3, 1, 4, 2, 5)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))  # [B, KV, T, H]
    own_k, own_v = (x[:, :, prompt:].reshape(size, keys, count, response, width) for x in (k, v))
    whole = size, keys, count * groups * response, -1  # rows of all responses
    each = size, keys, count, groups * response, -1
    parts = size, keys, count, groups, response, -1

    def scores(equation: str, q: Array, k: Array, seen: Array) -> Array:
        found = jnp.einsum(equation, q, k, preferred_element_type=jnp.float32) * width**-0.5
        found = capped(found, soft_cap).reshape(parts)
        seen = jnp.broadcast_to(seen[:, None, :, None], found.shape)
        return jnp.where(seen, found, MASKED)

    to_prompt = scores("bkqh,bksh->bkqs", q.reshape(whole), k[:, :, :prompt], masks.to_prompt)
    to_own = scores("bkmqh,bkmsh->bkmqs", q.reshape(each), own_k, masks.own)
    largest = jnp.maximum(*(jnp.max(x, axis=-1, keepdims=True) for x in (to_prompt, to_own)))
    to_prompt, to_own = (jnp.exp(x - jax.lax.stop_gradient(largest)) for x in (to_prompt, to_own))
    total = jnp.sum(to_prompt, axis=-1, keepdims=True) + jnp.sum(to_own, axis=-1, keepdims=True)

    def mean(equation: str, weights: Array, v: Array) -> Array:
        return jnp.einsum(equation, weights.astype(v.dtype), v, preferred_element_type=jnp.float32)

    out = mean("bkqs,bksh->bkqh", to_prompt.reshape(whole), v[:, :, :prompt]).reshape(parts)
    out += mean("bkmqs,bkmsh->bkmqh", to_own.reshape(each), own_v).reshape(parts)
    out = (out / total).astype(q.dtype)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(size, count * response, heads, width)


def capped(scores: Array, soft_cap: float | None) -> Array:
    """Scores s, capped softly: c tanh(s / c); None: unchanged."""
    return scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)
