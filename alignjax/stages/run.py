"""What a method's box calls for the value of a stage."""

import dataclasses
from typing import Protocol, TypeVar

from alignjax.stages.fingerprints import fingerprint
from alignjax.stages.stage import Stage, Stored, Work

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
    """

    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)

    def do(self, stage: Stage[T]) -> T:
        """Computes the stage's value."""
        found = fingerprint_of(stage, self.fingerprints)
        return stage.compute(Work(found, None))


def fingerprint_of(stage: Stored[T], known: dict[str, str]) -> str:
    """The stage's fingerprint, which is added to those of the stages before it.

    Args:
      stage: whose inputs are all in `known`.
      known: fingerprints by name.
    """
    inputs = {name: known[name] for name in stage.inputs}
    known[stage.name] = fingerprint(stage.name, stage.version, stage.settings, inputs)
    return known[stage.name]
