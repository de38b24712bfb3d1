"""Multi-shot: what the trained policy misses of its margins corrects the multiplier, and it is aligned again.

    lam  <-  max(0, lam - eta (achieved - asked)),   then DPO on the new labels from the last policy's weights

The reference stays the same. Huang et al. 2024, arXiv 2405.19544, iterated dualization; one round is the
one-shot method.
"""

import numpy as np

from alignjax.dual import frontier
from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Round
from alignjax.scores.table import ScoreTable

_NUDGE = 1e-3  # of a multiplier's size: the step of the difference that gives the slope of a margin


def corrected(
    number: int,
    lam: np.ndarray,
    scores: np.ndarray,
    kl: np.ndarray,
    table: ScoreTable,
    answer: DualAnswer,
    *,
    step: float | None,
) -> Round:
    """Compares what a round's policy achieves with what was asked, and corrects the multiplier.

    Args:
      number: of the round, from 1.
      lam: [m], multipliers that the policy was aligned with.
      scores: [N, K, 1+m] calibrated scores of its samples, on the prompts of the table.
      kl: [N, K] its divergence from the reference, nats.
      table: calibrated scores of the reference's samples.
      answer: of the dual.
      step: eta; None: by the slope of the predicted margin, a Newton step's factor.
    """
    utilities = np.asarray(table.utilities, np.float64)
    achieved = scores[..., 1:].mean(axis=(0, 1)) - utilities.mean(axis=(0, 1))
    asked = np.array([answer.asked[name].margin for name in answer.names], np.float64)
    eta = _inverse_slopes(table, lam, answer.beta) if step is None else step
    following = np.maximum(0.0, lam - eta * (achieved - asked))

    def named(values: np.ndarray) -> dict[str, float]:
        return dict(zip(answer.names, values.tolist(), strict=True))

    return Round(
        round=number,
        lam=named(lam),
        asked=named(asked),
        achieved=named(achieved),
        next_lam=named(following),
        reward=float(scores[..., 0].mean()),
        kl=float(np.mean(kl)),
    )


def _inverse_slopes(table: ScoreTable, lam: np.ndarray, beta: float) -> np.ndarray:
    """How much of lam_j a unit of margin_j takes on the predicted curve, [m]."""
    size = _NUDGE * (1.0 + np.abs(lam))
    lams = np.concatenate([lam[None], lam + np.diag(size)])
    margins = np.asarray(frontier(table.rewards, table.utilities, beta=beta, lams=lams).margins)
    rise = np.diag(margins[1:] - margins[0])
    return size / np.maximum(rise, 1e-12)
