"""What a label column says about two responses: P(first preferred)."""

import math
from collections.abc import Mapping
from typing import Any

from alignjax.data.rows import Row, kind_of
from alignjax.errors import InputError

_FIRST = {"a", "model_a", "response_a", "response_0", "first", "chosen", "left"}
_SECOND = {"b", "model_b", "response_b", "response_1", "second", "rejected", "right"}
_TIES = {"tie", "tied", "draw", "both", "tie (bothbad)", "both_bad", "bothbad", "neither", "same", "equal"}
_STRENGTHS = {"overall_preference"}  # HelpSteer3: -3 the first is much better, 3 the second


def read_label(row: Row, column: str, means: str, responses: tuple[str, str]) -> float:
    """P(first response preferred) by one row's label.

    Args:
      row: the row.
      column: of the label.
      means: `second` or `first`, the response that 1 says is better; `strength`, whose sign says so, above 0
        the second; `auto`, what the names of the columns and the values show.
      responses: the columns of the first and the second response.

    Returns:
      In [0, 1]; 0.5 is a tie.

    Raises:
      RowError: the label is null or empty (kind "unlabelled"), or has no such meaning.
      InputError: under `auto`, nothing shows which response the label means.
    """
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise row.error(column, "is null: the row has no label; label it or remove the line.", "unlabelled")
    named = _by_name(value, responses)
    if named is not None:
        return named
    number = read_number(value)
    if number is None:
        raise row.error(
            column, f"is {kind_of(value)}, must be 0 or 1, a probability, or the name of a response; fix it."
        )
    if column in ("winner_model_a", "winner_model_b") and row.values.get("winner_tie") in (1, True, "1"):
        return 0.5
    means = _meaning(row, column, number, responses) if means == "auto" else means
    if means == "strength":
        return 0.5 if number == 0 else float(number < 0)
    if not 0 <= number <= 1:
        raise row.error(
            column,
            f"is {number:g}, must be 0 or 1, the id of the better response, or a probability between; fix "
            "it, or give label_means=strength if its sign says which is better.",
        )
    return number if means == "first" else 1.0 - number


def meaning_of(row: Row, column: str, means: str, responses: tuple[str, str]) -> str:
    """What a row's label that `read_label` can read was taken to mean, for people.

    Args:
      row: the row.
      column: of the label.
      means: as of `read_label`.
      responses: the columns of the first and the second response.
    """
    number = read_number(row.get(column))
    if _by_name(row.get(column), responses) is not None or number is None:
        return "names the better response"
    means = _meaning(row, column, number, responses) if means == "auto" else means
    if means == "strength":
        return f"above 0 means the second response, {responses[1]}; below 0 the first; 0 a tie"
    place = ("first", "second").index(means)
    return f"1 means the {means} response, {responses[place]}"


def _meaning(row: Row, column: str, number: float, responses: tuple[str, str]) -> str:
    """What the names show: ids number the responses, `chosen` with a label is the share that chose it."""
    name = column.rpartition(".")[2]
    if name in _STRENGTHS:
        return "strength"
    if name == "winner_model_a" or (name == "labels" and responses == ("human_ref_A", "human_ref_B")):
        return "first"
    whole = number in (0.0, 1.0)
    if name == "winner_model_b" or name.endswith("_id"):
        return "second"
    if responses == ("response_0", "response_1") and (whole or not 0 <= number <= 1):
        return "second"
    if responses == ("chosen", "rejected") and 0 <= number <= 1:
        return "first"
    raise InputError(
        f'{row.where}: "{column}" is {number:g}, and nothing shows whether 1 means "{responses[0]}" or '
        f'"{responses[1]}"; give label_means=first, second or strength of this source.'
    )


def _by_name(value: Any, responses: tuple[str, str]) -> float | None:
    if not isinstance(value, str):
        return None
    name = value.strip()
    if name in responses:
        return float(name == responses[0])
    name = name.lower()
    known: Mapping[str, float] = (
        dict.fromkeys(_FIRST, 1.0) | dict.fromkeys(_SECOND, 0.0) | dict.fromkeys(_TIES, 0.5)
    )
    return known.get(name)


def read_number(value: Any) -> float | None:
    """A number, true or false, or a text of one; None: it is none of these.

    Args:
      value: of a label.
    """
    if isinstance(value, str):
        value = {"true": "1", "false": "0"}.get(value.strip().lower(), value)
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
