"""Reads and writes folders of score models, in the layouts of Safe-RLHF and of transformers."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig, config_from_hf, config_to_hf
from alignjax.models.families import FAMILIES, Family
from alignjax.models.huggingface import WEIGHTS, open_weights, read_json, write_folder
from alignjax.models.placement import decoder_shardings, place_head
from alignjax.models.score_model import KINDS, Kind, Reads, ScoreModel, body_config, identity_normalizer
from alignjax.models.tokenizer import check_vocabulary, load_tokenizer
from alignjax.models.tokenizer_files import with_pad
from alignjax.models.weights import Slot, assemble, check_number, disassemble, slots
from alignjax.runtime.processes import to_host

Layout = Literal["safe_rlhf", "classification"]
# The suffix of each layout in place of "ForCausalLM", and its name of the head.
_SUFFIXES = {"safe_rlhf": "ModelForScore", "classification": "ForSequenceClassification"}
_HEADS = {"safe_rlhf": "score_head", "classification": "score"}
_NORMALIZERS = ("RunningMeanStd", "ExponentialMovingAverage", None)


def load_score_model(
    path: str | Path, *, dtype: str = "float32", remat: bool | str = False, mesh: Mesh | None = None
) -> ScoreModel:
    """Reads a folder with a score model, in one of two layouts; `architectures` in config.json says which.

    Safe-RLHF's layout, `LlamaModelForScore` (and Mistral, Qwen2, Qwen3): the body as `model.*`,
    `score_head.weight` [1, D], `score_head.bias` [1] if config.json has `score_bias` (older: `bias`),
    `normalizer.mean` [1], `normalizer.var` [1] and `normalizer.count` [1], which is not used here.
    `score_type` is "reward" or "cost", `score_dim` is 1, and `do_normalize` says whether scores are
    normalized.

    The layout of transformers, `LlamaForSequenceClassification` (and Mistral, Qwen2, Qwen3) with one label:
    the body as `model.*` and `score.weight` [1, D]. It is read as a reward unless `score_type`, which
    `save_score_model` writes, is "cost"; use `model.replace(kind="cost")` for other cost models. If its
    tokenizer has a chat template, it reads whole conversations at their last token that is not the pad token,
    as transformers does, unless `score_reads`, which `save_score_model` writes as well, is "response".

    A stored vocabulary head is not read.

    Args:
      path: the folder.
      dtype: of the body and of its matrix products, "float32" or "bfloat16"; the head is float32.
      remat: what the backward pass computes again, of `DecoderConfig`; True: all of a layer.
      mesh: the devices that the weights are divided over; None: the default device.

    Returns:
      The score model; `tokenizer` is None if the folder has none.

    Raises:
      InputError: a missing or damaged file, an unsupported architecture or setting, more than one label,
        tensors that are missing, unknown or of the wrong shape, or a normalizer with a variance that is not
        positive.

    Reference: Dai et al. 2023, arXiv 2310.12773, whose released models have the first layout.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a score model.")
    fields, where = read_json(path / "config.json"), str(path / "config.json")
    layout, causal = layout_of(fields, where)
    kind, normalize = _settings(fields, layout, where)
    config = config_from_hf(fields | {"architectures": [causal]}, where=where)
    config = body_config(dataclasses.replace(config, dtype=dtype, remat=remat))
    tokenizer = load_tokenizer(path)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config.vocab_size, str(path))
    with open_weights(path) as (shapes, read):
        check_number(config, shapes, str(path))
        wanted = _head_slots(fields, layout, config, shapes, normalize=normalize, where=str(path))
        known = {name for slot in wanted for name in slot.names}

        def ignore(name: str) -> bool:
            return name in known or _unused(name, layout)

        # The head is read first, so that a folder without one is refused before gigabytes are read.
        parts = assemble(wanted, shapes, read, dtype="float32", ignore=lambda _: True, where=str(path))
        places = decoder_shardings(config, mesh, where=str(path))
        decoder = assemble(
            slots(config), shapes, read, dtype=dtype, ignore=ignore, where=str(path), shardings=places
        )
    normalizer = {name: values[0] for name, values in parts.get("normalizer", {}).items()}
    _check_normalizer(normalizer, normalize=normalize, where=str(path))
    return ScoreModel(
        params={"decoder": decoder, "head": place_head(parts["head"], mesh)},
        normalizer=identity_normalizer() | normalizer,
        config=config,
        kind=kind,
        normalize=normalize,
        tokenizer=tokenizer,
        reads=_reads(fields, layout, where),
        pad_id=_pad_id(fields, where) if layout == "classification" else None,
    )


