"""Tables of the page as CSV, in links that hold the whole file and need neither script nor network."""

import csv
import io
import re
import urllib.parse
from collections.abc import Sequence

# "1.05 [0.93, 1.17]": an estimate with its interval becomes three columns.
_ESTIMATE = re.compile(r"^(\S+) \[(\S+), (\S+)\]$")
_NUMBER = re.compile(r"^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?%?$")
# A spreadsheet runs a cell that begins with one of these as a formula, and names are anybody's.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_uri(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as a data: address of a CSV file in UTF-8.

    A column in which some cell is an estimate with an interval becomes three: the estimate, `low` and `high`.
    Text that a spreadsheet would run as a formula begins with an apostrophe.

    Args:
      head: name of every column.
      rows: as many cells each.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    split = [any(_ESTIMATE.match(row[j]) for row in rows) for j in range(len(head))]
    names = [name for one, wide in zip(head, split, strict=True) for name in _columns(one, wide)]
    writer.writerow([_safe(name) for name in names])
    for row in rows:
        cells = [cell for one, wide in zip(row, split, strict=True) for cell in _cells(one, wide)]
        writer.writerow([_safe(cell) for cell in cells])
    return "data:text/csv;charset=utf-8," + urllib.parse.quote(file.getvalue())


def _columns(name: str, wide: bool) -> list[str]:
    return [name, f"{name} low", f"{name} high"] if wide else [name]


def _cells(cell: str, wide: bool) -> list[str]:
    if not wide:
        return [cell]
    found = _ESTIMATE.match(cell)
    return [cell, "", ""] if found is None else list(found.groups())


def _safe(cell: str) -> str:
    if cell.startswith(_FORMULA) and cell != "-" and not _NUMBER.match(cell):
        return f"'{cell}"
    return cell
