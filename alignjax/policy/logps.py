"""Log-probabilities of responses, computed without holding the logits of a whole batch at once.

Letters: B rows, T tokens a row, R targets a row, D hidden, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.data.batches import (
    Bucket,
    PairBatch,
    ResponseBatch,
    Rows,
    choose_buckets,
    pair_batches,
    pair_lengths,
    response_batches,
    response_lengths,
)
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import Adapters, DecoderConfig, Model, hidden_states, unembed
from alignjax.models.rows import parts_of
from alignjax.runtime import preemption, processes
from alignjax.runtime.mesh import batch_rows, placer

_Batch = TypeVar("_Batch", ResponseBatch, PairBatch)

# Rows of logits held at once. 128 rows keep the matrix product with the vocabulary efficient and take 24 MiB
# at V = 49,152. A small vocabulary gets more rows, up to 4 MiB of logits, so that a tiny model does not loop
# over tiny products.
_CHUNK_ROWS = 128
_CHUNK_LOGITS = 2**20


def completion_logps(
    model: Model, batch: ResponseBatch, *, lora: Adapters | None = None, dropout_key: Array | None = None
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
    model: Model, batch: PairBatch, *, lora: Adapters | None = None, dropout_key: Array | None = None
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
    lora: Adapters | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """Log-probabilities of every response of every row.

        logps_bs = sum_{r: slot_br = s} log softmax(W h_b[index_br])[target_br]

    Args:
      model: weights and shape.
      rows: B rows with R targets each.
      num_slots: responses per row.
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
    model: Model, rows: Rows, *, lora: Adapters | None = None, dropout_key: Array | None = None
) -> Array:
    """Log-probability of every target token.

    The layers run once over [B, T]. The product with the vocabulary is computed for targets only, a few
    columns of R at a time, and recomputed in the backward pass. Columns in which no row has a target are
    skipped.

    Args:
      model: weights and shape.
      rows: B rows with R targets each.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B, R] float32, nats; exactly 0 in padding.
    """
    config, params = model.config, model.params
    arrays = (jnp.asarray(field) for field in rows)
    tokens, positions, segment_ids, branch_ids, target_index, targets, target_slot = arrays
    hidden = hidden_states(
        config, params, tokens, positions, segment_ids, branch_ids, lora=lora, dropout_key=dropout_key
    )
    valid = target_slot >= 0
    hidden = jnp.take_along_axis(hidden, target_index[:, :, None], axis=1)
    # Clear the inputs, not the result: the gradient of a masked result is 0 times the gradient of its inputs,
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
    """Columns of [B, R] per chunk, so that about `_CHUNK_ROWS` rows of logits exist at once.

    Args:
      vocab_size: V.
      num_rows: B on one device.
      num_targets: R.

    Returns:
      Columns, in [1, R]. Chunks have nearly equal widths, so that the last one is hardly padded.
    """
    rows = max(_CHUNK_ROWS, _CHUNK_LOGITS // vocab_size)
    most = max(1, rows // max(1, num_rows))
    num_chunks = -(-num_targets // most)
    return -(-num_targets // num_chunks)


def columns(x: Array, width: int) -> Array:
    """Cuts [B, R, ...] into chunks [ceil(R / width), B, width, ...], filled up with zeros or False."""
    num_chunks = -(-x.shape[1] // width)
    padding = [(0, 0), (0, num_chunks * width - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.swapaxes(jnp.pad(x, padding).reshape(x.shape[0], num_chunks, width, *x.shape[2:]), 0, 1)


def _slot_logps(
    config: DecoderConfig, params: Any, lora: Adapters | None, rows: Rows, num_slots: int
) -> Array:
    return slot_logps(Model(params=params, config=config), rows, num_slots, lora=lora)


# Everything below is compiled through this function. The tokenizer is not passed: it would be a static
# argument without effect on the program.
slot_logps_jit = jax.jit(_slot_logps, static_argnums=(0, 4))


def completion_logps_jit(model: Model, batch: ResponseBatch, *, lora: Adapters | None = None) -> Array:
    """`completion_logps` without dropout, compiled once for each shape of batch."""
    return slot_logps_jit(model.config, model.params, lora, batch.rows, 1)[:, 0]


def pair_logps_jit(model: Model, batch: PairBatch, *, lora: Adapters | None = None) -> tuple[Array, Array]:
    """`pair_logps` without dropout, compiled once for each shape of batch."""
    both = slot_logps_jit(model.config, model.params, lora, batch.rows, 2)
    return both[:, 0], both[:, 1]


def response_logps(
    model: Model,
    responses: Sequence[TokenizedResponse],
    *,
    lora: Adapters | None = None,
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
      batch_size: rows per batch, >= 1.
      buckets: shapes of the rows; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: the devices that rows are divided over, where the weights lie; None: the default device.

    Returns:
      [n] float32, nats, in the order given.

    Raises:
      InputError: an empty prompt, a response longer than every bucket, or a batch_size that is below 1 or
        not divisible by the mesh.
    """
    return over_responses(
        lambda batch: completion_logps_jit(model, batch, lora=lora),
        responses,
        batch_size=batch_size,
        buckets=buckets,
        progress=progress,
        mesh=mesh,
    )


def preference_logps(
    model: Model,
    pairs: Sequence[TokenizedPair],
    *,
    lora: Adapters | None = None,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Log-probabilities of both responses of any number of pairs, whose prompts are read once.

    Args:
      model: weights and shape.
      pairs: n pairs.
      lora: adapters; None: the base model.
      batch_size: pairs per batch, >= 1.
      buckets: shapes of the rows; None: chosen from the lengths.
      progress: called with the number of pairs done since the last call.
      mesh: the devices that rows are divided over, where the weights lie; None: the default device.

    Returns:
      [n, 2] float32, nats, chosen and rejected, in the order given.

    Raises:
      InputError: as in `response_logps`.
    """
    _check_batch_size(batch_size, "preference_logps")
    result = np.full((len(pairs), 2), np.nan, np.float32)
    if pairs:
        buckets = choose_buckets(pair_lengths(pairs)) if buckets is None else buckets
        rows = batch_rows(batch_size, len(pairs), mesh)
        batches = pair_batches(pairs, batch_size=rows, buckets=buckets)

        def compute(batch: PairBatch) -> Array:
            return jnp.stack(pair_logps_jit(model, batch, lora=lora), axis=1)

        over_batches(batches, compute, result, progress, mesh=mesh)
    return result


def over_responses(
    compute: Callable[[ResponseBatch], Array],
    responses: Sequence[TokenizedResponse],
    *,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Computes one number for every response, in batches of a few fixed shapes.

    Args:
      compute: a batch of B rows -> [B] float.
      responses: n responses with their prompts.
      batch_size: rows per batch, >= 1.
      buckets: shapes of the rows; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: as in `response_logps`; `compute` receives batches that are placed on it.

    Returns:
      [n] float32, in the order given.

    Raises:
      InputError: as in `response_logps`.
    """
    _check_batch_size(batch_size, "response_logps")
    result = np.full(len(responses), np.nan, np.float32)
    if responses:
        buckets = choose_buckets(response_lengths(responses)) if buckets is None else buckets
        rows = batch_rows(batch_size, len(responses), mesh)
        batches = response_batches(responses, batch_size=rows, buckets=buckets)
        over_batches(batches, compute, result, progress, mesh=mesh)
    return result


def _check_batch_size(batch_size: int, where: str) -> None:
    if batch_size < 1:
        raise InputError(f"{where}: batch_size is {batch_size}; it must be at least 1.")


def over_batches(
    batches: Iterable[_Batch],
    compute: Callable[[_Batch], Array],
    result: np.ndarray,
    progress: Callable[[int], Any] | None = None,
    *,
    mesh: Mesh | None = None,
) -> None:
    """Computes values for every batch and writes those of real rows into `result`.

    Args:
      batches: of any fixed shapes.
      compute: a batch of B rows -> [B, ...] float.
      result: [n, ...]; row i receives the values of the row whose index in the data is i.
      progress: called with the number of rows done since the last call.
      mesh: the devices that rows are divided over; `compute` receives batches that are placed on it.

    Raises:
      Stopped: the run was asked to stop; raised between batches.
    """

    def collect(batch: _Batch, values: Array) -> None:
        real = np.asarray(batch.weights) > 0
        result[np.asarray(batch.indices)[real]] = processes.to_host(values)[real]
        if progress is not None:
            progress(int(real.sum()))

    place = placer(mesh)
    waiting: tuple[_Batch, Array] | None = None
    for batch in batches:
        # The device works on this batch while the host collects the one before it and makes the next one.
        values = compute(place(batch))
        preemption.stop_if_asked()
        if waiting is not None:
            collect(*waiting)
        waiting = (batch, values)
    if waiting is not None:
        collect(*waiting)
