"""Merged adapters against sums of full matrices and their singular values."""

import dataclasses

import jax
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    init_lora,
    init_params,
    load_adapter,
    merge_lora,
    merged,
    save_adapter,
)

CONFIG = DecoderConfig("llama", 12, 16, 24, 2, 4, 2, 4)
WEIGHTS = (0.7, -1.2)


@pytest.fixture(scope="module")
def two():
    """Of unequal rank, scale and targets."""

    def make(seed, **options):
        keys = iter(jax.random.split(jax.random.key(seed), 20))
        lora = init_lora(next(keys), CONFIG, **options)
        return lora.replace(
            params=jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), lora.params)
        )

    return make(2, rank=3, alpha=6.0, dropout=0.1), make(3, rank=2, alpha=1.0, targets=("q", "down"))


def change(lora):
    """Projection -> what an adapter adds to its weights, [L, in, out] float64."""
    return {
        name: lora.scale * np.asarray(pair["a"], np.float64) @ np.asarray(pair["b"], np.float64)
        for name, pair in lora.params["layers"].items()
    }


def added(adapters, weights):
    """The same for a weighted sum of adapters."""
    total = {}
    for lora, weight in zip(adapters, weights, strict=True):
        for name, matrix in change(lora).items():
            total[name] = total.get(name, 0.0) + weight * matrix
    return total


def test_without_a_cut_the_sum_is_exact(two):
    for rank in (None, 5, 40):
        lora, lost = merged(two, WEIGHTS, rank=rank)
        found, expected = change(lora), added(two, WEIGHTS)
        assert lost == 0.0 and lora.scale == 1.0 and lora.dropout == 0.0
        assert {pair["a"].shape[2] for pair in lora.params["layers"].values()} == {5}
        assert set(found) == set(expected)
        for name, matrix in expected.items():
            np.testing.assert_allclose(found[name], matrix, atol=2e-5)


def test_one_adapter_of_weight_one_is_itself(two):
    lora, lost = merged(two[:1], [1.0])
    params = init_params(jax.random.key(0), CONFIG)
    assert lost == 0.0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        merge_lora(params, lora),
        merge_lora(params, two[0]),
    )


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_cut_keeps_the_largest_singular_values(two, rank):
    lora, lost = merged(two, WEIGHTS, rank=rank)
    found, expected = change(lora), added(two, WEIGHTS)
    whole = gone = 0.0
    for name, matrix in expected.items():
        u, values, v = np.linalg.svd(matrix, full_matrices=False)
        nearest = (u[:, :, :rank] * values[:, None, :rank]) @ v[:, :rank]
        np.testing.assert_allclose(found[name], nearest, atol=3e-5)
        whole, gone = whole + np.sum(values**2), gone + np.sum(values[:, rank:] ** 2)
    # Also what is measured on the matrices themselves.
    missing = sum(np.sum((found[name] - expected[name]) ** 2) for name in expected)
    np.testing.assert_allclose([lost, lost], [gone / whole, missing / whole], rtol=1e-4)
    assert (
        lost > 0.001
        and {p["b"].shape[1] for p in lora.params["layers"].values()} == {max(rank, 3)}
        or rank < 3
    )


def test_a_sum_that_cancels_loses_nothing(two):
    lora, lost = merged([two[0], two[0]], [1.0, -1.0], rank=2)
    assert lost == 0.0
    assert max(np.abs(matrix).max() for matrix in change(lora).values()) < 1e-5


def test_written_and_read_again(two, tmp_path):
    lora, _ = merged(two, WEIGHTS, rank=3)
    save_adapter(lora, CONFIG, tmp_path / "adapter", base_model="base")
    found = change(load_adapter(tmp_path / "adapter", CONFIG))
    for name, matrix in change(lora).items():
        np.testing.assert_allclose(found[name], matrix, atol=1e-5)


def test_what_cannot_be_merged_is_refused(two):
    with pytest.raises(InputError, match="there are no adapters"):
        merged([], [])
    with pytest.raises(InputError, match="rank is 0"):
        merged(two, WEIGHTS, rank=0)
    with pytest.raises(InputError, match="1 weights for 2 adapters"):
        merged(two, [1.0])
    with pytest.raises(InputError, match="weight 0 is inf"):
        merged(two, [float("inf"), 1.0])
    other = init_lora(jax.random.key(0), dataclasses.replace(CONFIG, hidden_size=32), rank=2, alpha=1.0)
    with pytest.raises(InputError, match="adapter 1 has 2 layers with 32 x 16 weights in q, adapter 0"):
        merged([two[0], other], WEIGHTS)