def save_score_model(model: ScoreModel, path: str | Path, *, layout: Layout = "safe_rlhf") -> None:
    """Writes config.json, model.safetensors and the tokenizer, in one of the layouts of `load_score_model`.

    A new folder appears complete or not at all; in an existing one each file is replaced in one step.

    Args:
      model: the body is written in the dtype of its parameters, head and normalizer in float32.
      path: the folder; made if it does not exist.
      layout: "safe_rlhf" stores every part of a score model; "classification" can be loaded by transformers,
        but stores neither bias nor normalizer. It names a pad token, which transformers needs for batches.

    Raises:
      InputError: an unknown layout, one that cannot store the model's bias or normalizer, or a tokenizer of
        which every special token can end a text, so that none can be padding for transformers.
    """
    if layout not in _SUFFIXES:
        raise InputError(f"{path}: layout is {layout!r}; use one of {', '.join(_SUFFIXES)}.")
    config, head = body_config(model.config), model.params["head"]
    if layout == "classification" and ("bias" in head or model.normalize):
        missing = "bias" if "bias" in head else "normalizer"
        raise InputError(f'{path}: layout "classification" stores no {missing}; use layout "safe_rlhf".')
    if layout == "classification" and model.pad_id is None and model.tokenizer is not None:
        tokenizer, pad_id = with_pad(model.tokenizer, str(path))
        model = model.replace(tokenizer=tokenizer, pad_id=pad_id)
    tensors = dict(disassemble(config, model.params["decoder"]))
    kernel = to_host(head["kernel"]).astype(np.float32)
    tensors[f"{_HEADS[layout]}.weight"] = np.ascontiguousarray(kernel.T)
    if "bias" in head:
        tensors[f"{_HEADS[layout]}.bias"] = to_host(head["bias"]).astype(np.float32)
    if layout == "safe_rlhf":
        for name in ("mean", "var"):
            tensors[f"normalizer.{name}"] = np.asarray(model.normalizer[name], np.float32).reshape(1)
        tensors["normalizer.count"] = np.zeros(1, np.int64)
    stored = str(model.params["decoder"]["embedding"].dtype)
    fields = config_to_hf(config) | _head_fields(model, layout) | {"torch_dtype": stored}
    fields["architectures"] = [_stem(FAMILIES[config.architecture]) + _SUFFIXES[layout]]
    write_folder(Path(path), {"config.json": fields}, {WEIGHTS: tensors}, model.tokenizer)


def _head_fields(model: ScoreModel, layout: str) -> dict[str, Any]:
    """The fields of config.json beyond the decoder's."""
    fields = {"score_type": model.kind, "tie_word_embeddings": False}
    if layout == "classification":
        named = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return fields | named | {"score_reads": model.reads, "pad_token_id": model.pad_id}
    biased = "bias" in model.params["head"]
    return fields | {
        "score_dim": 1,
        # Older readers know only the first of these two fields, newer ones only the second.
        "bias": biased,
        "score_bias": biased,
        "do_normalize": model.normalize,
        "normalizer_type": "RunningMeanStd",
    }


def _stem(family: Family) -> str:
    """The name of a family's score models before the suffix of their layout."""
    return family.classifier or family.architecture.removesuffix("ForCausalLM")


