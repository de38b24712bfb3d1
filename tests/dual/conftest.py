"""Random problems, and float64 for the tests that need it."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest

Problem = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def x64() -> Iterator[None]:
    """The test runs in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Seed -> rewards [N, K] and utilities [N, K, m] that conflict with them, float64."""

    def make(seed: int, n: int = 6, k: int = 8, m: int = 2) -> Problem:
        rng = np.random.default_rng(seed)
        rewards = rng.normal(size=(n, k))
        conflict = rng.uniform(-1, 0.5, size=m)
        return rewards, rng.normal(size=(n, k, m)) + conflict * rewards[..., None]

    return make
