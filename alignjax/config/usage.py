"""The help of a command: what it does, its flags and its exit statuses, as wide as it may be."""

import textwrap
from collections.abc import Iterable

from absl import flags

_COLUMN = 23
_REPEATED = "; repeat this option to specify a list of values"
_STATUSES = (
    "exit status: 0 done; 2 input that cannot be used; 3 what is asked cannot be met; 4 does not fit the "
    "device; 5 what was asked is not shown; 75 stopped, the same command goes on"
)


def usage(document: str, known: Iterable[flags.Flag], width: int = 79) -> str:
    """The text that --help prints.

    Args:
      document: of the command's module; paragraphs are wrapped, indented lines stay as they are if they fit.
      known: the command's flags; one that may be repeated is shown as --name=...
      width: characters of a line.

    Returns:
      Lines of at most so many characters, but for words that are longer.
    """
    lines = []
    for paragraph in document.strip().split("\n\n"):
        kept = any(line.startswith((" ", "|")) for line in paragraph.splitlines())
        if kept:
            lines += [part for line in paragraph.splitlines() for part in _broken(line, width)]
        else:
            lines += textwrap.wrap(paragraph, width)
        lines.append("")
    for flag in sorted(known, key=lambda flag: flag.name):
        repeated = "..." if isinstance(flag, flags.MultiFlag) else ""
        name = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}={repeated}"
        described = textwrap.wrap(_described(flag), width - _COLUMN) or [""]
        if len(name) < _COLUMN - 1:
            lines.append(f"{name:{_COLUMN}}{described[0]}")
            described = described[1:]
        else:
            lines.append(name)
        lines += [" " * _COLUMN + line for line in described]
    return "\n".join([*lines, "", *textwrap.wrap(_STATUSES, width, subsequent_indent="  ")])


def _broken(line: str, width: int) -> list[str]:
    """An indented line as it is, or where it is too long the lines that it is broken into."""
    if len(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line.lstrip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _described(flag: flags.Flag) -> str:
    text = " ".join((flag.help or "").split()).replace(_REPEATED, "")
    unsaid = flag.default in (None, "", False, []) or "default" in text
    return text if unsaid else f"{text} ({(flag.default_as_str or '').strip(chr(39))})"
