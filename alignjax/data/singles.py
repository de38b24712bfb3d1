"""Single labelled responses (KTO, BeaverTails): a good and a bad one to the same prompt are a pair."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alignjax.data.labels import read_number
from alignjax.data.rows import Prompt, Row, RowError, kind_of

_PAIRED = ("chosen", "rejected", "response_0", "response_1")
_REPLIES = {"completion": "label", "response": "is_safe"}  # KTO, BeaverTails; each with its label


class Single(NamedTuple):
    """One response.

    Attributes:
      row: as it was read.
      prompt: text or messages.
      response: its text.
      good: what its label says.
    """

    row: Row
    prompt: Prompt
    response: str
    good: bool


class Matched(NamedTuple):
    """A good and a bad response to one prompt."""

    good: Single
    bad: Single


def columns_of_single(row: Row, label: str) -> tuple[str, str] | None:
    """The columns of the response and the label, if a row holds a single labelled response.

    Args:
      row: any.
      label: column that was named as the label; empty: the usual ones.
    """
    if any(name in row.values for name in _PAIRED):
        return None
    for reply, usual in _REPLIES.items():
        found = next((name for name in (label, usual) if name and name in row.values), "")
        if reply in row.values and found:
            return reply, found
    return None


def read_good(row: Row, label: str) -> bool:
    """Whether a label calls its response good.

    Args:
      row: has the column.
      label: its name.

    Raises:
      RowError: the label is null (kind "unlabelled"), or neither true nor false.
    """
    value = row.get(label)
    if value is None:
        raise row.error(label, "is null: the row has no label; label it or remove the line.", "unlabelled")
    number = read_number(value)
    if number not in (0.0, 1.0):
        raise row.error(label, f"is {kind_of(value)}, must be true or false; fix it or remove the line.")
    return number == 1.0


def match(singles: Sequence[Single]) -> tuple[list[Matched], list[tuple[Single, RowError]]]:
    """The i-th good response to each prompt with its i-th bad one.

    Args:
      singles: in the order of the file.

    Returns:
      The pairs in the order of their prompts, and each response that is left with what is wrong with it.
    """
    sides: dict[Prompt, Mapping[bool, list[Single]]] = {}
    for single in singles:
        sides.setdefault(single.prompt, {True: [], False: []})[single.good].append(single)
    matched, left = list[Matched](), list[tuple[Single, RowError]]()
    for side in sides.values():
        good, bad = side[True], side[False]
        both = min(len(good), len(bad))
        matched += map(Matched, good, bad)
        left += [(single, _unmatched(single)) for single in (*good[both:], *bad[both:])]
    return matched, left


def _unmatched(single: Single) -> RowError:
    column = next(name for name in _REPLIES if name in single.row.values)
    kind, other = ("good", "bad") if single.good else ("bad", "good")
    return single.row.error(
        column,
        f"is a single {kind} response, and no row is left with a {other} one to its prompt; add one to make "
        "a pair of them, or remove the line.",
        "single_responses",
    )
