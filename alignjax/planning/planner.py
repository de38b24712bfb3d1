"""Walks the stages of a run, as `stages.Run` does, and notes their programs in place of computing values."""

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax

from alignjax.alignment.score_training import TrainedScore
from alignjax.aot.program import Program, Use
from alignjax.aot.shapes import bytes_per_device
from alignjax.models import Model
from alignjax.models.model_cache import ModelCache
from alignjax.policy.values import Policy
from alignjax.stages import Stage

T = TypeVar("T")


class Step(NamedTuple):
    """One program of one stage.

    Attributes:
      stage: as the run calls it.
      what: the program in words.
      program: its shapes, the largest that the stage calls it with.
      calls: of the largest rows, in the whole stage.
      held: bytes per chip that the run holds beside the program's own arguments, by kind.
    """

    stage: str
    what: str
    program: Program
    calls: int
    held: Mapping[str, int]


class _Kept(NamedTuple):
    """Arrays that a value of the run keeps in device memory."""

    kind: str
    arrays: list[Any]


@dataclasses.dataclass
class Planner:
    """A run that computes nothing.

    What is held beside a program is found by the identity of arrays: those of all values that stages have
    returned so far, and of the models that the run's cache holds, but not the program's own arguments.

    Attributes:
      models: the run's models that are read from folders.
      uses: what was noted, in the order of the run; `together` makes one step of those of a program.
    """

    models: ModelCache
    uses: list[Step] = dataclasses.field(init=False, default_factory=list)
    # Keys of the uses whose result the run keeps.
    _results: set[Hashable] = dataclasses.field(init=False, default_factory=set)
    _kept: list[_Kept] = dataclasses.field(init=False, default_factory=list)
    # By id, every array that the cache has ever held: what a value shares with it, the cache may let go.
    _cached: dict[int, Any] = dataclasses.field(init=False, default_factory=dict)

    def do(self, stage: Stage[T]) -> T:
        """The stage's value with shapes in place of arrays, once its programs are noted."""
        for use in stage.programs():
            if use.key is not None and use.key in self._results:
                continue
            self._results |= set() if use.key is None else {use.key}
            self.uses.append(self._step(stage.name, use))
        value = stage.abstract()
        self._kept += _arrays(value)
        self._note_cached()
        return value

    @property
    def steps(self) -> list[Step]:
        """What was noted, uses of one program in one stage together."""
        return [step for step, _ in together([(step, step) for step in self.uses])]

    def _step(self, stage: str, use: Use) -> Step:
        program = use.make()
        self._note_cached()  # models that the program needs are read now
        held = self._held(program)
        for kind, size in use.held.items():
            held[kind] = held.get(kind, 0) + size
        return Step(stage, use.what, program, -int(-use.examples // program.rows), held)

    def _held(self, program: Program) -> dict[str, int]:
        """Bytes of what the run holds beside a program's arguments, by kind."""
        counted = {id(leaf) for leaf in jax.tree.leaves(program.arguments)}
        cached = [_Kept(_kind(model), jax.tree.leaves(model)) for model in self.models.held]
        values = [
            one._replace(arrays=[x for x in one.arrays if id(x) not in self._cached]) for one in self._kept
        ]
        held = dict[str, int]()
        for kind, arrays in cached + values:
            new = {id(leaf): leaf for leaf in arrays if id(leaf) not in counted}
            counted |= new.keys()
            if size := bytes_per_device(list(new.values())):
                held[kind] = held.get(kind, 0) + size
        return held

    def _note_cached(self) -> None:
        self._cached |= {id(leaf): leaf for model in self.models.held for leaf in jax.tree.leaves(model)}


def identity(program: Program) -> Hashable:
    """Equal for programs that compile to the same and whose loops take as many turns."""
    leaves, structure = jax.tree.flatten(program.arguments)
    arrays = tuple(
        (leaf.shape, str(leaf.dtype), leaf.sharding) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        for leaf in leaves
    )
    return program.function, structure, arrays, program.loops


def together(uses: Sequence[tuple[Step, Step]]) -> list[tuple[Step, Step]]:
    """Makes one step of all uses of one program in one stage.

    Args:
      uses: each at two lengths of rows; those that are one program at both are put together.
    """
    found = dict[Hashable, tuple[Step, Step]]()
    for one, other in uses:
        same = (one.stage, one.what, identity(one.program), identity(other.program))
        if same in found:
            found[same] = (_together(found[same][0], one), _together(found[same][1], other))
        else:
            found[same] = (one, other)
    return list(found.values())


def _together(first: Step, second: Step) -> Step:
    """Two uses of one program in one stage: all calls, and the most that is held."""
    held = max((first.held, second.held), key=lambda held: sum(held.values()))
    return first._replace(calls=first.calls + second.calls, held=held)


def _arrays(value: object) -> Iterator[_Kept]:
    """What a stage's value keeps in device memory; values of other types are numbers and texts."""
    if isinstance(value, Policy):
        yield _Kept(
            "reference" if value.stage == "reference" else "trained policies",
            jax.tree.leaves(value.model.params if value.lora is None else value.lora),
        )
    elif isinstance(value, TrainedScore):
        yield _Kept("trained score models", jax.tree.leaves(value.load()))


def _kind(model: object) -> str:
    return "reference" if isinstance(model, Model) else "score models"
