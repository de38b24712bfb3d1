"""The tokenizer of a model, read without its weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from alignjax.errors import InputError
from alignjax.models.gguf_file import gguf_tokenizer, names_gguf, open_gguf
from alignjax.models.peft_files import base_of
from alignjax.models.tokenizer import load_tokenizer

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


def read_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """Reads the tokenizer that `load_pretrained` would give a model.

    Args:
      path: a Hugging Face folder, a PEFT folder whose base lies on this machine, or a .gguf file.

    Raises:
      InputError: nothing is there, a file is damaged, or there is no tokenizer.
    """
    path = Path(path)
    if names_gguf(path):
        return gguf_tokenizer(open_gguf(path)[1], str(path))
    found = load_tokenizer(base_of(path)[0])
    if found is None:
        raise InputError(f"{path}: holds no tokenizer; give the folder of a model with one.")
    return found
