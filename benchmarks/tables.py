"""Score tables that the benchmarks share."""

import numpy as np


def published_like(seed: int, n: int = 1000, k: int = 128, m: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [n, k] and utilities [n, k, m], float64, with means and reach like the published 7B samples.

    Half of the prompts are such that safety costs reward (correlation -0.65, utilities vary more), on the
    other half the two go together a little (0.29, rewards vary more); the ratio of the two spreads also
    varies by prompt. The numbers were chosen so that the tilts to one score alone, and the margins at the
    published multipliers, come near the published means (Huang et al. 2024, arXiv 2405.19544). Further
    utilities are like the first, with noise of their own.
    """
    rng = np.random.default_rng(seed)
    conflict = (np.arange(n) % 2 == 0)[:, None]
    ratio = np.exp(0.13 * rng.standard_normal((n, 1)))
    rho = np.where(conflict, -0.65, 0.29)
    first = rng.standard_normal((n, k))
    rewards = np.where(conflict, 2.54, 4.03) / ratio * first
    utilities = np.empty((n, k, m))
    for j in range(m):
        noise = rng.standard_normal((n, k))
        spread = np.where(conflict, 2.97, 1.71) * ratio
        utilities[..., j] = spread * (rho * first + np.sqrt(1 - rho**2) * noise)
    rewards += -11.70 - rewards.mean()
    utilities += -1.61 - utilities.mean(axis=(0, 1))
    return rewards, utilities
