"""What a method hands back."""

from typing import NamedTuple

import numpy as np

from alignjax.records.answer import DualAnswer
from alignjax.records.dial import DialRecord
from alignjax.records.erosion import Erosion
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.evaluating import Evaluated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.measuring import Measurement
from alignjax.workflow.testing import Tested


class Outcome(NamedTuple):
    """All values of a finished run.

    Attributes:
      data: preference data.
      calibration: of the scores, with the table that the dual was solved on.
      answer: of the dual.
      measured: every policy on the test prompts, the reference first and the aligned one last.
      evaluation: promised against delivered.
      tested: the tests of every round, and what refused rounds measured.
      pair_scores: [n, 2, 1+m] calibrated scores of the pairs that were relabelled; n 0: none were.
      erosion: what is left of the margins under attack; None: `config.audit` asks for no audit.
      dial: policies of the same multiplier without a training; None: `config.dial` names none.
    """

    data: Data
    calibration: Calibrated
    answer: DualAnswer
    measured: Measurement
    evaluation: Evaluated
    tested: Tested
    pair_scores: np.ndarray
    erosion: Erosion | None = None
    dial: DialRecord | None = None
