"""Draws responses from a policy. Each prompt is read once; its K continuations share its keys and values.

Letters: N prompts, P prompt tokens, K continuations of each, T new tokens, D hidden, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    KVCache,
    Lora,
    Model,
    empty_cache,
    prefill,
    shard_caches,
    step_function,
    unembed,
)
from alignjax.policy import batch_sizing, nucleus
from alignjax.runtime import preemption, processes
from alignjax.runtime.mesh import placer, row_parts

# Lengths that prompts are padded to; longer prompts are padded to a multiple of the last.
_PROMPT_LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Samples(NamedTuple):
    """K responses to each of N prompts.

    Attributes:
      tokens: [N, K, T] int32, EOS included, 0 after it.
      lengths: [N, K] int32, tokens of each response, EOS included.
      logps: [N, K] float32, nats, log-probability of the response under the full policy at temperature 1, EOS
        included, regardless of the temperature and top_p it was drawn with.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    logps: np.ndarray


def sample(
    key: Array | int,
    model: Model,
    prompts: Sequence[np.ndarray],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    lora: Lora | None = None,
    prompt_batch_size: int | None = None,
    progress: Callable[[int], Any] | None = None,
    places: Sequence[int] | None = None,
    keep: Callable[[list[int], Samples], Any] | None = None,
    mesh: Mesh | None = None,
) -> Samples:
    """Draws K responses to every prompt, token by token, until EOS or `max_new_tokens`.

        y_t ~ softmax(logits(x, y_<t) / temperature), restricted to the nucleus of mass `top_p`

    The random numbers of a token depend on the key, the prompt's number, the sample's number and the step
    alone, not on the other prompts in the batch.

    Args:
      key: PRNG key, or the seed of one.
      model: weights, shape and tokenizer; a response ends at any of `end_ids(model)`.
      prompts: N arrays of token ids, int32, not empty.
      num_samples: K >= 1.
      max_new_tokens: T >= 1.
      temperature: > 0.
      top_p: in (0, 1]; 1 is the full distribution.
      lora: adapters; None: the base model.
      prompt_batch_size: prompts computed together with all their continuations, rounded up to a multiple of
        the mesh; None: enough for 128 continuations on each part of the mesh, or fewer if the device's memory
        requires it (see `policy.batch_sizing`).
      progress: called with the number of prompts done since the last call.
      places: number of each prompt, N ints; None: 0 to N - 1. If `prompts` are a part of a longer list, give
        their indices in it: they then get the same samples as in the whole list.
      keep: called after every batch with the indices of its prompts and their samples, to save them.
      mesh: the devices that prompts are divided over, where the weights lie; None: the default device.

    Returns:
      The samples, in the order of the prompts.

    Raises:
      InputError: an option out of range, a wrong number of places, an empty prompt, or an id outside the
        vocabulary.
      Stopped: the run was asked to stop; raised between batches.

    Reference: top_p: Holtzman et al. 2019, arXiv 1904.09751, section 3.1.
    """
    if num_samples < 1:
        raise InputError(f"sample: num_samples is {num_samples}; it must be at least 1.")
    if not 0.0 < temperature < float("inf"):
        raise InputError(
            f"sample: temperature is {temperature}; it must be above 0. For the mode use greedy."
        )
    if not 0.0 < top_p <= 1.0:
        raise InputError(f"sample: top_p is {top_p}; it must be above 0 and at most 1.")
    ends = end_ids(model)
    draw = Draw(num_samples, max_new_tokens, ends, False, tempered=temperature != 1.0, nucleus=top_p < 1.0)
    if places is not None and len(places) != len(prompts):
        raise InputError(f"sample: {len(places)} places for {len(prompts)} prompts; give one each.")
    key, warp = jax.random.key(key) if isinstance(key, int) else key, (temperature, top_p)
    return _run(key, model, prompts, draw, warp, lora, prompt_batch_size, progress, places, keep, mesh)


