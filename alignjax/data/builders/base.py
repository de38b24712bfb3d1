"""The base class of the TFDS builders: files on disk to array_record, named by a digest of their content."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from alignjax.data.files import read_json_lines
from alignjax.errors import InputError

SOURCE_ROW = "source_row"
"""Column with "file:line" of a row, since TFDS shuffles rows."""

_ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz")
_SPLITS = ("train", "test", "validation", "eval")

Sources = Mapping[str, Sequence[Path]]
"""Split -> files, in order."""


class JsonLinesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds a data set from JSON Lines files that are already on disk.

    The configuration's name ends with a digest of the files' content, so that a changed file gives another
    data set. The format is always array_record, which needs no TensorFlow and gives exact slices.

    Args:
      sources: split -> files.
      data_dir: folder for prepared data; None: TFDS's default.
      name: beginning of the configuration's name; empty: the digest alone.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def __init__(self, sources: Sources, *, data_dir: str | Path | None = None, name: str = ""):
        self.sources = {
            split: tuple(Path(file).absolute() for file in files) for split, files in sources.items()
        }
        self.files = {str(file): identity(file) for files in self.sources.values() for file in files}
        content = "\n".join(
            f"{split} {self.files[str(file)]}" for split, files in self.sources.items() for file in files
        )
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        self._config_name = f"{name}-{digest}" if name else digest
        config = tfds.core.BuilderConfig(name=self._config_name, version=self.VERSION)
        super().__init__(
            data_dir=None if data_dir is None else str(data_dir), config=config, file_format="array_record"
        )

    @property
    def prepared_name(self) -> str:
        """The part of a source's path after "tfds:", without the split."""
        return f"{self.name}/{self._config_name}"

    def columns(self) -> dict[str, Any]:
        """Column -> TFDS feature, for the columns to keep."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({**self.columns(), SOURCE_ROW: tfds.features.Text()}),
            # Stored with the data, so that a reader can check whether the files have changed since.
            metadata=tfds.core.MetadataDict({"files": self.files}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(files) for split, files in self.sources.items()}

    def _generate_examples(self, files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        for file in files:
            for where, row in read_json_lines(file):
                line = where.rpartition(":")[2]
                kept = {column: _value(where, row, column) for column in self.columns()}
                key = f"{_short(file, files)}:{line}"
                yield key, {**kept, SOURCE_ROW: key}


def identity(file: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file.

    Args:
      file: any file.

    Returns:
      {"bytes": size, "sha256": hexadecimal digest}.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"bytes": file.stat().st_size, "sha256": digest}
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path.") from error


def find_sources(manual_dir: str | Path) -> Sources:
    """Finds the splits in a folder of downloaded files and its subfolders.

    A file belongs to the split with which its name begins (train, test, validation, eval). If no file's name
    begins with a split, all files are the split "train".

    Args:
      manual_dir: the folder.

    Returns:
      Split -> files, in order.

    Raises:
      InputError: not a folder, no JSON Lines file in it, or some names begin with a split and some do not.
    """
    root = Path(manual_dir)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder; give the one that the data set was downloaded to.")
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.name.endswith(_ENDINGS))
    if not files:
        raise InputError(f"{root}: holds no {' or '.join(_ENDINGS)} file; download the data set there first.")
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(next((s for s in _SPLITS if file.name.startswith(s)), ""), []).append(file)
    if "" in found and len(found) > 1:
        raise InputError(
            f"{found[''][0]}: its name begins with none of {', '.join(_SPLITS)}, as other files' names do; "
            "rename or move it."
        )
    return {split or "train": members for split, members in found.items()}


def slug(text: str) -> str:
    """A text with characters replaced so that it can be part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "data"


def _short(file: Path, files: Sequence[Path]) -> str:
    """A file's name, preceded by enough of its folders to be unique within the split."""
    for depth in range(1, len(file.parts)):
        name = "/".join(file.parts[-depth:])
        if sum(other.parts[-depth:] == file.parts[-depth:] for other in files) == 1:
            return name
    return str(file)


def _value(where: str, row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise InputError(f'{where}: "{column}" is missing; the row\'s columns are {", ".join(row)}.')
    return row[column]
