"""Keys and values that decoding keeps, of prompts and of their continuations.

Letters: N prompts, P prompt tokens, K continuations of each, S slots for their tokens, L layers, KV key/value
heads, H head width. The caches of a mixture have a first axis of bodies in front of the axes below.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from alignjax.models.config import DecoderConfig
from alignjax.models.lora import num_layer_weights

# Below this many weights in the layers (1 GiB in float32), layers are unrolled instead of scanned. A scan
# copies each layer's weights and caches out of their stacks in every step, which takes a quarter of the time
# on a CPU. Without a scan the loop over steps holds a second copy of the weights, and the program is L times
# as long.
_UNSCANNED_WEIGHTS = 2**28
_LARGEST = 127  # of int8


class Stored(NamedTuple):
    """Keys or values as a cache holds them: x = values * scale, with one scale for each token and head.

    The rotation of keys is part of them.
    """

    values: Array  # [..., S, H], compute dtype or int8
    scale: Array | None  # [..., S] float32 with int8; None: 1


Layers = Stored | tuple[Stored, ...]
"""Of all layers in one array, [L, ...], or of each layer in its own where layers are not scanned."""


class PromptCache(NamedTuple):
    """Keys and values of N prompts, shared by the continuations of each prompt."""

    k: Layers  # of each layer [N, KV, P, H]
    v: Layers
    mask: Array  # [N, P] bool, True for tokens, False for padding
    positions: Array  # [N, P] int32


class KVCache(NamedTuple):
    """Keys and values of the continuations' own tokens."""

    k: Layers  # of each layer [N, K, KV, S, H]
    v: Layers


def is_scanned(config: DecoderConfig) -> bool:
    """Whether decoding scans over the layers."""
    return config.num_layers * num_layer_weights(config) > _UNSCANNED_WEIGHTS


def stored(x: Array, *, int8: bool) -> Stored:
    """Keys or values [..., H] as a cache holds them.

        x ~ q s,   s = max |x| / 127,   q = round(x / s)    one scale for each token and head

    Args:
      x: [..., H] in the compute dtype.
      int8: whether they are rounded.

    Returns:
      [..., H] and, with int8, the scales [...]; |x - q s| <= s / 2 in every entry.
    """
    if not int8:
        return Stored(x, None)
    wide = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=-1)
    scale = jnp.where(largest > 0, largest / _LARGEST, 1.0)
    steps = jnp.round(wide / jnp.broadcast_to(scale[..., None], wide.shape))
    return Stored(steps.astype(jnp.int8), scale)


def with_slot(cache: Stored, new: Array, slot: Array) -> Stored:
    """A cache [..., S, H] whose slot number `slot` holds the keys or values `new` [..., H]."""
    update = jax.lax.dynamic_update_slice_in_dim
    one = stored(new, int8=cache.scale is not None)
    last = cache.values.ndim - 2
    values = update(cache.values, jnp.expand_dims(one.values, last), slot, axis=last)
    if cache.scale is None or one.scale is None:
        return Stored(values, None)
    return Stored(values, update(cache.scale, jnp.expand_dims(one.scale, last), slot, axis=last))


def prompt_cache_of(
    config: DecoderConfig, k: Array, v: Array, mask: Array, positions: Array, *, int8: bool
) -> PromptCache:
    """The cache of prompts whose keys and values a forward pass gives.

    Args:
      config: the decoder's shape.
      k: [..., L, N, P, KV, H], rotated.
      v: [..., L, N, P, KV, H].
      mask: [N, P] bool.
      positions: [N, P] int32.
      int8: whether keys and values are rounded.

    Returns:
      The cache; heads come first, the order in which the products read it.
    """

    def arranged(x: Array) -> Layers:
        x = x.swapaxes(-3, -2)
        layers = x.ndim - 5
        if is_scanned(config):
            return stored(x, int8=int8)
        each = (jax.lax.index_in_dim(x, i, layers, keepdims=False) for i in range(config.num_layers))
        return tuple(stored(layer, int8=int8) for layer in each)

    return PromptCache(arranged(k), arranged(v), mask, positions)


