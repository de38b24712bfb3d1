"""Decoding with caches: prompts are read once, then each step adds one token to many continuations.

Letters as in `decoder`: N prompts, P prompt tokens, K continuations of one prompt, S slots for their tokens,
L layers, KV key/value heads, H head width, D hidden, G adapters of a mixture. The caches of a mixture have a
first axis of 1 + G bodies, the reference and then each adapter, in front of the axes below.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from alignjax.models.block import Block
from alignjax.models.config import DecoderConfig
from alignjax.models.decoder import Params, bind
from alignjax.models.layers import (
    RopeTables,
    check_positions,
    layer_kinds,
    layer_ropes,
    layer_windows,
    of_layer,
)
from alignjax.models.lora import Lora, num_layer_weights
from alignjax.models.mixture import Adapters, Mixture, bodies, check_linear, combined, num_bodies
from alignjax.runtime.mesh import tree_shardings

# Below this many weights in the layers (1 GiB in float32), layers are unrolled instead of scanned. A scan
# copies each layer's weights and caches out of their stacks in every step, which takes a quarter of the time
# on a CPU. Without a scan the loop over steps holds a second copy of the weights, and the program is L times
# as long.
_UNSCANNED_WEIGHTS = 2**28


class PromptCache(NamedTuple):
    """Keys and values of N prompts, shared by the continuations of each prompt."""

    k: Array  # [L, N, P, KV, H], compute dtype, rotated
    v: Array  # [L, N, P, KV, H]
    mask: Array  # [N, P] bool, True for tokens, False for padding
    positions: Array  # [N, P] int32


class KVCache(NamedTuple):
    """Keys and values of the continuations' own tokens; one array per layer if layers are not scanned."""

    k: Array | tuple[Array, ...]  # [L, N, K, KV, S, H] or L times [N, K, KV, S, H], compute dtype, rotated
    v: Array | tuple[Array, ...]


def prefill(
    config: DecoderConfig,
    params: Params,
    tokens: Array,
    positions: Array,
    segment_ids: Array,
    *,
    lora: Adapters | None = None,
) -> tuple[Array, PromptCache]:
    """Runs the prompts once and returns their keys and values.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.
      tokens: [N, P] int32, padded on either side.
      positions: [N, P] int32.
      segment_ids: [N, P] int32, 0 padding, 1 the prompt.
      lora: adapters; None: the base model.

    Returns:
      Hidden states [N, P, D] and the cache for `decode_step`.
    """

    def of_body(lora: Lora | None) -> tuple[Array, Array, Array]:
        module, variables = bind(config, params, lora)
        return module.apply(variables, tokens, positions, segment_ids, method="prefill")

    if isinstance(lora, Mixture):
        check_linear(config)
        hidden, k, v = jax.vmap(lambda adapters: of_body(Lora(adapters)))(bodies(lora))
        hidden = combined(lora, hidden)
    else:
        hidden, k, v = of_body(lora)
    return hidden, PromptCache(k, v, segment_ids > 0, positions)


def empty_cache(
    config: DecoderConfig, num_prompts: int, num_samples: int, num_slots: int, *, lora: Adapters | None = None
) -> KVCache:
    """An empty cache for the first `decode_step`: zeros in the compute dtype.

    Args:
      config: the decoder's shape.
      num_prompts: N.
      num_samples: K.
      num_slots: S.
      lora: adapters that the steps will have.

    Returns:
      The cache.
    """
    shape = (num_prompts, num_samples, config.num_kv_heads, num_slots, config.head_dim)
    leading = (num_bodies(lora),) if isinstance(lora, Mixture) else ()
    if _is_scanned(config):
        stacked = jnp.zeros((*leading, config.num_layers, *shape), config.dtype)
        return KVCache(stacked, stacked)
    layers = (jnp.zeros((*leading, *shape), config.dtype),) * config.num_layers
    return KVCache(layers, layers)


