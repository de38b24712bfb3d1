"""The model families: how each one's config.json sets the options of the decoder."""

import dataclasses
import math
from typing import Any

from alignjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of models, as transformers defines it.

    Attributes:
      architecture: the name in `architectures` of config.json.
      model_type: the name in `model_type` of config.json.
      activations: names in `hidden_act` that mean this family's activation; the first is written.
      norm_offset: norms multiply by offset + weight.
      tie_embeddings: the default of `tie_word_embeddings`.
      head_dim: the default of `head_dim`; None: hidden_size / heads.
      qk_norm: RMS norm on each query and key head.
      qkv_bias: the bias of q, k and v, where `qkv_bias_field` is None or missing.
      qkv_bias_field: the field that says whether q, k and v have a bias; None: no field does.
      o_bias_field: the same for the output of attention.
      mlp_bias_field: the same for the feed-forward layer.
      sqrt_embedding: embeddings are multiplied by sqrt(D), rounded to the compute dtype (Gemma).
      multipliers: the config has multipliers of embeddings, attention, sublayers and logits (Granite).
    """

    architecture: str
    model_type: str
    activations: tuple[str, ...] = ("silu",)
    norm_offset: float = 0.0
    tie_embeddings: bool = False
    head_dim: int | None = None
    qk_norm: bool = False
    qkv_bias: bool = False
    qkv_bias_field: str | None = None
    o_bias_field: str | None = None
    mlp_bias_field: str | None = None
    sqrt_embedding: bool = False
    multipliers: bool = False


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "LlamaForCausalLM",
            "llama",
            qkv_bias_field="attention_bias",
            o_bias_field="attention_bias",
            mlp_bias_field="mlp_bias",
        ),
        Family("MistralForCausalLM", "mistral"),
        Family("Qwen2ForCausalLM", "qwen2", qkv_bias=True),
        Family(
            "Qwen3ForCausalLM",
            "qwen3",
            head_dim=128,
            qk_norm=True,
            qkv_bias_field="attention_bias",
            o_bias_field="attention_bias",
        ),
        Family(
            "GemmaForCausalLM",
            "gemma",
            # The first configs of Gemma said "gelu" and meant the tanh approximation.
            activations=("gelu_pytorch_tanh", "gelu"),
            norm_offset=1.0,
            tie_embeddings=True,
            head_dim=256,
            sqrt_embedding=True,
            qkv_bias_field="attention_bias",
            o_bias_field="attention_bias",
        ),
        Family(
            "SeedOssForCausalLM",
            "seed_oss",
            head_dim=128,
            qkv_bias=True,
            qkv_bias_field="attention_bias",
            o_bias_field="attention_out_bias",
            mlp_bias_field="mlp_bias",
        ),
        Family(
            "GraniteForCausalLM",
            "granite",
            qkv_bias_field="attention_bias",
            o_bias_field="attention_bias",
            mlp_bias_field="mlp_bias",
            multipliers=True,
        ),
    )
}
# Our name and the name in Granite's config.json.
MULTIPLIERS = {
    "embedding_multiplier": "embedding_multiplier",
    "attention_multiplier": "attention_multiplier",
    "residual_multiplier": "residual_multiplier",
    "logits_divisor": "logits_scaling",
}
_BIASES = ("attention_bias", "attention_out_bias", "mlp_bias")


def family_options(fields: dict[str, Any], family: Family, where: str) -> dict[str, Any]:
    """The options of the decoder that a family's config.json sets; other settings are refused.

    Args:
      fields: the JSON object.
      family: of the model.
      where: name of the file in messages.

    Returns:
      Fields of `DecoderConfig`.

    Raises:
      InputError: an activation or a bias that the family does not have, or a multiplier that is no number.
    """
    _refuse(fields, family, where)

    def flag(name: str | None, default: bool = False) -> bool:
        return default if name is None or fields.get(name) is None else bool(fields[name])

    options: dict[str, Any] = {
        "activation": "silu" if family.activations[0] == "silu" else "gelu_tanh",
        "norm_offset": family.norm_offset,
        "qk_norm": family.qk_norm,
        "tie_embeddings": flag("tie_word_embeddings", family.tie_embeddings),
        "qkv_bias": flag(family.qkv_bias_field, family.qkv_bias),
        "o_bias": flag(family.o_bias_field),
        "mlp_bias": flag(family.mlp_bias_field),
    }
    if family.sqrt_embedding:
        options["embedding_multiplier"] = math.sqrt(fields["hidden_size"])
    if family.multipliers:
        for ours, name in MULTIPLIERS.items():
            value = 1.0 if fields.get(name) is None else fields[name]
            if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise InputError(f'{where}: field "{name}" is {value!r}, must be a positive number.')
            options[ours] = float(value)
    return options


def _refuse(fields: dict[str, Any], family: Family, where: str) -> None:
    """Refuses an activation, a bias or attention that the family's decoder does not have."""
    activation = fields.get("hidden_act") or family.activations[0]
    later = fields.get("hidden_activation") or family.activations[0]  # Gemma's second name for it
    for name, value in (("hidden_act", activation), ("hidden_activation", later)):
        if value not in family.activations:
            raise InputError(
                f'{where}: {name} "{value}" is not supported; only "{family.activations[0]}" is.'
            )
    read = {family.qkv_bias_field, family.o_bias_field, family.mlp_bias_field}
    for name in _BIASES:
        # Qwen2 configs may carry attention_bias for the bias that architecture always has.
        known = name in read or (family.qkv_bias and name == "attention_bias")
        if fields.get(name) and not known:
            raise InputError(f"{where}: {name} is true; projections with this bias are not supported.")
    if fields.get("use_bidirectional_attention"):
        raise InputError(f"{where}: use_bidirectional_attention is true; only causal attention is supported.")
