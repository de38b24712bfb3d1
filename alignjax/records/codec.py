"""Frozen dataclasses to JSON and back, checked field by field against their type annotations.

A record's class may declare `FORMAT: ClassVar[int]`. Its file then carries that number, and a file of another
format is refused instead of misread. The configuration is decoded by the same rules.
"""

import dataclasses
import functools
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alignjax.errors import InputError

_Record = TypeVar("_Record")
_OMITTED = "omitted where None"


def optional() -> Any:
    """A field of a record that is left out of the JSON where it is None, which is its default."""
    return dataclasses.field(default=None, metadata={_OMITTED: True})


def encode(value: Any) -> Any:
    """A record as plain dicts, lists and numbers, ready for JSON; the inverse of `decode`.

    Args:
      value: dataclasses, mappings, tuples, lists, NumPy arrays and scalars, and JSON's own values.

    Returns:
      The JSON value. A record whose class has a FORMAT begins with {"format": FORMAT}.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: encode(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if getattr(value, f.name) is not None or not f.metadata.get(_OMITTED)
        }
        number = getattr(type(value), "FORMAT", None)
        return fields if number is None else {"format": number, **fields}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def decode(kind: type[_Record], value: Any, where: str) -> _Record:
    """Builds a dataclass from a JSON value.

    Args:
      kind: a dataclass. Its fields are numbers, text, booleans, arrays (float64), other dataclasses,
        tuple[X, ...], Mapping[str, X], or one of these and None.
      value: as `encode` gives it; missing fields take their defaults.
      where: what is decoded, for messages: `config`, or a file's name.

    Raises:
      InputError: an unknown or missing field, a wrong type, or another format; the message names the field.
    """
    return _build(kind, value, where)


def read_record(kind: type[_Record], path: Path) -> _Record:
    """Reads what `write_record` wrote.

    Raises:
      InputError: the file is missing, is not JSON, or does not hold such a record.
    """
    return decode(kind, read_json(path), str(path))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: the file is missing or does not parse; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: is missing.") from None
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise InputError(f"{path}: is not valid JSON ({error}).") from None


def _shown(value: Any) -> str:
    """A value for a message: in part where it is long or deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    return short.repr(value)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: is {_shown(values)}, must be a table of fields.")
    values = dict(values)
    wanted = getattr(kind, "FORMAT", None)
    if wanted is not None and (found := values.pop("format", None)) != wanted:
        raise InputError(
            f"{where}: has format {found!r}, this version of alignjax reads format {wanted}; use the version "
            "that wrote it, or run again in a new folder."
        )
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise InputError(f"{where}.{unknown[0]}: no such field; {where} has {', '.join(sorted(fields))}.")
    hints = _hints(kind)
    built = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{name}: is missing; set it.")
    return kind(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(typing.get_args(hint), value, where)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: is {_shown(value)}, must be a list.")
        kinds = typing.get_args(hint)
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise InputError(f"{where}: has {len(value)} entries, must have {len(kinds)}.")
        each = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(
            _convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(each, value, strict=True))
        )
    if hint is np.ndarray:
        return _array(value, where)
    if origin is not None:  # Mapping[str, X]
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: is {_shown(value)}, must be a table by name.")
        return {str(k): _convert(typing.get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    return _scalar(hint, value, where)


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    """None where that is allowed; else the first alternative that takes the value."""
    if value is None and type(None) in options:
        return None
    given = [option for option in options if option is not type(None)]
    for option in given[:-1]:
        try:
            return _convert(option, value, where)
        except InputError:
            continue
    return _convert(given[-1], value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise InputError(
                f"{where}: is a whole number of {len(str(value))} digits; must fit a float."
            ) from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(
            f"{where}: is {_shown(value)} of type {type(value).__name__}, must be {hint.__name__}."
        )
    if hint is float and not math.isfinite(value):
        raise InputError(f"{where}: is {value!r}, must be a finite number.")
    return value


def _array(value: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # nested unevenly, or too deep
        array = None
    if array is None or array.ndim == 0 or array.dtype.kind not in "iuf":
        raise InputError(f"{where}: must be a list of numbers, nested evenly.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{where}: holds a number that is not finite.")
    return array
