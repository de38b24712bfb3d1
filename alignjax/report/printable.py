"""Text of unknown origin for a terminal: control characters as escapes, long texts clipped."""

from alignjax.errors import printable


def clipped(text: str, most: int) -> str:
    """A printable text of at most about `most` characters, with the number of those that are left out.

    Args:
      text: any.
      most: characters kept, half of them at the end.
    """
    if len(text) <= most:
        return printable(text)
    half = most // 2
    left_out = len(text) - 2 * half
    return f"{printable(text[:half])} [{left_out:,} characters] {printable(text[-half:])}"
