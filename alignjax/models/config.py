"""The configuration of a decoder, and its conversion from and to a Hugging Face config.json."""

import dataclasses
from typing import Any

from alignjax.errors import InputError
from alignjax.models.families import FAMILIES
from alignjax.models.family_options import expert_options, family_options, option_fields
from alignjax.models.fields import is_whole, shown, whole
from alignjax.models.layer_lists import LayerLists, layer_lists, list_fields
from alignjax.models.rope import Rope, RopeScaling
from alignjax.models.rope_config import Ropes, ropes_from_hf, ropes_to_hf

ARCHITECTURES = {family.architecture: name for name, family in FAMILIES.items()}
DTYPES = ("float32", "bfloat16")
WEIGHTS = ("float", "int8")
REMAT = ("none", "products", "layers")  # by what is computed again
# Far more than any model has: a wrong number here would take all memory before the weights are missed.
_MOST_LAYERS = 10_000


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
      norm_eps: added to the mean square (to the variance) in every norm.
      rope_theta: base of the rotary frequencies.
      rope_scaling: scaling of these frequencies, or None.
      tie_embeddings: the output head is the embedding, transposed.
      qkv_bias: q, k and v have a bias (Qwen2).
      qk_norm: RMS norm of queries and keys: "head" (each head, Qwen3), "projection" (all heads together,
        OLMo 2), or None.
      sliding_window: a query sees keys less than this many positions back; None: all.
      max_positions: the context length that the model was trained for; recorded, not enforced.
      bos_id: token that begins a text, or None.
      eos_ids: tokens that end a text.
      dtype: of the matrix products, "float32" or "bfloat16"; norms, softmax and logits are float32.
      weights: how the layers' matrices are stored: "float" (in the parameters' dtype) or "int8" (rounded,
        with a scale for each output, see `quantized`).
      remat: what the backward pass computes again: "none" (every intermediate value is stored), "products"
        (the results of the layers' projections are stored; attention and what is elementwise is computed
        again) or "layers" (only the input of each layer is stored). True stands for "layers", False for
        "none".
      attention: the kernel for attention over rows: "xla", "cudnn" (NVIDIA GPUs) or "splash" (TPUs).
      activation: of the feed-forward layer, "silu", "gelu" or "gelu_tanh" (Gemma).
      norm_offset: norms multiply by offset + weight (Gemma: 1).
      o_bias: the output of attention has a bias.
      mlp_bias: the three projections of the feed-forward layer have a bias.
      embedding_multiplier: of the embeddings (Gemma, Granite).
      attention_multiplier: of q k^T, > 0; None: 1 / sqrt(H) (Granite).
      residual_multiplier: of what each sublayer adds to its input (Granite).
      logits_divisor: logits are divided by this (Granite, Cohere).
      attention_soft_cap: scores s of attention become c tanh(s / c) (Gemma 2); None: they stay.
      logits_soft_cap: the same for logits.
      norm: "rms" or "layer" (LayerNorm).
      norm_order: the norms of a layer: "before" each of its two parts; "both" before and after each (Gemma
        2); "after" each (OLMo 2); "parallel": one norm before both parts, which are added together (Cohere);
        "parallel_each": the same with a norm before each (GPT-NeoX).
      window_layers: whether each layer has the sliding window; empty: all layers are alike.
      rope_layers: whether each layer rotates queries and keys; empty: all do.
      window_rope_theta: base of the rotary frequencies in layers with a window, which then have no scaling;
        None: as in other layers (Gemma 3, OLMo 3).
      rope_interleaved: pairs (x_2i, x_2i+1) are rotated, not (x_i, x_i+H/2) (Cohere).
      rotary_dim: only this many entries of each head are rotated, the first ones; None: all (Phi-4-mini).
      norm_bias: norms have a bias (GPT-NeoX, GPT-2).
      gated: the feed-forward layer has a gate: down(act(gate(x)) * up(x)), not down(act(up(x))).
      learned_positions: an embedding of each position below `max_positions` is added to the tokens' (GPT-2).
      num_experts: E of a feed-forward layer of experts; 0: one that all tokens use.
      experts_per_token: how many of them each token uses.
      normalize_experts: the weights of these sum to 1.
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
    qk_norm: str | None = None
    sliding_window: int | None = None
    max_positions: int = 2048
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    dtype: str = "float32"
    weights: str = "float"
    remat: bool | str = "none"
    attention: str = "xla"
    activation: str = "silu"
    norm_offset: float = 0.0
    o_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    attention_multiplier: float | None = None
    residual_multiplier: float = 1.0
    logits_divisor: float = 1.0
    attention_soft_cap: float | None = None
    logits_soft_cap: float | None = None
    norm: str = "rms"
    norm_order: str = "before"
    window_layers: tuple[bool, ...] = ()
    rope_layers: tuple[bool, ...] = ()
    window_rope_theta: float | None = None
    rope_interleaved: bool = False
    rotary_dim: int | None = None
    norm_bias: bool = False
    gated: bool = True
    learned_positions: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    normalize_experts: bool = False

    def __post_init__(self) -> None:
        """Refuses values that the decoder does not support."""
        # One name for each, so that equal programs have equal static arguments.
        object.__setattr__(self, "remat", remat_name(self.remat))
        if self.remat not in REMAT:
            raise InputError(f"config.model.remat: {self.remat!r} is not known; use {', '.join(REMAT)}.")
        if self.architecture not in ARCHITECTURES.values():
            known = ", ".join(ARCHITECTURES.values())
            raise InputError(
                f"model config: architecture {self.architecture!r} is not supported; use {known}."
            )
        if self.dtype not in DTYPES:
            raise InputError(
                f"model config: dtype {self.dtype!r} is not supported; use {' or '.join(DTYPES)}."
            )
        if self.weights not in WEIGHTS:
            raise InputError(
                f"config.model.weights: {self.weights!r} is not known; use {' or '.join(WEIGHTS)}."
            )
        if self.weights == "int8" and self.num_experts:
            raise InputError(
                "config.model.weights: int8 is not supported for models of experts, such as this one of "
                f"{self.architecture}; use float."
            )
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"model config: {self.num_heads} heads cannot share {self.num_kv_heads} key/value heads; "
                "the first must be a multiple of the second."
            )
        if self.attention_soft_cap is not None and self.attention != "xla":
            raise InputError(
                f"config.model.attention: {self.attention} has no soft caps, and models of "
                f"{self.architecture} do; use xla."
            )
        if self.head_dim % 2:
            raise InputError(
                f"model config: head_dim is {self.head_dim}; rotary embeddings need an even one."
            )


