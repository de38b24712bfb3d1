"""The tokenizer of a model, read without its weights."""

from pathlib import Path
from typing import TYPE_CHECKING

from gguf import GGUFReader

from alignjax.errors import InputError
from alignjax.models.gguf_file import gguf_tokenizer
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
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a Hugging Face model folder or a .gguf file.")
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{path}: not a model; give a Hugging Face model folder or a .gguf file.")
        try:
            reader = GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:
            raise InputError(f"{path}: not a readable GGUF file ({error}); get it again.") from None
        return gguf_tokenizer({name: field.contents() for name, field in reader.fields.items()}, str(path))
    found = load_tokenizer(base_of(path)[0])
    if found is None:
        raise InputError(f"{path}: holds no tokenizer; give the folder of a model with one.")
    return found
