"""The configuration of a decoder, and its conversion from and to a Hugging Face config.json."""

import dataclasses
import math
from typing import Any

from alignjax.errors import InputError
from alignjax.models.families import FAMILIES, MULTIPLIERS, family_options

ARCHITECTURES = {family.architecture: name for name, family in FAMILIES.items()}
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Scaling of the rotary frequencies for long contexts.

    Attributes:
      kind: "linear" (all frequencies divided by `factor`) or "llama3" (only the slow ones).
      factor: the divisor, > 0.
      low_freq_factor: llama3 only; frequencies of wavelengths above original / low are divided by `factor`.
      high_freq_factor: llama3 only; frequencies of wavelengths below original / high are unchanged.
      original_max_positions: llama3 only; the context length before scaling, in tokens.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder's shape and numerical options; hashable, so that it can be a static argument of jit.

    Attributes:
      architecture: the family, a key of `families.FAMILIES`; written by `save_pretrained`.
      vocab_size: V, rows of the embedding.
      hidden_size: D.
      intermediate_size: width of the gated feed-forward layer.
      num_layers: L.
      num_heads: query heads.
      num_kv_heads: key and value heads; divides `num_heads`.
      head_dim: H, width of one head; even.
      norm_eps: added to the mean square in every RMS norm.
      rope_theta: base of the rotary frequencies.
      rope_scaling: scaling of these frequencies, or None.
      tie_embeddings: the output head is the embedding, transposed.
      qkv_bias: q, k and v have a bias (Qwen2).
      qk_norm: RMS norm on each query and key head (Qwen3).
      sliding_window: a query sees keys less than this many positions back; None: all.
      max_positions: the context length that the model was trained for; recorded, not enforced.
      bos_id: token that begins a text, or None.
      eos_ids: tokens that end a text.
      dtype: of the matrix products, "float32" or "bfloat16"; norms, softmax and logits are float32.
      remat: recompute each layer in the backward pass; only its input is stored.
      attention: the kernel for attention over rows: "xla", "cudnn" (NVIDIA GPUs) or "splash" (TPUs).
      activation: of the gated feed-forward layer, "silu" or "gelu_tanh" (Gemma).
      norm_offset: norms multiply by offset + weight (Gemma: 1).
      o_bias: the output of attention has a bias.
      mlp_bias: the three projections of the feed-forward layer have a bias.
      embedding_multiplier: of the embeddings (Gemma, Granite).
      attention_multiplier: of q k^T, > 0; None: 1 / sqrt(H) (Granite).
      residual_multiplier: of what each sublayer adds to its input (Granite).
      logits_divisor: logits are divided by this (Granite).
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    max_positions: int = 2048
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    dtype: str = "float32"
    remat: bool = False
    attention: str = "xla"
    activation: str = "silu"
    norm_offset: float = 0.0
    o_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    attention_multiplier: float | None = None
    residual_multiplier: float = 1.0
    logits_divisor: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values that the decoder does not support."""
        if self.architecture not in ARCHITECTURES.values():
            known = ", ".join(ARCHITECTURES.values())
            raise InputError(
                f"model config: architecture {self.architecture!r} is not supported; use {known}."
            )
        if self.dtype not in DTYPES:
            raise InputError(
                f"model config: dtype {self.dtype!r} is not supported; use {' or '.join(DTYPES)}."
            )
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"model config: {self.num_heads} heads cannot share {self.num_kv_heads} key/value heads; "
                "the first must be a multiple of the second."
            )
        if self.head_dim % 2:
            raise InputError(
                f"model config: head_dim is {self.head_dim}; rotary embeddings need an even one."
            )


def config_from_hf(fields: dict[str, Any], *, where: str = "config.json") -> DecoderConfig:
    """DecoderConfig of a parsed Hugging Face config.json; settings that are not supported are refused.

    Both forms of the rotary settings are read: the old top-level `rope_theta` with `rope_scaling`,
    and the newer `rope_parameters`.

    Args:
      fields: the JSON object.
      where: name of the file in messages.

    Returns:
      The configuration, float32 and without remat.

    Raises:
      InputError: an architecture, rope type, activation or bias that is not supported, or a missing field.
    """
    architecture = _architecture(fields, where)

    def count(name: str, default: int | None = None) -> int:
        return _count(fields, name, default, where)

    family = FAMILIES[architecture]
    _refuse_unsupported(fields, where)
    hidden, heads = count("hidden_size"), count("num_attention_heads")
    theta, scaling = _rope(fields, where)
    vocab, bos = count("vocab_size"), token_ids(fields, "bos_token_id", where)
    # Mistral's class defaults, for configs that leave the field out.
    window = fields.get("sliding_window", 4096) if architecture == "mistral" else None
    if architecture.startswith("qwen") and fields.get("use_sliding_window"):
        window = fields.get("sliding_window")
    layers = count("num_hidden_layers")
    kv_heads = count("num_key_value_heads", heads)
    head_dim = count("head_dim", family.head_dim or hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{where}: {heads} heads, {kv_heads} key/value heads and head_dim {head_dim} do not fit: the "
            "first must be a multiple of the second, the third even."
        )
    return DecoderConfig(
        architecture=architecture,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=count("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=_positive(fields.get("rms_norm_eps", 1e-6), "rms_norm_eps", where),
        rope_theta=theta,
        rope_scaling=scaling,
        sliding_window=_one_window(fields, window, layers, where),
        max_positions=count("max_position_embeddings", 2048),
        bos_id=bos[0] if bos else None,
        eos_ids=_end_ids(fields, vocab, where),
        **family_options(fields, family, where),
    )


def _count(fields: dict[str, Any], name: str, default: int | None, where: str, least: int = 1) -> int:
    """The value of a field that must be a whole number of at least `least`."""
    value = default if fields.get(name) is None else fields[name]
    if value is None:
        raise InputError(f'{where}: field "{name}" is missing; use the config that belongs to the weights.')
    if not _is_whole(value) or value < least:
        raise InputError(f'{where}: field "{name}" is {value!r}, must be a whole number of at least {least}.')
    return value


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The fields of config.json for a decoder; the inverse of `config_from_hf`.

    Args:
      config: the decoder.

    Returns:
      The JSON object, which transformers reads as the same model.

    Raises:
      InputError: the family does not have an option of the decoder.
    """
    family = FAMILIES[config.architecture]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    scaling = config.rope_scaling
    if scaling is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
    fields: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": family.activations[0],
        "rms_norm_eps": config.norm_eps,
        # Older readers know only the top-level field, newer ones only rope_parameters: both are written.
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids) if len(config.eos_ids) > 1 else next(iter(config.eos_ids), None),
        "torch_dtype": config.dtype,
    }
    if scaling is not None:
        fields["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    for field, value in (
        (family.qkv_bias_field, config.qkv_bias),
        (family.o_bias_field, config.o_bias),
        (family.mlp_bias_field, config.mlp_bias),
    ):
        if field is not None:
            fields[field] = value
    if family.multipliers:
        fields |= {name: getattr(config, ours) for ours, name in MULTIPLIERS.items()}
    for option, value in family_options(fields, family, "model config").items():
        if getattr(config, option) != value:
            raise InputError(
                f"model config: {option} is {getattr(config, option)}, but transformers reads every "
                f"{config.architecture} as {value}; use the config of a family that has it."
            )
    if config.architecture == "mistral":
        fields["sliding_window"] = config.sliding_window
    if config.architecture.startswith("qwen") and config.sliding_window is not None:
        # max_window_layers 0: every layer has the window; the decoder supports no other kind.
        fields |= {
            "use_sliding_window": True,
            "sliding_window": config.sliding_window,
            "max_window_layers": 0,
        }
    return fields