def remat_name(remat: bool | str) -> str:
    """The name of a kind of recomputation, which may be given as a switch."""
    if isinstance(remat, bool):
        return "layers" if remat else "none"
    return remat


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
    fields = fields | {ours: fields[name] for ours, name in family.field_names.items() if name in fields}
    _refuse_unsupported(fields, where)
    hidden, heads = count("hidden_size"), count("num_attention_heads")
    vocab, bos = count("vocab_size"), token_ids(fields, "bos_token_id", where)
    layers = count("num_hidden_layers")
    if layers > _MOST_LAYERS:
        raise InputError(f'{where}: field "num_hidden_layers" is {layers}, must be at most {_MOST_LAYERS}.')
    lists = layer_lists(fields, family, layers, where)
    kv_heads = count("num_key_value_heads", heads) if family.gated else heads
    head_dim = count("head_dim", family.head_dim or hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{where}: {heads} heads, {kv_heads} key/value heads and head_dim {head_dim} do not fit: the "
            "first must be a multiple of the second, the third even."
        )
    positions = count("max_position_embeddings", 2048)
    rope, window_theta = ropes_from_hf(
        fields, family, head_dim=head_dim, max_positions=positions, where=where
    )
    return DecoderConfig(
        architecture=architecture,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=count("intermediate_size", None if family.gated else 4 * hidden),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        rotary_dim=None if rope.width == head_dim else rope.width,
        window_rope_theta=window_theta if lists.sliding_window else None,
        max_positions=positions,
        bos_id=bos[0] if bos else None,
        eos_ids=_end_ids(fields, vocab, where),
        **lists._asdict(),
        **family_options(fields, family, where),
        **expert_options(fields, family, where),
    )


