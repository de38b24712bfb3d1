"""The compiled sampler: rows that draw one token a step, and take the next sample when they have ended.

Prompts stand in columns. A column has R rows, each of which draws one sample of the column's prompt, token by
token; when it ends, the row takes the next of the K samples that nobody has drawn yet, without leaving the
compiled loop. Columns are divided into groups. The loop ends when all samples of a group are drawn: the host
takes them and puts the next prompts into the group.

Letters: N columns, R rows of each, K samples of each prompt, P prompt tokens, T new tokens, D hidden, V
vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from alignjax.models import (
    Adapters,
    DecoderConfig,
    KVCache,
    PromptCache,
    cache_axes,
    empty_cache,
    empty_prompt_cache,
    prefill,
    step_function,
    unembed,
    with_prompts,
)
from alignjax.policy import nucleus
from alignjax.policy.batch_sizing import Grid, cache_slots
from alignjax.runtime.mesh import tree_shardings


class Draw(NamedTuple):
    """The static arguments of the compiled sampler; hashable."""

    num_samples: int
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    greedy: bool
    tempered: bool  # whether the temperature is not 1
    nucleus: bool  # whether top_p is below 1
    densities: bool = False  # whether log-probabilities under the distribution drawn from are computed too
    int8_cache: bool = False  # whether keys and values are rounded to int8

    @property
    def num_slots(self) -> int:
        """Slots of a row's cache."""
        return cache_slots(self.max_new_tokens)


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


class Columns(NamedTuple):
    """The prompts that are being continued."""

    cache: PromptCache
    lengths: Array  # [N] int32, tokens; 0: the column is empty
    number: Array  # [N] int32, of the prompts, which their random numbers depend on
    hidden: Array  # [N, D], state of the last token, which predicts the first of each sample


class Drawn(NamedTuple):
    """Samples of the prompts in the columns, as far as they are drawn."""

    tokens: Array  # [N, K, T] int32
    lengths: Array  # [N, K] int32
    logps: Array  # [N, K] float32
    drawn_logps: Array | None  # [N, K] float32; None where they are not computed


class Rows(NamedTuple):
    """What changes in every step.

    A row whose sample is number K or more is idle: there was none left for it.
    """

    given: Array  # [N] int32, samples that rows have taken
    sample: Array  # [N, R] int32, number of the sample that each row draws
    length: Array  # [N, R] int32, tokens of it drawn so far
    last: Array  # [N, R] int32, the token drawn last
    cache: KVCache
    slot: Array  # [] int32, of the ring, that the next step fills
    drawn: Drawn


class State(NamedTuple):
    """The sampler between two steps."""

    columns: Columns
    rows: Rows


def axes(state: State) -> Any:
    """The logical axes of a sampler's arrays: columns are divided over the parts of the mesh.

    Returns:
      The same tree with a tuple of names in place of each array, as `runtime.mesh.tree_shardings` reads it.
    """

    def of_columns(x: Array) -> Any:
        return ("batch",) + (None,) * (x.ndim - 1) if x.ndim else ()

    columns, rows = state
    names = jax.tree.map(
        of_columns, state._replace(columns=columns._replace(cache=()), rows=rows._replace(cache=()))
    )
    return State(
        names.columns._replace(cache=cache_axes(columns.cache)),
        names.rows._replace(cache=cache_axes(rows.cache)),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def empty_jit(
    config: DecoderConfig, draw: Draw, grid: Grid, mesh: Mesh | None, width: int, bodies: int
) -> State:
    """A sampler without prompts; `width` is P, `bodies` as of `models.num_bodies`."""
    columns, samples = grid.all_columns, draw.num_samples
    flat, rows = jnp.zeros(columns, jnp.int32), jnp.zeros((columns, grid.rows), jnp.int32)
    numbers = jnp.zeros((columns, samples), jnp.float32)
    prompts = Columns(
        cache=empty_prompt_cache(config, columns, width, num_bodies=bodies, int8=draw.int8_cache),
        lengths=flat,
        number=flat,
        hidden=jnp.zeros((columns, config.hidden_size), config.dtype),
    )
    drawn = Drawn(
        tokens=jnp.zeros((columns, samples, draw.max_new_tokens), jnp.int32),
        lengths=jnp.zeros((columns, samples), jnp.int32),
        logps=numbers,
        drawn_logps=numbers if draw.densities else None,
    )
    slots = draw.num_slots
    cache = empty_cache(config, columns, grid.rows, slots, num_bodies=bodies, int8=draw.int8_cache)
    idle = Rows(flat + samples, rows + samples, rows, rows, cache, jnp.int32(0), drawn)
    state = State(prompts, idle)
    return _placed(state, axes(state), mesh)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=6)
def admit_jit(
    config: DecoderConfig,
    draw: Draw,
    grid: Grid,
    mesh: Mesh | None,
    params: Any,
    lora: Adapters | None,
    state: State,
    prompts: Array,
    lengths: Array,
    number: Array,
    group: Array,
) -> State:
    """Reads prompts and puts them into one group of columns, whose rows begin their first samples; internal.

    Prompts are [parts * G, P], padded on the right, G to each part of the mesh; a length of 0 leaves the
    column empty. `number` are those that their random numbers depend on.
    """
    num, width = prompts.shape
    positions = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None, :], (num, width))
    segments = (positions < lengths[:, None]).astype(jnp.int32)
    hidden, cache = prefill(config, params, prompts, positions, segments, lora=lora, int8=draw.int8_cache)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
    cache = _placed(cache, cache_axes(cache), mesh)
    write = functools.partial(_written, grid, group)
    old, rows = state
    columns = Columns(
        with_prompts(old.cache, cache, write),
        write(old.lengths, lengths),
        write(old.number, number),
        write(old.hidden, hidden),
    )
    first = jnp.broadcast_to(jnp.arange(grid.rows, dtype=jnp.int32)[None, :], (num, grid.rows))
    there = jnp.broadcast_to((lengths > 0)[:, None], first.shape)
    zeros = jnp.zeros_like(first)
    rows = rows._replace(
        given=write(rows.given, jnp.full_like(lengths, grid.rows)),
        sample=write(rows.sample, jnp.where(there, first, draw.num_samples)),
        length=write(rows.length, zeros),
        last=write(rows.last, zeros),
        drawn=jax.tree.map(lambda x: write(x, jnp.zeros((num, *x.shape[1:]), x.dtype)), rows.drawn),
    )
    state = State(columns, rows)
    return _placed(state, axes(state), mesh)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=6)
