"""What a method hands back."""

from typing import NamedTuple

from alignjax.records.answer import DualAnswer
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
    """

    data: Data
    calibration: Calibrated
    answer: DualAnswer
    measured: Measurement
    evaluation: Evaluated
    tested: Tested
