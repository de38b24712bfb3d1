"""Reads GGUF files (llama.cpp), which hold weights, configuration and tokenizer of one model."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from jax.sharding import Mesh

from alignjax.errors import InputError
from alignjax.models.attention import rope_stretch
from alignjax.models.config import ARCHITECTURES, DecoderConfig, RopeScaling
from alignjax.models.model import Model
from alignjax.models.placement import decoder_shardings
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

_ROPE_FREQS = "rope_freqs.weight"
# llama.cpp permutes q and k only for the llama architecture, where its rope rotates neighbouring pairs.
_PERMUTED = {"llama": ("attn_q.weight", "attn_k.weight")}


def load_gguf(
    path: str | Path, *, dtype: str = "float32", remat: bool = False, mesh: Mesh | None = None
) -> Model:
    """Reads a .gguf file of the llama, qwen2 or qwen3 architecture and dequantizes its weights.

    Args:
      path: the file.
      dtype: of the parameters and of the matrix products, "float32" or "bfloat16".
      remat: recompute layers in the backward pass.
      mesh: the devices that the weights are divided over; None: the default device.

    Returns:
      The model with the file's tokenizer and chat template.

    Raises:
      InputError: a damaged file, an unsupported architecture, tokenizer or rope scaling, tensors that do not
        fit the metadata, or a mesh that does not divide the model.
    """
    where = str(path)
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:
        raise InputError(f"{where}: not a readable GGUF file ({error}); get it again.") from None
    meta = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in tensors.items()}
    config = gguf_config(meta, tensors, shapes, dtype=dtype, remat=remat, where=where)
    tokenizer = gguf_tokenizer(meta, where)
    check_vocabulary(tokenizer, config.vocab_size, where)
    permuted = _PERMUTED.get(str(meta["general.architecture"]), ())

    def read(name: str) -> np.ndarray:
        array = _values(tensors[name], shapes[name])
        if name.endswith(permuted):
            heads = config.num_heads if "attn_q" in name else config.num_kv_heads
            array = unpermute(array, heads)
        return array

    params = assemble(
        slots(config, gguf=True),
        shapes,
        read,
        dtype=dtype,
        ignore=lambda n: n == _ROPE_FREQS,
        where=where,
        shardings=decoder_shardings(config, mesh, where=where),
    )
    return Model(params=params, config=config, tokenizer=tokenizer)


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


def gguf_config(
    meta: dict[str, Any],
    tensors: dict[str, ReaderTensor],
    shapes: dict[str, tuple[int, ...]],
    *,
    dtype: str,
    remat: bool,
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
    if arch not in ("llama", "qwen2", "qwen3"):
        raise InputError(f"{where}: architecture {arch} is not supported; use llama, qwen2 or qwen3.")

    def get(name: str, default: Any = None) -> Any:
        value = meta.get(f"{arch}.{name}", default)
        if value is None:
            raise InputError(f"{where}: metadata {arch}.{name} is missing; get a complete file.")
        return value

    if get("expert_count", 0):
        raise InputError(f"{where}: a mixture of experts ({get('expert_count')}) is not supported.")
    if "token_embd.weight" not in shapes:
        raise InputError(f"{where}: token_embd.weight is missing; the file is incomplete, get it again.")
    heads, hidden = int(get("attention.head_count")), int(get("embedding_length"))
    head_dim = int(get("attention.key_length", hidden // heads))
    if int(get("rope.dimension_count", head_dim)) != head_dim:
        raise InputError(f"{where}: rope rotates only a part of each head, which is not supported.")
    theta = float(get("rope.freq_base", 10000.0))
    end = meta.get("tokenizer.ggml.eos_token_id")
    begin = meta.get("tokenizer.ggml.bos_token_id")
    window = get("attention.sliding_window", 0)
    return DecoderConfig(
        architecture=ARCHITECTURES[f"{str(arch).capitalize()}ForCausalLM"],
        vocab_size=shapes["token_embd.weight"][0],
        hidden_size=hidden,
        intermediate_size=int(get("feed_forward_length")),
        num_layers=int(get("block_count")),
        num_heads=heads,
        num_kv_heads=int(get("attention.head_count_kv", heads)),
        head_dim=head_dim,
        # Metadata is float32; seven digits recover the intended decimal number.
        norm_eps=float(f"{get('attention.layer_norm_rms_epsilon'):.7g}"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(meta, tensors, theta, head_dim, where),
        tie_embeddings="output.weight" not in shapes,
        qkv_bias=arch == "qwen2",
        qk_norm=arch == "qwen3",
        sliding_window=int(window) or None,
        max_positions=int(get("context_length", 2048)),
        bos_id=None if begin is None else int(begin),
        eos_ids=() if end is None else (int(end),),
        dtype=dtype,
        remat=remat,
    )


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
    types = meta.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {k: meta.get(f"tokenizer.ggml.{v}_token_id") for k, v in names.items()}
    special = {f"{k}_token": tokens[i] for k, i in ids.items() if i is not None}
    if kind == "gpt2":
        split = splitter(str(meta.get("tokenizer.ggml.pre", "default")), tokens, where)
        adds = begins_with_bos(split)
        tokenizer = byte_level_bpe(tokens, meta.get("tokenizer.ggml.merges") or [], split, where)
    else:
        adds = True
        prefix = bool(meta.get("tokenizer.ggml.add_space_prefix", True))
        unknown = special.get("unk_token", tokens[0])
        tokenizer = scored_bpe(tokens, meta["tokenizer.ggml.scores"], unknown, prefix_space=prefix)
    mark_special(tokenizer, tokens, types)
    adds = bool(meta.get("tokenizer.ggml.add_bos_token", adds))
    return wrap(tokenizer, special, meta.get("tokenizer.chat_template"), add_bos=adds)


def _rope_scaling(
    meta: dict[str, Any], tensors: dict[str, ReaderTensor], theta: float, head_dim: int, where: str
) -> RopeScaling | None:
    arch = meta["general.architecture"]
    kind = meta.get(f"{arch}.rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling(kind="linear", factor=float(meta[f"{arch}.rope.scaling.factor"]))
    if kind != "none":
        raise InputError(f'{where}: rope scaling "{kind}" is not supported; use none or linear.')
    if _ROPE_FREQS not in tensors:
        return None
    # Llama 3.1 and later: the file holds the divisor of each frequency. The largest is the factor. The other
    # constants are the same in all released models; the comparison below checks them.
    divisors = _values(tensors[_ROPE_FREQS], (head_dim // 2,))
    scaling = RopeScaling(kind="llama3", factor=float(divisors.max()))
    plain = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    ours = np.array([f / rope_stretch(f, scaling) for f in plain])
    if not np.allclose(ours, divisors, rtol=1e-4):
        raise InputError(
            f"{where}: {_ROPE_FREQS} is not Llama 3's scaling of rope, which is the only one supported."
        )
    return scaling


def _values(tensor: ReaderTensor, shape: tuple[int, ...]) -> np.ndarray:
    return dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
