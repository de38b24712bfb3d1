"""What a method's box calls for the value of a stage."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, TypeVar

from alignjax.runtime.work import Look, Work
from alignjax.stages.fingerprints import fingerprint
from alignjax.stages.stage import Looks, Stage, Stored

T = TypeVar("T")


class Run(Protocol):
    """Gives the values of stages: computed, loaded, or in a plan only their shapes."""

    def do(self, stage: Stage[T]) -> T:
        """The stage's value."""
        ...


@dataclasses.dataclass
class MemoryRun:
    """Computes every stage and keeps nothing on disk: for notebooks and tests.

    Attributes:
      fingerprints: of the stages so far, by name.
      looks: fingerprint and share of every look, by the digest of the prompts.
    """

    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)
    looks: dict[str, tuple[tuple[str, float], ...]] = dataclasses.field(default_factory=dict)

    def do(self, stage: Stage[T]) -> T:
        """Computes the stage's value."""
        found = fingerprint_of(stage, self.fingerprints)
        if stage.looks is None:
            return stage.compute(Work(found, None))
        before = self.looks.get(stage.looks.prompts, ())
        self.looks[stage.looks.prompts], look = counted(stage.looks, before, found)
        return stage.compute(Work(found, None, look))


def counted(
    looks: Looks, before: Sequence[tuple[str, float]], fingerprint: str
) -> tuple[tuple[tuple[str, float], ...], Look]:
    """The looks with this one, and this one; a look that was taken before is the same look.

    Args:
      looks: of the stage.
      before: fingerprint and share of every look so far, in order.
      fingerprint: of the stage.
    """
    taken = [one for one, _ in before]
    if fingerprint in taken:
        after = tuple(before)
    else:
        after = (*before, (fingerprint, looks.share([share for _, share in before])))
    place = [one for one, _ in after].index(fingerprint)
    return after, Look(place + 1, after[place][1], sum(share for _, share in after[: place + 1]))


def fingerprint_of(stage: Stored[T], known: dict[str, str]) -> str:
    """The stage's fingerprint, which is added to those of the stages before it.

    Args:
      stage: whose inputs are all in `known`.
      known: fingerprints by name.
    """
    inputs = {name: known[name] for name in stage.inputs}
    known[stage.name] = fingerprint(stage.name, stage.version, stage.settings, inputs)
    return known[stage.name]
