"""Errors that a command turns into one line and an exit status."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

_MOST, _END = 1500, 500  # characters of a message, and of its end where its middle is left out


def printable(text: str) -> str:
    """A text in which every character that could act on a terminal is an escape.

    Args:
      text: any.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """A configuration or an input that cannot be used; the message says what, where and what to do.

    Commands print the message as one line on standard error and exit with status 2. A message that shows what
    a file holds is made printable, and the middle of a very long one is left out.
    """

    def __init__(self, message: str = ""):
        line = printable(" ".join(message.split()))
        if len(line) > _MOST:
            left_out = len(line) - _MOST
            line = f"{line[: _MOST - _END]} ... ({left_out} characters left out) ... {line[-_END:]}"
        super().__init__(line)


class InfeasibleError(InputError):
    """Constraints that no policy on the given samples can meet; commands exit with status 3."""


class NotVerifiedError(Exception):
    """A run that is done and saved, but whose test does not show what was asked; commands exit with 5."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question that a near miss is answered with, and a space after it; empty where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def file_near(path: str | Path) -> str:
    """The question that a file's misspelled name is answered with, as of `did_you_mean`.

    Args:
      path: of a file or folder that is not there.
    """
    path = Path(path)
    try:
        known = [other.name for other in path.parent.iterdir() if other.name != path.name]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, known, n=1, cutoff=0.75)
    return f"did you mean {path.with_name(near[0])}? " if near else ""


def no_model(path: str | Path) -> InputError:
    """What to say where a user's model path leads to nothing; a name on a hub is told what it is."""
    text = str(path)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) and not Path(text).parent.exists():
        folder = Path(text).name
        return InputError(
            f"{text}: no such folder, and names on a hub are not downloaded; get it with `hf download {text} "
            f"--local-dir={folder}`, then give {folder}."
        )
    return InputError(
        f"{text}: no such file or folder; {file_near(path)}give a Hugging Face model folder or a .gguf file."
    )
