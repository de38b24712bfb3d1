"""What a refused policy misses corrects the multiplier, and the policy is aligned again.

    lam  <-  max(0, lam + (aim - achieved) / slope),   then DPO on the new labels from the last weights

`achieved` is measured on the prompts of the reference's samples, which no test uses: the next policy then
depends on the test only through its refusal, so that each look at the test prompts may be counted on its
own. `aim` is what was asked and the room that the test needs to show it. With a step eta given, the published
way: lam <- max(0, lam - eta (achieved - asked)). The reference stays the same. Huang et al. 2024, arXiv
2405.19544, iterated dualization.
"""

from collections.abc import Sequence

import numpy as np

from alignjax.dual import frontier
from alignjax.records.evaluation import Round

_NUDGE = 1e-3  # of a multiplier's size: the step of the difference that gives the slope of a margin
# A measured slope is believed within this factor of the predicted one: two noisy margins may lie close.
_SLOPE_FACTOR = 4.0


def corrected(
    number: int,
    names: Sequence[str],
    lam: np.ndarray,
    achieved: np.ndarray,
    *,
    asked: np.ndarray,
    room: np.ndarray,
    slopes: np.ndarray,
    reward: float,
    kl: float,
    step: float | None,
) -> Round:
    """The multiplier that follows a refused round.

    Args:
      number: of the round, from 1.
      names: m names of the constraints.
      lam: [m], multipliers that the policy was aligned with.
      achieved: [m], its margins.
      asked: [m], margins.
      room: [m], what the test needs above the margin.
      slopes: [m] > 0, how much a margin rises with its multiplier.
      reward: mean calibrated reward of the policy.
      kl: nats a prompt.
      step: eta of the published way; None: by the slopes.
    """
    aim = asked + (room if step is None else 0.0)
    eta = 1.0 / slopes if step is None else np.full(len(lam), step)
    following = np.maximum(0.0, lam + eta * (aim - achieved))

    def named(values: np.ndarray) -> dict[str, float]:
        return dict(zip(names, values.tolist(), strict=True))

    return Round(
        round=number,
        lam=named(lam),
        asked=named(asked),
        aim=named(aim),
        achieved=named(achieved),
        next_lam=named(following),
        reward=reward,
        kl=kl,
    )


def predicted_slopes(rewards: np.ndarray, utilities: np.ndarray, lam: np.ndarray, beta: float) -> np.ndarray:
    """How much each margin rises with its own multiplier on the predicted curve, [m] > 0.

    Args:
      rewards: [N, K] calibrated.
      utilities: [N, K, m].
      lam: [m].
      beta: KL weight.
    """
    size = _NUDGE * (1.0 + np.abs(lam))
    lams = np.concatenate([lam[None], lam + np.diag(size)])
    margins = np.asarray(frontier(rewards, utilities, beta=beta, lams=lams).margins)
    return np.maximum(np.diag(margins[1:] - margins[0]), 1e-12) / size


def measured_slopes(
    before: Round, lam: np.ndarray, achieved: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """The slope between two rounds, where it is near enough to the predicted one to be believed, [m] > 0.

    Args:
      before: the round before.
      lam: [m], of this round.
      achieved: [m], of this round.
      predicted: [m] > 0.
    """
    moved = lam - np.array(list(before.lam.values()))
    risen = achieved - np.array(list(before.achieved.values()))
    known = np.abs(moved) > 1e-9
    slopes = np.where(known, risen / np.where(known, moved, 1.0), predicted)
    return np.clip(slopes, predicted / _SLOPE_FACTOR, predicted * _SLOPE_FACTOR)
