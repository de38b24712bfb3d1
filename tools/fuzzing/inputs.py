"""Makers of hostile inputs: each writes one input into an empty folder, which is all that a reader sees."""

import random
from collections.abc import Callable
from pathlib import Path

from tools.fuzzing import data_inputs as data
from tools.fuzzing import model_inputs as models
from tools.fuzzing import tokenizer_inputs as tokenizers

MAKERS: dict[str, Callable[[random.Random, Path], None]] = {
    "jsonl": data.make_jsonl,
    "tables": data.make_tables,
    "safetensors": models.make_safetensors,
    "gguf": tokenizers.make_gguf,
    "tokenizers": tokenizers.make_tokenizers,
    "templates": models.make_templates,
    "configs": models.make_configs,
    "run_configs": data.make_run_configs,
    "scores": data.make_scores,
    "adapters": models.make_adapters,
    "labels": data.make_labels,
    "records": data.make_records,
}
