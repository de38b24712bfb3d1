"""Whether a training went anywhere: its first losses beside its last."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_DIVERGED = 1.1  # the last loss over the first


def course_of(losses: Sequence[float]) -> str | None:
    """What is to be said of a training whose loss did not fall.

    Args:
      losses: mean losses of the logged windows of steps, in their order, > 0.

    Returns:
      The end of a sentence, or None if the last window is below the first, or if there is only one.
    """
    if len(losses) < 2 or losses[-1] < losses[0]:
        return None
    numbers = f"the loss was {losses[0]:.4g} over its first steps and is {losses[-1]:.4g} over its last ones"
    if losses[-1] > _DIVERGED * losses[0]:
        return f"diverged: {numbers}; lower the learning rate"
    return f"did not learn: {numbers}; train longer, on more or clearer data, or with another learning rate"


def course_findings(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The trainings of a run whose loss did not fall, a sentence each.

    Args:
      records: of metrics.jsonl.

    Returns:
      The sentences, in the order of the trainings.
    """
    losses: dict[str, list[float]] = {}
    for record in records:
        if record.get("loss") is not None:
            losses.setdefault(record["stage"], []).append(record["loss"])
    found = [(stage, course_of(values)) for stage, values in losses.items()]
    return [f"{stage}: the training {course}." for stage, course in found if course]