def advance_jit(
    config: DecoderConfig,
    draw: Draw,
    grid: Grid,
    mesh: Mesh | None,
    params: Any,
    lora: Adapters | None,
    state: State,
    key: Array,
    temperature: Array,
    top_p: Array,
    most_busy: Array,
) -> tuple[State, Array]:
    """Draws until at most so many groups have samples to draw; also returns which have; internal.

    The random numbers of a token depend on the key, the prompt's number, the sample's number and the token's
    place in it alone.
    """
    columns = state.columns
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(columns.number)
    decode = step_function(config, params, columns.cache, lora=lora)
    choose = functools.partial(_pick, draw=draw, temperature=temperature, top_p=top_p)

    def body(rows: Rows) -> Rows:
        earlier = jnp.maximum(rows.length - 1, 0)
        positions = columns.lengths[:, None] + earlier
        hidden, cache = decode(rows.last, positions, earlier, rows.cache, rows.slot)
        # A row that has drawn nothing yet goes on from the prompt.
        begins = jnp.broadcast_to((rows.length == 0)[:, :, None], hidden.shape)
        hidden = jnp.where(begins, jnp.broadcast_to(columns.hidden[:, None, :], hidden.shape), hidden)
        picked = choose(_step_keys(keys, rows), unembed(config, params, hidden))
        rows = rows._replace(cache=cache, slot=(rows.slot + 1) % draw.num_slots, drawn=_noted(rows, picked))
        return _refilled(rows, draw, picked.token)

    def goes_on(rows: Rows) -> Array:
        return jnp.sum(_busy(grid, draw, rows), dtype=jnp.int32) > most_busy

    rows = jax.lax.while_loop(goes_on, body, state.rows)
    state = State(columns, rows)
    return _placed(state, axes(state), mesh), _busy(grid, draw, rows)


def _busy(grid: Grid, draw: Draw, rows: Rows) -> Array:
    """Which groups have rows that are drawing: [groups] bool."""
    going = (rows.sample < draw.num_samples).reshape(grid.parts, grid.groups, -1)
    return jnp.any(going, axis=(0, 2))


def _step_keys(keys: Array, rows: Rows) -> Array:
    """Keys [N, R] of the next token of every row; `keys` [N] are those of the prompts."""

    def of_row(key: Array, sample: Array, length: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(key, sample), length)

    return jax.vmap(jax.vmap(of_row, in_axes=(None, 0, 0)))(keys, rows.sample, rows.length)


def _noted(rows: Rows, picked: _Picked) -> Drawn:
    """Writes the tokens into the samples of their rows; those of idle rows fall outside and are dropped."""
    each = jax.vmap  # over columns
    set_token = each(lambda x, k, t, token: x.at[k, t].set(token, mode="drop"))
    set_length = each(lambda x, k, n: x.at[k].set(n, mode="drop"))
    add = each(lambda x, k, logp: x.at[k].add(logp, mode="drop"))
    sample, length, drawn = rows.sample, rows.length, rows.drawn
    densities = drawn.drawn_logps
    if densities is not None and picked.drawn_logp is not None:
        densities = add(densities, sample, picked.drawn_logp)
    return Drawn(
        set_token(drawn.tokens, sample, length, picked.token),
        set_length(drawn.lengths, sample, length + 1),
        add(drawn.logps, sample, picked.logp),
        densities,
    )


def _refilled(rows: Rows, draw: Draw, token: Array) -> Rows:
    """Counts the tokens; rows whose sample has ended take the next samples of their column, in order."""
    going = rows.sample < draw.num_samples
    ends = jnp.array(draw.eos_ids, jnp.int32)[None, None, :]
    ended = going & (jnp.any(token[:, :, None] == ends, axis=2) | (rows.length + 1 == draw.max_new_tokens))
    taken = jnp.cumsum(ended.astype(jnp.int32), axis=1)
    return rows._replace(
        given=rows.given + taken[:, -1],
        sample=jnp.where(ended, rows.given[:, None] + taken - 1, rows.sample),
        length=jnp.where(going & ~ended, rows.length + 1, 0),
        last=jnp.where(going, token, 0),
    )


def _written(grid: Grid, group: Array, old: Array, new: Array, axis: int = 0) -> Array:
    """An array whose columns of one group are replaced; the axis of columns is divided over the parts."""

    def in_parts(x: Array) -> Array:
        return x.reshape(*x.shape[:axis], grid.parts, -1, *x.shape[axis + 1 :])

    start = group * grid.group
    update = jax.lax.dynamic_update_slice_in_dim
    return update(in_parts(old), in_parts(new).astype(old.dtype), start, axis=axis + 1).reshape(old.shape)


def _placed(tree: Any, names: Any, mesh: Mesh | None) -> Any:
    """The tree, which the compiler is told to lay out by the names of its axes."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, tree_shardings(names, mesh))
