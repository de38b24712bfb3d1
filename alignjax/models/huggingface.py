"""Reads and writes Hugging Face model folders."""

import dataclasses
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig, config_from_hf, config_to_hf, token_ids
from alignjax.models.families import FAMILIES
from alignjax.models.gguf_file import load_gguf, names_gguf
from alignjax.models.model import Model
from alignjax.models.placement import decoder_shardings
from alignjax.models.quantized import finisher
from alignjax.models.tokenizer import check_vocabulary, load_tokenizer
from alignjax.models.tokenizer_files import write_tokenizer
from alignjax.models.weights import Slot, assemble, check_number, disassemble, slots
from alignjax.runtime.processes import barrier, is_primary

WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_MAPPED = 2**27  # bytes read of a file until it is opened anew
_FILE_NAME = re.compile(r"[\w.+-]{1,200}", re.ASCII)  # in the folder itself


def load_pretrained(
    path: str | Path,
    *,
    dtype: str = "float32",
    remat: bool | str = False,
    mesh: Mesh | None = None,
    weights: str = "float",
) -> Model:
    """Reads a Hugging Face folder (config.json, safetensors, tokenizer if present) or a .gguf file.

    Args:
      path: the folder, or a file whose name ends in .gguf.
      dtype: of the parameters and of the matrix products, "float32" or "bfloat16".
      remat: what the backward pass computes again, of `DecoderConfig`; True: all of a layer.
      mesh: the devices that the weights are divided over; each part is read directly to its device. None: the
        default device.
      weights: how the layers' matrices are held, "float" (as `dtype`) or "int8"; see `quantized`.

    Returns:
      The model; `tokenizer` is None if the folder has none.

    Raises:
      InputError: a missing or damaged file, an unsupported architecture or setting, tensors that are missing,
        unknown or of the wrong shape, a tokenizer with more ids than the embedding has rows, an unknown
        dtype, or a mesh that does not divide the model.
    """
    path = Path(path)
    if names_gguf(path):
        return load_gguf(path, dtype=dtype, remat=remat, mesh=mesh, weights=weights)
    config = config_from_hf(read_json(path / "config.json"), where=str(path / "config.json"))
    config = dataclasses.replace(config, dtype=dtype, remat=remat, weights=weights)
    generation = path / "generation_config.json"
    if generation.is_file():
        config = _with_generation_ends(config, read_json(generation), str(generation))
    tokenizer = load_tokenizer(path)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config.vocab_size, str(path))
    shardings = decoder_shardings(config, mesh, where=str(path))
    with open_weights(path) as (shapes, read):
        check_number(config, shapes, str(path))
        _check_tied_head(config, shapes, read, path)
        params = assemble(
            _as_named(slots(config), shapes),
            shapes,
            read,
            dtype=dtype,
            ignore=lambda n: _redundant(config, n),
            where=str(path),
            shardings=shardings,
            finish=finisher(config),
        )
    return Model(params=params, config=config, tokenizer=tokenizer)


def save_pretrained(model: Model, path: str | Path) -> None:
    """Writes config.json, generation_config.json, model.safetensors and the tokenizer as transformers does.

    A new folder appears complete or not at all; in an existing one each file is replaced in one step.

    Args:
      model: tensors are written in the dtype of its parameters.
      path: the folder; made if it does not exist.
    """
    stored = str(model.params["embedding"].dtype)
    fields = config_to_hf(model.config) | {"torch_dtype": stored}
    tensors = dict(disassemble(model.config, model.params))
    generation = {name: fields[name] for name in ("bos_token_id", "eos_token_id")}
    if model.tokenizer is not None and model.tokenizer.pad_token_id is not None:
        generation["pad_token_id"] = model.tokenizer.pad_token_id
    files = {"config.json": fields, "generation_config.json": generation}
    write_folder(Path(path), files, {WEIGHTS: tensors}, model.tokenizer)


def _with_generation_ends(config: DecoderConfig, fields: dict[str, Any], where: str) -> DecoderConfig:
    """Adds EOS ids that only generation_config.json lists, as for chat models."""
    ends = token_ids(fields, "eos_token_id", where)
    if any(not 0 <= end < config.vocab_size for end in ends):
        raise InputError(
            f'{where}: field "eos_token_id" is {list(ends)}, must be below vocab_size, {config.vocab_size}.'
        )
    merged = (*config.eos_ids, *(i for i in ends if i not in config.eos_ids))
    return dataclasses.replace(config, eos_ids=merged)


def _redundant(config: DecoderConfig, name: str) -> bool:
    """Whether a tensor of an old checkpoint is redundant: rotary tables, causal masks, or a tied head."""
    if not config.gated and name.endswith(("attn.bias", "attention.bias", ".masked_bias")):
        return True
    head = f"{FAMILIES[config.architecture].top_names['head']}.weight"
    return name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == head)


def _as_named(wanted: list[Slot], shapes: Mapping[str, Any]) -> list[Slot]:
    """The leaves by the names in a file of the model without its head, such as the published GPT-2."""
    prefix = wanted[0].names[0].split(".")[0] + "."
    if wanted[0].names[0] in shapes or wanted[0].names[0].removeprefix(prefix) not in shapes:
        return wanted
    return [slot._replace(names=tuple(n.removeprefix(prefix) for n in slot.names)) for slot in wanted]


