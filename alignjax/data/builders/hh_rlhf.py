"""TFDS builder of hh-rlhf: two whole dialogues, the preferred one first."""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from alignjax.data.builders.base import JsonLinesBuilder, find_sources


class HhRlhf(JsonLinesBuilder):
    """A folder of hh-rlhf, such as harmless-base, from files that the user has downloaded.

    Args:
      manual_dir: folder with train.jsonl.gz and test.jsonl.gz; files of all subfolders are taken together.
      data_dir: folder for prepared data; None: TFDS's default.

    Reference: Bai et al. 2022, "Training a helpful and harmless assistant with RLHF", arXiv 2204.05862.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Download one folder of anthropics/hh-rlhf."

    def __init__(self, manual_dir: str | Path, *, data_dir: str | Path | None = None):
        super().__init__(find_sources(manual_dir), data_dir=data_dir)

    def columns(self) -> dict[str, Any]:
        """Both dialogues."""
        return {name: tfds.features.Text() for name in ("chosen", "rejected")}
