"""Pairs whose new label prefers the response that people did not: what relabelling changed."""

from collections.abc import Sequence
from typing import NamedTuple

from alignjax.report import tables
from alignjax.report.browser import FOLD
from alignjax.report.sections import Grid
from alignjax.report.visible import cut

DECIDED = 0.9  # probability above which a label is called decided
_OPEN = 3  # pairs of a dimension that stand on the page unfolded
_CLIP = 5_000  # characters of a text


class Flip(NamedTuple):
    """A pair whose label was turned over.

    Attributes:
      prompt: its text.
      preferred: the response that people prefer in this dimension.
      other: the response that the new label prefers.
      label: the new label's probability that `other` is preferred, above 1/2.
      scores: calibrated scores of `preferred` and of `other`, the reward first.
    """

    prompt: str
    preferred: str
    other: str
    label: float
    scores: tuple[tuple[float, ...], tuple[float, ...]]


class Flips(NamedTuple):
    """The pairs of one dimension.

    Attributes:
      dimension: whose labels by people these are.
      pairs: with such a label, ties of either label not counted.
      flipped: of them, where the new label prefers the other response.
      decided: of the flipped, where it does so with a probability of at least DECIDED.
      shown: some of the flipped, the most decided first.
    """

    dimension: str
    pairs: int
    flipped: int
    decided: int
    shown: Sequence[Flip]


class Side(NamedTuple):
    """One response of a pair: whose preference it is, its text in the part shown and the part folded."""

    label: str
    start: str
    rest: str
    facts: str


class Entry(NamedTuple):
    """One pair on the page: the response that people prefer, then the one that the label prefers."""

    prompt: str
    facts: str
    sides: list[Side]


class Listed(NamedTuple):
    """The pairs of one dimension on the page.

    Attributes:
      dimension: whose labels by people these are.
      told: how many there are, and how many are shown.
      open: the first, unfolded.
      folded: the others that are shown.
    """

    dimension: str
    told: str
    open: list[Entry]
    folded: list[Entry]


class FlipSection(NamedTuple):
    """The section of the page: a table of counts, and the pairs by dimension."""

    grid: Grid
    lists: list[Listed]


def flip_section(found: Sequence[Flips], dimensions: Sequence[str]) -> FlipSection | None:
    """The section for some dimensions; None where no pair has a label by people.

    Args:
      found: by dimension.
      dimensions: of the scores, the reward first.
    """
    found = [one for one in found if one.pairs]
    if not found:
        return None
    rows = [
        (
            one.dimension,
            "",
            [f"{one.pairs:,}", f"{one.flipped:,}", f"{one.flipped / one.pairs:.1%}", f"{one.decided:,}"],
        )
        for one in found
    ]
    head = ["dimension", "pairs", "flipped", "share", f"flipped with at least {DECIDED:.0%}"]
    notes = [
        "Pairs with a label by people in the dimension, without ties. Flipped: the label that the policy was "
        "aligned with, from the reward and the constraints together, prefers the response that people did "
        "not prefer in this dimension. All pairs with their labels are in labels.jsonl."
    ]
    grid = Grid("What the label flipped", head, rows, notes)
    return FlipSection(grid, [_listed(one, dimensions) for one in found if one.flipped])


def _listed(one: Flips, dimensions: Sequence[str]) -> Listed:
    entries = [_entry(pair, one.dimension, dimensions) for pair in one.shown]
    told = f"{one.dimension}: {one.flipped:,} flipped"
    if len(entries) < one.flipped:
        told += f", the {len(entries):,} most decided are shown"
    return Listed(one.dimension, told, entries[:_OPEN], entries[_OPEN:])


def _entry(pair: Flip, dimension: str, dimensions: Sequence[str]) -> Entry:
    rises = [f"{name} {b - a:+.2f}" for name, a, b in zip(dimensions, *pair.scores, strict=True)]
    facts = f"label {pair.label:.1%} for the second; second above the first: {', '.join(rises)}"
    labels = (f"preferred by people in {dimension}", "preferred by the label")
    sides = []
    for label, text, scores in zip(labels, (pair.preferred, pair.other), pair.scores, strict=True):
        shown = _text(text)
        said = [f"{name} {tables.format_number(x)}" for name, x in zip(dimensions, scores, strict=True)]
        sides.append(Side(label, shown[:FOLD], shown[FOLD:], ", ".join(said)))
    return Entry(_text(pair.prompt), facts, sides)


def _text(text: str) -> str:
    shown, left_out = cut(text, _CLIP)
    return f"{shown} [{left_out:,} more characters are in labels.jsonl]" if left_out else shown
