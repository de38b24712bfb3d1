"""The compiled sampler: a batch of prompts is read once, then one token is drawn for every continuation.

Letters: N prompts, P prompt tokens, K continuations of each, T new tokens, D hidden, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from alignjax.models import (
    Adapters,
    DecoderConfig,
    KVCache,
    empty_cache,
    prefill,
    shard_caches,
    step_function,
    unembed,
)
from alignjax.policy import nucleus


class Draw(NamedTuple):
    """The static arguments of the compiled sampler; hashable."""

    num_samples: int
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    greedy: bool
    tempered: bool  # whether the temperature is not 1
    nucleus: bool  # whether top_p is below 1
    densities: bool = False  # whether log-probabilities under the distribution drawn from are computed too


class _Picked(NamedTuple):
    """One token per continuation.

    Attributes:
      token: [N, K] int32.
      logp: [N, K] float32, nats, log-probability under the policy at temperature 1.
      drawn_logp: [N, K] float32, nats, under the distribution that the token was drawn from; None: not asked.
    """

    token: Array
    logp: Array
    drawn_logp: Array | None


def _pick(keys: Array, logits: Array, *, draw: Draw, temperature: Array, top_p: Array) -> _Picked:
    """Draws from logits [N, K, V] with keys [N, K]."""
    flat = logits.reshape(-1, logits.shape[2])
    largest = jnp.max(flat, axis=1, keepdims=True)
    weights = nucleus.in_blocks(jnp.exp(flat - largest))
    sums = jnp.sum(weights, axis=2)
    log_total = largest[:, 0] + jnp.log(jnp.sum(sums, axis=1))
    if draw.tempered:
        weights = nucleus.in_blocks(jnp.exp((flat - largest) / temperature))
        sums = jnp.sum(weights, axis=2)
    if draw.greedy:
        token = jnp.argmax(flat, axis=1)
    elif draw.nucleus:
        token = nucleus.from_nucleus(keys.reshape(-1), weights, sums, top_p)
    else:
        token = nucleus.from_all(keys.reshape(-1), weights, sums)
    logit = jnp.take_along_axis(flat, token[:, None], axis=1)[:, 0]
    logp = (logit - log_total).reshape(keys.shape)
    drawn_logp = None
    if draw.densities:
        drawn = (logit - largest[:, 0]) / temperature - jnp.log(jnp.sum(sums, axis=1))
        if draw.nucleus:
            drawn -= jnp.log(nucleus.mass(weights, sums, top_p))
        drawn_logp = drawn.reshape(keys.shape)
    return _Picked(token.astype(jnp.int32).reshape(keys.shape), logp, drawn_logp)


class _State(NamedTuple):
    """State of the K continuations of N prompts between two steps."""

    step: Array  # [] int32, tokens drawn so far
    last: Array  # [N, K] int32, the token drawn last
    tokens: Array  # [N, K, T] int32
    lengths: Array  # [N, K] int32
    logps: Array  # [N, K] float32
    drawn_logps: Array | None  # [N, K] float32; None where they are not computed
    done: Array  # [N, K] bool
    cache: KVCache


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def generate_jit(
    config: DecoderConfig,
    draw: Draw,
    mesh: Mesh | None,
    params: Any,
    lora: Adapters | None,
    key: Array,
    prompts: Array,
    prompt_lengths: Array,
    index: Array,
    first_sample: Array,
    temperature: Array,
    top_p: Array,
) -> tuple[Array, ...]:
    """Draws the continuations of one batch and returns the fields of `Samples`; internal.

    Prompts are [N, P], padded on the right, their lengths [N]; `index` [N] numbers them for their random
    numbers, and `first_sample` [] is the number of the first continuation. With `draw.densities` a fourth
    result follows, as `sample_with_densities` returns it.
    """
    num, width = prompts.shape
    samples, limit = draw.num_samples, draw.max_new_tokens
    positions = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None, :], (num, width))
    segments = (positions < prompt_lengths[:, None]).astype(jnp.int32)
    hidden, prompt_cache = prefill(config, params, prompts, positions, segments, lora=lora)
    last_hidden = jnp.take_along_axis(hidden, (prompt_lengths - 1)[:, None, None], axis=1)[:, 0]
    logits = unembed(config, params, last_hidden)  # once per prompt, not once per continuation
    prompt_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(index)
    fold_samples = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    numbers = first_sample + jnp.arange(samples, dtype=jnp.int32)
    keys = jax.vmap(fold_samples, in_axes=(0, None))(prompt_keys, numbers)  # [N, K]
    # The last token is not read again, so it needs no slot in the cache.
    cache = empty_cache(config, num, samples, max(limit - 1, 1), lora=lora)
    prompt_cache, cache = shard_caches(prompt_cache, cache, mesh)
    state = _State(
        step=jnp.int32(0),
        last=jnp.zeros((num, samples), jnp.int32),
        tokens=jnp.zeros((num, samples, limit), jnp.int32),
        lengths=jnp.zeros((num, samples), jnp.int32),
        logps=jnp.zeros((num, samples), jnp.float32),
        drawn_logps=jnp.zeros((num, samples), jnp.float32) if draw.densities else None,
        done=jnp.zeros((num, samples), bool),
        cache=cache,
    )
    choose = functools.partial(_pick, draw=draw, temperature=temperature, top_p=top_p)
    first = jnp.broadcast_to(logits[:, None, :], (num, samples, logits.shape[1]))
    state = _append(state, first, keys, draw, choose)
    decode = step_function(config, params, prompt_cache, prompt_lengths, max(limit - 1, 1), lora=lora)

    def body(state: _State) -> _State:
        hidden, cache = decode(state.last, state.cache, state.step - 1)
        return _append(state._replace(cache=cache), unembed(config, params, hidden), keys, draw, choose)

    def unfinished(state: _State) -> Array:
        return (state.step < limit) & ~jnp.all(state.done)

    state = jax.lax.while_loop(unfinished, body, state)
    found = (state.tokens, state.lengths, state.logps)
    return found if state.drawn_logps is None else (*found, state.drawn_logps)


def _append(
    state: _State,
    logits: Array,
    keys: Array,
    draw: Draw,
    choose: Callable[[Array, Array], _Picked],
) -> _State:
    """Draws one token per continuation from logits [N, K, V]; those that have ended stay as they are."""
    step_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, state.step)))(keys)
    token, logp, drawn_logp = choose(step_keys, logits)
    going = ~state.done
    token = jnp.where(going, token, 0)
    # Writing the whole column is done in place.
    tokens = jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, :, None], state.step, axis=2)
    ended = jnp.zeros_like(state.done)
    for eos in draw.eos_ids:
        ended |= token == eos
    return state._replace(
        step=state.step + 1,
        last=token,
        tokens=tokens,
        lengths=state.lengths + going.astype(jnp.int32),
        logps=state.logps + jnp.where(going, logp, 0.0),
        drawn_logps=None
        if state.drawn_logps is None or drawn_logp is None
        else state.drawn_logps + jnp.where(going, drawn_logp, 0.0),
        done=state.done | (going & ended),
    )
