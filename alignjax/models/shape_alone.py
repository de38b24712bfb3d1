"""The shape of a model, read without its weights."""

from pathlib import Path

from alignjax.models.config import DecoderConfig, config_from_hf
from alignjax.models.gguf_file import gguf_config, names_gguf, open_gguf
from alignjax.models.huggingface import read_json
from alignjax.models.peft_files import base_of


def read_shape(path: str | Path) -> DecoderConfig:
    """Reads the shape of the model that `load_pretrained` would give, in float32 and without remat.

    Args:
      path: a Hugging Face folder, a PEFT folder whose base lies on this machine, or a .gguf file.

    Raises:
      InputError: nothing is there, a file is damaged, or the architecture is not supported.
    """
    path = Path(path)
    if names_gguf(path):
        reader, meta = open_gguf(path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in tensors.items()}
        return gguf_config(meta, tensors, shapes, dtype="float32", remat=False, where=str(path))
    file = base_of(path)[0] / "config.json"
    return config_from_hf(read_json(file), where=str(file))
