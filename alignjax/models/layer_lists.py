"""Which layers have a sliding window and which rotate: the lists by layer of a config.json."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from alignjax.errors import InputError
from alignjax.models.families import Family
from alignjax.models.fields import whole, yes_or_no

_ALL = ("all", "switch")  # all layers are alike
_SWITCHED = ("switch", "last", "unrotated")  # use_sliding_window says whether there are windows
_WINDOWED, _FULL = "sliding_attention", "full_attention"


class LayerLists(NamedTuple):
    """The lists of a decoder, as `DecoderConfig` holds them.

    Attributes:
      sliding_window: in positions; None: no layer has one.
      window_layers: whether each layer has the window; empty: all layers are alike.
      rope_layers: whether each layer rotates queries and keys; empty: all do.
    """

    sliding_window: int | None
    window_layers: tuple[bool, ...]
    rope_layers: tuple[bool, ...]


def layer_lists(fields: Mapping[str, Any], family: Family, layers: int, where: str) -> LayerLists:
    """Reads the lists, or the rule that stands for them, from a config.json.

    Args:
      fields: the JSON object.
      family: of the model.
      layers: the number of layers.
      where: name of the file in messages.

    Returns:
      The lists.

    Raises:
      InputError: a list of another length or with unknown entries, or a window that is no whole number.
    """
    window = fields.get("sliding_window", family.window) if family.windows else None
    if family.windows in _SWITCHED and not yes_or_no(fields, "use_sliding_window", where):
        window = None
    rotated = (not family.learned_positions,) * layers
    if family.windows == "unrotated":
        rotated = _rotated(fields, layers, where)
    windowed = (False,) * layers
    if window is not None:
        window = whole(window, "sliding_window", where)
        windowed = _windowed(fields, family, rotated, where)
        if family.full_rope == "none":
            rotated = windowed
    return LayerLists(
        sliding_window=window if any(windowed) else None,
        window_layers=() if all(windowed) or not any(windowed) else windowed,
        rope_layers=() if all(rotated) else rotated,
    )


def list_fields(family: Family, lists: LayerLists, layers: int) -> dict[str, Any]:
    """The fields of config.json that say the same; the inverse of `layer_lists`.

    Args:
      family: of the model.
      lists: of the decoder.
      layers: the number of layers.

    Returns:
      The fields.
    """
    if family.windows is None:
        return {}
    window = lists.sliding_window
    windowed = lists.window_layers or (window is not None,) * layers
    fields: dict[str, Any] = {"sliding_window": window}
    if family.windows in _SWITCHED:
        if window is None and family.windows != "unrotated":
            return {}
        fields["use_sliding_window"] = window is not None
    if family.windows == "last":
        # For older readers, which know no list: the layers before the first window.
        fields["max_window_layers"] = windowed.index(True)
    if family.windows == "unrotated":
        fields["no_rope_layers"] = [int(rotated) for rotated in lists.rope_layers or (True,) * layers]
    if family.windows not in _ALL:
        fields["layer_types"] = [_WINDOWED if has else _FULL for has in windowed]
    return fields


def _windowed(
    fields: Mapping[str, Any], family: Family, rotated: tuple[bool, ...], where: str
) -> tuple[bool, ...]:
    """Whether each layer has the window of the file."""
    layers = len(rotated)
    if family.windows in _ALL:
        return (True,) * layers
    kinds = fields.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers or set(map(str, kinds)) - {_WINDOWED, _FULL}:
            raise InputError(
                f'{where}: field "layer_types" must list "{_WINDOWED}" or "{_FULL}" for each of the '
                f"{layers} layers."
            )
        return tuple(kind == _WINDOWED for kind in kinds)
    if family.windows == "last":
        first = whole(fields.get("max_window_layers", 28), "max_window_layers", where, least=0)
        return tuple(i >= first for i in range(layers))
    if family.windows == "unrotated":
        return tuple(not rotates for rotates in rotated)
    pattern = fields.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern and not set(pattern) - set("LG"):
        # EXAONE's older form: the kinds of one period, such as LLLG.
        return tuple(pattern[i % len(pattern)] == "L" for i in range(layers))
    period = whole(family.window_period if pattern is None else pattern, "sliding_window_pattern", where)
    return tuple((i + 1) % period != 0 for i in range(layers))


def _rotated(fields: Mapping[str, Any], layers: int, where: str) -> tuple[bool, ...]:
    """SmolLM3's list, or its rule: every fourth layer does not rotate."""
    flags = fields.get("no_rope_layers")  # 1: the layer does rotate
    if flags is None:
        period = whole(fields.get("no_rope_layer_interval", 4), "no_rope_layer_interval", where)
        return tuple((i + 1) % period != 0 for i in range(layers))
    if not isinstance(flags, list) or len(flags) != layers or any(flag not in (0, 1) for flag in flags):
        raise InputError(f'{where}: field "no_rope_layers" must list 0 or 1 for each of the {layers} layers.')
    return tuple(bool(flag) for flag in flags)
