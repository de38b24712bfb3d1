"""Reads GGUF files (llama.cpp), which hold weights, configuration and tokenizer of one model."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from jax.sharding import Mesh

from alignjax.errors import InputError, no_model
from alignjax.models.config import DecoderConfig
from alignjax.models.families import FAMILIES, Family
from alignjax.models.family_options import family_options
from alignjax.models.gguf_header import check_header
from alignjax.models.gguf_rope import ROPE_TENSORS, gguf_rope
from alignjax.models.layer_lists import layer_lists
from alignjax.models.model import Model
from alignjax.models.placement import decoder_shardings
from alignjax.models.quantized import finisher
from alignjax.models.rope import Rope
from alignjax.models.tokenizer import (
    begins_with_bos,
    byte_level_bpe,
    check_vocabulary,
    mark_special,
    scored_bpe,
    splitter,
    wrap,
)
from alignjax.models.weights import assemble, slots

# llama.cpp's names of the architectures, and the families.
_ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
# The layers of the two models that do not scale attention by the width of a head; files do not say it.
_SCALED_BY_HIDDEN = {"gemma2": 46, "gemma3": 62}
_MOST_LAYERS = 4096  # more than any model has; a file that claims more is damaged
_LONGEST_PIECE = 1000  # characters of a SentencePiece token; the ways to divide one are as many
# llama.cpp permutes q and k only for the llama architecture, where its rope rotates neighbouring pairs.
_PERMUTED = {"llama": ("attn_q.weight", "attn_k.weight")}


def load_gguf(
    path: str | Path,
    *,
    dtype: str = "float32",
    remat: bool | str = False,
    mesh: Mesh | None = None,
    weights: str = "float",
) -> Model:
    """Reads a .gguf file of one of `_ARCHITECTURES` and dequantizes its weights.

    Args:
      path: the file.
      dtype: of the parameters and of the matrix products, "float32" or "bfloat16".
      remat: what the backward pass computes again, of `DecoderConfig`; True: all of a layer.
      mesh: the devices that the weights are divided over; None: the default device.
      weights: how the layers' matrices are held, "float" (as `dtype`) or "int8"; see `quantized`.

    Returns:
      The model with the file's tokenizer and chat template.

    Raises:
      InputError: a damaged file, an unsupported architecture, tokenizer or rope scaling, tensors that do not
        fit the metadata, or a mesh that does not divide the model.
    """
    where = str(path)
    reader, meta = open_gguf(Path(path))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in tensors.items()}
    config = gguf_config(meta, tensors, shapes, dtype=dtype, remat=remat, where=where)
    config = dataclasses.replace(config, weights=weights)
    tokenizer = gguf_tokenizer(meta, where)
    check_vocabulary(tokenizer, config.vocab_size, where)
    permuted = _PERMUTED.get(str(meta["general.architecture"]), ())

    def read(name: str, rows: slice | None = None) -> np.ndarray:
        array = _values(tensors[name], shapes[name])
        if rows is not None:
            return array[rows]
        if name.endswith(permuted):
            heads = config.num_heads if "attn_q" in name else config.num_kv_heads
            array = unpermute(array, heads)
        if config.norm_offset and name.endswith("norm.weight"):
            array -= config.norm_offset  # llama.cpp's converter adds it
        return array

    params = assemble(
        slots(config, gguf=True),
        shapes,
        read,
        dtype=dtype,
        ignore=lambda n: n in ROPE_TENSORS,
        where=where,
        shardings=decoder_shardings(config, mesh, where=where),
        finish=finisher(config),
    )
    return Model(params=params, config=config, tokenizer=tokenizer)


def names_gguf(path: Path) -> bool:
    """Whether a model's path is a GGUF file; False: it is a folder.

    Args:
      path: given by a user.

    Raises:
      InputError: nothing is there, or another file.
    """
    if not path.exists():
        raise no_model(path)
    if path.is_file() and path.suffix != ".gguf":
        raise InputError(f"{path}: not a model; give a Hugging Face model folder or a .gguf file.")
    return path.is_file()


def open_gguf(path: Path) -> tuple[GGUFReader, dict[str, Any]]:
    """Opens a GGUF file, whose tensors are read when they are asked for.

    Args:
      path: the file.

    Returns:
      The reader, and name -> value of the metadata.

    Raises:
      InputError: a damaged file.
    """
    check_header(path)
    try:
        with np.errstate(all="raise"):  # an offset that leaves its type
            reader = GGUFReader(path)
        return reader, {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, OSError, KeyError, TypeError, ArithmeticError, MemoryError) as error:
        raise InputError(f"{path}: not a readable GGUF file ({error}); get it again.") from None


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorders the rows of a q or k matrix from rope on neighbouring pairs to rope on halves.

        out[h, j H/2 + i] = in[h, 2 i + j],   i < H/2, j in {0, 1}

    Args:
      weight: [heads * H, in].
      heads: number of heads.

    Returns:
      [heads * H, in].
    """
    rows, fan_in = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, fan_in)
    return pairs.swapaxes(1, 2).reshape(rows, fan_in)


