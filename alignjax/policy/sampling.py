"""Draws responses from a policy. Each prompt is read once; its K continuations share its keys and values.

Letters: N prompts, P prompt tokens, K continuations of each, T new tokens, D hidden, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.data.tokenize import TokenizedResponse
from alignjax.data.turns import end_id_of_chat
from alignjax.errors import InputError
from alignjax.models import Adapters, Model, num_bodies
from alignjax.policy import batch_sizing, refill
from alignjax.policy.generation import Draw
from alignjax.runtime import preemption
from alignjax.runtime.mesh import row_parts


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
    lora: Adapters | None = None,
    prompt_batch_size: int | None = None,
    progress: Callable[[int], Any] | None = None,
    places: Sequence[int] | None = None,
    keep: Callable[[list[int], Samples], Any] | None = None,
    int8_cache: bool = False,
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
        the mesh; None: fewer continuations of more prompts at once, each of which is followed by the next
        when it has ended (see `policy.batch_sizing`).
      progress: called with the number of prompts done since the last call.
      places: number of each prompt, N ints; None: 0 to N - 1. If `prompts` are a part of a longer list, give
        their indices in it: they then get the same samples as in the whole list.
      keep: called with the indices of prompts that are done and their samples, to save them.
      int8_cache: whether keys and values are held in int8, with a scale for each token and head. More rows
        fit; `logps` are then those of this policy, a little off those that a forward pass gives.
      mesh: the devices that prompts are divided over, where the weights lie; None: the default device.

    Returns:
      The samples, in the order of the prompts.

    Raises:
      InputError: an option out of range, a wrong number of places, an empty prompt, or an id outside the
        vocabulary.
      Stopped: the run was asked to stop; raised when further prompts are done.

    Reference: top_p: Holtzman et al. 2019, arXiv 1904.09751, section 3.1.
    """
    draw = _draw(model, num_samples, max_new_tokens, temperature, top_p)._replace(int8_cache=int8_cache)
    if places is not None and len(places) != len(prompts):
        raise InputError(f"sample: {len(places)} places for {len(prompts)} prompts; give one each.")
    key, warp = jax.random.key(key) if isinstance(key, int) else key, (temperature, top_p)
    return _run(key, model, prompts, draw, warp, lora, prompt_batch_size, progress, places, keep, mesh)


def sample_with_densities(
    key: Array | int,
    model: Model,
    prompts: Sequence[np.ndarray],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    lora: Adapters | None = None,
    prompt_batch_size: int | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Samples, np.ndarray]:
    """The draws of `sample`, and their log-probabilities under the distribution that they were drawn from.

    With `top_p` below 1 every step takes longer, because the mass of the nucleus has to be found.

    Args:
      key: PRNG key, or the seed of one.
      model: weights, shape and tokenizer.
      prompts: N arrays of token ids, int32, not empty.
      num_samples: K >= 1.
      max_new_tokens: T >= 1.
      temperature: > 0.
      top_p: in (0, 1].
      lora: adapters; None: the base model.
      prompt_batch_size: as in `sample`.
      progress: as in `sample`.
      mesh: as in `sample`.

    Returns:
      The samples, and [N, K] float32, nats, log-probability of each response at this temperature and top_p,
      EOS included.

    Raises:
      InputError: see `sample`.
    """
    draw = _draw(model, num_samples, max_new_tokens, temperature, top_p)._replace(densities=True)
    key, warp = jax.random.key(key) if isinstance(key, int) else key, (temperature, top_p)
    densities = np.zeros((len(prompts), num_samples), np.float32)
    shared = lora, prompt_batch_size, progress
    found = _run(key, model, prompts, draw, warp, *shared, mesh=mesh, densities=densities)
    return found, densities


def _draw(model: Model, num_samples: int, max_new_tokens: int, temperature: float, top_p: float) -> Draw:
    if num_samples < 1:
        raise InputError(f"sample: num_samples is {num_samples}; it must be at least 1.")
    if not 0.0 < temperature < float("inf"):
        raise InputError(
            f"sample: temperature is {temperature}; it must be above 0. For the mode use greedy."
        )
    if not 0.0 < top_p <= 1.0:
        raise InputError(f"sample: top_p is {top_p}; it must be above 0 and at most 1.")
    ends = end_ids(model)
    return Draw(num_samples, max_new_tokens, ends, False, tempered=temperature != 1.0, nucleus=top_p < 1.0)