def _check_tied_head(config: DecoderConfig, shapes: Any, read: Any, path: Path) -> None:
    top = FAMILIES[config.architecture].top_names
    embedding, head = (f"{top[part]}.weight" for part in ("embedding", "head"))
    if not config.tie_embeddings or head not in shapes or embedding not in shapes:
        return
    if not np.array_equal(read(embedding), read(head)):
        raise InputError(
            f"{path}: tie_word_embeddings is true, but {head} differs from the embedding; "
            "set it to false in config.json if the head is to be used."
        )


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """Opens model.safetensors, or all files of the index.

    Args:
      path: the model's folder.

    Yields:
      Name -> shape of every tensor, and a function from a name, or a name and a slice of rows, to the tensor.

    Raises:
      InputError: a missing or damaged file.
    """
    if (path / WEIGHTS).is_file():
        files = [path / WEIGHTS]
    elif (path / _INDEX).is_file():
        index = read_json(path / _INDEX)
        if not isinstance(index.get("weight_map"), dict):
            raise InputError(f'{path / _INDEX}: "weight_map" is missing; download the index again.')
        names = list(index["weight_map"].values())
        if wrong := [name for name in names if not isinstance(name, str) or not _FILE_NAME.fullmatch(name)]:
            raise InputError(f"{path / _INDEX}: {wrong[0]!r} is no file name; download the index again.")
        files = [path / name for name in sorted(set(names))]
    else:
        raise InputError(
            f"{path}: has neither {WEIGHTS} nor {_INDEX}; convert weights in other formats to safetensors."
        )
    with open_safetensors(files) as opened:
        yield opened


@contextmanager
def open_safetensors(files: list[Path]) -> Iterator[Any]:
    """Opens files of tensors; yields and raises as `open_weights`."""
    with ExitStack() as stack:
        owners, shapes = {}, {}
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: no such file; download the missing part of the model.")
            try:
                mapped = _MappedFile(file)
                stack.callback(mapped.close)
                for name, shape in mapped.shapes():
                    owners[name], shapes[name] = mapped, shape
            except SafetensorError as error:
                raise InputError(
                    f"{file}: not a readable safetensors file ({error}); get it again."
                ) from None

        def read(name: str, rows: slice | None = None) -> np.ndarray:
            return owners[name].read(name, rows)

        yield shapes, read


class _MappedFile:
    """An open file of tensors, which is opened anew after some of it has been read.

    What was read of a mapped file stays in the memory of the process until the file is closed.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._bytes_read = file, 0
        self._handle: Any = safe_open(file, framework="numpy")

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor."""
        for name in self._handle.keys():  # noqa: SIM118 (not a dict: it can only be iterated by keys())
            yield name, tuple(self._handle.get_slice(name).get_shape())

    def read(self, name: str, rows: slice | None) -> np.ndarray:
        """A tensor, or some of its rows."""
        if self._bytes_read > _MOST_MAPPED:
            self.close()
            self._handle, self._bytes_read = safe_open(self._file, framework="numpy"), 0
        tensor = self._handle.get_tensor(name) if rows is None else self._handle.get_slice(name)[rows]
        self._bytes_read += tensor.nbytes
        return tensor

    def close(self) -> None:
        """Gives its memory back."""
        self._handle.__exit__(None, None, None)


def write_folder(
    path: Path,
    configs: Mapping[str, dict[str, Any]],
    weights: Mapping[str, dict[str, np.ndarray]],
    tokenizer: Any = None,
) -> None:
    """Writes the folder of a model. A new folder appears complete or not at all.

    In an existing folder each file is replaced in one step. If there are several processes, all of them call
    this function and the first one writes.

    Args:
      path: the folder; made if it does not exist.
      configs: name of a JSON file -> its object.
      weights: name of a safetensors file -> its tensors.
      tokenizer: saved as well; None: none.

    Raises:
      InputError: the path is a file.
    """
    if is_primary():
        with _atomic_folder(path) as folder:
            for name, fields in configs.items():
                # Sorted keys: equal objects give equal bytes.
                text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
                (folder / name).write_text(text, encoding="utf-8")
            for name, tensors in weights.items():
                # transformers refuses a file that does not name a framework in its metadata.
                save_file(tensors, folder / name, metadata={"format": "pt"})
            if tokenizer is not None:
                write_tokenizer(tokenizer, folder)
    barrier(f"wrote {path.name}")


@contextmanager
def _atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`; its files are moved there when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; give a folder to write the model to.")
    # Not tempfile, whose folders only their owner can read, regardless of the umask.
    folder = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
        for file in folder.iterdir():
            file.chmod(stat.S_IMODE(folder.stat().st_mode) & 0o666)  # safetensors writes 0600
        if path.exists():
            for file in folder.iterdir():
                os.replace(file, path / file.name)
        else:
            os.rename(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_json(file: Path) -> dict[str, Any]:
    """Reads the JSON object in a file.

    Raises:
      InputError: the file is missing or holds no JSON object.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; a Hugging Face folder must have it.")
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON or not UTF-8, too long a number, too deep
        raise InputError(f"{file}: not valid JSON ({error}); repair it.") from None
    if not isinstance(fields, dict):
        raise InputError(f"{file}: must hold a JSON object, not a {type(fields).__name__}.")
    return fields