class _Metadata(NamedTuple):
    """The metadata of the decoder, by names without the architecture before them."""

    values: dict[str, Any]
    arch: str
    where: str

    def get(self, name: str, default: Any = None) -> Any:
        """A value; refuses a missing one without a default."""
        value = self.values.get(f"{self.arch}.{name}", default)
        if value is None:
            raise InputError(f"{self.where}: metadata {self.arch}.{name} is missing; get a complete file.")
        return value

    def whole(self, name: str, default: int | None = None, *, least: int = 1, most: int = 2**31 - 1) -> int:
        """A whole number in a range."""
        value = self.get(name, default)
        if not isinstance(value, int) or not least <= value <= most:
            raise InputError(
                f"{self.where}: metadata {self.arch}.{name} is {value!r}, must be a whole number from "
                f"{least} to {most}."
            )
        return int(value)

    def positive(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.get(name, default)
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise InputError(
                f"{self.where}: metadata {self.arch}.{name} is {value!r}, must be a positive number."
            )
        return float(value)


def gguf_config(
    meta: dict[str, Any],
    tensors: dict[str, ReaderTensor],
    shapes: dict[str, tuple[int, ...]],
    *,
    dtype: str,
    remat: bool | str,
    where: str,
) -> DecoderConfig:
    """The decoder's configuration from the file's metadata.

    Args:
      meta: name -> value of the metadata.
      tensors: name -> tensor.
      shapes: name -> shape of every tensor.
      dtype: as in `load_gguf`.
      remat: as in `load_gguf`.
      where: the file, for messages.

    Returns:
      The configuration.

    Raises:
      InputError: missing metadata, or an unsupported architecture or setting.
    """
    arch = meta.get("general.architecture")
    if not isinstance(arch, str) or arch not in _ARCHITECTURES:
        raise InputError(
            f"{where}: architecture {arch} is not supported; use one of {', '.join(_ARCHITECTURES)}."
        )

    fields = _Metadata(meta, str(arch), where)
    whole = fields.whole
    if whole("expert_count", 0, least=0):
        raise InputError(f"{where}: a mixture of experts ({fields.get('expert_count')}) is not supported.")
    if "token_embd.weight" not in shapes:
        raise InputError(f"{where}: token_embd.weight is missing; the file is incomplete, get it again.")
    heads, hidden = whole("attention.head_count"), whole("embedding_length")
    kv_heads = whole("attention.head_count_kv", heads)
    head_dim = whole("attention.key_length", max(1, hidden // heads))
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{where}: {heads} heads, {kv_heads} key/value heads and a head of {head_dim} do not fit: the "
            "first must be a multiple of the second, the third even."
        )
    layers = whole("block_count", most=_MOST_LAYERS)
    rope = _rope(fields, tensors, head_dim)
    vocab = shapes["token_embd.weight"][0]
    end, begin = (_token_id(meta, f"tokenizer.ggml.{name}_token_id", vocab, where) for name in ("eos", "bos"))
    return DecoderConfig(
        architecture=_ARCHITECTURES[str(arch)],
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=whole("feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        rotary_dim=None if rope.width == head_dim else rope.width,
        max_positions=whole("context_length", 2048),
        bos_id=begin,
        eos_ids=() if end is None else (end,),
        dtype=dtype,
        remat=remat,
        **_options(fields, layers, hidden, heads, head_dim, tied="output.weight" not in shapes),
    )


def _options(
    fields: _Metadata, layers: int, hidden: int, heads: int, head_dim: int, *, tied: bool
) -> dict[str, Any]:
    """The options of the family, read as if the metadata stood in a config.json."""
    family = FAMILIES[_ARCHITECTURES[fields.arch]]
    window = fields.whole("attention.sliding_window", 0, least=0) or None
    scale = hidden / heads if _SCALED_BY_HIDDEN.get(fields.arch) == layers else head_dim
    found: dict[str, Any] = {
        # Metadata is float32; seven digits recover the intended decimal number.
        "rms_norm_eps": float(f"{fields.positive('attention.layer_norm_rms_epsilon'):.7g}"),
        "tie_word_embeddings": tied,
        "hidden_size": hidden,
        "query_pre_attn_scalar": scale,
        "sliding_window": window,
    }
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if f"{fields.arch}.{name}" in fields.values:
            found[name] = fields.positive(name)
    options = family_options(found, family, fields.where)
    if family.windows == "pattern":
        return options | layer_lists(found, family, layers, fields.where)._asdict() | _windowed_rope(family)
    return options | {"sliding_window": window}


def _windowed_rope(family: Family) -> dict[str, Any]:
    """The base of layers with a window, which llama.cpp knows by the architecture."""
    return {"window_rope_theta": family.window_theta} if family.full_rope == "own" else {}


def _rope(fields: _Metadata, tensors: dict[str, ReaderTensor], head_dim: int) -> Rope:
    return gguf_rope(
        fields.values,
        tensors,
        lambda name: _values(tensors[name], (-1,)),
        theta=fields.positive("rope.freq_base", 10000.0),
        width=fields.whole("rope.dimension_count", head_dim),
        head_dim=head_dim,
        max_positions=fields.whole("context_length", 2048),
        where=fields.where,
    )


def _token_id(meta: dict[str, Any], name: str, vocab: int, where: str) -> int | None:
    """The id of a special token; None: the file names none."""
    value = meta.get(name)
    if value is not None and (not isinstance(value, int) or not 0 <= value < vocab):
        raise InputError(f"{where}: metadata {name} is {value!r}, must be a token id below {vocab}.")
    return None if value is None else int(value)


def gguf_tokenizer(meta: dict[str, Any], where: str) -> Any:
    """The tokenizer from the file's metadata, with its chat template.

    Args:
      meta: name -> value of the metadata.
      where: the file, for messages.

    Returns:
      A transformers tokenizer.

    Raises:
      InputError: a kind of tokenizer other than "gpt2" (byte-level BPE) and "llama" (SentencePiece BPE).
    """
    kind, tokens = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama") or not tokens:
        raise InputError(f'{where}: tokenizer model {kind!r} is not supported; use "gpt2" or "llama".')
    tokens = _listed(meta, "tokens", str, where)
    types = _listed(meta, "token_type", int, where, len(tokens)) or [1] * len(tokens)
    template = meta.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise InputError(f"{where}: metadata tokenizer.chat_template is {template!r}, must be a text.")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {k: _token_id(meta, f"tokenizer.ggml.{v}_token_id", len(tokens), where) for k, v in names.items()}
    special = {f"{k}_token": tokens[i] for k, i in ids.items() if i is not None}
    if kind == "gpt2":
        split = splitter(str(meta.get("tokenizer.ggml.pre", "default")), tokens, where)
        adds = begins_with_bos(split)
        tokenizer = byte_level_bpe(tokens, _listed(meta, "merges", str, where), split, where)
    else:
        adds = True
        prefix = bool(meta.get("tokenizer.ggml.add_space_prefix", True))
        unknown = special.get("unk_token", tokens[0])
        scores = _listed(meta, "scores", float, where, len(tokens))
        if not scores or not np.isfinite(scores).all() or max(map(len, tokens)) > _LONGEST_PIECE:
            raise InputError(
                f"{where}: tokenizer.ggml.scores is missing or not finite, or a token is longer than "
                f"{_LONGEST_PIECE} characters; get the file again."
            )
        tokenizer = scored_bpe(tokens, scores, unknown, prefix_space=prefix)
    mark_special(tokenizer, tokens, types)
    adds = bool(meta.get("tokenizer.ggml.add_bos_token", adds))
    return wrap(tokenizer, special, template, add_bos=adds)


def _listed(meta: dict[str, Any], name: str, kind: type, where: str, length: int | None = None) -> list[Any]:
    """A list of the tokenizer's metadata, of one type and of a given length; [] if it is missing."""
    found = meta.get(f"tokenizer.ggml.{name}")
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise InputError(f"{where}: metadata tokenizer.ggml.{name} must be a list of {kind.__name__} values.")
    if length is not None and len(found) != length:
        raise InputError(
            f"{where}: metadata tokenizer.ggml.{name} has {len(found)} entries for {length} tokens; get the "
            "file again."
        )
    return found


def _values(tensor: ReaderTensor, shape: tuple[int, ...]) -> np.ndarray:
    return dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
