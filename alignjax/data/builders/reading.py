"""Reads prepared TFDS data as rows, without TensorFlow."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import DATA_DIR

from alignjax.data.builders.base import SOURCE_ROW, identity
from alignjax.data.builders.columns import plain
from alignjax.errors import InputError


class Address(NamedTuple):
    """The parts of "tfds:NAME:SPLIT"."""

    name: str
    split: str


def parse_address(path: str) -> Address:
    """Splits "tfds:NAME" or "tfds:NAME:SPLIT" into its parts.

    Args:
      path: of a source.

    Returns:
      Name and split; the split is "train" if none is given.

    Raises:
      InputError: there is no name.
    """
    name, _, split = path.removeprefix("tfds:").partition(":")
    if not name:
        raise InputError(
            f'{path}: names no data set; write "tfds:NAME:SPLIT", such as tfds:pku_saferlhf:train[:90%].'
        )
    return Address(name, split or "train")


def find_prepared(path: str, data_dir: str | Path | None) -> Path:
    """Finds the folder of prepared data for a "tfds:" path.

    NAME is the builder's name. If the builder has prepared several data sets, the configuration follows, with
    or without the digest at its end: tfds:preference_jsonl/pandalm:train. Data whose source files have
    changed since it was prepared is ignored.

    Args:
      path: "tfds:NAME:SPLIT".
      data_dir: folder of prepared data; None: TFDS's default.

    Returns:
      The folder with the array_record files. Its last three parts are builder, configuration and version; the
      digest in the configuration identifies the content.

    Raises:
      InputError: nothing was prepared under that name, or several data sets were, or only outdated data
        exists.
    """
    root = Path(DATA_DIR if data_dir is None else data_dir).expanduser()
    name = parse_address(path).name
    builder, _, wanted = name.partition("/")
    folders = [file.parent for file in sorted((root / builder).rglob("dataset_info.json"))]
    folders = [
        folder for folder in folders if _matches(folder.relative_to(root / builder).as_posix(), wanted)
    ]
    if not folders:
        raise InputError(
            f"{path}: {root} holds no prepared data of that name; prepare it with "
            "alignjax.data.builders.prepare, or set data_dir."
        )
    changed = {folder: file for folder in folders if (file := _changed_file(folder))}
    current = [folder for folder in folders if folder not in changed]
    if not current:
        raise InputError(
            f"{path}: {next(iter(changed.values()))} has changed since the data was prepared; "
            "prepare it again."
        )
    if len(current) > 1:
        names = ", ".join(
            f"tfds:{builder}/{folder.relative_to(root / builder).parts[0]}" for folder in current
        )
        raise InputError(f"{path}: several prepared data sets have that name; give one of {names}.")
    return current[0]


def read_prepared(
    path: str, data_dir: str | Path | None, limit: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads rows of prepared data, in the shuffled order in which TFDS stores them.

    Args:
      path: "tfds:NAME:SPLIT", where the split may be a slice: train[:90%].
      data_dir: folder of prepared data; None: TFDS's default.
      limit: largest number of rows to read; None: all.

    Yields:
      Where the row comes from, and the row with JSON's types.

    Raises:
      InputError: as in `find_prepared`, no such split, or a format other than array_record.
    """
    folder, split = find_prepared(path, data_dir), parse_address(path).split
    builder = tfds.builder_from_directory(str(folder))
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(f"{path}: was not prepared as array_record; prepare it again in that format.")
    try:
        source: Any = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  # TFDS hides them
    except ValueError as error:
        raise InputError(
            f'{path}: there is no split "{split}"; write one of {", ".join(builder.info.splits)}, or a '
            "slice such as train[:90%]."
        ) from error
    features = builder.info.features
    for i in range(len(source) if limit is None else min(limit, len(source))):
        row = plain(features, source[i])
        yield _where(path, i, row), row


def _where(path: str, i: int, row: dict[str, Any]) -> str:
    """The row's file and line, or its number if the builder did not store them."""
    source = row.pop(SOURCE_ROW, None)
    return f"{path} row {i}" if source is None else f"{path} ({source})"


def _matches(folder: str, wanted: str) -> bool:
    """Whether `wanted` names "CONFIG/VERSION" or "VERSION": in full, without version, or without digest."""
    config = folder.partition("/")[0]
    return not wanted or wanted in (folder, config) or config.rpartition("-")[0] == wanted


def _changed_file(folder: Path) -> str:
    """A source file that exists and has changed since the data was prepared; empty if there is none."""
    metadata = tfds.builder_from_directory(str(folder)).info.metadata
    files: Mapping[str, Any] = metadata.get("files", {}) if isinstance(metadata, Mapping) else {}
    for name, recorded in files.items():
        file = Path(name)
        # If the source file is gone, the prepared data is used. Sizes are compared first, because that is
        # cheap.
        if file.exists() and (file.stat().st_size != recorded["bytes"] or identity(file) != recorded):
            return name
    return ""
