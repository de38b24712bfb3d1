"""Chooses the shapes of batches, and the rows and order of the batches of an epoch, from lengths alone.

Every shape costs a compilation of every function that is called with it, so there are few shapes. Every batch
depends on (seed, epoch, index) alone, so that a run can resume at any step. Letters: n rows, B rows per
batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.errors import InputError

_WITHOUT_COSTS = 3  # buckets at most, where nobody says what a compilation is worth
_MOST_SIZES = 512  # boundaries that are considered
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Bucket(NamedTuple):
    """Shape of a batch's rows: T tokens and R targets."""

    tokens: int
    targets: int


class Planned(NamedTuple):
    """One batch: its shape, and the indices [<= B] int64 of its rows in the data."""

    bucket: Bucket
    indices: np.ndarray


class RowCost(NamedTuple):
    """What a row of T tokens costs, T + square T^2, and what a compilation costs, in the same unit.

    Attributes:
      square: work of a pair of tokens, in units of the work of a token.
      compilation: work in place of which a program can be compiled, for each time that the rows are computed.
    """

    square: float
    compilation: float


class _Partition(NamedTuple):
    """A division of sorted sizes into runs: its cost, and the index of the last size of each run."""

    cost: float
    ends: tuple[int, ...]


def choose_buckets(
    lengths: np.ndarray,
    num_buckets: int = 3,
    *,
    token_multiple: int = 16,
    target_multiple: int = 8,
    min_saving: float = 0.05,
    cost: RowCost | None = None,
) -> tuple[Bucket, ...]:
    """Chooses few shapes that hold every row with little padding.

    The boundaries minimise exactly, by dynamic programming over the distinct rounded lengths, the sum over
    rows of the cost of the row's bucket. Another bucket is added only if it saves a compilation. Where the
    costs are not known, that of a bucket is its tokens and targets; it then has to save a share `min_saving`
    of the sum, and there are at most three.

    Args:
      lengths: [n, 2] int, tokens and targets of each row.
      num_buckets: largest number of buckets, >= 1.
      token_multiple: tokens of a bucket are a multiple of this.
      target_multiple: targets of a bucket are a multiple of this.
      min_saving: share in [0, 1).
      cost: of rows and compilations; targets are not part of it, since a step skips those that no row has.

    Returns:
      Buckets of increasing tokens and targets, so that a row fits into every bucket after its own.

    Raises:
      InputError: no rows, or num_buckets < 1.
    """
    if len(lengths) == 0:
        raise InputError("choose_buckets: there are no rows; the data set is empty.")
    if num_buckets < 1:
        raise InputError(f"choose_buckets: num_buckets is {num_buckets}; it must be at least 1.")
    multiples = np.array([[token_multiple, target_multiple]])
    sizes = np.maximum(-(-np.asarray(lengths) // multiples), 1) * multiples
    tokens, counts = _candidates(sizes[:, 0])
    # A bucket of T tokens must hold every row of at most T tokens, so it needs the largest number of targets
    # of these rows.
    targets = np.array([sizes[sizes[:, 0] <= t, 1].max() for t in tokens])
    if cost is None:
        costs, most = (tokens + targets).astype(float), min(num_buckets, _WITHOUT_COSTS)
    else:
        costs, most = tokens + cost.square * tokens.astype(float) ** 2, num_buckets
    best, *more = _partitions(counts, costs, min(most, len(tokens)))
    for candidate in more:
        added = len(candidate.ends) - len(best.ends)
        wanted = min_saving * best.cost if cost is None else cost.compilation * added
        if best.cost - candidate.cost > wanted:
            best = candidate
    return tuple(Bucket(int(tokens[i]), int(targets[i])) for i in best.ends)


def _candidates(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes that a bucket may have, and how many rows are no longer but longer than the size before."""
    sizes, counts = np.unique(tokens, return_counts=True)
    step = -(-len(sizes) // _MOST_SIZES)
    kept = np.arange(len(sizes) - 1, -1, -step)[::-1]  # the largest is one of them
    return sizes[kept], np.diff(np.cumsum(counts)[kept], prepend=0)


def _partitions(counts: np.ndarray, costs: np.ndarray, most: int) -> list[_Partition]:
    """The cheapest partitions of the sorted sizes into 1, 2, ..., most runs."""
    rows = np.cumsum(counts)  # up to each size
    # Cost of a last run from the size after i to size j; a run has at least one size.
    last = np.where(np.tri(len(costs), k=-1).T > 0, (rows[None, :] - rows[:, None]) * costs[None, :], np.inf)
    # The cheapest partition of sizes 0..j into the current number of runs.
    best, ends = rows * costs, [(j,) for j in range(len(costs))]
    found = [_Partition(float(best[-1]), ends[-1])]
    for _ in range(1, most):
        options = best[:, None] + last
        before = np.argmin(options, axis=0)
        extended = options[before, np.arange(len(costs))]
        ends = [(*ends[i], j) if extended[j] < best[j] else ends[j] for j, i in enumerate(before.tolist())]
        best = np.minimum(best, extended)
        found.append(_Partition(float(best[-1]), ends[-1]))
    return found


def plan_batches(
    lengths: np.ndarray,
    buckets: Sequence[Bucket],
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_remainder: bool = False,
) -> list[Planned]:
    """Assigns rows to the batches of one epoch; every row occurs at most once.

    Rows left over in one bucket move to the next larger one. So only the last bucket can have an incomplete
    batch, and there are n / B batches, rounded up (with `drop_remainder` rounded down).

    Args:
      lengths: [n, 2] int, tokens and targets of each row.
      buckets: shapes of increasing tokens and targets.
      batch_size: B >= 1.
      seed: >= 0.
      epoch: >= 0.
      shuffle: False: the given order within each bucket, short rows first.
      drop_remainder: leave out the last incomplete batch.

    Returns:
      The batches in order.

    Raises:
      InputError: a row that fits no bucket, batch_size < 1, a negative seed or epoch, or no batch left.
    """
    if batch_size < 1:
        raise InputError(f"batches: batch_size is {batch_size}; it must be at least 1.")
    home = _home(lengths, buckets)
    order = permutation(len(lengths), seed, epoch, 0) if shuffle else np.arange(len(lengths))
    plan: list[Planned] = []
    left = order[:0]
    for place, bucket in enumerate(buckets):
        rows = np.concatenate([left, order[home[order] == place]])
        full = len(rows) // batch_size * batch_size
        plan += [Planned(bucket, rows[k : k + batch_size]) for k in range(0, full, batch_size)]
        left = rows[full:]
    if len(left) and not drop_remainder:
        plan.append(Planned(buckets[-1], left))
    if not plan:
        raise InputError(
            f"batches: {len(lengths)} rows do not fill one batch of {batch_size}; lower the batch size, or "
            "keep the last incomplete batch."
        )
    return [plan[k] for k in permutation(len(plan), seed, epoch, 1)] if shuffle else plan


def _home(lengths: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """The first bucket that each row fits into: [n] int."""
    limits = np.array(buckets, np.int64).reshape(-1, 2)
    if len(limits) == 0 or np.any(np.diff(limits, axis=0) < 0):
        raise InputError(
            f"batches: buckets {list(buckets)} must increase in tokens and targets; use choose_buckets."
        )
    fits = np.all(lengths[:, None] <= limits[None], axis=-1)  # [n, buckets]
    if not np.all(fits[:, -1]):
        row = int(np.argmin(fits[:, -1]))
        raise InputError(
            f"batches: row {row} has {lengths[row, 0]} tokens and {lengths[row, 1]} targets, more than the "
            f"largest bucket {tuple(buckets[-1])}; choose the buckets from all lengths."
        )
    return np.argmax(fits, axis=-1)


def permutation(n: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """A random permutation that depends on its arguments alone, not on a library's generator.

    Indices are sorted by a hash of (seed, epoch, stream, index), the finalizer of SplitMix64.

    Args:
      n: number of indices.
      seed: >= 0.
      epoch: >= 0.
      stream: different streams give independent permutations.

    Returns:
      [n] int64.

    Raises:
      InputError: a negative seed or epoch.

    Reference: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    if seed < 0 or epoch < 0:
        raise InputError(f"batches: seed is {seed} and epoch {epoch}; both must be at least 0.")
    state = np.zeros(1, np.uint64)
    for part in (seed, epoch, stream):
        state = _mix(state + np.uint64(part % 2**64) + _GOLDEN)
    hashed = _mix(state + np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN)
    return np.argsort(hashed, kind="stable")


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
