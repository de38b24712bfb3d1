"""Reads and writes Hugging Face model folders and PEFT adapters."""

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

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig, config_from_hf, config_to_hf, token_ids
from alignjax.models.gguf_file import load_gguf
from alignjax.models.lora import TARGETS, Lora, projection_sizes
from alignjax.models.model import Model
from alignjax.models.placement import decoder_shardings
from alignjax.models.tokenizer import check_vocabulary, load_tokenizer
from alignjax.models.weights import HF_PROJECTIONS, assemble, check_tensors, disassemble, slots
from alignjax.runtime.processes import barrier, is_primary, to_host

WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ADAPTER_NAME = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.([\w.]+)\.lora_([AB])\.weight")


def load_pretrained(
    path: str | Path, *, dtype: str = "float32", remat: bool = False, mesh: Mesh | None = None
) -> Model:
    """Reads a Hugging Face folder (config.json, safetensors, tokenizer if present) or a .gguf file.

    Args:
      path: the folder, or a file whose name ends in .gguf.
      dtype: of the parameters and of the matrix products, "float32" or "bfloat16".
      remat: recompute layers in the backward pass.
      mesh: the devices that the weights are divided over; each part is read directly to its device. None: the
        default device.

    Returns:
      The model; `tokenizer` is None if the folder has none.

    Raises:
      InputError: a missing or damaged file, an unsupported architecture or setting, tensors that are missing,
        unknown or of the wrong shape, a tokenizer with more ids than the embedding has rows, an unknown
        dtype, or a mesh that does not divide the model.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a Hugging Face model folder or a .gguf file.")
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"{path}: not a model; give a Hugging Face model folder or a .gguf file.")
        return load_gguf(path, dtype=dtype, remat=remat, mesh=mesh)
    config = config_from_hf(read_json(path / "config.json"), where=str(path / "config.json"))
    config = dataclasses.replace(config, dtype=dtype, remat=remat)
    generation = path / "generation_config.json"
    if generation.is_file():
        config = _with_generation_ends(config, read_json(generation), str(generation))
    tokenizer = load_tokenizer(path)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config.vocab_size, str(path))
    shardings = decoder_shardings(config, mesh, where=str(path))
    with open_weights(path) as (shapes, read):
        _check_tied_head(config, shapes, read, path)
        params = assemble(
            slots(config),
            shapes,
            read,
            dtype=dtype,
            ignore=lambda n: _redundant(config, n),
            where=str(path),
            shardings=shardings,
        )
    return Model(params=params, config=config, tokenizer=tokenizer)


def save_pretrained(model: Model, path: str | Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer in the format of transformers.

    A new folder appears complete or not at all; in an existing one each file is replaced in one step.

    Args:
      model: tensors are written in the dtype of its parameters.
      path: the folder; made if it does not exist.
    """
    stored = str(model.params["embedding"].dtype)
    fields = config_to_hf(model.config) | {"torch_dtype": stored}
    tensors = dict(disassemble(model.config, model.params))
    write_folder(Path(path), {"config.json": fields}, {WEIGHTS: tensors}, model.tokenizer)


