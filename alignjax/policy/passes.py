"""Forward passes over any number of pairs or responses, in batches of a few fixed shapes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.data.batches import Bucket, PairBatch, ResponseBatch, pairs_in_order
from alignjax.data.shared_rows import RowShapes, rows_per_batch, shared_batches
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import DecoderConfig
from alignjax.policy.batching import pair_buckets_for, shapes_for
from alignjax.runtime import preemption, processes
from alignjax.runtime.mesh import batch_rows, placer, row_parts

_Batch = TypeVar("_Batch", ResponseBatch, PairBatch)


def over_responses(
    compute: Callable[[ResponseBatch], Array],
    responses: Sequence[TokenizedResponse],
    width: int,
    *,
    where: str,
    config: DecoderConfig,
    batch_size: int,
    shapes: RowShapes | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Computes values for every response, in batches of a few fixed shapes.

    Args:
      compute: a batch of B rows of M responses -> [B, M, width] float; of width 1 also [B, M].
      responses: n responses with their prompts.
      width: values of each response.
      where: the function that errors name.
      config: the decoder that reads them.
      batch_size: responses per batch, >= 1.
      shapes: of the rows; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: as in `response_logps`; `compute` receives batches that are placed on it.

    Returns:
      [n, width] float32, in the order given.

    Raises:
      InputError: as in `response_logps`.
    """
    _check_batch_size(batch_size, where)
    result = np.full((len(responses), width), np.nan, np.float32)
    if responses:
        if shapes is None:
            shapes = shapes_for(config, responses, batch_size=batch_size, mesh=mesh)
        rows = rows_per_batch(responses, shapes, batch_size=batch_size, parts=row_parts(mesh))
        _over_batches(shared_batches(responses, shapes, num_rows=rows), compute, result, progress, mesh)
    return result


def over_pairs(
    compute: Callable[[PairBatch], Array],
    pairs: Sequence[TokenizedPair],
    *,
    where: str,
    config: DecoderConfig,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Computes a value for both responses of every pair; arguments and errors as of `over_responses`.

    Args:
      compute: a batch of B pairs -> [B, 2] float.
      pairs: n pairs.
      where: the function that errors name.
      config: the decoder that reads them.
      batch_size: pairs per batch, >= 1.
      buckets: shapes of the rows; None: chosen from the lengths.
      progress: called with the number of pairs done since the last call.
      mesh: as in `preference_logps`.

    Returns:
      [n, 2] float32, chosen and rejected, in the order given.
    """
    _check_batch_size(batch_size, where)
    result = np.full((len(pairs), 2), np.nan, np.float32)
    if pairs:
        if buckets is None:
            buckets = pair_buckets_for(config, pairs)
        rows = batch_rows(batch_size, len(pairs), mesh)
        _over_batches(
            pairs_in_order(pairs, batch_size=rows, buckets=buckets), compute, result, progress, mesh
        )
    return result


def _check_batch_size(batch_size: int, where: str) -> None:
    if batch_size < 1:
        raise InputError(f"{where}: batch_size is {batch_size}; it must be at least 1.")


def _over_batches(
    batches: Iterable[_Batch],
    compute: Callable[[_Batch], Array],
    result: np.ndarray,
    progress: Callable[[int], Any] | None,
    mesh: Mesh | None,
) -> None:
    """Computes values for every batch and writes those of what is real into `result`.

    Args:
      batches: of any fixed shapes.
      compute: a batch -> [B, ...] float for pairs, [B, M, ...] for rows of M responses.
      result: [n, ...]; place i receives the values of the pair or response whose index in the data is i.
      progress: called with the number of pairs or responses done since the last call.
      mesh: the devices that rows are divided over; `compute` receives batches that are placed on it.

    Raises:
      Stopped: the run was asked to stop; raised between batches.
    """

    def collect(batch: _Batch, values: Array) -> None:
        real = np.asarray(batch.weights) > 0
        found = processes.to_host(values).reshape(len(real), *result.shape[1:])
        result[np.asarray(batch.indices)[real]] = found[real]
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
