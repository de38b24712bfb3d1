"""Token batches of fixed shape: what one row holds, which rows form a batch, and in what order.

A row is one document. A pair shares its prompt: prompt (branch 0), chosen (branch 1), rejected (branch 2),
where the positions of both responses continue the prompt's. Everywhere in the package query i sees key j iff

    j <= i,  segment_i == segment_j != 0,  and  branch_j is 0 or branch_i

All masks come from lengths, never from the value of a token. Arrays here are numpy; letters: B rows, T tokens
a row, R targets a row.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import grain
import jax
import numpy as np

from alignjax.data.buckets import Bucket, Planned, choose_buckets, plan_batches
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError

Array = np.ndarray | jax.Array
"""A batch is numpy when it is made and jax within a compiled function."""


class Rows(NamedTuple):
    """Token rows and what is to be predicted in them.

    Attributes:
      tokens: [B, T] int32.
      positions: [B, T] int32, rope positions; 0 in padding.
      segment_ids: [B, T] int32, 0 for padding, > 0 for one document.
      branch_ids: [B, T] int32, 0 for what all branches see, 1, 2, .. for responses that continue it.
      target_index: [B, R] int32, index t of the row whose hidden state predicts the target; 0 in padding.
      targets: [B, R] int32, the token to predict; 0 in padding.
      target_slot: [B, R] int32, response of the row that the target belongs to (0, 1, ..); -1 for padding.
    """

    tokens: Array
    positions: Array
    segment_ids: Array
    branch_ids: Array
    target_index: Array
    targets: Array
    target_slot: Array


class ResponseBatch(NamedTuple):
    """One prompt and one response a row (slot 0, branch 0 throughout).

    Attributes:
      rows: token rows.
      weights: [B] float32, 1 for a row, 0 for padding.
      indices: [B] int32, place of the row in the data; 0 in padding.
    """

    rows: Rows
    weights: Array
    indices: Array


class PairBatch(NamedTuple):
    """One prompt with a chosen (slot 0, branch 1) and a rejected response (slot 1, branch 2) a row.

    Attributes:
      rows: token rows.
      labels: [B] float32 in [0, 1], P(chosen preferred).
      ref_chosen: [B] float32, log-probability of the chosen response under the reference; nan where none was
        given.
      ref_rejected: [B] float32, the same of the rejected one.
      weights: [B] float32, 1 for a row, 0 for padding.
      indices: [B] int32, place of the row in the data; 0 in padding.
      chosen_sign: [B] float32, +1 where the chosen response is unsafe, -1 where it is safe, 0 where that is
        unknown; None: unknown of all. Read by the loss of cost models alone.
      rejected_sign: [B] float32, the same of the rejected one.
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
    """What each row needs: [n, 2] int64, tokens (prompt + response) and targets (response)."""
    rows = [(len(r.prompt_ids) + len(r.response_ids), len(r.response_ids)) for r in responses]
    return np.array(rows, np.int64).reshape(-1, 2)


def pair_lengths(pairs: Sequence[TokenizedPair]) -> np.ndarray:
    """What each row needs: [n, 2] int64, tokens (prompt + both responses) and targets (both responses)."""
    targets = [len(p.chosen_ids) + len(p.rejected_ids) for p in pairs]
    rows = [(len(p.prompt_ids) + r, r) for p, r in zip(pairs, targets, strict=True)]
    return np.array(rows, np.int64).reshape(-1, 2)


_Batch = TypeVar("_Batch", ResponseBatch, PairBatch)


def make_response_rows(responses: Sequence[TokenizedResponse], bucket: Bucket, num_rows: int) -> Rows:
    """Rows of prompt and response.

    Args:
      responses: at most `num_rows`; the rest is padding.
      bucket: shape of the rows.
      num_rows: B.

    Returns:
      Rows of [B, T] and [B, R].

    Raises:
      InputError: a response that does not fit, or an empty prompt.
    """
    rows = _empty_rows(num_rows, bucket)
    for i, response in enumerate(responses):
        _fill_row(rows, i, response.prompt_ids, [response.response_ids], first_branch=0)
    return rows


def make_pair_rows(pairs: Sequence[TokenizedPair], bucket: Bucket, num_rows: int) -> Rows:
    """Rows of prompt, chosen and rejected; arguments, result and errors as `make_response_rows`."""
    rows = _empty_rows(num_rows, bucket)
    for i, pair in enumerate(pairs):
        _fill_row(rows, i, pair.prompt_ids, [pair.chosen_ids, pair.rejected_ids], first_branch=1)
    return rows


def _empty_rows(num_rows: int, bucket: Bucket) -> Rows:
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
        # The last prompt token predicts the first token of every response, each token the next one of its
        # own.
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

    Every pair occurs once. The order is a function of (seed, epoch, index) alone: batch k of an epoch is the
    same whatever was read before, so that a run resumes at any step, by `dataset[k]` or by the state of its
    iterator.

    Args:
      pairs: n pairs.
      batch_size: B >= 1.
      buckets: shapes; None: `choose_buckets` of these pairs.
      labels: [n] float in [0, 1], P(chosen preferred); None: 1.
      ref_chosen: [n] float, log-probabilities of the chosen responses under the reference; None: nan, so that
        a loss that needs them fails instead of training against a wrong reference.
      ref_rejected: [n] float, likewise.
      chosen_sign: [n] float, +1 unsafe, -1 safe, 0 unknown; None: the batches have none.
      rejected_sign: [n] float, likewise.
      seed: >= 0.
      epoch: >= 0.
      shuffle: False: the given order within each bucket, short rows first.
      drop_remainder: leave out the rows of a last incomplete batch; False: fill it with rows of weight 0.

    Returns:
      A sequence of batches (len, indexing, iteration), none of which is made before it is asked for.

    Raises:
      InputError: no pair fits, a wrong size, or no batch would be left.
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
        rows = make_pair_rows([pairs[i] for i in indices], bucket, batch_size)
        extras = {name: _fill(values[indices], batch_size) for name, values in columns.items()}
        return PairBatch(rows, **extras, **_bookkeeping(indices, batch_size))

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
    """One epoch of response batches; everything as in `pair_batches`."""

    def make(bucket: Bucket, indices: np.ndarray) -> ResponseBatch:
        rows = make_response_rows([responses[i] for i in indices], bucket, batch_size)
        return ResponseBatch(rows, **_bookkeeping(indices, batch_size))

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


def _dataset(plan: list[Planned], make: Callable[[Bucket, np.ndarray], _Batch]) -> grain.MapDataset[_Batch]:
    return grain.MapDataset.source(plan).map(lambda planned: make(planned.bucket, planned.indices))


def _column(values: np.ndarray | None, n: int, default: float, name: str) -> np.ndarray:
    column = np.full(n, default, np.float32) if values is None else np.asarray(values, np.float32)
    if column.shape != (n,):
        raise InputError(f"pair_batches: {name} has shape {column.shape}, must be ({n},): one for each pair.")
    return column


def _fill(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros(size - len(values), values.dtype)])


def _bookkeeping(indices: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """Weights and indices of a batch of which the first rows are real."""
    return {
        "weights": _fill(np.ones(len(indices), np.float32), batch_size),
        "indices": _fill(indices.astype(np.int32), batch_size),
    }