def layout_of(fields: dict[str, Any], where: str) -> tuple[str, str]:
    """The layout of a score model, and the architecture of its decoder.

    Args:
      fields: of config.json.
      where: the file, for messages.

    Returns:
      Layout, and the name of the decoder as a language model, such as "LlamaForCausalLM".

    Raises:
      InputError: the architecture is not a supported score model.
    """
    names = fields.get("architectures") or [None]
    name = str(names[0] if isinstance(names, list) else names)
    stems = {_stem(family): family.architecture for family in FAMILIES.values()}
    for layout, suffix in _SUFFIXES.items():
        if name.endswith(suffix) and name.removesuffix(suffix) in stems:
            return layout, stems[name.removesuffix(suffix)]
    known = ", ".join(stem + suffix for suffix in _SUFFIXES.values() for stem in stems)
    raise InputError(
        f"{where}: architecture {name} is not a score model that can be read; use one of {known}."
    )


def _settings(fields: dict[str, Any], layout: str, where: str) -> tuple[Kind, bool]:
    """The kind, and whether scores are normalized; refuses settings that are not supported."""
    kind = fields.get("score_type", "reward")
    if kind not in KINDS:
        raise InputError(f'{where}: score_type is {kind!r}; only "reward" and "cost" are supported.')
    if layout == "classification":
        named = fields.get("id2label") or ["LABEL_0"]
        labels = fields.get("num_labels") or (len(named) if isinstance(named, list | dict) else named)
        if labels != 1:
            raise InputError(
                f"{where}: {fields['architectures'][0]} with {labels} labels is not a score model; use one "
                "with a single label."
            )
        return kind, False
    if fields.get("score_dim", 1) != 1:
        raise InputError(f"{where}: score_dim is {fields['score_dim']!r}; only 1 is supported.")
    if fields.get("normalizer_type") not in _NORMALIZERS:
        raise InputError(
            f"{where}: normalizer_type is {fields['normalizer_type']!r}; only "
            f"{' and '.join(str(name) for name in _NORMALIZERS[:2])} are supported."
        )
    return kind, bool(fields.get("do_normalize", False))


def _reads(fields: dict[str, Any], layout: str, where: str) -> Reads:
    """What the score model reads: whole conversations, or prompts and responses that end with EOS."""
    reads = fields.get("score_reads", "conversation" if layout == "classification" else "response")
    if reads not in ("response", "conversation"):
        raise InputError(f'{where}: score_reads is {reads!r}; use "response" or "conversation".')
    return reads


def _pad_id(fields: dict[str, Any], where: str) -> int | None:
    pad = fields.get("pad_token_id")
    if pad is not None and type(pad) is not int:
        raise InputError(f"{where}: pad_token_id is {pad!r}; must be a whole number or null.")
    return pad


def _head_slots(
    fields: dict[str, Any],
    layout: str,
    config: DecoderConfig,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    normalize: bool,
    where: str,
) -> list[Slot]:
    """The tensors of the head and of the normalizer, and their places in the tree."""
    weight, bias = f"{_HEADS[layout]}.weight", f"{_HEADS[layout]}.bias"
    labels = shapes.get(weight, (1,))[0]
    if layout == "classification" and labels != 1:
        raise InputError(
            f"{where}: {weight} has {labels} labels, but a score model has one; use a model with a single "
            "label."
        )
    found = [Slot(("head", "kernel"), (weight,), (1, config.hidden_size), transposed=True)]
    if layout == "classification":
        return found
    biased = fields.get("score_bias", fields.get("bias"))
    if bias in shapes if biased is None else biased:
        found.append(Slot(("head", "bias"), (bias,), (1,)))
    if normalize or any(f"normalizer.{name}" in shapes for name in ("mean", "var")):
        found += [Slot(("normalizer", name), (f"normalizer.{name}",), (1,)) for name in ("mean", "var")]
    return found


def _unused(name: str, layout: str) -> bool:
    """Whether a tensor may be stored although no score depends on it."""
    counts = layout == "safe_rlhf" and name == "normalizer.count"
    return counts or name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")


def _check_normalizer(normalizer: Mapping[str, Array], *, normalize: bool, where: str) -> None:
    if not normalize:
        return
    mean, var = float(normalizer["mean"]), float(normalizer["var"])
    if not math.isfinite(mean) or not math.isfinite(var) or var <= 0:
        raise InputError(
            f"{where}: normalizer.mean is {mean:g} and normalizer.var {var:g}, which cannot be used; "
            "set do_normalize to false in config.json, or get the weights again."
        )
