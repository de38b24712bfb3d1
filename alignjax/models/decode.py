"""Decoding with caches: prompts are read once, then each step adds one token to many continuations.

Letters as in `decoder`: N prompts, P prompt tokens, K continuations of one prompt, S slots for their tokens,
L layers, KV key/value heads, H head width, D hidden, G adapters of a mixture. The caches of a mixture have a
first axis of 1 + G bodies, the reference and then each adapter, in front of the axes that `caches` names.

The slots are a ring. All continuations write their token of one step into the same slot, so that this is one
update in place, and the next step writes the next slot. A continuation that began later has fewer tokens in
the ring: it sees the slots of the last steps, as many as it has tokens, and what others left there before is
hidden from it by the mask.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alignjax.models.block import Block
from alignjax.models.caches import (
    KVCache,
    PromptCache,
    Stored,
    is_scanned,
    prompt_cache_of,
    with_slot,
)
from alignjax.models.config import DecoderConfig
from alignjax.models.decoder import Params, bind
from alignjax.models.layers import (
    check_positions,
    layer_kinds,
    layer_ropes,
    layer_windows,
    of_layer,
)
from alignjax.models.lora import Lora
from alignjax.models.mixture import Adapters, Mixture, bodies, check_linear, combined


def prefill(
    config: DecoderConfig,
    params: Params,
    tokens: Array,
    positions: Array,
    segment_ids: Array,
    *,
    lora: Adapters | None = None,
    int8: bool = False,
) -> tuple[Array, PromptCache]:
    """Runs the prompts once and returns their keys and values.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.
      tokens: [N, P] int32, padded on either side.
      positions: [N, P] int32.
      segment_ids: [N, P] int32, 0 padding, 1 the prompt.
      lora: adapters; None: the base model.
      int8: whether the cache is rounded to int8.

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
    return hidden, prompt_cache_of(config, k, v, segment_ids > 0, positions, int8=int8)


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
    step_once = step_function(config, params, prompt_cache, lora=lora)
    return step_once(tokens, positions, jnp.broadcast_to(step, tokens.shape), cache, step)


def step_function(
    config: DecoderConfig,
    params: Params,
    prompt_cache: PromptCache,
    *,
    lora: Adapters | None = None,
) -> Callable[[Array, Array, Array, KVCache, Array], tuple[Array, KVCache]]:
    """One step of continuations that each have as many tokens as they have, for a loop over steps.

    Arrays that all steps share are arranged once, outside the loop.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.
      prompt_cache: from `prefill`.
      lora: adapters; None: the base model.

    Returns:
      (tokens [N, K], positions [N, K], earlier [N, K], cache, slot []) -> hidden states [N, K, D], and the
      cache with slot number `slot` filled. `earlier` is the number of a continuation's tokens before this
      one, < S, which the steps before wrote into the preceding slots; slot -1 is slot S - 1.
    """
    mixed, scanned = isinstance(lora, Mixture), is_scanned(config)
    block = Block(config, lora.scale, lora.dropout) if isinstance(lora, Lora) else Block(config, float(mixed))
    # What bodies share, and what each has of its own: adapters, and keys and values of the prompts.
    shared, adapters = (params["layers"], layer_kinds(config)), _adapters(config, lora)
    if scanned:
        own = (adapters, prompt_cache.k, prompt_cache.v)
    else:
        shared, adapters = _each_layer(config, shared), _each_layer(config, adapters, axis=int(mixed))
        own = list(zip(adapters, prompt_cache.k, prompt_cache.v, strict=True))
    through = functools.partial(_through_scan if scanned else _through_each, block, shared)
    if mixed:
        through = jax.vmap(through, in_axes=(0, None, 0, None, None, None))
    module, ends = bind(config, {k: v for k, v in params.items() if k != "layers"}, None)

    def step_once(
        tokens: Array, positions: Array, earlier: Array, cache: KVCache, slot: Array
    ) -> tuple[Array, KVCache]:
        slots = (cache.k if isinstance(cache.k, Stored) else cache.k[0]).values.shape[-2]
        check_positions(config, prompt_cache.positions.shape[1] + slots)
        ages = (slot - jnp.arange(slots, dtype=jnp.int32)) % slots  # steps since a slot was written
        masks = [_masks(w, positions, earlier, prompt_cache, ages) for w in layer_windows(config)]
        h = module.apply(ends, tokens, positions, method="embed")
        h, cache = through(own, h, cache, slot, layer_ropes(config, positions), masks)
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


def _layer(shared: Any, own: Any) -> tuple[Any, Any, Stored, Stored]:
    """Variables, kind, and keys and values of prompts of one layer, or of all of them stacked."""
    return {"params": shared[0], "lora": own[0]}, shared[1], *own[1:]


def _through_scan(
    block: Block, shared: Any, own: Any, h: Array, cache: KVCache, slot: Array, *seen: Any
) -> tuple[Array, KVCache]:
    """Runs all layers in a scan; afterwards the new keys and values are written into the caches in place."""

    def body(h: Array, layer: Any) -> tuple[Array, Any]:
        variables, kind, *caches = layer
        return block.apply(variables, h, tuple(caches), *of_layer(kind, *seen), method="decode")  # pyright: ignore[reportReturnType]  # nothing is mutated

    h, (k, v) = jax.lax.scan(body, h, (*_layer(shared, own), *cache))
    assert isinstance(cache.k, Stored) and isinstance(cache.v, Stored), "layers are scanned"
    return h, KVCache(with_slot(cache.k, k, slot), with_slot(cache.v, v, slot))


def _through_each(
    block: Block, shared: Any, own: Any, h: Array, cache: KVCache, slot: Array, *seen: Any
) -> tuple[Array, KVCache]:
    """Runs the layers one after the other, each with its own cache."""
    caches = []
    for (variables, kind, *prompt), *slots in zip(map(_layer, shared, own), *cache, strict=True):
        h, filled = block.apply(
            variables, h, (*prompt, *slots), *of_layer(kind, *seen), slot, method="decode_into"
        )
        caches.append(filled)
    k, v = zip(*caches, strict=True)
    return h, KVCache(k, v)


def _masks(
    window: int | None, positions: Array, earlier: Array, prompt: PromptCache, ages: Array
) -> tuple[Array, Array]:
    """What tokens at positions [N, K] see besides themselves: prompt tokens [N, K, P] and slots [N, K, S].

    A continuation's tokens are at consecutive positions, so that their distance is the age of the slot, [S].
    """
    prompt_mask = jnp.broadcast_to(prompt.mask[:, None, :], (*positions.shape, prompt.mask.shape[1]))
    own = (ages[None, None, :] > 0) & (ages[None, None, :] <= earlier[:, :, None])
    if window is not None:
        prompt_mask &= positions[:, :, None] - prompt.positions[:, None, :] < window
        own &= ages[None, None, :] < window
    return prompt_mask, own
