"""Traces of single steps, for TensorBoard's profiler and Perfetto."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Profile(NamedTuple):
    """Which steps of every training are traced.

    Attributes:
      folder: a folder of each training is made in it.
      first: the first step traced, counted from 1 at the start of this process. The first ones compile.
      steps: how many; 0: none.
    """

    folder: Path
    first: int
    steps: int


@contextmanager
def traced(step: Callable[..., Any], profile: Profile | None, name: str) -> Iterator[Callable[..., Any]]:
    """A step that writes a trace of the calls that are asked for, everything that they started included.

    Args:
      step: the step.
      profile: which calls; None: none.
      name: of the training.

    Yields:
      The step; the same function where nothing is traced.
    """
    if profile is None or profile.steps == 0:
        yield step
        return
    last, calls, tracing = profile.first + profile.steps - 1, 0, False

    def run(*arguments: Any) -> Any:
        nonlocal calls, tracing
        calls += 1
        if calls == profile.first:
            jax.profiler.start_trace(profile.folder / name, create_perfetto_trace=True)
            tracing = True
        found = step(*arguments)
        if calls == last:
            jax.block_until_ready(found)  # steps run behind the calls that start them
            jax.profiler.stop_trace()
            tracing = False
        return found

    try:
        yield run
    finally:
        if tracing:  # the training was shorter
            jax.profiler.stop_trace()
