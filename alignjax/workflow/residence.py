"""Which models' weights lie in device memory."""

from collections.abc import Callable
from typing import Any, TypeVar

_Model = TypeVar("_Model")


class Residence:
    """Models by name: all that were asked for, or only the one that was asked for last.

    Of a reference and score models from folders, each as large, a small chip holds one. What is given out
    must not be kept: where one is held, the next one is read into the memory of the one before.
    """

    def __init__(self, *, one: bool):
        """Hold nothing yet.

        Args:
          one: hold a single model.
        """
        self._one = one
        self._held: dict[str, Any] = {}

    def get(self, name: str, load: Callable[[], _Model]) -> _Model:
        """The model of this name, from `load` where it is not held."""
        if name not in self._held:
            if self._one:
                self._held.clear()  # first: two would not fit
            self._held[name] = load()
        return self._held[name]
