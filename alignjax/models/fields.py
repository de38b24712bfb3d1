"""Checks of the values in a config.json."""

from collections.abc import Mapping
from typing import Any

from alignjax.errors import InputError


def is_whole(value: Any) -> bool:
    """Whether a value from JSON is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole(value: Any, name: str, where: str, least: int = 1) -> int:
    """The value of a field that must be a whole number of at least `least` and below 2^31.

    Args:
      value: from JSON.
      name: of the field.
      where: name of the file in messages.
      least: the smallest that is allowed.

    Returns:
      The number.

    Raises:
      InputError: anything else.
    """
    if not is_whole(value) or value < least:
        raise InputError(
            f'{where}: field "{name}" is {shown(value)}, must be a whole number of at least {least}.'
        )
    if value >= 2**31:
        raise InputError(f'{where}: field "{name}" is {shown(value)}, must be below 2^31.')
    return value


def positive(value: Any, name: str, where: str) -> float:
    """The value of a field that must be a positive number.

    Args:
      value: from JSON.
      name: of the field.
      where: name of the file in messages.

    Returns:
      The number.

    Raises:
      InputError: anything else.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 1e300:
        raise InputError(f'{where}: field "{name}" is {shown(value)}, must be a positive number.')
    return float(value)


def yes_or_no(fields: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    """The value of a field that must be true or false.

    Args:
      fields: the JSON object.
      name: of the field.
      where: name of the file in messages.
      default: where the field is missing or null.

    Returns:
      The value.

    Raises:
      InputError: anything else.
    """
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, bool):
        raise InputError(f'{where}: field "{name}" is {shown(value)}, must be true or false.')
    return value


def shown(value: Any) -> str:
    """A value from JSON for a message, cut to 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
