"""What a terminal is given and a file is not: colour, and lines broken at its width."""

import os
import shutil
import sys
import textwrap
from typing import TextIO

_TONES = {"bold": "1", "faint": "2", "good": "32", "warn": "33", "bad": "31"}


def painted(text: str, tone: str, stream: TextIO) -> str:
    """A text in a tone, where the stream is a terminal that shows colours and NO_COLOR is not set.

    Args:
      text: one line.
      tone: bold, faint, good, warn or bad.
      stream: where it is written.
    """
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{_TONES[tone]}m{text}\x1b[0m"


def fitted(line: str, stream: TextIO) -> str:
    """A line broken at words to the width of the terminal that it is written to; elsewhere as it is.

    Args:
      line: with its indentation, which the lines that follow have and two columns more.
      stream: where it is written.
    """
    if not stream.isatty():
        return line
    width = columns()
    if len(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    broken = textwrap.wrap(
        line.lstrip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,  # it may be a path
        break_on_hyphens=False,
    )
    return "\n".join(broken)


def columns() -> int:
    """Characters of a line: of the terminal, or of COLUMNS; 100 where neither is known."""
    return shutil.get_terminal_size((100, 24)).columns


def say(line: str) -> None:
    """Prints a line on standard output: broken where it is longer than a terminal, stages in bold."""
    shown = fitted(line, sys.stdout)
    if line.startswith("stage "):
        shown = painted(shown, "bold", sys.stdout)
    elif line.lstrip().startswith("finding: "):
        shown = painted(shown, "warn", sys.stdout)
    print(shown, flush=True)
