"""The two compiled programs of the sampler as shapes, for a plan; see `workflow.programs` for all others."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.aot import shapes
from alignjax.aot.program import Program
from alignjax.aot.shapes import bytes_per_device
from alignjax.config import SamplingSettings
from alignjax.models import Adapters, Model, num_bodies
from alignjax.policy import batch_sizing, generation, refill, sampling
from alignjax.policy.batch_sizing import Grid
from alignjax.policy.batching import Batching
from alignjax.policy.generation import Draw
from alignjax.runtime.mesh import tree_shardings


class _Sampler(NamedTuple):
    """What both programs share; `arguments` are those that come first in both."""

    arguments: tuple[Any, ...]
    grid: Grid
    width: int
    kinds: dict[str, int]
    cache: int


def sampler(
    model: Model,
    lora: Adapters | None,
    prompts: Sequence[np.ndarray],
    settings: SamplingSettings,
    batching: Batching,
) -> Program:
    """Drawing all samples of one group of prompts, each of the full length.

    A call returns when a group is done, while others go on. So a call draws as many samples as a group has,
    and takes the steps in which all rows together draw as many tokens.

    Args:
      model: of the policy.
      lora: its adapters.
      prompts: n arrays of token ids.
      settings: how many samples of which length, and how they are drawn.
      batching: its mesh and memory.
    """
    shared = _sampler(model, lora, prompts, settings, batching)
    grid, samples, new = shared.grid, settings.num_samples, settings.max_new_tokens
    number, groups = (shapes.everywhere((), kind, batching.mesh) for kind in (np.float32, np.int32))
    drawn = grid.parts * grid.group * samples
    steps = functools.partial(batch_sizing.steps_of_group, grid, samples, new)
    return Program(
        generation.advance_jit,
        (*shared.arguments, shapes.random_key(batching.mesh), number, number, groups),
        shared.kinds,
        drawn,
        drawn * new,
        shared.cache,
        (steps(new), 1.0),  # within a step the nucleus takes another loop
        steps,
    )


def prompt_reader(
    model: Model,
    lora: Adapters | None,
    prompts: Sequence[np.ndarray],
    settings: SamplingSettings,
    batching: Batching,
) -> Program:
    """Reading the prompts of one group; arguments as of `sampler`."""
    shared, mesh = _sampler(model, lora, prompts, settings, batching), batching.mesh
    rows = shared.grid.parts * shared.grid.group
    batch = [shapes.prompt_rows(shape, mesh) for shape in ((rows, shared.width), (rows,), (rows,))]
    group = shapes.everywhere((), np.int32, mesh)
    arguments = (*shared.arguments, *batch, group)
    return Program(generation.admit_jit, arguments, shared.kinds, rows, rows * shared.width, shared.cache)


def _sampler(
    model: Model,
    lora: Adapters | None,
    prompts: Sequence[np.ndarray],
    settings: SamplingSettings,
    batching: Batching,
) -> _Sampler:
    mesh, new, bodies = batching.mesh, settings.max_new_tokens, num_bodies(lora)
    width = refill.padded_length(max(len(prompt) for prompt in prompts))
    draw = Draw(
        settings.num_samples,
        new,
        sampling.end_ids(model) or (0,),  # of a shape without a tokenizer: any id stands for the end
        greedy=False,
        tempered=settings.temperature != 1.0,
        nucleus=settings.top_p < 1.0,
        int8_cache=settings.cache == "int8",
    )
    grid = sampling.grid_of(model, lora, draw, len(prompts), width, None, mesh, batching.memory)
    static = model.config, draw, grid, mesh
    empty = jax.eval_shape(functools.partial(generation.empty_jit, *static, width, bodies))
    state = shapes.placed(empty, tree_shardings(generation.axes(empty), mesh))
    kinds = {"parameters": bytes_per_device(model.params), "adapters": bytes_per_device(lora)}
    prompt_cache, slots = state.columns.cache, state.rows.cache
    cache = bytes_per_device((prompt_cache.k, prompt_cache.v, slots))
    return _Sampler((*static, model.params, lora, state), grid, width, kinds, cache)
