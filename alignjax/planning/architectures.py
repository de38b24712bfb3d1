"""Architectures by name, so that a run can be planned before a weight is downloaded."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax.config import Config, ModelSettings
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, base_of, body_config, config_from_hf
from alignjax.models.huggingface import read_json
from alignjax.models.score_model_files import layout_of


def _llama(vocab: int, hidden: int, mlp: int, layers: int, heads: int, kv: int, **more: Any) -> DecoderConfig:
    more = {"max_positions": 8192, "eos_ids": (2,)} | more
    width = more.pop("head_dim", hidden // heads)
    return DecoderConfig("llama", vocab, hidden, mlp, layers, heads, kv, width, **more)


# Sizes from the config.json published with each model; end tokens stand for whatever the tokenizer has.
SHAPES: Mapping[str, DecoderConfig] = {
    "smollm2-135m": _llama(49152, 576, 1536, 30, 9, 3, rope_theta=1e5, tie_embeddings=True),
    "smollm2-360m": _llama(49152, 960, 2560, 32, 15, 5, rope_theta=1e5, tie_embeddings=True),
    "tinyllama-1b": _llama(32000, 2048, 5632, 22, 32, 4, max_positions=2048),
    "llama3.2-1b": _llama(128256, 2048, 8192, 16, 32, 8, rope_theta=5e5, tie_embeddings=True),
    "llama3.2-3b": _llama(128256, 3072, 8192, 28, 24, 8, rope_theta=5e5, tie_embeddings=True),
    "llama-7b": _llama(32000, 4096, 11008, 32, 32, 32, max_positions=2048),
    "alpaca-7b": _llama(32001, 4096, 11008, 32, 32, 32, max_positions=2048),  # one token more: padding
    "llama-13b": _llama(32000, 5120, 13824, 40, 40, 40, max_positions=2048),
    "llama3-8b": _llama(128256, 4096, 14336, 32, 32, 8, rope_theta=5e5),
    "llama3-70b": _llama(128256, 8192, 28672, 80, 64, 8, rope_theta=5e5),
}
# The published shape of presets whose configuration names no folder.
OF_PRESETS = {"smollm2-135m": "smollm2-135m", "alpaca-7b": "alpaca-7b", "llama3-8b": "llama3-8b"}


def decoder_of(settings: ModelSettings, name: str, preset: str) -> tuple[DecoderConfig, str]:
    """The decoder that a run is planned for, and what it is called.

    The first of: the name or folder given, the configured folder if it is there, the preset's published one.

    Args:
      settings: `config.model`; its dtype and remat are taken over.
      name: of SHAPES, or a folder with config.json; empty: not given.
      preset: name of the configuration's preset.

    Raises:
      InputError: no such name or folder, or nothing says which model it is.
    """
    if name:
        found = SHAPES.get(name) or _read(Path(name), f"--model={name}")
    elif settings.path and (base_of(settings.path)[0] / "config.json").exists():
        name, found = settings.path, _read(Path(settings.path), "config.model.path")
    elif preset in OF_PRESETS:
        name = OF_PRESETS[preset]
        found = SHAPES[name]
    else:
        raise InputError(
            f"config.model.path: {settings.path} holds no config.json, which tells the model's shape; give "
            f"--model=FOLDER or --model= one of {', '.join(SHAPES)}."
        )
    return run_as(found, settings), name


def run_as(decoder: DecoderConfig, settings: ModelSettings) -> DecoderConfig:
    """The decoder as the configuration runs it, but a GPU's kernel as the compiler's own attention."""
    kernel = "splash" if settings.attention == "splash" else "xla"
    remat = "layers" if settings.remat == "auto" else settings.remat  # `make_setup` chooses in its place
    run_as = {"dtype": settings.dtype, "remat": remat, "weights": settings.weights}
    return dataclasses.replace(decoder, **run_as, attention=kernel)


def score_decoders(config: Config) -> dict[str, DecoderConfig]:
    """The bodies of the score models whose folders are there, by dimension.

    Raises:
      InputError: a config.json that is not of a score model.
    """
    found = {}
    for name, source in config.scores.items():
        path = Path(source.path or "") / "config.json"
        if source.path and path.exists():
            fields = read_json(path)
            _, causal = layout_of(fields, str(path))
            decoder = config_from_hf(fields | {"architectures": [causal]}, where=str(path))
            found[name] = body_config(run_as(decoder, config.model))
    return found


def _read(folder: Path, where: str) -> DecoderConfig:
    path = base_of(folder)[0] / "config.json"
    if not path.exists():
        raise InputError(
            f"{where}: no such model, and no folder with config.json; give a folder, or one of "
            f"{', '.join(SHAPES)}."
        )
    return config_from_hf(read_json(path), where=str(path))
