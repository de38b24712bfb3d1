"""Text of unknown origin for a page: what would act on the page is an escape, and long text is cut."""

import unicodedata
from typing import NamedTuple

# Line ends, tabs, and the two joiners that Persian, Indic scripts and emoji are written with.
_KEPT = frozenset("\n\t\u200c\u200d")
# Controls, formats such as overrides of the writing direction, and halves of surrogate pairs, which no file
# in UTF-8 can hold; then the two separators that some readers take for the end of a line.
_ACTING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


class Cut(NamedTuple):
    """The beginning of a text, and how many characters of it are left out."""

    text: str
    left_out: int


def visible(text: str) -> str:
    r"""A text in which every character that acts instead of being seen is an escape, such as \u202e.

    Args:
      text: any.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    return "".join(
        ascii(c)[1:-1] if c not in _KEPT and unicodedata.category(c) in _ACTING else c for c in text
    )


def cut(text: str, most: int) -> Cut:
    """The visible text of at most `most` characters of a text.

    Args:
      text: any.
      most: characters of the text itself that are kept.
    """
    return Cut(visible(text[:most]), max(len(text) - most, 0))
