"""Log-probabilities of responses, without ever holding the logits of a whole batch.

Letters: B rows, T tokens a row, R targets a row, D hidden, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.data.batches import Bucket, PairBatch, ResponseBatch, Rows, choose_buckets, response_batches
from alignjax.data.batches import response_lengths as lengths_of
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Lora, Model, hidden_states, unembed
from alignjax.models.rows import parts_of
from alignjax.runtime import preemption, processes
from alignjax.runtime.mesh import batch_rows, placer

_Batch = TypeVar("_Batch", ResponseBatch, PairBatch)

# Rows of logits that exist at once. 128 keep the vocabulary's product efficient and, at V = 49,152, take
# 24 MiB; a small vocabulary gets as many rows as make 4 MiB: a tiny model should not loop over tiny products.
_CHUNK_ROWS = 128
_CHUNK_LOGITS = 2**20


def completion_logps(
    model: Model, batch: ResponseBatch, *, lora: Lora | None = None, dropout_key: Array | None = None
) -> Array:
    """Log-probability of each row's response, a sum over its tokens, EOS included.

        logps_b = sum_{r: slot_br = 0} log softmax(W h_b[index_br])[target_br]

    Args:
      model: weights and shape.
      batch: B rows.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B] float32, nats; exactly 0 for padding rows.
    """
    return slot_logps(model, batch.rows, 1, lora=lora, dropout_key=dropout_key)[:, 0]


def pair_logps(
    model: Model, batch: PairBatch, *, lora: Lora | None = None, dropout_key: Array | None = None
) -> tuple[Array, Array]:
    """Log-probabilities of the chosen and the rejected response of each row, from one forward pass.

    Args:
      model: weights and shape.
      batch: B rows.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      chosen [B] and rejected [B], float32, nats; exactly 0 for padding rows.
    """
    both = slot_logps(model, batch.rows, 2, lora=lora, dropout_key=dropout_key)
    return both[:, 0], both[:, 1]


def slot_logps(
    model: Model,
    rows: Rows,
    num_slots: int,
    *,
    lora: Lora | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """Log-probabilities of every response of every row.

        logps_bs = sum_{r: slot_br = s} log softmax(W h_b[index_br])[target_br]

    Args:
      model: weights and shape.
      rows: B rows with R targets each.
      num_slots: responses a row.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B, num_slots] float32, nats.
    """
    rows = Rows(*(jnp.asarray(field) for field in rows))
    token = token_logps(model, rows, lora=lora, dropout_key=dropout_key)
    member = rows.target_slot[:, :, None] == jnp.arange(num_slots, dtype=jnp.int32)[None, None, :]
    return jnp.sum(jnp.where(member, token[:, :, None], 0.0), axis=1)


def token_logps(
    model: Model, rows: Rows, *, lora: Lora | None = None, dropout_key: Array | None = None
) -> Array:
    """Log-probability of every target: [B, R] float32, nats; exactly 0 in padding.

    The trunk runs once over [B, T]; the vocabulary's product runs over targets only, some columns of R at a
    time, and is done again in the backward pass. Columns in which no row has a target are skipped.

    Args:
      model: weights and shape.
      rows: B rows with R targets each.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.
    """
    config, params = model.config, model.params
    arrays = (jnp.asarray(field) for field in rows)
    tokens, positions, segment_ids, branch_ids, target_index, targets, target_slot = arrays
    hidden = hidden_states(
        config, params, tokens, positions, segment_ids, branch_ids, lora=lora, dropout_key=dropout_key
    )
    valid = target_slot >= 0
    hidden = jnp.take_along_axis(hidden, target_index[:, :, None], axis=1)
    # The inputs are cleared, not the result: the gradient of a masked result is 0 times what lies below it,
    # and 0 * nan is nan.
    hidden = jnp.where(valid[:, :, None], hidden, jnp.zeros((), hidden.dtype))

    def chunk_logps(hidden: Array, targets: Array, valid: Array) -> Array:
        logits = unembed(config, params, hidden)
        chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=2, mode="clip")[:, :, 0]
        return jnp.where(valid, chosen - jax.nn.logsumexp(logits, axis=2), 0.0)

    @jax.checkpoint
    def body(_: None, chunk: tuple[Array, Array, Array]) -> tuple[None, Array]:
        skip = lambda hidden, targets, valid: jnp.zeros(valid.shape, jnp.float32)  # noqa: E731 (a branch)
        return None, jax.lax.cond(jnp.any(chunk[2]), chunk_logps, skip, *chunk)

    num_targets = valid.shape[1]
    width = chunk_width(config.vocab_size, valid.shape[0] // parts_of(hidden), valid.shape[1])
    chunks = tuple(columns(x, width) for x in (hidden, targets, valid))
    _, token = jax.lax.scan(body, None, chunks)  # [chunks, B, width]
    return jnp.swapaxes(token, 0, 1).reshape(valid.shape[0], -1)[:, :num_targets]


def chunk_width(vocab_size: int, num_rows: int, num_targets: int) -> int:
    """Columns of [B, R] a chunk; B, on one device, times this is about the rows of logits there at once."""
    rows = max(_CHUNK_ROWS, _CHUNK_LOGITS // vocab_size)
    most = max(1, rows // max(1, num_rows))
    num_chunks = -(-num_targets // most)
    return -(-num_targets // num_chunks)  # even chunks, so that the last one is hardly padded


def columns(x: Array, width: int) -> Array:
    """[B, R, ...] -> [ceil(R / width), B, width, ...], the end filled with zeros (False: padding)."""
    num_chunks = -(-x.shape[1] // width)
    padding = [(0, 0), (0, num_chunks * width - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.swapaxes(jnp.pad(x, padding).reshape(x.shape[0], num_chunks, width, *x.shape[2:]), 0, 1)


def _slot_logps(config: DecoderConfig, params: Any, lora: Lora | None, rows: Rows, num_slots: int) -> Array:
    return slot_logps(Model(params=params, config=config), rows, num_slots, lora=lora)


# The one compiled form of all that follows; the tokenizer stays outside, since it is no part of the program.
slot_logps_jit = jax.jit(_slot_logps, static_argnums=(0, 4))


def completion_logps_jit(model: Model, batch: ResponseBatch, *, lora: Lora | None = None) -> Array:
    """`completion_logps` without dropout, compiled once for each shape of batch."""
    return slot_logps_jit(model.config, model.params, lora, batch.rows, 1)[:, 0]


def pair_logps_jit(model: Model, batch: PairBatch, *, lora: Lora | None = None) -> tuple[Array, Array]:
    """`pair_logps` without dropout, compiled once for each shape of batch."""
    both = slot_logps_jit(model.config, model.params, lora, batch.rows, 2)
    return both[:, 0], both[:, 1]


def response_logps(
    model: Model,
    responses: Sequence[TokenizedResponse],
    *,
    lora: Lora | None = None,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Log-probabilities of any number of responses, in batches of a few fixed shapes.

    Args:
      model: weights and shape.
      responses: n responses with their prompts.
      lora: adapters; None: the base model.
      batch_size: rows a batch, >= 1.
      buckets: shapes of the rows; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: the devices that rows are divided over, where the weights lie; None: the default device.

    Returns:
      [n] float32, nats, in the order given.

    Raises:
      InputError: an empty prompt, a response longer than every bucket, batch_size < 1, or one that the mesh
        does not divide.
    """
    return over_responses(
        lambda batch: completion_logps_jit(model, batch, lora=lora),
        responses,
        batch_size=batch_size,
        buckets=buckets,
        progress=progress,
        mesh=mesh,
    )


