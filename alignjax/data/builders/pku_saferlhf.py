"""TFDS builder of PKU-SafeRLHF: two responses, and which is more helpful and which is safer."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from alignjax.data.builders.base import JsonLinesBuilder, find_sources


class PkuSaferlhf(JsonLinesBuilder):
    """PKU-SafeRLHF and its 10K and 30K versions, from files that the user has downloaded.

    Args:
      manual_dir: folder with train*.jsonl and test*.jsonl, plain or gzip, also in subfolders.
      data_dir: folder for prepared data; None: TFDS's default.

    Reference: Ji et al. 2024, "PKU-SafeRLHF: Towards multi-level safety alignment for LLMs with human
      preference".
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download PKU-Alignment/PKU-SafeRLHF and unpack its .jsonl.xz files, if any."
    )

    def __init__(self, manual_dir: str | Path, *, data_dir: str | Path | None = None):
        super().__init__(find_sources(manual_dir), data_dir=data_dir)

    def columns(self) -> dict[str, Any]:
        """The columns that all versions share."""
        texts = ("prompt", "response_0", "response_1")
        ids = ("better_response_id", "safer_response_id")
        flags = ("is_response_0_safe", "is_response_1_safe")
        return (
            {name: tfds.features.Text() for name in texts}
            | {name: tfds.features.Scalar(np.int64) for name in ids}
            | {name: tfds.features.Scalar(np.bool_) for name in flags}
        )
