"""How a family's config.json sets the options of the decoder, and how they are written back."""

import math
from collections.abc import Mapping
from typing import Any

from alignjax.errors import InputError
from alignjax.models.families import Family
from alignjax.models.fields import positive, shown, yes_or_no

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
      InputError: an activation or a bias that the family does not have, or an option that is no positive
        number.
    """
    _refuse(fields, family, where)

    def flag(name: str | None, default: bool = False) -> bool:
        return default if name is None else yes_or_no(fields, name, where, default)

    options: dict[str, Any] = {
        "activation": _activation(fields, family, where),
        "gated": family.gated,
        "norm": family.norm,
        "norm_bias": family.norm_bias,
        "norm_offset": family.norm_offset,
        "norm_order": family.norm_order,
        "learned_positions": family.learned_positions,
        "norm_eps": positive(fields.get(family.norm_eps[0], family.norm_eps[1]), family.norm_eps[0], where),
        "qk_norm": family.qk_norm,
        "rope_interleaved": family.rope_interleaved,
        "tie_embeddings": flag("tie_word_embeddings", family.tie_embeddings),
        "qkv_bias": flag(family.qkv_bias_field, family.qkv_bias),
        "o_bias": flag(family.o_bias_field, family.o_bias),
        "mlp_bias": flag(family.mlp_bias_field, family.mlp_bias),
    }
    if family.sequential and not yes_or_no(fields, "use_parallel_residual", where, default=True):
        options["norm_order"] = family.sequential
    if family.sqrt_embedding:
        options["embedding_multiplier"] = math.sqrt(fields["hidden_size"])
    for scalar in family.scalars:
        value = fields.get(scalar.field, scalar.default)
        if value is None and not scalar.optional:
            value = scalar.default
        options[scalar.option] = (
            None if value is None else positive(value, scalar.field, where) ** scalar.power
        )
    return options


def expert_options(fields: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """The options of a layer of experts.

    Args:
      fields: the JSON object.
      family: of the model.
      where: name of the file in messages.

    Returns:
      Fields of `DecoderConfig`; none if the family has no experts.

    Raises:
      InputError: a number that is no whole number, or more experts for a token than there are.
    """
    if not family.experts_field:
        return {}
    # transformers writes num_local_experts for both families.
    count = fields.get("num_local_experts", fields.get(family.experts_field))
    used = fields.get("num_experts_per_tok", family.experts_per_token)
    for value, name in ((count, family.experts_field), (used, "num_experts_per_tok")):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**15:
            raise InputError(
                f'{where}: field "{name}" is {shown(value)}, must be a whole number from 1 to 32767.'
            )
    if used > count:
        raise InputError(f'{where}: field "num_experts_per_tok" is {used}, but there are {count} experts.')
    field = family.normalize_field
    normalize = field is None or yes_or_no(fields, field, where)
    return {"num_experts": count, "experts_per_token": used, "normalize_experts": normalize}


def option_fields(family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json that set a family's options; the inverse of `family_options`.

    Args:
      family: of the model.
      options: name -> value of the decoder's options.

    Returns:
      The fields.
    """
    known = family.activations
    activation = next(
        (name for name, ours in known.items() if ours == options["activation"]), next(iter(known))
    )
    fields: dict[str, Any] = {
        "hidden_act": activation,
        family.norm_eps[0]: options["norm_eps"],
        "tie_word_embeddings": options["tie_embeddings"],
    }
    if family.sqrt_embedding:
        fields["hidden_activation"] = activation  # Gemma's second name for it
    if family.sequential:
        fields["use_parallel_residual"] = options["norm_order"] != family.sequential
    for field, option in (
        (family.qkv_bias_field, "qkv_bias"),
        (family.o_bias_field, "o_bias"),
        (family.mlp_bias_field, "mlp_bias"),
    ):
        if field is not None:
            fields[field] = options[option]
    if family.experts_field:
        fields[family.experts_field] = fields["num_local_experts"] = options["num_experts"]
        fields["num_experts_per_tok"] = options["experts_per_token"]
        if family.normalize_field:
            fields[family.normalize_field] = options["normalize_experts"]
    for scalar in family.scalars:
        value = options[scalar.option]
        if value is not None and scalar.power != 1.0:
            # The power and its inverse leave a last digit that was not there.
            value = float(f"{value ** (1 / scalar.power):.14g}")
            value = int(value) if value.is_integer() else value
        fields[scalar.field] = value
    return fields


def _activation(fields: dict[str, Any], family: Family, where: str) -> str:
    """The decoder's name of the activation; refuses one that the family does not have."""
    known = family.activations
    found = known[next(iter(known))]
    for name in ("hidden_activation", "hidden_act"):  # the first is Gemma's second name for it
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or value not in known:
            raise InputError(f'{where}: {name} "{value}" is not supported; only "{next(iter(known))}" is.')
        found = known[value]
    return found


def _refuse(fields: dict[str, Any], family: Family, where: str) -> None:
    """Refuses biases and attention that the family's decoder does not have."""
    for field, value in family.refused.items():
        if fields.get(field) not in (None, value):
            raise InputError(f"{where}: {field} is {shown(fields[field])}; only {value} is supported.")
    read = {family.qkv_bias_field, family.o_bias_field, family.mlp_bias_field}
    for name in _BIASES:
        # Qwen2 configs may carry attention_bias for the bias that architecture always has.
        known = name in read or (family.qkv_bias and name == "attention_bias")
        if fields.get(name) and not known:
            raise InputError(f"{where}: {name} is true; projections with this bias are not supported.")
    if fields.get("use_bidirectional_attention"):
        raise InputError(f"{where}: use_bidirectional_attention is true; only causal attention is supported.")
