"""What a reader must know before believing a run's numbers, in sentences."""

from alignjax.records.answer import DualAnswer
from alignjax.records.calibration import CalibrationRecord
from alignjax.records.evaluation import Evaluation

# Share of a policy's responses without an end from which the report says so.
_MANY_CUT = 0.05


def findings_of(
    answer: DualAnswer, evaluation: Evaluation, calibration: CalibrationRecord, *, population: bool
) -> list[str]:
    """The findings about scores, prediction and samples, each once.

    Args:
      answer: its warnings are passed on as they are.
      evaluation: of the policies.
      calibration: its findings are passed on as they are.
      population: True where every response of the world is listed: nothing is sampled, so nothing is cut.

    Returns:
      Sentences: calibration, prediction, then responses.
    """
    found = [*calibration.findings, *answer.warnings]
    if not population:
        found += _cut(evaluation)
    return list(dict.fromkeys(found))


def _cut(evaluation: Evaluation) -> list[str]:
    """Policies with many responses that reached the token limit, so that unfinished texts were scored."""
    shares = {name: policy.cut.mean for name, policy in evaluation.policies.items()}
    many = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= _MANY_CUT)
    if not many:
        return []
    return [
        f"Responses cut at config.evaluation.max_new_tokens: {many}. Their scores are those of unfinished "
        "texts; raise max_new_tokens."
    ]
