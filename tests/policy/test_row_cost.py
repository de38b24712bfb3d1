"""The cost of a row and of a compilation by hand, and how many shapes follow from them."""

import numpy as np
import pytest

from alignjax.data.buckets import choose_buckets
from alignjax.models import DecoderConfig
from alignjax.planning.architectures import SHAPES
from alignjax.policy.row_cost import row_cost

TINY = DecoderConfig("llama", 100, 16, 32, 3, 4, 2, 4)


def test_by_hand():
    weights = 3 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32)
    cost = row_cost(TINY, 2.0)
    assert cost.square == pytest.approx(2 * 3 * 16 / weights)  # scores, and values that they weigh
    assert cost.compilation == pytest.approx((6e10 / weights + weights / 1e5) / 2)
    trained = row_cost(TINY, 2.0, trained=True)
    assert trained.compilation == pytest.approx((4e11 / weights + weights / 1e5) / 2)


@pytest.mark.parametrize(("pairs", "passes", "shapes"), [(96, 1, 2), (96, 3, 4), (1000, 3, 8)])
def test_more_work_is_worth_more_shapes(pairs, passes, shapes):
    tokens = np.random.default_rng(0).lognormal(5.1, 0.5, pairs).astype(int).clip(20, 575)
    lengths = np.stack([tokens, tokens // 2], axis=1)
    found = choose_buckets(lengths, 8, cost=row_cost(SHAPES["smollm2-135m"], passes, trained=True))
    assert len(found) == shapes
    assert len(choose_buckets(lengths, 8, cost=row_cost(TINY, passes, trained=True))) == 1