def _architecture(fields: dict[str, Any], where: str) -> str:
    """Our name of the architecture, from `architectures`, or from `model_type` if that is missing."""
    names = fields.get("architectures") or []
    if names:
        if names[0] in ARCHITECTURES:
            return ARCHITECTURES[names[0]]
        found = names[0]
    else:
        found = fields.get("model_type")
        if found in ARCHITECTURES.values():
            return str(found)
    raise InputError(
        f"{where}: architecture {found} is not supported; use one of {', '.join(ARCHITECTURES)}."
    )


def _refuse_unsupported(fields: dict[str, Any], where: str) -> None:
    """Refuses settings that would change the result and that the decoder does not support."""
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(
            f"{where}: partial_rotary_factor is {fields['partial_rotary_factor']}; only 1.0 is supported."
        )
    if fields.get("quantization_config"):
        raise InputError(f"{where}: the weights are quantized; use the unquantized folder, or a .gguf file.")


def _rope(fields: dict[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary embedding, from the old or the new form."""
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = fields.get(name) or {}
        if not isinstance(part, dict):
            raise InputError(f'{where}: field "{name}" is {part!r}, must be an object.')
        rope |= part
    theta = _positive(rope.get("rope_theta", fields.get("rope_theta", 10000.0)), "rope_theta", where)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(
            f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']}; only 1.0 is supported."
        )
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise InputError(f'{where}: rope type "{kind}" is not supported; use default, linear or llama3.')
    needed = ["factor"]
    if kind == "llama3":
        needed += ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
    for name in needed:
        value = rope.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise InputError(
                f'{where}: rope type "{kind}" needs a positive number "{name}"; found {value!r}.'
            )
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=float(rope["factor"]))
    return theta, RopeScaling(
        kind="llama3",
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any, name: str, where: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(f'{where}: field "{name}" is {value!r}, must be a positive number.')
    return float(value)


def token_ids(fields: dict[str, Any], name: str, where: str) -> tuple[int, ...]:
    """The token ids in a field that may be missing, one id or a list.

    Args:
      fields: of a JSON file.
      name: of the field.
      where: the file, for messages.

    Returns:
      The ids.

    Raises:
      InputError: anything else.
    """
    value = fields.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(_is_whole(i) for i in ids):
        raise InputError(f'{where}: field "{name}" is {value!r}, must be a token id or a list of them.')
    return tuple(ids)


def _end_ids(fields: dict[str, Any], vocab: int, where: str) -> tuple[int, ...]:
    """The tokens that end a text; refuses ids outside the vocabulary."""
    ends = token_ids(fields, "eos_token_id", where)
    if any(not 0 <= end < vocab for end in ends):
        raise InputError(
            f'{where}: field "eos_token_id" is {fields["eos_token_id"]!r}, must be below vocab_size, {vocab}.'
        )
    return ends


def _one_window(fields: dict[str, Any], window: Any, layers: int, where: str) -> int | None:
    """The sliding window of all layers, or None; refuses a window that only some layers have."""
    if window is None:
        return None
    kinds = set(fields.get("layer_types") or [])
    slides = "use_sliding_window" in fields
    full_layers = _count(fields, "max_window_layers", 0, where, least=0) if slides else 0
    if kinds == {"full_attention"} or (not kinds and full_layers >= layers):
        return None
    if kinds - {"sliding_attention"} or (not kinds and full_layers > 0):
        raise InputError(
            f"{where}: some layers have a sliding window and some do not (layer_types, max_window_layers); "
            "only one kind for all layers is supported."
        )
    return _count({"sliding_window": window}, "sliding_window", None, where)
