"""What a method hands back."""

from collections.abc import Mapping
from typing import NamedTuple

from alignjax.data.responses import Responses
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Round
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.evaluating import Evaluated
from alignjax.workflow.groundwork import Data


class Outcome(NamedTuple):
    """All values of a finished run.

    Attributes:
      data: preference data.
      calibration: of the scores, with the table that the dual was solved on.
      answer: of the dual.
      policies: by name, the reference first and the aligned one last.
      responses: of every policy to the evaluation prompts; empty where every response is listed.
      evaluation: promised against delivered.
      rounds: what every round measured; empty where there was one shot.
    """

    data: Data
    calibration: Calibrated
    answer: DualAnswer
    policies: Mapping[str, Policy]
    responses: Mapping[str, Responses]
    evaluation: Evaluated
    rounds: list[Round]