def greedy(
    model: Model,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    lora: Adapters | None = None,
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


def end_ids(model: Model) -> tuple[int, ...]:
    """Ids that end a response: of the model's config, the tokenizer's EOS and its chat template, sorted."""
    if model.tokenizer is None:
        return tuple(sorted(set(model.config.eos_ids)))
    ends = (model.tokenizer.eos_token_id, end_id_of_chat(model.tokenizer))
    return tuple(sorted({*model.config.eos_ids, *(i for i in ends if isinstance(i, int))}))


def _run(
    key: Array,
    model: Model,
    prompts: Sequence[np.ndarray],
    draw: Draw,
    warp: tuple[float, float],
    lora: Adapters | None,
    prompt_batch_size: int | None,
    progress: Callable[[int], Any] | None,
    places: Sequence[int] | None = None,
    keep: Callable[[list[int], Samples], Any] | None = None,
    mesh: Mesh | None = None,
    densities: np.ndarray | None = None,
) -> Samples:
    """Draws the samples, the shortest prompts first, and restores their order.

    `densities` [N, K] is filled in, if `draw` asks for them.
    """
    _check_sizes(draw, prompt_batch_size)
    _check_prompts(prompts, model.config.vocab_size)
    shape = (len(prompts), draw.num_samples)
    result = Samples(
        np.zeros((*shape, draw.max_new_tokens), np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
    )
    if not prompts:
        return result
    longest = refill.padded_length(max(map(len, prompts)))
    grid = grid_of(model, lora, draw, len(prompts), longest, prompt_batch_size, mesh)
    drawing = refill.Drawing(key, model, lora, draw, *warp, mesh)
    numbers = range(len(prompts)) if places is None else places
    for found in refill.drawn(drawing, grid, prompts, numbers):
        some = Samples(found.tokens, found.lengths, found.logps)
        for field, values in zip(result, some, strict=True):
            field[found.prompts] = values
        if densities is not None and found.drawn_logps is not None:
            densities[found.prompts] = found.drawn_logps
        if keep is not None:
            keep(found.prompts, some)
        preemption.stop_if_asked()
        if progress is not None:
            progress(len(found.prompts))
    return result


def grid_of(
    model: Model,
    lora: Adapters | None,
    draw: Draw,
    num_prompts: int,
    width: int,
    prompt_batch_size: int | None,
    mesh: Mesh | None,
    memory: int | None = None,
) -> batch_sizing.Grid:
    """What the sampler works on at once.

    Args:
      model: of the policy.
      lora: its adapters.
      draw: options of the sampler.
      num_prompts: N.
      width: tokens that the longest prompt is padded to.
      prompt_batch_size: as in `sample`; None: what memory has room for.
      mesh: the devices; None: the default one.
      memory: bytes of a device; None: what it says itself.
    """
    parts = row_parts(mesh)
    if prompt_batch_size is not None:
        columns = -(-min(prompt_batch_size, num_prompts) // parts)
        return batch_sizing.Grid(parts, columns, draw.num_samples, columns)
    memory = batch_sizing.memory_of(mesh) if memory is None else memory
    asked = batch_sizing.Asked(num_prompts, draw.num_samples, draw.max_new_tokens, width)
    return batch_sizing.grid_of(
        model.config, asked, mesh, memory, bodies=num_bodies(lora), int8=draw.int8_cache
    )


def _check_sizes(draw: Draw, prompt_batch_size: int | None) -> None:
    if draw.max_new_tokens < 1:
        raise InputError(f"sample: max_new_tokens is {draw.max_new_tokens}; it must be at least 1.")
    if prompt_batch_size is not None and prompt_batch_size < 1:
        raise InputError(f"sample: prompt_batch_size is {prompt_batch_size}; it must be at least 1.")


def _check_prompts(prompts: Sequence[np.ndarray], vocab_size: int) -> None:
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(f"sample: prompt {i} has no tokens; give it at least a BOS.")
        wrong = [int(t) for t in prompt if not 0 <= t < vocab_size]
        if wrong:
            raise InputError(f"sample: prompt {i} has id {wrong[0]}; the vocabulary has {vocab_size} ids.")
