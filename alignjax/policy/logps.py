"""Log-probabilities of responses, computed without holding the logits of a whole batch at once.

Letters: B rows, T tokens a row, R targets a row, D hidden, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

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
)
from alignjax.data.shared_rows import Branches, RowShapes, branches_of, responses_per_row
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.models import Adapters, DecoderConfig, Model, hidden_states
from alignjax.models.rows import parts_of
from alignjax.policy.head import STORED, target_logps
from alignjax.policy.passes import over_pairs, over_responses

# Rows of logits held at once. 128 rows keep the matrix product with the vocabulary efficient and take 24 MiB
# at V = 49,152. A small vocabulary gets more rows, up to 4 MiB of logits, so that a tiny model does not loop
# over tiny products.
_CHUNK_ROWS = 128
_CHUNK_LOGITS = 2**20


def completion_logps(
    model: Model, batch: ResponseBatch, *, lora: Adapters | None = None, dropout_key: Array | None = None
) -> Array:
    """Log-probability of each response, a sum over its tokens, EOS included; see `slot_logps`.

    Args:
      model: weights and shape.
      batch: B rows of M responses.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B * M] float32, nats; exactly 0 where there is no response.
    """
    count = responses_per_row(batch)
    branches = branches_of(batch.rows, count)
    logps = slot_logps(model, batch.rows, count, branches=branches, lora=lora, dropout_key=dropout_key)
    return logps.reshape(-1)


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
    branches: Branches | None = None,
    lora: Adapters | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """Log-probabilities of every response of every row.

        logps_bs = sum_{r: slot_br = s} log softmax(W h_b[index_br])[target_br]

    Args:
      model: weights and shape.
      rows: B rows with R targets each.
      num_slots: responses per row.
      branches: places of prompt and responses, if they are the same in all rows; None: as the rows say.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B, num_slots] float32, nats.
    """
    rows = Rows(*(jnp.asarray(field) for field in rows))
    token = token_logps(model, rows, branches=branches, lora=lora, dropout_key=dropout_key)
    member = rows.target_slot[:, :, None] == jnp.arange(num_slots, dtype=jnp.int32)[None, None, :]
    return jnp.sum(jnp.where(member, token[:, :, None], 0.0), axis=1)


def token_logps(
    model: Model,
    rows: Rows,
    *,
    branches: Branches | None = None,
    lora: Adapters | None = None,
    dropout_key: Array | None = None,
) -> Array:
    """Log-probability of every target token.

    The layers run once over [B, T]. The product with the vocabulary is computed for targets only, a few
    columns of R at a time, see `head`. Columns in which no row has a target are skipped.

    Args:
      model: weights and shape.
      rows: B rows with R targets each.
      branches: as in `slot_logps`.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B, R] float32, nats; exactly 0 in padding.
    """
    config, params = model.config, model.params
    arrays = (jnp.asarray(field) for field in rows)
    tokens, positions, segment_ids, branch_ids, target_index, targets, target_slot = arrays
    hidden = hidden_states(
        config,
        params,
        tokens,
        positions,
        segment_ids,
        branch_ids if branches is None else branches,
        lora=lora,
        dropout_key=dropout_key,
    )
    valid = target_slot >= 0
    hidden = jnp.take_along_axis(hidden, target_index[:, :, None], axis=1)
    # Clear the inputs, not the result: the gradient of a masked result is 0 times the gradient of its inputs,
    # and 0 * nan is nan.
    hidden = jnp.where(valid[:, :, None], hidden, jnp.zeros((), hidden.dtype))

    ends = {name: params[name] for name in ("embedding", "head", "position_embedding") if name in params}
    of_chunk = functools.partial(target_logps, config, ends)

    @functools.partial(jax.checkpoint, policy=STORED)
    def body(_: None, chunk: tuple[Array, Array, Array]) -> tuple[None, Array]:
        skip = lambda hidden, targets, valid: jnp.zeros(valid.shape, jnp.float32)  # noqa: E731 (a branch)
        return None, jax.lax.cond(jnp.any(chunk[2]), of_chunk, skip, *chunk)

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


def _shared_logps(config: DecoderConfig, params: Any, lora: Adapters | None, rows: Rows, count: int) -> Array:
    """Of the `count` responses of every row of a `ResponseBatch`: [B, M]."""
    model = Model(params=params, config=config)
    return slot_logps(model, rows, count, branches=branches_of(rows, count), lora=lora)


# Everything below is compiled through these functions, of pairs and of responses. The tokenizer is not
# passed: it would be a static argument without effect on the program.
slot_logps_jit = jax.jit(_slot_logps, static_argnums=(0, 4))
shared_logps_jit = jax.jit(_shared_logps, static_argnums=(0, 4))


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
    shapes: RowShapes | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Log-probabilities of any number of responses, in batches of a few fixed shapes.

    Responses to equal prompts share rows, wherever they are in the list, so that a prompt is read once for
    many of them.

    Args:
      model: weights and shape.
      responses: n responses with their prompts.
      lora: adapters; None: the base model.
      batch_size: responses per batch, >= 1.
      shapes: of the rows, see `policy.batching`; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: the devices that rows are divided over, where the weights lie; None: the default device.

    Returns:
      [n] float32, nats, in the order given.

    Raises:
      InputError: an empty prompt, a response longer than every bucket, or a batch_size that is below 1 or
        not divisible by the mesh.
    """

    def compute(batch: ResponseBatch) -> Array:
        return shared_logps_jit(model.config, model.params, lora, batch.rows, responses_per_row(batch))

    return over_responses(
        compute,
        responses,
        1,
        where="response_logps",
        config=model.config,
        batch_size=batch_size,
        shapes=shapes,
        progress=progress,
        mesh=mesh,
    )[:, 0]


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
    return over_pairs(
        lambda batch: jnp.stack(pair_logps_jit(model, batch, lora=lora), axis=1),
        pairs,
        where="preference_logps",
        config=model.config,
        batch_size=batch_size,
        buckets=buckets,
        progress=progress,
        mesh=mesh,
    )
