"""Draws the samples of many prompts: keeps the columns of the compiled sampler filled and takes what is done.

Prompts are read in sessions of one padded width each, so that few programs are compiled.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.models import Adapters, Model, num_bodies
from alignjax.policy import generation
from alignjax.policy.batch_sizing import Grid
from alignjax.policy.generation import Draw, State
from alignjax.runtime import processes
from alignjax.runtime.mesh import placer

# Lengths that prompts are padded to; longer prompts are padded to a multiple of the last.
_PROMPT_LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# A session has at least this many prompts for each column, where enough prompts are as long: at its end,
# columns are empty.
_PROMPTS_PER_COLUMN = 4


class Finished(NamedTuple):
    """All samples of some prompts, on the host.

    Attributes:
      prompts: their numbers in the list, n of them.
      tokens: [n, K, T] int32.
      lengths: [n, K] int32.
      logps: [n, K] float32, nats.
      drawn_logps: [n, K] float32, nats; None where they are not computed.
    """

    prompts: list[int]
    tokens: np.ndarray
    lengths: np.ndarray
    logps: np.ndarray
    drawn_logps: np.ndarray | None


class Drawing(NamedTuple):
    """What is drawn from, and how; all of it is given to the compiled functions as it is.

    Attributes:
      key: of all draws.
      model: whose parameters lie where they are to be used.
      lora: adapters; None: the base model.
      draw: static options.
      temperature: > 0.
      top_p: in (0, 1].
      mesh: the devices; None: the default one.
    """

    key: Array
    model: Model
    lora: Adapters | None
    draw: Draw
    temperature: float
    top_p: float
    mesh: Mesh | None


def drawn(
    drawing: Drawing, grid: Grid, prompts: Sequence[np.ndarray], numbers: Sequence[int]
) -> Iterator[Finished]:
    """Draws K samples of every prompt.

    Args:
      drawing: the policy and the options.
      grid: columns and rows of the sampler.
      prompts: N arrays of token ids.
      numbers: [N], each prompt's number for its random numbers.

    Yields:
      Prompts as they are done, the shortest first; each of them once.
    """
    for width, members in sessions([len(prompt) for prompt in prompts], grid):
        yield from _session(drawing, grid, width, members, prompts, numbers)


def sessions(lengths: Sequence[int], grid: Grid) -> list[tuple[int, list[int]]]:
    """Divides prompts by the width that they are padded to, the shortest first.

    Args:
      lengths: of N prompts, in tokens.
      grid: of the sampler. Prompts of a width that too few have for a session are read at the next one.

    Returns:
      Pairs of a width and the numbers of the prompts.
    """
    found, members = list[tuple[int, list[int]]](), list[int]()
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    width = 0
    for width, some in itertools.groupby(order, key=lambda i: padded_length(lengths[i])):  # noqa: B007
        members += some
        if len(members) >= _PROMPTS_PER_COLUMN * grid.all_columns:
            found.append((width, members))
            members = []
    return [*found, (width, members)] if members else found


def padded_length(length: int) -> int:
    """Tokens that a prompt of this length is padded to; few lengths, so that few programs are compiled."""
    for fixed in _PROMPT_LENGTHS:
        if length <= fixed:
            return fixed
    return -(-length // _PROMPT_LENGTHS[-1]) * _PROMPT_LENGTHS[-1]


def _session(
    drawing: Drawing,
    grid: Grid,
    width: int,
    members: Sequence[int],
    prompts: Sequence[np.ndarray],
    numbers: Sequence[int],
) -> Iterator[Finished]:
    """Draws the samples of the prompts numbered `members`, which are padded to `width` tokens."""
    key, model, lora, draw, temperature, top_p, mesh = drawing
    static = model.config, draw, grid, mesh
    place, waiting = placer(mesh), list(members)
    warp = jnp.float32(temperature), jnp.float32(top_p)
    state = generation.empty_jit(*static, width, num_bodies(lora))
    held = [list[int]() for _ in range(grid.groups)]
    busy = np.zeros(grid.groups, bool)
    while waiting or any(held):
        for group in map(int, np.flatnonzero(~busy)):
            if held[group]:
                yield _taken(state, grid, group, held[group])
            held[group] = waiting[: grid.parts * grid.group]
            del waiting[: len(held[group])]
            if held[group]:
                batch = place(_padded([(prompts[i], numbers[i]) for i in held[group]], grid, width))
                state = generation.admit_jit(*static, model.params, lora, state, *batch, np.int32(group))
        if count := sum(map(bool, held)):
            # At the end, when no group is filled again, half of those that are left are waited for.
            most_busy = np.int32(count - 1 if waiting else count // 2)
            state, now = generation.advance_jit(*static, model.params, lora, state, key, *warp, most_busy)
            busy = processes.to_host(now)


def _padded(
    prompts: Sequence[tuple[np.ndarray, int]], grid: Grid, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, lengths and numbers of the prompts of one group; columns that are left over get length 0."""
    size = grid.parts * grid.group
    tokens, lengths = np.zeros((size, width), np.int32), np.zeros(size, np.int32)
    index = np.zeros(size, np.int32)
    for row, (prompt, number) in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        lengths[row], index[row] = len(prompt), number
    return tokens, lengths, index


def _taken(state: State, grid: Grid, group: int, prompts: list[int]) -> Finished:
    """The samples of one group, whose columns hold these prompts, copied: the arrays are written again."""
    columns = slice(group * grid.group, (group + 1) * grid.group)

    def of_group(values: Array) -> np.ndarray:
        whole = processes.to_host(values)
        parts = whole.reshape(grid.parts, grid.columns, *whole.shape[1:])[:, columns]
        return parts.reshape(-1, *whole.shape[1:])[: len(prompts)].copy()

    tokens, lengths, logps, densities = state.rows.drawn
    fields = of_group(tokens), of_group(lengths), of_group(logps)
    return Finished(prompts, *fields, None if densities is None else of_group(densities))