def shard_caches(prompt_cache: PromptCache, cache: KVCache, mesh: Mesh | None) -> tuple[PromptCache, KVCache]:
    """Constrains the caches in a compiled function: prompts over `data` and `fsdp`, heads over `tensor`.

    The caches are the largest arrays of sampling. Without constraints the compiler may copy the empty cache
    to all devices.

    Args:
      prompt_cache: from `prefill`.
      cache: from `empty_cache`.
      mesh: the devices; None: nothing is constrained.

    Returns:
      Both caches.
    """
    if mesh is None:
        return prompt_cache, cache
    layer = ("batch", None, "kv_heads", None, None)

    def keep(x: Array, names: tuple[str | None, ...]) -> Array:
        names = (None,) * (x.ndim - len(names)) + names  # the bodies of a mixture, copied to every device
        return jax.lax.with_sharding_constraint(x, tree_shardings(names, mesh))

    heads = ("layers", "batch", None, "kv_heads", None)
    prompt_cache = prompt_cache._replace(k=keep(prompt_cache.k, heads), v=keep(prompt_cache.v, heads))
    names = ("layers", *layer) if isinstance(cache.k, Array) else layer
    return prompt_cache, jax.tree.map(lambda x: keep(x, names), cache)


def decode_step(
    config: DecoderConfig,
    params: Params,
    tokens: Array,
    positions: Array,
    prompt_cache: PromptCache,
    cache: KVCache,
    step: Array,
    *,
    lora: Adapters | None = None,
) -> tuple[Array, KVCache]:
    """Adds one token to each of K continuations of N prompts, without repeating the prompts' keys K times.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.
      tokens: [N, K] int32, the continuations' token number `step`.
      positions: [N, K] int32, their rotary positions; earlier tokens are at the preceding positions.
      prompt_cache: from `prefill`.
      cache: tokens 0, ..., step - 1 of the continuations; slots from `step` on are not read.
      step: [] int32, < S.
      lora: adapters; None: the base model.

    Returns:
      Hidden states [N, K, D] that predict token `step + 1`, and the cache with slot `step` filled.
    """
    step_once = _stepper(config, params, prompt_cache, lora)
    return step_once(tokens, positions, layer_ropes(config, positions), cache, step)


def step_function(
    config: DecoderConfig,
    params: Params,
    prompt_cache: PromptCache,
    starts: Array,
    num_slots: int,
    *,
    lora: Adapters | None = None,
) -> Callable[[Array, KVCache, Array], tuple[Array, KVCache]]:
    """`decode_step` as a function of tokens, cache and step alone, for a loop over steps.

    Arrays that all steps share are arranged once, outside the loop.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.
      prompt_cache: from `prefill`.
      starts: [N] int32, the rotary position of token 0 of each prompt's continuations.
      num_slots: S of the cache.
      lora: adapters; None: the base model.

    Returns:
      (tokens [N, K], cache, step []) -> hidden states [N, K, D] and the cache.
    """
    step_once = _stepper(config, params, prompt_cache, lora)
    positions = starts[None, :] + jnp.arange(num_slots, dtype=jnp.int32)[:, None]  # [S, N]
    tables = (positions, layer_ropes(config, positions))

    def step_at(tokens: Array, cache: KVCache, step: Array) -> tuple[Array, KVCache]:
        def here(table: Array) -> Array:
            x = jax.lax.dynamic_index_in_dim(table, step, keepdims=False)[:, None]
            return jnp.broadcast_to(x, (*tokens.shape, *x.shape[2:]))

        at, ropes = jax.tree.map(here, tables)
        return step_once(tokens, at, ropes, cache, step)

    return step_at


def _stepper(
    config: DecoderConfig, params: Params, prompt_cache: PromptCache, lora: Adapters | None
) -> Callable[[Array, Array, Any, KVCache, Array], tuple[Array, KVCache]]:
    """One step as a function of tokens and positions [N, K], their rotary tables, the cache and the step."""
    mixed, scanned = isinstance(lora, Mixture), _is_scanned(config)
    block = Block(config, lora.scale, lora.dropout) if isinstance(lora, Lora) else Block(config, float(mixed))
    # What bodies share, and what each has of its own: adapters, and keys and values of the prompts, which are
    # arranged with heads first, the order in which the products read them.
    shared = (params["layers"], layer_kinds(config))
    own = (_adapters(config, lora), prompt_cache.k.swapaxes(-3, -2), prompt_cache.v.swapaxes(-3, -2))
    if not scanned:
        shared, own = _each_layer(config, shared), _each_layer(config, own, axis=int(mixed))
    through = functools.partial(_through_scan if scanned else _through_each, block, shared)
    if mixed:
        through = jax.vmap(through, in_axes=(0, None, 0, None, None, None))
    module, ends = bind(config, {k: v for k, v in params.items() if k != "layers"}, None)

    def step_once(
        tokens: Array, positions: Array, ropes: tuple[RopeTables, ...], cache: KVCache, step: Array
    ) -> tuple[Array, KVCache]:
        slots = cache.k[0].shape[-2]
        check_positions(config, prompt_cache.positions.shape[1] + slots)
        masks = [_masks(w, positions, prompt_cache, slots, step) for w in layer_windows(config)]
        h = module.apply(ends, tokens, positions, method="embed")
        h, cache = through(own, h, cache, step, ropes, masks)
        h = module.apply(ends, h, method="normed")
        return combined(lora, h) if isinstance(lora, Mixture) else h, cache

    return step_once


