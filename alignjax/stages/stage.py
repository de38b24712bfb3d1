"""One stage of a method."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from alignjax.aot.program import Use
from alignjax.runtime.work import Work

T = TypeVar("T")
Json = Any


@dataclasses.dataclass(frozen=True)
class Looks:
    """What a stage that tests is counted by: every look at the same prompts spends a share of the error.

    Attributes:
      prompts: digest of the prompts.
      share: of the error that the next look may spend, by the shares of those before it.
    """

    prompts: str
    share: Callable[[Sequence[float]], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored(Generic[T]):
    """What must be known to read the value of a finished stage.

    Attributes:
      name: in run.json and in messages.
      settings: all settings that determine the value, as JSON; the stage's inputs bring their own.
      inputs: names of the stages whose values are read.
      version: of the code that computes; raised when equal settings give another value.
      outputs: files and folders under the run's folder.
      load: reads them; None: the value is not kept and is computed in every run.
    """

    name: str
    settings: Mapping[str, Json]
    inputs: tuple[str, ...] = ()
    version: int = 1
    outputs: tuple[str, ...] = ()
    load: Callable[[Path, Work], T] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Stored[T]):
    """A value, how it is computed, and all that a run or a plan must know about it.

    Attributes:
      compute: the value. In a run of several processes every process calls it.
      abstract: a value of the same type with shapes only, for a plan.
      programs: the compiled programs that `compute` runs, and how often.
      save: writes the outputs; None: there are none.
      slim: a computed value without what only `save` needs; None: the value itself.
      reload: read the value back after saving instead of handing on the computed one.
      looks: of a stage that tests; None: it does not.
    """

    compute: Callable[[Work], T]
    abstract: Callable[[], T]
    programs: Callable[[], Iterable[Use]] = tuple
    save: Callable[[Path, T], None] | None = None
    slim: Callable[[T], T] | None = None
    reload: bool = False
    looks: Looks | None = None

    @classmethod
    def of(
        cls,
        stored: Stored[T],
        *,
        compute: Callable[[Work], T],
        abstract: Callable[[], T],
        programs: Callable[[], Iterable[Use]] = tuple,
        save: Callable[[Path, T], None] | None = None,
        slim: Callable[[T], T] | None = None,
    ) -> "Stage[T]":
        """The stage whose finished value `stored` describes."""
        return cls(
            name=stored.name,
            settings=stored.settings,
            inputs=stored.inputs,
            version=stored.version,
            outputs=stored.outputs,
            load=stored.load,
            compute=compute,
            abstract=abstract,
            programs=programs,
            save=save,
            slim=slim,
        )
