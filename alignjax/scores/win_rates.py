"""Contests between policies: win rates, and Bradley-Terry ratings that summarise them.

Letters: P policies, N prompts, K responses of a prompt, R resamples.
"""

import numpy as np
from scipy.special import expit

# Wins added each way to every pair of policies that was compared: ratings stay finite if one side won always.
PRIOR = 0.5
_MOST_STEPS = 200
_CONVERGED = 1e-10  # logits; convergence is quadratic there, so that the next step is below rounding


def win_shares(scores: np.ndarray, weights: np.ndarray | None = None, *, tie: float = 0.0) -> np.ndarray:
    """How often a response of one policy scores higher than one of another to the same prompt.

        share_abn = sum_kl w_ank w_bnl ([s_ank > s_bnl] + [s_ank = s_bnl] / 2)

    Args:
      scores: [P, N, K] float, higher is better.
      weights: [P, N, K] float >= 0, weights of the responses, normalised here over K; None: equal.
      tie: scores that differ by at most this count as equal.

    Returns:
      [P, P, N] float64 in [0, 1]: policy a (row) against policy b (column); share_ab + share_ba = 1.
      = 1.

    Raises:
      ValueError: shapes that do not fit, or scores that are not finite.
    """
    scores = np.asarray(scores, np.float64)
    chances = np.ones_like(scores) if weights is None else np.asarray(weights, np.float64)
    if scores.ndim != 3 or chances.shape != scores.shape:
        raise ValueError(
            f"win_shares: scores {scores.shape} and weights {chances.shape} must both be [P, N, K]."
        )
    if not np.isfinite(scores).all():
        raise ValueError("win_shares: scores must be finite; leave out responses that have none.")
    chances = chances / chances.sum(axis=2, keepdims=True)
    shares = np.full((len(scores), *scores.shape[:2]), 0.5)
    for a in range(len(scores)):
        for b in range(a):
            lead = scores[a][:, :, None] - scores[b][:, None, :]  # [N, K, K]
            wins = np.where(np.abs(lead) <= tie, 0.5, lead > 0)
            won = np.einsum("nk,nkl,nl->n", chances[a], wins, chances[b])
            shares[a, b] = np.clip(won, 0.0, 1.0)  # rounding can leave 1 + 2e-16
            shares[b, a] = 1.0 - shares[a, b]
    return shares


def win_rates(shares: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Win rates: means of shares over the prompts that have a verdict.

    Args:
      shares: [P, P, N] float, nan where there is no verdict.
      weights: [R, N] float >= 0, weights of the prompts in each resample.

    Returns:
      Rates [R, P, P] float64, nan where no prompt of positive weight has a verdict, and the total weight
      [R, P, P] of the prompts that have one.
    """
    known = np.isfinite(shares)
    judged = np.einsum("rn,abn->rab", weights, known.astype(np.float64))
    won = np.einsum("rn,abn->rab", weights, np.where(known, shares, 0.0))
    return np.divide(won, judged, out=np.full_like(won, np.nan), where=judged > 0), judged


def bradley_terry(wins: np.ndarray, *, prior: float = PRIOR) -> np.ndarray:
    """Maximum-likelihood ratings from the number of wins between pairs of policies.

        maximise over theta with theta_0 = 0:
        sum_{a != b} (wins_ab + prior) log sigma(theta_a - theta_b),   over the pairs that were compared

    so that sigma(theta_a - theta_b) is the estimated probability that a beats b. Solved by Newton's method
    with steps scaled by log(1 + r) / r, where r is the spread of the step over the policies. The third
    derivative of the loss along a step is at most r times the second, and under that bound this length lowers
    the loss the most. So no line search is needed, and all resamples are solved in one batch.

    Args:
      wins: [..., P, P] float >= 0, comparisons that the row's policy won against the column's, a tie counted
        as half a win each way; the diagonal is not read. Leading axes are resamples of the same contests.
      prior: wins > 0 added each way to pairs that were compared in any resample.

    Returns:
      [..., P] float64, logits; 0 for policy 0, nan for a policy that no chain of comparisons connects with
      it.

    Raises:
      ValueError: wins that are not square, not finite or negative, a prior that is not positive, or no
        convergence.

    Reference: Bradley and Terry 1952; Hunter 2004, Annals of Statistics 32, for when a maximum exists; Bach
      2010, Electronic Journal of Statistics 4, for the bound on the third derivative.
    """
    wins = np.asarray(wins, np.float64)
    size = wins.shape[-1]
    if wins.ndim < 2 or wins.shape[-2] != size or not prior > 0:
        raise ValueError(
            f"bradley_terry: wins has shape {wins.shape} and prior is {prior}; give [..., P, P] and a "
            "positive prior."
        )
    if not np.isfinite(wins).all() or (wins < 0).any():
        raise ValueError("bradley_terry: wins must be finite and not negative.")
    off_diagonal = ~np.eye(size, dtype=bool)
    compared = np.any(wins.reshape(-1, size, size) > 0, axis=0)
    compared = (compared | compared.T) & off_diagonal
    rated = _connected(compared)
    free = np.flatnonzero(rated)[1:]
    wins = np.where(compared, wins + prior, 0.0)
    counts = wins + np.swapaxes(wins, -1, -2)
    theta = np.zeros(wins.shape[:-1])
    theta[..., ~rated] = np.nan
    for _ in range(_MOST_STEPS if free.size else 0):
        chance = expit(np.nan_to_num(theta[..., :, None] - theta[..., None, :]))
        gradient = np.sum(wins - counts * chance, axis=-1)[..., free]
        curvature = counts * chance * (1.0 - chance)
        hessian = np.eye(size) * curvature.sum(axis=-1)[..., None] - curvature
        step = np.linalg.solve(hessian[..., free[:, None], free], gradient[..., None])[..., 0]
        spread = np.maximum(step.max(axis=-1), 0.0) - np.minimum(step.min(axis=-1), 0.0)
        length = np.divide(np.log1p(spread), spread, out=np.ones_like(spread), where=spread > 0)
        theta[..., free] += length[..., None] * step
        if spread.max(initial=0.0) <= _CONVERGED:
            return theta
    if free.size:
        raise ValueError(f"bradley_terry: no maximum found in {_MOST_STEPS} steps; use a larger prior.")
    return theta


def _connected(compared: np.ndarray) -> np.ndarray:
    """Whether a chain of comparisons connects each policy with policy 0: [P] bool."""
    found = np.arange(len(compared)) == 0
    for _ in compared:
        found = found | compared[found].any(axis=0)
    return found