def _count(fields: dict[str, Any], name: str, default: int | None, where: str) -> int:
    """The value of a field that must be a positive whole number."""
    value = default if fields.get(name) is None else fields[name]
    if value is None:
        raise InputError(f'{where}: field "{name}" is missing; use the config that belongs to the weights.')
    return whole(value, name, where)


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
    rope = Rope(config.rope_theta, config.rope_scaling, config.rotary_dim or config.head_dim)
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
        "max_position_embeddings": config.max_positions,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids) if len(config.eos_ids) > 1 else next(iter(config.eos_ids), None),
        "torch_dtype": config.dtype,
    }
    if family.pad_id >= config.vocab_size:
        fields["pad_token_id"] = None
    fields |= ropes_to_hf(
        Ropes(rope, config.window_rope_theta),
        family,
        head_dim=config.head_dim,
        max_positions=config.max_positions,
    )
    fields |= option_fields(family, dataclasses.asdict(config))
    lists = LayerLists(config.sliding_window, config.window_layers, config.rope_layers)
    fields |= list_fields(family, lists, config.num_layers)
    read = family_options(fields, family, "model config") | expert_options(fields, family, "model config")
    read |= layer_lists(fields, family, config.num_layers, "model config")._asdict()
    for option, value in read.items():
        if getattr(config, option) != value:
            raise InputError(
                f"model config: {option} is {getattr(config, option)}, but transformers reads every "
                f"{config.architecture} as {value}; use the config of a family that has it."
            )
    if not family.gated:
        # These families have one key head for each query head, and know no other width.
        if (
            config.num_kv_heads != config.num_heads
            or config.head_dim * config.num_heads != config.hidden_size
        ):
            raise InputError(
                f"model config: {config.num_heads} heads of {config.head_dim} with {config.num_kv_heads} "
                f"key/value heads are not possible in {config.architecture}; they must divide hidden_size."
            )
        del fields["num_key_value_heads"], fields["head_dim"]
    for ours, name in family.field_names.items():
        if ours in fields:
            fields[name] = fields.pop(ours)
    return fields


def _architecture(fields: dict[str, Any], where: str) -> str:
    """Our name of the architecture, from `architectures`, or from `model_type` if that is missing."""
    names = fields.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{where}: field "architectures" is {shown(names)}, must be a list with one name.')
    if names:
        if names[0] in ARCHITECTURES:
            return ARCHITECTURES[names[0]]
        found = names[0]
    else:
        found = fields.get("model_type")
        if isinstance(found, str) and found in FAMILIES:
            return found
    name = found if isinstance(found, str) else shown(found)
    raise InputError(f"{where}: architecture {name} is not supported; use one of {', '.join(ARCHITECTURES)}.")


def _refuse_unsupported(fields: dict[str, Any], where: str) -> None:
    """Refuses settings that would change the result and that the decoder does not support."""
    if fields.get("quantization_config"):
        raise InputError(f"{where}: the weights are quantized; use the unquantized folder, or a .gguf file.")


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
    if not all(is_whole(i) for i in ids):
        raise InputError(f'{where}: field "{name}" is {shown(value)}, must be a token id or a list of them.')
    return tuple(ids)


def _end_ids(fields: dict[str, Any], vocab: int, where: str) -> tuple[int, ...]:
    """The tokens that end a text; refuses ids outside the vocabulary."""
    ends = token_ids(fields, "eos_token_id", where)
    if any(not 0 <= end < vocab for end in ends):
        raise InputError(
            f'{where}: field "eos_token_id" is {shown(fields["eos_token_id"])}, must be below vocab_size, '
            f"{vocab}."
        )
    return ends
