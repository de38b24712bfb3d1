"""TFDS builders of preference data, prepared as array_record and read without TensorFlow.

    name = prepare("pku_saferlhf", data_dir="prepared", manual_dir="downloads/PKU-SafeRLHF")
    source = DataSource(f"tfds:{name}:train[:90%]", data_dir="prepared", label="safer_response_id")
    pairs = read_pairs(source, "safety")

Importing this package imports TFDS, which takes a second or more; `alignjax.data.records` imports it only for
"tfds:" paths.
"""

from pathlib import Path

from alignjax.data.builders.base import JsonLinesBuilder
from alignjax.data.builders.hh_rlhf import HhRlhf
from alignjax.data.builders.pku_saferlhf import PkuSaferlhf
from alignjax.data.builders.preference_jsonl import PreferenceJsonl
from alignjax.errors import InputError

__all__ = ["HhRlhf", "JsonLinesBuilder", "PkuSaferlhf", "PreferenceJsonl", "prepare"]


def prepare(name: str, data_dir: str | Path, manual_dir: str | Path) -> str:
    """Prepares a data set from files on disk; does nothing if the same content has been prepared before.

    Args:
      name: preference_jsonl, pku_saferlhf or hh_rlhf.
      data_dir: folder for prepared data.
      manual_dir: folder with the downloaded files; for preference_jsonl it may be a single file.

    Returns:
      The name of the prepared data, "BUILDER/CONFIGURATION"; the path of a source is "tfds:" + name + ":" +
      split.

    Raises:
      InputError: an unknown name, missing files, or rows without the columns of the data set.
    """
    builders = {"preference_jsonl": PreferenceJsonl, "pku_saferlhf": PkuSaferlhf, "hh_rlhf": HhRlhf}
    if name not in builders:
        raise InputError(f'"{name}": no such TFDS builder; choose from {", ".join(builders)}.')
    builder = builders[name](manual_dir, data_dir=data_dir)
    builder.download_and_prepare()
    return builder.prepared_name
