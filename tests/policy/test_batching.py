"""Shapes of batches: rows that are rounded up, and batches that the mesh divides."""

import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.policy.batching import Batching
from alignjax.runtime.mesh import make_mesh


@pytest.fixture
def batching() -> Batching:
    return Batching(make_mesh(data=4, fsdp=2), rows=16, num_buckets=3, memory=None)


@pytest.mark.parametrize(
    ("lengths", "largest"),
    [
        # Multiples of 2 and 2 up to 48 tokens, of 16 tokens and 8 targets beyond.
        ([[39, 38]], (40, 38)),
        ([[48, 47]], (48, 48)),
        ([[49, 47]], (64, 48)),
        ([[20, 5], [1023, 1022]], (1024, 1024)),
    ],
)
def test_lengths_are_rounded_up(batching, lengths, largest):
    assert batching.buckets(np.array(lengths))[-1] == largest


def test_at_most_so_many_buckets(batching):
    lengths = np.stack([np.arange(16, 400, 16)] * 2, axis=1)
    assert len(batching.buckets(lengths)) == 3


def test_no_rows(batching):
    with pytest.raises(InputError, match="there are no rows"):
        batching.buckets(np.zeros((0, 2), np.int64))


@pytest.mark.parametrize(("count", "rows"), [(1, 8), (8, 8), (9, 16), (1000, 16)])
def test_batches_are_divided_by_the_mesh(batching, count, rows):
    # Eight parts of the rows; no more rows than there are, filled up to a multiple of eight.
    assert batching.batch_size(count) == rows
