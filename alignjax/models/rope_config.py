"""The settings of rotary embeddings in config.json: reads them, and writes them for old and new readers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from alignjax.errors import InputError
from alignjax.models.families import Family
from alignjax.models.fields import positive
from alignjax.models.rope import Rope, RopeScaling, attention_factor, frequencies

KINDS = ("linear", "llama3", "yarn", "longrope")
# Names of RopeScaling and of config.json, apart from the lists of longrope.
_NUMBERS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_positions": "original_max_position_embeddings",
    },
    "yarn": {
        "factor": "factor",
        "original_max_positions": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
    },
    "longrope": {
        "factor": "factor",
        "original_max_positions": "original_max_position_embeddings",
        "attention_factor": "attention_factor",
    },
}
_WIDEST_HEAD = 2**16  # far more than any model has
_LISTS = {"short_factors": "short_factor", "long_factors": "long_factor"}
# What may be missing; the field then keeps its default. transformers takes 0 for missing.
_OPTIONAL = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")


class Ropes(NamedTuple):
    """The rotary embeddings of a decoder."""

    rope: Rope  # of all layers, or of those without a window
    window_theta: float | None  # base of the layers with a window, which then have no scaling; None: as above


def ropes_from_hf(
    fields: Mapping[str, Any], family: Family, *, head_dim: int, max_positions: int, where: str
) -> Ropes:
    """The rotary embeddings of a parsed config.json.

    Args:
      fields: the JSON object.
      family: of the model.
      head_dim: H.
      max_positions: the context length, `max_position_embeddings`.
      where: name of the file in messages.

    Returns:
      The embeddings.

    Raises:
      InputError: a kind that is not supported, or a setting that is missing or no usable number.
    """

    def read(fields: Mapping[str, Any], layer_type: str | None, theta: float) -> Rope:
        rope = rope_from_hf(
            fields,
            head_dim=head_dim,
            max_positions=max_positions,
            where=where,
            theta=theta,
            layer_type=layer_type,
        )
        if rope.width != head_dim and not family.partial_rotary:
            raise InputError(
                f"{where}: partial_rotary_factor is {rope.width / head_dim:g}; only 1.0 is supported for "
                f"{family.architecture}."
            )
        return rope

    if family.full_rope != "own":
        return Ropes(read(fields, None, family.rope_theta), None)
    rope = read(fields, "full_attention", family.rope_theta)
    theta, kinds = family.window_theta or family.rope_theta, fields.get("rope_parameters")
    if isinstance(kinds, dict) and "sliding_attention" in kinds:
        windowed = read({"rope_parameters": kinds}, "sliding_attention", theta)
        if windowed.scaling is not None or windowed.width != rope.width:
            raise InputError(
                f"{where}: rope_parameters scale the layers with a sliding window; only layers without one "
                "may be scaled."
            )
        local = windowed.theta
    else:
        # The older form: one base and one scaling, of the layers without a window.
        theta = family.window_theta or rope.theta
        local = positive(fields.get("rope_local_base_freq", theta), "rope_local_base_freq", where)
    return Ropes(rope, None if local == rope.theta and rope.scaling is None else local)


def rope_from_hf(
    fields: Mapping[str, Any],
    *,
    head_dim: int,
    max_positions: int,
    where: str,
    theta: float = 10000.0,
    layer_type: str | None = None,
) -> Rope:
    """The rotary embedding of a parsed config.json.

    The old form is top-level `rope_theta` and `partial_rotary_factor` with `rope_scaling`; the newer one is
    `rope_parameters`, one object or one for each type of layer.

    Args:
      fields: the JSON object.
      head_dim: H.
      max_positions: the context length, `max_position_embeddings`.
      where: name of the file in messages.
      theta: the base where the file gives none.
      layer_type: whose object is read where `rope_parameters` has one for each type of layer.

    Returns:
      The embedding.

    Raises:
      InputError: a kind that is not supported, or a setting that is missing or no usable number.
    """
    old, new = (fields.get(name) or {} for name in ("rope_scaling", "rope_parameters"))
    for name, part in (("rope_scaling", old), ("rope_parameters", new)):
        if not isinstance(part, dict):
            raise InputError(f'{where}: field "{name}" is {part!r}, must be an object.')
    if any(isinstance(value, dict) for value in new.values()):
        new = new.get(layer_type)
        if not isinstance(new, dict):
            raise InputError(
                f'{where}: field "rope_parameters" has an object for each type of layer, but none for '
                f"{layer_type or 'a model whose layers are all of one type'}."
            )
    old, new = ({**part, "rope_type": part.get("rope_type", part.get("type"))} for part in (old, new))
    for name in old:
        if None not in (old[name], new.get(name)) and name != "type" and old[name] != new[name]:
            raise InputError(
                f'{where}: "{name}" is {old[name]!r} in rope_scaling and {new[name]!r} in rope_parameters; '
                "remove the wrong one."
            )
    merged = old | {name: value for name, value in new.items() if value is not None or name not in old}
    for name in ("rope_theta", "partial_rotary_factor"):
        if merged.get(name) is None:
            merged[name] = fields.get(name)
    # transformers prefers the top-level field (Phi-3).
    original = fields.get("original_max_position_embeddings")
    if original is not None:
        merged["original_max_position_embeddings"] = original
    return read_rope(merged, head_dim=head_dim, max_positions=max_positions, where=where, theta=theta)


def read_rope(
    rope: Mapping[str, Any], *, head_dim: int, max_positions: int, where: str, theta: float = 10000.0
) -> Rope:
    """The rotary embedding of one object in the form of `rope_parameters`.

    Args:
      rope: the object.
      head_dim: H.
      max_positions: the context length, `max_position_embeddings`.
      where: name of the file in messages.
      theta: the base where the object gives none.

    Returns:
      The embedding.

    Raises:
      InputError: a kind that is not supported, or a setting that is missing or no usable number.
    """
    given = {name: value for name, value in rope.items() if value is not None}
    theta = positive(given.get("rope_theta", theta), "rope_theta", where)
    share = positive(given.get("partial_rotary_factor", 1.0), "partial_rotary_factor", where)
    if head_dim > _WIDEST_HEAD:
        raise InputError(f"{where}: a head has {head_dim} entries; must be at most {_WIDEST_HEAD}.")
    width = int(head_dim * share)
    if not 2 <= width <= head_dim or width % 2:
        raise InputError(
            f"{where}: partial_rotary_factor is {share:g}, so that {width} of the {head_dim} entries of each "
            f"head are rotated; must be an even number from 2 to {head_dim}."
        )
    scaling = _scaling(rope, width, max_positions, where)
    if theta <= 1.0:
        raise InputError(f'{where}: field "rope_theta" is {theta:g}, must be above 1.')
    if not all(math.isfinite(f) for f in (*frequencies(theta, width, scaling), attention_factor(scaling))):
        raise InputError(f"{where}: the settings of rope give frequencies that are no finite numbers.")
    return Rope(theta, scaling, width)


def _scaling(rope: Mapping[str, Any], width: int, max_positions: int, where: str) -> RopeScaling | None:
    values = dict(rope)
    kind = rope.get("rope_type")
    if kind is None:
        kind = "default" if rope.get("type") is None else rope["type"]
    # The first Phi-3 configs said "su", and some "yarn", for what is now "longrope".
    if kind == "su" or (kind == "yarn" and "short_factor" in rope):
        kind = "longrope"
    if kind == "default":
        return None
    if kind == "dynamic":
        raise InputError(
            f'{where}: rope type "dynamic" is not supported, because its frequencies depend on the length of '
            f"the longest text of a batch; use default, {', '.join(KINDS)}."
        )
    if kind not in KINDS:
        raise InputError(f'{where}: rope type "{kind}" is not supported; use default, {", ".join(KINDS)}.')
    if kind == "yarn" and values.get("original_max_position_embeddings") is None:
        values["original_max_position_embeddings"] = max_positions
    # The factor may be missing in "longrope", and null (DeepSeek) but not missing in "yarn".
    if values.get("factor") is None and (kind == "longrope" or (kind == "yarn" and "factor" in values)):
        values["factor"] = max_positions / _number(values, "original_max_position_embeddings", kind, where)
    found: dict[str, Any] = {}
    for ours, name in _NUMBERS[kind].items():
        absent = (None, 0) if ours in _OPTIONAL else (None,)
        if values.get(name) not in absent or ours not in (*_OPTIONAL, "attention_factor"):
            found[ours] = _number(values, name, kind, where)
    if "original_max_positions" in found:
        found["original_max_positions"] = int(found["original_max_positions"])
        if found["original_max_positions"] < 2:
            raise InputError(
                f"{where}: original_max_position_embeddings is below 2; must be a context length."
            )
    if kind == "longrope":
        for ours, name in _LISTS.items():
            found[ours] = _factors(values.get(name), name, width // 2, where)
    if kind == "yarn":
        found["truncate"] = bool(values.get("truncate", True))
    return RopeScaling(kind=kind, **found)


def ropes_to_hf(ropes: Ropes, family: Family, *, head_dim: int, max_positions: int) -> dict[str, Any]:
    """The fields of config.json for the rotary embeddings of a decoder; the inverse of `ropes_from_hf`.

    Args:
      ropes: the embeddings.
      family: of the model.
      head_dim: H.
      max_positions: the context length.

    Returns:
      The fields, for older and newer readers.
    """
    rope = ropes.rope
    fields = rope_to_hf(rope, head_dim=head_dim, max_positions=max_positions)
    if family.full_rope == "own":
        theta = rope.theta if ropes.window_theta is None else ropes.window_theta
        windowed = dataclasses.replace(rope, theta=theta, scaling=None)
        kinds = {"full_attention": rope, "sliding_attention": windowed}
        fields["rope_parameters"] = {k: rope_parameters(v, head_dim=head_dim) for k, v in kinds.items()}
        if family.window_theta is not None:
            fields["rope_local_base_freq"] = theta
    return fields


def rope_to_hf(rope: Rope, *, head_dim: int, max_positions: int) -> dict[str, Any]:
    """The fields of config.json for a rotary embedding, in both forms; the inverse of `rope_from_hf`.

    Older readers know only the top-level fields and `rope_scaling`, newer ones `rope_parameters`.

    Args:
      rope: the embedding, the same for all layers.
      head_dim: H.
      max_positions: the context length.

    Returns:
      The fields.
    """
    scaling = rope.scaling
    parameters = rope_parameters(rope, head_dim=head_dim)
    fields: dict[str, Any] = {"rope_theta": rope.theta, "rope_parameters": parameters}
    if rope.width != head_dim:
        fields["partial_rotary_factor"] = parameters["partial_rotary_factor"]
    if scaling is None:
        return fields
    apart = ("rope_theta", "partial_rotary_factor")
    fields["rope_scaling"] = {k: v for k, v in parameters.items() if k not in apart}
    if scaling.kind == "longrope":
        fields["original_max_position_embeddings"] = scaling.original_max_positions
        # The Phi-3 of transformers 4 accepts exactly three fields, and computes the factor as below.
        short = {"type": "longrope"} | {name: parameters[name] for name in _LISTS.values()}
        computed = max_positions / scaling.original_max_positions
        if scaling.attention_factor is None and scaling.factor == computed:
            fields["rope_scaling"] = short
    return fields


def rope_parameters(rope: Rope, *, head_dim: int) -> dict[str, Any]:
    """One object in the form of `rope_parameters`; the inverse of `read_rope`.

    Args:
      rope: the embedding.
      head_dim: H.

    Returns:
      The object.
    """
    scaling = rope.scaling
    fields: dict[str, Any] = {"rope_type": scaling.kind if scaling else "default", "rope_theta": rope.theta}
    if rope.width != head_dim:
        share = rope.width / head_dim
        # Readers round share * H down.
        fields["partial_rotary_factor"] = (
            share if int(head_dim * share) == rope.width else math.nextafter(share, 1.0)
        )
    if scaling is None:
        return fields
    settings = dataclasses.asdict(scaling)
    for ours, name in _NUMBERS[scaling.kind].items():
        value = settings[ours]
        if value is not None:
            fields[name] = value
    if scaling.kind == "longrope":
        fields |= {name: list(settings[ours]) for ours, name in _LISTS.items()}
    if scaling.kind == "yarn" and not scaling.truncate:
        fields["truncate"] = False
    return fields


def _number(values: Mapping[str, Any], name: str, kind: str, where: str) -> float:
    value = values.get(name)
    if not _is_positive(value):
        raise InputError(f'{where}: rope type "{kind}" needs a positive number "{name}"; found {value!r}.')
    return float(value)


def _factors(value: Any, name: str, count: int, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count or not all(map(_is_positive, value)):
        shown = f"{len(value)} entries" if isinstance(value, list) else repr(value)
        raise InputError(
            f'{where}: rope type "longrope" needs a list "{name}" of {count} positive numbers, one for each '
            f"rotated pair; found {shown}."
        )
    return tuple(float(one) for one in value)


def _is_positive(value: Any) -> TypeGuard[float]:
    # Beyond 1e30 nothing is meant, and an integer of many digits is no float.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30