def empty_cache(
    config: DecoderConfig,
    num_prompts: int,
    num_samples: int,
    num_slots: int,
    *,
    num_bodies: int = 1,
    int8: bool = False,
) -> KVCache:
    """A cache of continuations that have no tokens yet.

    Args:
      config: the decoder's shape.
      num_prompts: N.
      num_samples: K.
      num_slots: S.
      num_bodies: how many are computed for each continuation, see `models.num_bodies`.
      int8: whether keys and values are rounded to int8.

    Returns:
      The cache: zeros.
    """
    shape = (num_prompts, num_samples, config.num_kv_heads, num_slots, config.head_dim)
    zeros = _zeros(config, shape, num_bodies, int8=int8)
    return KVCache(zeros, zeros)


def empty_prompt_cache(
    config: DecoderConfig, num_prompts: int, width: int, *, num_bodies: int = 1, int8: bool = False
) -> PromptCache:
    """A cache of N prompts of P = `width` tokens that are all padding; options as of `empty_cache`."""
    shape = (num_prompts, config.num_kv_heads, width, config.head_dim)
    zeros = _zeros(config, shape, num_bodies, int8=int8)
    flat = jnp.zeros((num_prompts, width), jnp.int32)
    return PromptCache(zeros, zeros, flat > 0, flat)


def _zeros(config: DecoderConfig, shape: tuple[int, ...], num_bodies: int, *, int8: bool) -> Layers:
    leading = () if num_bodies == 1 else (num_bodies,)

    def zeros(*more: int) -> Stored:
        whole = (*leading, *more, *shape)
        if not int8:
            return Stored(jnp.zeros(whole, config.dtype), None)
        return Stored(jnp.zeros(whole, jnp.int8), jnp.ones(whole[:-1], jnp.float32))

    return zeros(config.num_layers) if is_scanned(config) else (zeros(),) * config.num_layers


def with_prompts(
    old: PromptCache, new: PromptCache, write: Callable[[Array, Array, int], Array]
) -> PromptCache:
    """A cache some of whose prompts are replaced.

    Args:
      old: of N prompts.
      new: of some of them.
      write: (old, new, axis of the prompts) -> the array with these prompts replaced.

    Returns:
      The cache.
    """

    def layer(a: Stored, b: Stored) -> Stored:
        values = write(a.values, b.values, a.values.ndim - 4)
        if a.scale is None or b.scale is None:
            return Stored(values, None)
        return Stored(values, write(a.scale, b.scale, a.scale.ndim - 3))

    k, v = (jax.tree.map(layer, a, b, is_leaf=_is_stored) for a, b in ((old.k, new.k), (old.v, new.v)))
    return PromptCache(k, v, write(old.mask, new.mask, 0), write(old.positions, new.positions, 0))


def cache_axes(cache: PromptCache | KVCache) -> Any:
    """The logical axes of a cache: prompts over `data` and `fsdp`, heads over `tensor`.

    The caches are the largest arrays of sampling. Without constraints the compiler may copy the empty cache
    to all devices.

    Args:
      cache: of prompts or of continuations.

    Returns:
      The same tree with a tuple of names in place of each array, as `runtime.mesh.tree_shardings` reads it.
    """
    of_prompts = isinstance(cache, PromptCache)
    names = ("batch", "kv_heads", None, None) if of_prompts else ("batch", None, "kv_heads", None, None)

    def layer(x: Stored) -> Stored:
        leading = (None,) * (x.values.ndim - len(names))  # layers, and the bodies of a mixture
        return Stored((*leading, *names), None if x.scale is None else (*leading, *names[:-1]))  # pyright: ignore[reportArgumentType]  # names of axes

    k, v = (jax.tree.map(layer, x, is_leaf=_is_stored) for x in (cache.k, cache.v))
    rows: Any = ("batch", None)
    return PromptCache(k, v, rows, rows) if of_prompts else KVCache(k, v)


def _is_stored(node: object) -> bool:
    return isinstance(node, Stored)
