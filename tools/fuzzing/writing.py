"""Writes the files of an input."""

import json
from pathlib import Path
from typing import Any

from tools.fuzzing import bases

OPTIONS = "options.json"
"""How the input is to be read."""
MARK = "CODE_RAN"
"""A file that code within an input writes if anything runs it."""
MARK_CODE = f'open("{MARK}", "w").close()'


def write_options(folder: Path, **options: Any) -> None:
    """Notes how the input is to be read."""
    (folder / OPTIONS).write_text(json.dumps(options))


def write_file(folder: Path, name: str, text: str) -> None:
    """Writes a text as UTF-8; halves of surrogate pairs become what decoders refuse."""
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))


def write_files(folder: Path, files: bases.Files) -> None:
    """Writes valid files, of which some are then replaced."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
