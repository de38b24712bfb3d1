"""A compiled function with the shapes it is called with, and the use that a stage of a run makes of it."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple


class Program(NamedTuple):
    """One function with the shapes that it is called with.

    Attributes:
      function: from jax.jit.
      arguments: static values, and trees of shapes with shardings.
      kinds: bytes per chip of the arguments, by kind: parameters, adapters, optimizer.
      rows: examples per call, on all chips together.
      tokens: tokens per call, on all chips together: read, or drawn by the sampler.
      cache: bytes per chip of the keys and values that it holds while it runs.
      loops: iterations of the loops whose end depends on data, the outermost first.
      steps: of a sampler, the iterations of its loop by the mean tokens of a response; None: no sampler.
    """

    function: Any
    arguments: tuple[Any, ...]
    kinds: Mapping[str, int]
    rows: int
    tokens: int
    cache: int = 0
    loops: tuple[float, ...] = ()
    steps: Callable[[float], float] | None = None


class Use(NamedTuple):
    """A stage runs this program.

    Attributes:
      what: the program in words, such as "train step" or "log-probabilities by the reference".
      make: builds the program's shapes. It is cheap: only `measure` compiles.
      examples: rows that go through the program in the whole stage.
      held: bytes per chip that the stage itself holds beside the program's own arguments, by kind, such as
        "best weights". What stages before it left behind, a plan knows.
      key: of uses whose result a run keeps: of those with equal keys the first is computed, and no other.
    """

    what: str
    make: Callable[[], Program]
    examples: float
    held: Mapping[str, int]
    key: Hashable | None = None