def greedy(
    model: Model,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    lora: Lora | None = None,
    prompt_batch_size: int | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> Samples:
    """Takes the most probable token at every step, until EOS or `max_new_tokens`.

    Args:
      model: weights, shape and tokenizer; a response ends at any of `end_ids(model)`.
      prompts: N arrays of token ids, int32, not empty.
      max_new_tokens: T >= 1.
      lora: adapters; None: the base model.
      prompt_batch_size: as in `sample`.
      progress: called with the number of prompts done since the last call.
      mesh: as in `sample`.

    Returns:
      The responses, with K = 1.

    Raises:
      InputError: as in `sample`.
    """
    draw = Draw(1, max_new_tokens, end_ids(model), greedy=True, tempered=False, nucleus=False)
    key, warp = jax.random.key(0), (1.0, 1.0)
    return _run(key, model, prompts, draw, warp, lora, prompt_batch_size, progress, mesh=mesh)


def sampled_responses(prompts: Sequence[np.ndarray], samples: Samples) -> list[TokenizedResponse]:
    """The samples as a list, to be scored by `response_logps` or `learned_scores`.

    Args:
      prompts: the N prompts that were sampled from.
      samples: K responses to each.

    Returns:
      N * K responses; number i * K + k is response k to prompt i, so that scores reshape to [N, K].
    """
    return [
        TokenizedResponse(prompt, row[:length])
        for prompt, rows, lengths in zip(prompts, samples.tokens, samples.lengths, strict=True)
        for row, length in zip(rows, lengths, strict=True)
    ]


class Draw(NamedTuple):
    """The static arguments of the compiled sampler; hashable."""

    num_samples: int
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    greedy: bool
    tempered: bool  # whether the temperature is not 1
    nucleus: bool  # whether top_p is below 1


def end_ids(model: Model) -> tuple[int, ...]:
    """Ids that end a response: those of the model's config and the tokenizer's EOS, sorted."""
    eos_id = None if model.tokenizer is None else model.tokenizer.eos_token_id
    return tuple(sorted({*model.config.eos_ids, *([eos_id] if isinstance(eos_id, int) else [])}))


def _run(
    key: Array,
    model: Model,
    prompts: Sequence[np.ndarray],
    draw: Draw,
    warp: tuple[float, float],
    lora: Lora | None,
    prompt_batch_size: int | None,
    progress: Callable[[int], Any] | None,
    places: Sequence[int] | None = None,
    keep: Callable[[list[int], Samples], Any] | None = None,
    mesh: Mesh | None = None,
) -> Samples:
    """Runs the prompts in batches of one size, the shortest prompts first, and restores their order."""
    if draw.max_new_tokens < 1:
        raise InputError(f"sample: max_new_tokens is {draw.max_new_tokens}; it must be at least 1.")
    if prompt_batch_size is not None and prompt_batch_size < 1:
        raise InputError(f"sample: prompt_batch_size is {prompt_batch_size}; it must be at least 1.")
    _check_prompts(prompts, model.config.vocab_size)
    place = placer(mesh)
    together = batch_sizing.Together(prompt_batch_size or 0, draw.num_samples)
    if prompt_batch_size is None:
        width = padded_length(max(map(len, prompts), default=1))
        asked = draw.num_samples, draw.max_new_tokens, width
        together = batch_sizing.drawn_together(model.config, *asked, mesh, batch_sizing.memory_of(mesh))
    most, part_of = together.prompts, draw._replace(num_samples=together.samples)
    shape = (len(prompts), draw.num_samples)
    result = Samples(
        np.zeros((*shape, draw.max_new_tokens), np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
    )
    temperature, top_p = (jnp.float32(x) for x in warp)
    size = prompts_together(len(prompts), most, mesh)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # so that batches need little padding
    for start in range(0, len(prompts), size):
        rows = order[start : start + size]
        # The last batch is filled up with copies of its first prompt, so that all batches have one shape.
        filled = rows + rows[:1] * (size - len(rows))
        tokens = np.zeros((size, padded_length(len(prompts[rows[-1]]))), np.int32)
        for row, i in enumerate(filled):
            tokens[row, : len(prompts[i])] = prompts[i]
        lengths = np.array([len(prompts[i]) for i in filled], np.int32)
        index = np.array(filled if places is None else [places[i] for i in filled], np.int32)
        batch = place((tokens, lengths, index))
        weights, found = (model.config, part_of, mesh, model.params, lora, key), []
        for first in range(0, draw.num_samples, together.samples):
            some = generate_jit(*weights, *batch, np.int32(first), temperature, top_p)
            found.append([processes.to_host(x) for x in some])  # waits: the next call needs the memory
        # The last call may have drawn more continuations than were asked for.
        whole = (np.concatenate(x, axis=1) for x in zip(*found, strict=True))
        part = Samples(*(x[: len(rows), : draw.num_samples] for x in whole))
        for field, some in zip(result, part, strict=True):
            field[rows] = some
        if keep is not None:
            keep(rows, part)
        preemption.stop_if_asked()
        if progress is not None:
            progress(len(rows))
    return result


def _check_prompts(prompts: Sequence[np.ndarray], vocab_size: int) -> None:
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(f"sample: prompt {i} has no tokens; give it at least a BOS.")
        wrong = [int(t) for t in prompt if not 0 <= t < vocab_size]
        if wrong:
            raise InputError(f"sample: prompt {i} has id {wrong[0]}; the vocabulary has {vocab_size} ids.")


def prompts_together(count: int, most: int, mesh: Mesh | None) -> int:
    """Prompts per call of the sampler.

    Args:
      count: prompts in all.
      most: the largest number per call.
      mesh: the devices; None: one.

    Returns:
      A power of two or `most`, so that few programs are compiled, rounded up to a multiple of the mesh's
      parts.
    """
    parts = row_parts(mesh)
    size = min(most, 1 << (count - 1).bit_length()) if count else 1
    return -(-size // parts) * parts


def padded_length(length: int) -> int:
    """Tokens that a prompt of this length is padded to; few lengths, so that few programs are compiled."""
    for fixed in _PROMPT_LENGTHS:
        if length <= fixed:
            return fixed
    return -(-length // _PROMPT_LENGTHS[-1]) * _PROMPT_LENGTHS[-1]


class _State(NamedTuple):
    """State of the K continuations of N prompts between two steps."""

    step: Array  # [] int32, tokens drawn so far
    last: Array  # [N, K] int32, the token drawn last
    tokens: Array  # [N, K, T] int32
    lengths: Array  # [N, K] int32
    logps: Array  # [N, K] float32
    done: Array  # [N, K] bool
    cache: KVCache


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def generate_jit(
    config: DecoderConfig,
    draw: Draw,
    mesh: Mesh | None,
    params: Any,
    lora: Lora | None,
    key: Array,
    prompts: Array,
    prompt_lengths: Array,
    index: Array,
    first_sample: Array,
    temperature: Array,
    top_p: Array,
) -> tuple[Array, Array, Array]:
    """Draws the continuations of one batch and returns the fields of `Samples`; internal.

    Prompts are [N, P], padded on the right, their lengths [N]; `index` [N] numbers them for their random
    numbers, and `first_sample` [] is the number of the first continuation.
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
    cache = empty_cache(config, num, samples, max(limit - 1, 1))
    prompt_cache, cache = shard_caches(prompt_cache, cache, mesh)
    state = _State(
        step=jnp.int32(0),
        last=jnp.zeros((num, samples), jnp.int32),
        tokens=jnp.zeros((num, samples, limit), jnp.int32),
        lengths=jnp.zeros((num, samples), jnp.int32),
        logps=jnp.zeros((num, samples), jnp.float32),
        done=jnp.zeros((num, samples), bool),
        cache=cache,
    )
    pick = functools.partial(_pick, draw=draw, temperature=temperature, top_p=top_p)
    first = jnp.broadcast_to(logits[:, None, :], (num, samples, logits.shape[1]))
    state = _append(state, first, keys, draw, pick)
    decode = step_function(config, params, prompt_cache, prompt_lengths, max(limit - 1, 1), lora=lora)

    def body(state: _State) -> _State:
        hidden, cache = decode(state.last, state.cache, state.step - 1)
        return _append(state._replace(cache=cache), unembed(config, params, hidden), keys, draw, pick)

    def unfinished(state: _State) -> Array:
        return (state.step < limit) & ~jnp.all(state.done)

    state = jax.lax.while_loop(unfinished, body, state)
    return state.tokens, state.lengths, state.logps


def _append(
    state: _State,
    logits: Array,
    keys: Array,
    draw: Draw,
    pick: Callable[[Array, Array], tuple[Array, Array]],
) -> _State:
    """Draws one token per continuation from logits [N, K, V]; those that have ended stay as they are."""
    step_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, state.step)))(keys)
    token, logp = pick(step_keys, logits)
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
        done=state.done | (going & ended),
    )


def _pick(keys: Array, logits: Array, *, draw: Draw, temperature: Array, top_p: Array) -> tuple[Array, Array]:
    """Token ids [N, K] int32 drawn from logits [N, K, V] with keys [N, K], and their log-probabilities."""
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
    logp = jnp.take_along_axis(flat, token[:, None], axis=1)[:, 0] - log_total
    return token.astype(jnp.int32).reshape(keys.shape), logp.reshape(keys.shape)