def _adapters(config: DecoderConfig, lora: Adapters | None) -> Any:
    """The adapters of the layers, [L, ...] in each array or, of a mixture, [1 + G, L, ...]."""
    if isinstance(lora, Mixture):
        check_linear(config)
        return bodies(lora)["layers"]
    return {} if lora is None else lora.params["layers"]


def _each_layer(config: DecoderConfig, stacked: Any, axis: int = 0) -> list[Any]:
    """Takes apart a tree of arrays that are stacked over the layers along an axis."""

    def at(i: int) -> Callable[[Array], Array]:
        return operator.itemgetter(i if axis == 0 else (slice(None), i))

    return [jax.tree.map(at(i), stacked) for i in range(config.num_layers)]


def _layer(shared: Any, own: Any) -> tuple[Any, Any, Array, Array]:
    """Variables, kind, and keys and values of prompts of one layer, or of all of them stacked."""
    return {"params": shared[0], "lora": own[0]}, shared[1], *own[1:]


def _through_scan(
    block: Block, shared: Any, own: Any, h: Array, cache: KVCache, step: Array, *seen: Any
) -> tuple[Array, KVCache]:
    """Runs all layers in a scan; afterwards the new keys and values are written into the caches in place."""

    def body(h: Array, layer: Any) -> tuple[Array, Any]:
        variables, kind, *caches = layer
        return block.apply(variables, h, tuple(caches), *of_layer(kind, *seen), method="decode")  # pyright: ignore[reportReturnType]  # nothing is mutated

    h, new = jax.lax.scan(body, h, (*_layer(shared, own), *cache))
    update = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=4)
    filled = (update(jnp.asarray(c), x[:, :, :, :, None]) for c, x in zip(cache, new, strict=True))
    return h, KVCache(*filled)


def _through_each(
    block: Block, shared: Any, own: Any, h: Array, cache: KVCache, step: Array, *seen: Any
) -> tuple[Array, KVCache]:
    """Runs the layers one after the other, each with its own cache."""
    caches = []
    for (variables, kind, *prompt), *slots in zip(map(_layer, shared, own), *cache, strict=True):
        h, filled = block.apply(
            variables, h, (*prompt, *slots), *of_layer(kind, *seen), step, method="decode_into"
        )
        caches.append(filled)
    k, v = zip(*caches, strict=True)
    return h, KVCache(k, v)


def _masks(
    window: int | None, positions: Array, prompt: PromptCache, num_slots: int, step: Array
) -> tuple[Array, Array]:
    """What tokens at positions [N, K] see besides themselves: prompt tokens [N, K, P] and slots [N, K, S]."""
    slots = jnp.arange(num_slots, dtype=jnp.int32)
    prompt_mask = jnp.broadcast_to(prompt.mask[:, None, :], (*positions.shape, prompt.mask.shape[1]))
    slot_mask = jnp.broadcast_to((slots < step)[None, None, :], (*positions.shape, num_slots))
    if window is not None:
        prompt_mask &= positions[:, :, None] - prompt.positions[:, None, :] < window
        slot_mask &= (step - slots < window)[None, None, :]
    return prompt_mask, slot_mask


def _is_scanned(config: DecoderConfig) -> bool:
    """Whether decoding scans over the layers."""
    return config.num_layers * num_layer_weights(config) > _UNSCANNED_WEIGHTS
