"""Types of JSON columns: inferred from the rows, declared as TFDS features, and converted back on reading.

A column is text, a whole number, a number, true or false, a list of one of these, an object, or a list of
objects.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from alignjax.errors import InputError

Kind = str | tuple[str, Any]
"""Name of a scalar type; ("list", kind of items or None if there are none); ("object", {key: kind})."""

_FEATURES = {
    "text": lambda: tfds.features.Text(),
    "whole number": lambda: tfds.features.Scalar(np.int64),
    "number": lambda: tfds.features.Scalar(np.float64),
    "truth value": lambda: tfds.features.Scalar(np.bool_),
}
_SCALARS = {str: "text", bool: "truth value", int: "whole number", float: "number"}


def infer_features(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Infers the TFDS features of all columns.

    Args:
      rows: "file:line" and row.

    Returns:
      Column -> TFDS feature.

    Raises:
      InputError: no rows, a column that is missing in some rows, or one whose values differ in type.
    """
    kinds: dict[str, Kind] | None = None
    for where, row in rows:
        found = {column: _kind(where, column, value) for column, value in row.items()}
        if kinds is None:
            kinds = found
        elif kinds.keys() != found.keys():
            column = sorted(kinds.keys() ^ found.keys())[0]
            raise InputError(
                f'{where}: "{column}" is not in every row; add it to all or remove it from all of them.'
            )
        else:
            kinds = {column: _merge(where, column, kinds[column], found[column]) for column in kinds}
    if kinds is None:
        raise InputError("the files have no rows; give files with one JSON object per line.")
    return {column: _feature(kind) for column, kind in kinds.items()}


def plain(feature: Any, value: Any) -> Any:
    """The JSON value of a value that TFDS has read (bytes, numpy arrays, dicts of arrays).

    Args:
      feature: the TFDS feature of the column.
      value: as read by TFDS.

    Returns:
      The value that the row held when it was prepared.
    """
    if isinstance(feature, tfds.features.Text):
        return value.decode()
    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: plain(feature[name], value[name]) for name in feature}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):
            names = list(inner)
            lists = [plain(tfds.features.Sequence(inner[name]), value[name]) for name in names]
            return [dict(zip(names, items, strict=True)) for items in zip(*lists, strict=True)]
        return [plain(inner, item) for item in value]
    return np.asarray(value).tolist()


def _kind(where: str, column: str, value: Any) -> Kind:
    if isinstance(value, dict):
        return "object", {key: _kind(where, f"{column}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        inner: Kind | None = None
        for i, item in enumerate(value):
            if isinstance(item, list):
                raise InputError(
                    f'{where}: "{column}.{i}" is a list within a list, which cannot be stored; remove it.'
                )
            kind = _kind(where, f"{column}.{i}", item)
            inner = kind if inner is None else _merge(where, f"{column}.{i}", inner, kind)
        return "list", inner
    if type(value) not in _SCALARS or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        shown = "null" if value is None else value
        raise InputError(f'{where}: "{column}" is {shown}, which no type can store; remove the column.')
    return _SCALARS[type(value)]


def _merge(where: str, column: str, first: Kind, second: Kind) -> Kind:
    if first == second:
        return first
    if isinstance(first, str) and isinstance(second, str) and {first, second} == {"whole number", "number"}:
        return "number"
    if isinstance(first, tuple) and isinstance(second, tuple) and first[0] == second[0]:
        if first[0] == "list":
            inner = [kind for kind in (first[1], second[1]) if kind is not None]
            return "list", inner[0] if len(inner) == 1 else _merge(where, column, inner[0], inner[1])
        if first[1].keys() == second[1].keys():
            pairs = {key: (first[1][key], second[1][key]) for key in first[1]}
            return "object", {key: _merge(where, f"{column}.{key}", *kinds) for key, kinds in pairs.items()}
    raise InputError(
        f'{where}: "{column}" is {_words(second)}, in earlier rows {_words(first)}; '
        "give it one type or remove it."
    )


def _words(kind: Kind) -> str:
    if isinstance(kind, str):
        return f"a {kind}"
    if kind[0] == "object":
        return f"an object of {', '.join(kind[1])}"
    return "an empty list" if kind[1] is None else f"a list ({_words(kind[1])} each)"


def _feature(kind: Kind) -> Any:
    if isinstance(kind, str):
        return _FEATURES[kind]()
    if kind[0] == "object":
        return tfds.features.FeaturesDict({key: _feature(inner) for key, inner in kind[1].items()})
    return tfds.features.Sequence(_feature("text" if kind[1] is None else kind[1]))
