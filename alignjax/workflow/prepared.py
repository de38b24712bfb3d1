"""What both methods have when the dual is answered, before anything is aligned to its answer."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.scoring import Scorers
from alignjax.workflow.setup import Setup


class Prepared(NamedTuple):
    """All values of a run up to the multiplier.

    Attributes:
      setup: of the run.
      reference: pi_ref.
      data: the pairs and the prompts.
      single: by dimension, the policies that were aligned with its labels alone; empty in MoCAN, whose scores
        come from models.
      by: scorers.
      raw: [N, K, 1+m] raw scores of the reference's samples.
      calibration: of the scores, with the table that the dual was solved on.
      answer: of the dual.
    """

    setup: Setup
    reference: Policy
    data: Data
    single: Mapping[str, Policy]
    by: Scorers
    raw: np.ndarray
    calibration: Calibrated
    answer: DualAnswer
