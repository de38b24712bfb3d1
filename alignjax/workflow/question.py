"""What every round of a run works with: the test of a policy, and what follows where it is refused."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.stages import Stage
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.scoring import Scorers
from alignjax.workflow.setup import Setup


class Question(NamedTuple):
    """What every round works with.

    Attributes:
      setup: of the run.
      reference: pi_ref.
      data: the pairs and the prompts.
      by: scorers.
      pair_scores: [n, 2, 1+m] calibrated scores of the pairs to align on.
      raw: [N, K, 1+m] raw scores of the reference's samples.
      calibration: of the scores.
      answer: of the dual.
      again: (number, lam) -> the policy of a later round at these multipliers, where none is trained; None: a
        further alignment.
    """

    setup: Setup
    reference: Policy
    data: Data
    by: Scorers
    pair_scores: np.ndarray
    raw: np.ndarray
    calibration: Calibrated
    answer: DualAnswer
    again: Callable[[int, np.ndarray], Stage[Policy]] | None = None


def question_of(
    ready: Prepared,
    pair_scores: np.ndarray | None = None,
    again: Callable[[int, np.ndarray], Stage[Policy]] | None = None,
) -> Question:
    """What every round works with; where none is trained, `again` stands in place of the pairs' scores."""
    if pair_scores is None:
        pair_scores = np.zeros((0, 2, ready.raw.shape[-1]))
    same = (ready.setup, ready.reference, ready.data, ready.by)
    return Question(*same, pair_scores, ready.raw, ready.calibration, ready.answer, again)
