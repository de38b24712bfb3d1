"""Token batches of fixed shape.

A row is one document. The responses of a pair share their prompt: prompt (branch 0), chosen (branch 1),
rejected (branch 2); the positions of both responses continue the prompt's. Everywhere in the package query i
sees key j iff

    j <= i,  segment_i == segment_j != 0,  and  branch_j is 0 or branch_i

All masks come from lengths, never from the value of a token. Arrays here are numpy. Letters: B rows, T tokens
per row, R targets per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import jax
import numpy as np

from alignjax.data.buckets import Bucket, Planned, choose_buckets, plan_batches
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes most of a second, and only training needs it
    import grain

Array = np.ndarray | jax.Array
"""Batches are made of numpy arrays; in a compiled function they are jax arrays."""


class Rows(NamedTuple):
    """Token rows and the tokens to predict in them.

    Attributes:
      tokens: [B, T] int32.
      positions: [B, T] int32, rope positions; 0 in padding.
      segment_ids: [B, T] int32, 0 for padding, > 0 for one document.
      branch_ids: [B, T] int32, 0 for the part that all branches see, 1, 2, ... for responses that continue
        it.
      target_index: [B, R] int32, index t in the row of the hidden state that predicts the target; 0 in
        padding.
      targets: [B, R] int32, the token to predict; 0 in padding.
      target_slot: [B, R] int32, number of the response that the target belongs to (0, 1, ...); -1 in padding.
    """

    tokens: Array
    positions: Array
    segment_ids: Array
    branch_ids: Array
    target_index: Array
    targets: Array
    target_slot: Array


class ResponseBatch(NamedTuple):
    """Rows of one prompt and M responses, which are the slots 0 to M - 1.

    With M = 1 a row is prompt and response, branch 0 throughout; with more see `shared_rows`.

    Attributes:
      rows: token rows.
      weights: [B * M] float32, 1 for a response, 0 for a slot without one.
      indices: [B * M] int32, index of the response in the data; 0 where there is none.
    """

    rows: Rows
    weights: Array
    indices: Array


class PairBatch(NamedTuple):
    """Rows of one prompt with a chosen (slot 0, branch 1) and a rejected response (slot 1, branch 2).

    Attributes:
      rows: token rows.
      labels: [B] float32 in [0, 1], P(chosen preferred).
      ref_chosen: [B] float32, log-probability of the chosen response under the reference; nan if not given.
      ref_rejected: [B] float32, the same for the rejected response.
      weights: [B] float32, 1 for a real row, 0 for padding.
      indices: [B] int32, index of the row in the data; 0 in padding.
      chosen_sign: [B] float32, +1 if the chosen response is unsafe, -1 if it is safe, 0 if that is unknown;
        None: unknown for all. Only the loss of cost models reads it.
      rejected_sign: [B] float32, the same for the rejected response.
    """

    rows: Rows
    labels: Array
    ref_chosen: Array
    ref_rejected: Array
    weights: Array
    indices: Array
    chosen_sign: Array | None = None
    rejected_sign: Array | None = None


def response_lengths(responses: Sequence[TokenizedResponse]) -> np.ndarray:
    """Lengths of the rows of n responses: [n, 2] int64, tokens (prompt + response) and targets (response)."""
    rows = [(len(r.prompt_ids) + len(r.response_ids), len(r.response_ids)) for r in responses]
    return np.array(rows, np.int64).reshape(-1, 2)


def pair_lengths(pairs: Sequence[TokenizedPair]) -> np.ndarray:
    """Lengths of the rows of n pairs: [n, 2] int64, tokens (prompt + responses) and targets (responses)."""
    targets = [len(p.chosen_ids) + len(p.rejected_ids) for p in pairs]
    rows = [(len(p.prompt_ids) + r, r) for p, r in zip(pairs, targets, strict=True)]
    return np.array(rows, np.int64).reshape(-1, 2)


_Batch = TypeVar("_Batch", ResponseBatch, PairBatch)


def make_response_rows(responses: Sequence[TokenizedResponse], bucket: Bucket, num_rows: int) -> Rows:
    """Rows of prompt and response.

    Args:
      responses: at most `num_rows`; the other rows are padding.
      bucket: shape of the rows.
      num_rows: B.

    Returns:
      Rows of [B, T] and [B, R].

    Raises:
      InputError: a response that does not fit, or an empty prompt.
    """
    rows = empty_rows(num_rows, bucket)
    for i, response in enumerate(responses):
        _fill_row(rows, i, response.prompt_ids, [response.response_ids], first_branch=0)
    return rows


def make_pair_rows(pairs: Sequence[TokenizedPair], bucket: Bucket, num_rows: int) -> Rows:
    """Rows of prompt, chosen and rejected response.

    Args:
      pairs: at most `num_rows`; the other rows are padding.
      bucket: shape of the rows.
      num_rows: B.

    Returns:
      Rows of [B, T] and [B, R].

    Raises:
      InputError: a pair that does not fit, or an empty prompt.
    """
    rows = empty_rows(num_rows, bucket)
    for i, pair in enumerate(pairs):
        _fill_row(rows, i, pair.prompt_ids, [pair.chosen_ids, pair.rejected_ids], first_branch=1)
    return rows


def empty_rows(num_rows: int, bucket: Bucket) -> Rows:
    """Rows of padding, to be filled."""
    wide, narrow = (num_rows, bucket.tokens), (num_rows, bucket.targets)
    zeros = [np.zeros(shape, np.int32) for shape in (wide, wide, wide, wide, narrow, narrow)]
    return Rows(*zeros, target_slot=np.full(narrow, -1, np.int32))


def _fill_row(
    rows: Rows, i: int, prompt_ids: np.ndarray, responses: Sequence[np.ndarray], *, first_branch: int
) -> None:
    """Writes one document into row i of `rows`, in place."""
    start, size = len(prompt_ids), len(prompt_ids) + sum(map(len, responses))
    if start == 0:
        raise InputError(
            f"row {i} of a batch has no prompt tokens, so nothing predicts its first response token."
        )
    if size > rows.tokens.shape[1] or size - start > rows.targets.shape[1]:
        raise InputError(
            f"row {i} of a batch has {size} tokens and {size - start} targets; its bucket holds "
            f"{rows.tokens.shape[1]} and {rows.targets.shape[1]}. Choose the buckets from all lengths."
        )
    row = Rows(*(np.asarray(field)[i] for field in rows))  # views
    row.tokens[:start] = prompt_ids
    row.positions[:start] = np.arange(start)
    row.segment_ids[:size] = 1
    target = 0
    for slot, ids in enumerate(responses):
        end, last = start + len(ids), target + len(ids)
        row.tokens[start:end] = ids
        row.positions[start:end] = len(prompt_ids) + np.arange(len(ids))
        row.branch_ids[start:end] = first_branch + slot
        # The last prompt token predicts the first token of every response; every other target is predicted by
        # the token before it.
        row.target_index[target:last] = np.arange(start - 1, end - 1)
        row.target_index[target : target + 1] = len(prompt_ids) - 1
        row.targets[target:last] = ids
        row.target_slot[target:last] = slot
        start, target = end, last


def pair_batches(
    pairs: Sequence[TokenizedPair],
    *,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    labels: np.ndarray | None = None,
    ref_chosen: np.ndarray | None = None,
    ref_rejected: np.ndarray | None = None,
    chosen_sign: np.ndarray | None = None,
    rejected_sign: np.ndarray | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_remainder: bool = False,
) -> grain.MapDataset[PairBatch]:
    """One epoch of pair batches, all of `batch_size` rows.

    Every pair occurs once. Batch k depends on (seed, epoch, k) alone, not on what was read before, so that a
    run can resume at any step, with `dataset[k]` or with the state of its iterator.

    Args:
      pairs: n pairs.
      batch_size: B >= 1.
      buckets: shapes; None: `choose_buckets` of these pairs.
      labels: [n] float in [0, 1], P(chosen preferred); None: 1.
      ref_chosen: [n] float, log-probabilities of the chosen responses under the reference; None: nan, so that
        a loss that needs them fails instead of training against a wrong reference.
      ref_rejected: [n] float, the same for the rejected responses.
      chosen_sign: [n] float, +1 unsafe, -1 safe, 0 unknown; None: the batches hold no signs.
      rejected_sign: [n] float, the same for the rejected responses.
      seed: >= 0.
      epoch: >= 0.
      shuffle: False: the given order within each bucket, short rows first.
      drop_remainder: leave out a last incomplete batch; False: fill it up with rows of weight 0.

    Returns:
      A sequence of batches (len, indexing, iteration); each is made when it is accessed.

    Raises:
      InputError: a pair that fits no bucket, a column of the wrong length, batch_size < 1, or no batch is
        left.
    """
    n = len(pairs)
    columns = {
        "labels": _column(labels, n, 1.0, "labels"),
        "ref_chosen": _column(ref_chosen, n, np.nan, "ref_chosen"),
        "ref_rejected": _column(ref_rejected, n, np.nan, "ref_rejected"),
    }
    for name, signs in (("chosen_sign", chosen_sign), ("rejected_sign", rejected_sign)):
        if signs is not None:
            columns[name] = _column(signs, n, 0.0, name)

    def make(bucket: Bucket, indices: np.ndarray) -> PairBatch:
        return _pair_batch(pairs, bucket, indices, batch_size, columns)

    lengths = pair_lengths(pairs)
    plan = plan_batches(
        lengths,
        choose_buckets(lengths) if buckets is None else buckets,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        shuffle=shuffle,
        drop_remainder=drop_remainder,
    )
    return _dataset(plan, make)


def pairs_in_order(
    pairs: Sequence[TokenizedPair], *, batch_size: int, buckets: Sequence[Bucket]
) -> Iterator[PairBatch]:
    """The batches of `pair_batches`, not shuffled and without labels; arguments and errors as there."""
    columns = {"labels": np.ones(len(pairs), np.float32)}
    columns |= {name: np.full(len(pairs), np.nan, np.float32) for name in ("ref_chosen", "ref_rejected")}
    for bucket, indices in plan_batches(pair_lengths(pairs), buckets, batch_size=batch_size):
        yield _pair_batch(pairs, bucket, indices, batch_size, columns)


def _pair_batch(
    pairs: Sequence[TokenizedPair],
    bucket: Bucket,
    indices: np.ndarray,
    batch_size: int,
    columns: Mapping[str, np.ndarray],
) -> PairBatch:
    rows = make_pair_rows([pairs[i] for i in indices], bucket, batch_size)
    extras = {name: _fill(values[indices], batch_size) for name, values in columns.items()}
    return PairBatch(rows, **extras, **_bookkeeping(indices, batch_size))


def response_batches(
    responses: Sequence[TokenizedResponse],
    *,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_remainder: bool = False,
) -> grain.MapDataset[ResponseBatch]:
    """One epoch of response batches, all of `batch_size` rows; see `pair_batches`.

    Args:
      responses: n responses with their prompts.
      batch_size: B >= 1.
      buckets: shapes; None: `choose_buckets` of these responses.
      seed: >= 0.
      epoch: >= 0.
      shuffle: False: the given order within each bucket, short rows first.
      drop_remainder: leave out a last incomplete batch; False: fill it up with rows of weight 0.

    Returns:
      A sequence of batches (len, indexing, iteration); each is made when it is accessed.

    Raises:
      InputError: a response that fits no bucket, batch_size < 1, or no batch is left.
    """

    def make(bucket: Bucket, indices: np.ndarray) -> ResponseBatch:
        return response_batch(responses, bucket, indices, batch_size)

    lengths = response_lengths(responses)
    plan = plan_batches(
        lengths,
        choose_buckets(lengths) if buckets is None else buckets,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        shuffle=shuffle,
        drop_remainder=drop_remainder,
    )
    return _dataset(plan, make)


def response_batch(
    responses: Sequence[TokenizedResponse], bucket: Bucket, indices: np.ndarray, batch_size: int
) -> ResponseBatch:
    """A batch of the responses with these indices, one in a row; the other rows are padding."""
    rows = make_response_rows([responses[i] for i in indices], bucket, batch_size)
    return ResponseBatch(rows, **_bookkeeping(indices, batch_size))


def _dataset(plan: list[Planned], make: Callable[[Bucket, np.ndarray], _Batch]) -> grain.MapDataset[_Batch]:
    """The batches of a plan; `make` is called with a shape and the indices of a batch when it is accessed."""
    import grain

    return grain.MapDataset.source(plan).map(lambda planned: make(planned.bucket, planned.indices))


def _column(values: np.ndarray | None, n: int, default: float, name: str) -> np.ndarray:
    column = np.full(n, default, np.float32) if values is None else np.asarray(values, np.float32)
    if column.shape != (n,):
        raise InputError(
            f"pair_batches: {name} has shape {column.shape}, must be ({n},): give one number per pair."
        )
    return column


def _fill(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(size - len(values), values.dtype)])


def _bookkeeping(indices: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """Weights and indices of a batch whose first rows are real."""
    return {
        "weights": _fill(np.ones(len(indices), np.float32), batch_size),
        "indices": _fill(indices.astype(np.int32), batch_size),
    }
