"""How a setting is declared: its default, the values it may have, and whether results depend on it."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")
# No count of a run is larger, and steps and indices are 32-bit on devices.
_MOST_OF_A_COUNT = 2**31 - 1


class Rule(NamedTuple):
    """Which values a setting may have; None: no such bound. A setting that is None is not checked.

    Attributes:
      least: the smallest value.
      above: a value that must be exceeded.
      most: the largest value.
      below: a value that must not be reached.
      choices: all values, for text.
      note: said after a violated bound, as in `must be greater than 0: it is a KL weight.`
      several: text may be several of the choices with commas between; the last choice stands alone.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    note: str = ""
    several: bool = False

    def violation(self, value: Any) -> str:
        """What a value has to be that it is not; empty where it is allowed."""
        if self.choices:
            *others, last = self.choices
            if self.several:
                parts = split(value)
                allowed = parts == [last] or (parts and set(parts) <= set(others))
                some = f"some of {', '.join(others)} with commas between"
                return "" if allowed else f"must be {some}, or {last}."
            return "" if value in self.choices else f"must be {', '.join(others)} or {last}."
        note = f": {self.note}" if self.note else ""
        if self.least is not None and value < self.least:
            return f"must be at least {self.least}{note}."
        if self.above is not None and value <= self.above:
            return f"must be greater than {self.above}{note}."
        if self.below is not None and value >= self.below:
            return f"must be less than {self.below}{note}."
        most = _MOST_OF_A_COUNT if self.most is None and isinstance(value, int) else self.most
        return "" if most is None or value <= most else f"must be at most {most}; lower it."


def split(text: str) -> list[str]:
    """The parts of a text that has commas between them, without the spaces around them."""
    return [part.strip() for part in text.split(",")]


def setting(
    default: _T,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    note: str = "",
    several: bool = False,
    affects_result: bool = True,
    method: str | None = None,
) -> _T:
    """A field of a settings dataclass.

    Args:
      default: its value where none is given.
      least: as in `Rule`, like the next five.
      above: see there.
      most: see there.
      below: see there.
      choices: see there.
      note: see there.
      several: see there.
      affects_result: False where runs that differ in this setting alone find the same, up to rounding. Such
        a setting is left out of `determining`, so that a change of it redoes nothing.
      method: the only method that reads it; None: both.

    Returns:
      The dataclass field, typed as its default for the annotation beside it.
    """
    rule = Rule(least, above, most, below, choices, note, several)
    field = dataclasses.field(
        default=default, metadata={"rule": rule, "affects_result": affects_result, "method": method}
    )
    return typing.cast(_T, field)


def group(factory: Callable[[], _T], *, affects_result: bool = True, method: str | None = None) -> _T:
    """A field that holds further settings: a dataclass, or a table of them by name.

    Args:
      factory: makes the default.
      affects_result: as in `setting`.
      method: as in `setting`.
    """
    field = dataclasses.field(
        default_factory=factory, metadata={"affects_result": affects_result, "method": method}
    )
    return typing.cast(_T, field)


def rule_of(field: "dataclasses.Field[Any]") -> Rule:
    """The values a field may have."""
    return field.metadata.get("rule", Rule())


def affects_result(field: "dataclasses.Field[Any]") -> bool:
    """Whether a run's results depend on a field."""
    return field.metadata.get("affects_result", True)


def method_of(field: "dataclasses.Field[Any]") -> str | None:
    """The only method that reads a field; None: both."""
    return field.metadata.get("method")
