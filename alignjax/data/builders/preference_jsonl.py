"""TFDS builder of any JSON Lines file of preference pairs."""

from pathlib import Path
from typing import Any

from alignjax.data.builders.base import JsonLinesBuilder, Sources, find_sources, slug
from alignjax.data.builders.columns import infer_features
from alignjax.data.files import read_json_lines


class PreferenceJsonl(JsonLinesBuilder):
    """All columns of a file, or of the splits in a folder, with types inferred from their values.

    Args:
      path: a JSON Lines file, which becomes the split "train", or a folder, see `find_sources`.
      data_dir: folder for prepared data; None: TFDS's default.
    """

    def __init__(self, path: str | Path, *, data_dir: str | Path | None = None):
        path = Path(path)
        sources: Sources = find_sources(path) if path.is_dir() else {"train": [path]}
        self._columns: dict[str, Any] | None = None
        super().__init__(sources, data_dir=data_dir, name=slug(path.name.partition(".")[0]))

    def columns(self) -> dict[str, Any]:
        """See the base class."""
        if self._columns is None:
            files = [file for files in self.sources.values() for file in files]
            self._columns = infer_features(row for file in files for row in read_json_lines(file))
        return self._columns
