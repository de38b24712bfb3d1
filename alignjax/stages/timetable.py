"""How far a run is, and how long the rest of it takes by what its stages took."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple


class Planned(NamedTuple):
    """A stage that a run will come to.

    Attributes:
      name: of the stage.
      kind: of its work; the time of stages of one kind is taken to be in proportion to their amounts.
      amount: of the work, in any unit that all stages of the kind share; None: not known yet.
    """

    name: str
    kind: str
    amount: float | None


def seconds_left(
    planned: Sequence[Planned], taken: Mapping[str, float], met: Collection[str], kept: Collection[str]
) -> float | None:
    """Estimates the time of the stages that are still to come.

        sum over the rest of  amount  x  seconds of the stages done of its kind / their amount

    Args:
      planned: every stage of the run.
      taken: seconds of stages that were computed on these devices, by name.
      met: names of the stages that the run has come to so far.
      kept: names of further stages that take no time, since they were done before.

    Returns:
      Seconds; None where a stage is to come of whose kind none was timed, or whose amount is not known.
    """
    seconds, amounts = defaultdict[str, float](float), defaultdict[str, float](float)
    for stage in planned:
        if stage.name in taken and stage.amount:
            seconds[stage.kind] += taken[stage.name]
            amounts[stage.kind] += stage.amount
    left = 0.0
    for stage in planned:
        if stage.name in met or stage.name in kept:
            continue
        if stage.amount is None or stage.kind not in seconds:
            return None
        left += stage.amount * seconds[stage.kind] / amounts[stage.kind]
    return left


def in_words(seconds: float) -> str:
    """A duration as people say it: 8.1 s, 48 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
