"""Which models' weights lie in device memory."""

from collections.abc import Callable
from typing import Any, TypeVar

_Model = TypeVar("_Model")


class ModelCache:
    """Models by name: all that were asked for, or only the one that was asked for last.

    A reference and score models from folders may each fill a small chip. A model that is given out must not
    be kept by the caller: with one at a time, the next model is read into the memory of the one before.
    """

    def __init__(self, *, one: bool):
        """Starts empty.

        Args:
          one: hold a single model.
        """
        self.one = one
        self._held: dict[str, Any] = {}

    @property
    def held(self) -> tuple[Any, ...]:
        """The models that are held now."""
        return tuple(self._held.values())

    def get(self, name: str, load: Callable[[], _Model]) -> _Model:
        """The model of this name, from `load` where it is not held."""
        if name not in self._held:
            if self.one:
                self._held.clear()  # first: two would not fit
            self._held[name] = load()
        return self._held[name]

    def forget(self, name: str) -> None:
        """Frees the memory of a model that is not needed again; nothing happens where it is not held."""
        self._held.pop(name, None)