def over_responses(
    compute: Callable[[ResponseBatch], Array],
    responses: Sequence[TokenizedResponse],
    *,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """One number of every response, in batches of a few fixed shapes; arguments as of `response_logps`.

    Args:
      compute: a batch of B rows -> [B] float.
      responses: n responses with their prompts.
      batch_size: rows a batch, >= 1.
      buckets: shapes of the rows; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: as of `response_logps`; `compute` is given batches that lie on it.

    Returns:
      [n] float32, in the order given.

    Raises:
      InputError: as of `response_logps`.
    """
    if batch_size < 1:
        raise InputError(f"response_logps: batch_size is {batch_size}; it must be at least 1.")
    result = np.full(len(responses), np.nan, np.float32)
    if responses:
        buckets = choose_buckets(lengths_of(responses)) if buckets is None else buckets
        rows = batch_rows(batch_size, len(responses), mesh)
        batches = response_batches(responses, batch_size=rows, buckets=buckets)
        over_batches(batches, compute, result, progress, mesh=mesh)
    return result


def over_batches(
    batches: Iterable[_Batch],
    compute: Callable[[_Batch], Array],
    result: np.ndarray,
    progress: Callable[[int], Any] | None = None,
    *,
    mesh: Mesh | None = None,
) -> None:
    """Writes what is computed of every real row into its place in `result`.

    Args:
      batches: of any fixed shapes.
      compute: a batch of B rows -> [B, ...] float.
      result: [n, ...], overwritten.
      progress: called with the number of rows done since the last call.
      mesh: the devices that rows are divided over; `compute` is given batches that lie on it.
    """

    def collect(batch: _Batch, values: Array) -> None:
        real = np.asarray(batch.weights) > 0
        result[np.asarray(batch.indices)[real]] = processes.to_host(values)[real]
        if progress is not None:
            progress(int(real.sum()))

    place = placer(mesh)
    waiting: tuple[_Batch, Array] | None = None
    for batch in batches:
        # The device works on this batch while the one before it is collected and the next one is made.
        values = compute(place(batch))
        preemption.stop_if_asked()
        if waiting is not None:
            collect(*waiting)
        waiting = (batch, values)
    if waiting is not None:
        collect(*waiting)
