"""What differs between the layers of a decoder: their norms, and each one's window and rotation.

Layers run in a scan. So what a layer has of its own is chosen there from the few kinds that occur: tables of
the rotation and masks are made once for each kind, outside of the scan.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.rope import RopeScaling, attention_factor, check_length, frequencies, rotary_tables

T = TypeVar("T")
RopeTables = tuple[Array, Array]  # cosines and sines


class LayerKinds(NamedTuple):
    """The kind of each layer; both stacked over the layers for a scan."""

    windowed: Array | np.ndarray  # [L] bool
    rope: Array | np.ndarray  # [L] int32, index into the tables of `layer_ropes`


def norm_widths(config: DecoderConfig) -> dict[str, int]:
    """The norms of one layer, by the names of `Block`, and their widths.

    Args:
      config: the decoder's shape.

    Returns:
      Name -> width.
    """
    hidden, order = config.hidden_size, config.norm_order
    widths = {} if order == "after" else {"attn_norm": hidden}
    if order in ("before", "both", "parallel_each"):
        widths["mlp_norm"] = hidden
    if order in ("after", "both"):
        widths |= {"attn_post_norm": hidden, "mlp_post_norm": hidden}
    if config.qk_norm == "head":
        widths |= {"q_norm": config.head_dim, "k_norm": config.head_dim}
    if config.qk_norm == "projection":
        widths |= {
            "q_norm": config.num_heads * config.head_dim,
            "k_norm": config.num_kv_heads * config.head_dim,
        }
    return widths


def layer_kinds(config: DecoderConfig) -> LayerKinds | None:
    """The kind of each layer; None: all are alike.

    Args:
      config: the decoder's shape.

    Returns:
      Arrays on the host.
    """
    rotations = _rotations(config)
    order = list(dict.fromkeys(rotations))
    windowed = _windowed(config)
    if len(order) == 1 and len(set(windowed)) == 1:
        return None
    return LayerKinds(np.array(windowed), np.array([order.index(r) for r in rotations], np.int32))


def layer_ropes(config: DecoderConfig, positions: Array) -> tuple[RopeTables, ...]:
    """The rotation tables of each kind of layer, in the order of `LayerKinds.rope`.

    Args:
      config: the decoder's shape.
      positions: [B, T] int32.

    Returns:
      Cosines and sines [B, T, R / 2] float32 of each kind; a kind that does not rotate has angles 0.
    """
    width = config.rotary_dim or config.head_dim
    tables = []
    for rotation in dict.fromkeys(_rotations(config)):
        if rotation is None:
            tables.append(rotary_tables(positions, (0.0,) * (width // 2)))
        else:
            theta, scaling = rotation
            tables.append(
                rotary_tables(positions, frequencies(theta, width, scaling), attention_factor(scaling))
            )
    return tuple(tables)


def check_positions(config: DecoderConfig, length: int) -> None:
    """Refuses texts beyond the positions that a model has.

    Args:
      config: the decoder's shape.
      length: the largest number of positions that a text can have: tokens of a row, or prompt and response.

    Raises:
      InputError: an embedding of positions, or a rope type, that ends before.
    """
    check_length(config.rope_scaling, length)
    if config.learned_positions and length > config.max_positions:
        raise InputError(
            f"model: rows of {length} tokens are beyond the {config.max_positions} positions that the model "
            "has an embedding of; lower config.model.max_length."
        )


def layer_windows(config: DecoderConfig) -> tuple[int | None, ...]:
    """The window of all layers, or that of layers with one and then None for those without.

    Args:
      config: the decoder's shape.

    Returns:
      One or two windows, in positions; None: no limit.
    """
    return (config.sliding_window, None) if len(set(_windowed(config))) == 2 else (config.sliding_window,)


def of_layer(
    kind: LayerKinds | None, ropes: Sequence[RopeTables], masks: Sequence[T]
) -> tuple[RopeTables, T]:
    """The tables and the mask of one layer.

    Args:
      kind: of this layer; None: all layers are alike.
      ropes: of `layer_ropes`.
      masks: one for each of `layer_windows`.

    Returns:
      The layer's tables and its mask.
    """
    if kind is None:
        return ropes[0], masks[0]
    rope = ropes[0]
    for index, other in enumerate(ropes[1:], 1):
        rope = _either(kind.rope == index, other, rope)
    mask = masks[0] if len(masks) == 1 else _either(kind.windowed, masks[0], masks[1])
    return rope, mask


def _either(use_first: Array | np.ndarray, first: T, second: T) -> T:
    return jax.tree.map(lambda a, b: jnp.where(use_first, a, b), first, second)


def _windowed(config: DecoderConfig) -> tuple[bool, ...]:
    return config.window_layers or (config.sliding_window is not None,) * config.num_layers


def _rotations(config: DecoderConfig) -> list[tuple[float, RopeScaling | None] | None]:
    """Base and scaling of the rotation in each layer; None: it does not rotate."""
    of_others = (config.rope_theta, config.rope_scaling)
    of_windowed = of_others if config.window_rope_theta is None else (config.window_rope_theta, None)
    rotated = config.rope_layers or (True,) * config.num_layers
    return [
        None if not rotates else of_windowed if has_window else of_others
        for rotates, has_window in zip(rotated, _windowed(config), strict=True)
    ]
