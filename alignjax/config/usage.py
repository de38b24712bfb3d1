"""The help of a command: what it does, its flags and its exit statuses, in 80 columns."""

import textwrap
from collections.abc import Iterable

from absl import flags

_WIDTH, _COLUMN = 79, 26
_REPEATED = "; repeat this option to specify a list of values"
_STATUSES = (
    "exit status: 0 done; 2 input that cannot be used; 3 what is asked cannot be met; 4 it does not fit the "
    "device; 5 what was asked is not shown; 75 stopped, the same command goes on"
)


def usage(document: str, known: Iterable[flags.Flag]) -> str:
    """The text that --help prints.

    Args:
      document: of the command's module; indented lines stay as they are, paragraphs are wrapped.
      known: the command's flags.

    Returns:
      Lines of at most 79 characters, but for words and indented lines that are longer.
    """
    lines = []
    for paragraph in document.strip().split("\n\n"):
        kept = any(line.startswith((" ", "|")) for line in paragraph.splitlines())
        lines += paragraph.splitlines() if kept else textwrap.wrap(paragraph, _WIDTH)
        lines.append("")
    for flag in sorted(known, key=lambda flag: flag.name):
        name = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}="
        described = textwrap.wrap(_described(flag), _WIDTH - _COLUMN) or [""]
        if len(name) < _COLUMN - 1:
            lines.append(f"{name:{_COLUMN}}{described[0]}")
            described = described[1:]
        else:
            lines.append(name)
        lines += [" " * _COLUMN + line for line in described]
    return "\n".join([*lines, "", *textwrap.wrap(_STATUSES, _WIDTH, subsequent_indent="  ")])


def _described(flag: flags.Flag) -> str:
    text = " ".join((flag.help or "").split()).replace(_REPEATED, " May be repeated.")
    unsaid = flag.default in (None, "", False, []) or "default" in text
    return text if unsaid else f"{text} ({(flag.default_as_str or '').strip(chr(39))})"
