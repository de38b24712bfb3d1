"""Preference pairs where scores are meant."""

from pathlib import Path

from alignjax.data.files import read_json_lines
from alignjax.errors import InputError


def refuse_pairs(path: Path) -> None:
    """Refuses a file of preference pairs in the place of a score table.

    Args:
      path: given as --scores; only the first line of a .jsonl is looked at.

    Raises:
      InputError: it has the columns of pairs and none of scores.
    """
    if path.suffix != ".jsonl" or not path.is_file():
        return
    row = next(iter(read_json_lines(path)), ("", {}))[1]
    if "utilities" not in row and {"chosen", "rejected"} <= set(row):
        raise InputError(
            f"--scores={path}: holds preference pairs, and this command reads scores of responses; "
            "alignjax train starts from pairs, alignjax score gives scores (docs/data-formats.md)."
        )