def save_adapter(
    lora: Lora, config: DecoderConfig, path: str | Path, *, base_model: str | None = None
) -> None:
    """Writes adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors.

    Args:
      lora: the adapters.
      config: the decoder they belong to.
      path: the folder; made if it does not exist.
      base_model: name or path of the base model, recorded for PEFT.

    Raises:
      InputError: the adapters have different ranks, or the path is a file.
    """
    layers = lora.params["layers"]
    ranks = {pair["a"].shape[2] for pair in layers.values()}
    if len(ranks) != 1:
        raise InputError(f"{path}: adapters of ranks {sorted(ranks)} cannot be saved together; use one rank.")
    rank = ranks.pop()
    tensors = {}
    for target, pair in layers.items():
        a, b = to_host(pair["a"]), to_host(pair["b"])
        for i in range(config.num_layers):
            prefix = f"base_model.model.model.layers.{i}.{HF_PROJECTIONS[target]}"
            tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(a[i].T)
            tensors[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(b[i].T)
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": lora.scale * rank,
        "lora_dropout": lora.dropout,
        "target_modules": [HF_PROJECTIONS[t].split(".")[1] for t in layers],
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    write_folder(Path(path), {_ADAPTER_CONFIG: fields}, {_ADAPTER_WEIGHTS: tensors})


def load_adapter(path: str | Path, config: DecoderConfig) -> Lora:
    """Reads adapters in PEFT's layout.

    Args:
      path: the folder with adapter_config.json and adapter_model.safetensors.
      config: the decoder they are for.

    Returns:
      The adapters, float32.

    Raises:
      InputError: a missing file, an adapter other than plain LoRA, or tensors that do not fit the decoder.
    """
    path = Path(path)
    fields = read_json(path / _ADAPTER_CONFIG)
    where = str(path / _ADAPTER_CONFIG)
    if fields.get("peft_type") != "LORA":
        raise InputError(f'{where}: peft_type is {fields.get("peft_type")!r}; only "LORA" is supported.')
    for name in (
        "use_dora",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "fan_in_fan_out",
        "lora_bias",
    ):
        if fields.get(name):
            raise InputError(f"{where}: {name} is {fields[name]!r}; only plain LoRA is supported.")
    if fields.get("bias", "none") != "none":
        raise InputError(f'{where}: bias is {fields["bias"]!r}; only "none" is supported.')
    for name in ("r", "lora_alpha"):
        if not isinstance(fields.get(name), int | float) or fields[name] <= 0:
            raise InputError(f"{where}: {name} is {fields.get(name)!r}; must be a positive number.")
    rank, alpha = int(fields["r"]), float(fields["lora_alpha"])
    with _open_safetensors([path / _ADAPTER_WEIGHTS]) as (shapes, read):
        targets = _adapter_targets(shapes, path)
        sizes = projection_sizes(config)
        expected = {}
        for target in targets:
            fan_in, out = sizes[target]
            for i in range(config.num_layers):
                prefix = f"base_model.model.model.layers.{i}.{HF_PROJECTIONS[target]}"
                expected |= {
                    f"{prefix}.lora_A.weight": (rank, fan_in),
                    f"{prefix}.lora_B.weight": (out, rank),
                }
        check_tensors(expected, shapes, ignore=lambda _: False, where=str(path / _ADAPTER_WEIGHTS))
        layers = {t: {} for t in targets}
        for target in targets:
            for leaf, letter in (("a", "A"), ("b", "B")):
                names = [n for n in expected if HF_PROJECTIONS[target] in n and f"lora_{letter}" in n]
                layers[target][leaf] = jnp.asarray(np.stack([read(n).astype(np.float32).T for n in names]))
    scale = alpha / rank**0.5 if fields.get("use_rslora") else alpha / rank
    return Lora(params={"layers": layers}, scale=scale, dropout=float(fields.get("lora_dropout") or 0.0))


def _adapter_targets(shapes: dict[str, tuple[int, ...]], path: Path) -> list[str]:
    short = {name: target for target, name in HF_PROJECTIONS.items()}
    found = set()
    for name in shapes:
        match = _ADAPTER_NAME.fullmatch(name)
        if match is None or match[2] not in short:
            raise InputError(
                f"{path / _ADAPTER_WEIGHTS}: tensor {name} is not an adapter of a known projection "
                f"({', '.join(HF_PROJECTIONS.values())}); use an adapter of these alone."
            )
        found.add(short[match[2]])
    if not found:
        raise InputError(f"{path / _ADAPTER_WEIGHTS}: holds no adapter; get the file again.")
    return [t for t in TARGETS if t in found]


def _with_generation_ends(config: DecoderConfig, fields: dict[str, Any], where: str) -> DecoderConfig:
    """Adds EOS ids that only generation_config.json lists, as for chat models."""
    ends = token_ids(fields, "eos_token_id", where)
    merged = (*config.eos_ids, *(i for i in ends if i not in config.eos_ids))
    return dataclasses.replace(config, eos_ids=merged)


def _redundant(config: DecoderConfig, name: str) -> bool:
    """Whether a tensor of an old checkpoint is redundant: rotary tables, or a tied head."""
    return name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight")


def _check_tied_head(config: DecoderConfig, shapes: Any, read: Any, path: Path) -> None:
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    if not config.tie_embeddings or head not in shapes or embedding not in shapes:
        return
    if not np.array_equal(read(embedding), read(head)):
        raise InputError(
            f"{path}: tie_word_embeddings is true, but lm_head.weight differs from the embedding; "
            "set it to false in config.json if the head is to be used."
        )


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """Opens model.safetensors, or all files of the index.

    Args:
      path: the model's folder.

    Yields:
      Name -> shape of every tensor, and a function from a name to the tensor.

    Raises:
      InputError: a missing or damaged file.
    """
    if (path / WEIGHTS).is_file():
        files = [path / WEIGHTS]
    elif (path / _INDEX).is_file():
        index = read_json(path / _INDEX)
        if not isinstance(index.get("weight_map"), dict):
            raise InputError(f'{path / _INDEX}: "weight_map" is missing; download the index again.')
        files = [path / name for name in sorted(set(index["weight_map"].values()))]
    else:
        raise InputError(
            f"{path}: has neither {WEIGHTS} nor {_INDEX}; convert weights in other formats to safetensors."
        )
    with _open_safetensors(files) as opened:
        yield opened


@contextmanager
def _open_safetensors(files: list[Path]) -> Iterator[Any]:
    with ExitStack() as stack:
        owners, shapes = {}, {}
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: no such file; download the missing part of the model.")
            try:
                handle = stack.enter_context(safe_open(file, framework="numpy"))
                for name in handle.keys():  # noqa: SIM118 (not a dict: it can only be iterated by keys())
                    owners[name], shapes[name] = handle, tuple(handle.get_slice(name).get_shape())
            except SafetensorError as error:
                raise InputError(
                    f"{file}: not a readable safetensors file ({error}); get it again."
                ) from None
        yield shapes, lambda name: owners[name].get_tensor(name)


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
                tokenizer.save_pretrained(str(folder))
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); repair it.") from None
    if not isinstance(fields, dict):
        raise InputError(f"{file}: must hold a JSON object, not a {type(fields).__name__}.")
    return fields
