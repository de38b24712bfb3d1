"""Which files a path stands for: one file, the files of a folder, or those that a glob finds."""

import glob
import json
import os
import re
from pathlib import Path

from alignjax.errors import InputError, file_near

_NAMES = re.compile(
    r"\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|feather)(\.(gz|xz|bz2|zst))?$", re.IGNORECASE
)
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # not rows
_SPLITS = "dataset_dict.json"  # of a folder with a folder for each split
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])")


def files_of(path: str | Path) -> list[Path]:
    """The files that a path stands for, in the order of their names.

    Args:
      path: a file, a folder or a glob; `~` is the home folder. Of a folder that `datasets` saved with several
        splits, it is the split named train; another is named as FOLDER/SPLIT.

    Raises:
      InputError: an address, a folder without data or with those of several splits, or a glob that finds
        nothing.
    """
    text = os.path.expanduser(path)
    if re.match(r"[a-z0-9]+://", text):
        raise InputError(f"{path}: is an address, and nothing is downloaded; name a file on this machine.")
    if os.path.isdir(text):
        return _in_folder(Path(text))
    if os.path.exists(text) or not glob.has_magic(text):
        return [Path(text)]
    found = sorted(Path(file) for file in glob.glob(text, recursive=True) if os.path.isfile(file))
    if not found:
        raise InputError(f"{path}: no file has such a name; check the pattern.")
    return found


def _in_folder(folder: Path) -> list[Path]:
    if (folder / _SPLITS).is_file():
        folder = _train_split(folder)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        hint = f"{file_near(folder)}check the path"
        raise InputError(f"{folder}: cannot be read ({error.strerror}); {hint}.") from error
    kept = [file for file in entries if file.name not in _ABOUT and not file.name.startswith("cache-")]
    found = [file for file in kept if _NAMES.search(file.name)]
    if not found:
        below = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        hint = f"name one of its folders ({', '.join(below[:5])})" if below else "name a file"
        raise InputError(
            f"{folder}: cannot be read, for this folder holds no JSON Lines, JSON, CSV, Parquet or Arrow "
            f"file; {hint}."
        )
    splits = sorted({match[1] for file in found if (match := _SPLIT.match(file.name))})
    if len(splits) > 1:
        raise InputError(
            f"{folder}: holds files of several splits ({', '.join(splits)}); name one, such as "
            f"{folder}/{splits[0]}*."
        )
    return found


def _train_split(folder: Path) -> Path:
    """The folder of the split named train, of those that `datasets` lists."""
    try:
        listed = json.loads((folder / _SPLITS).read_text(encoding="utf-8"))["splits"]
        splits = [str(name) for name in listed]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{folder / _SPLITS}: lists no splits; save the data set again.") from error
    if "train" not in splits:
        named = ", ".join(splits) or "none"
        raise InputError(
            f"{folder}: has no split named train (it has: {named}); name one, as {folder}/SPLIT."
        )
    return folder / "train"
