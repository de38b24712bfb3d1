"""Placement of weights on a mesh: the named dimensions of the models, looked up in `runtime/mesh.py`."""

from typing import Any

import jax
from jax.sharding import Mesh

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.decoder import logical_axes
from alignjax.models.lora import Lora, lora_axes
from alignjax.runtime.mesh import tree_shardings

_HEAD_AXES = {"kernel": ("embed", None), "bias": (None,)}


def decoder_shardings(config: DecoderConfig, mesh: Mesh | None, *, where: str) -> Any:
    """Sharding of every array of a decoder's parameters.

    A vocabulary whose size `tensor` does not divide, such as 32,001, is not divided over that axis.

    Args:
      config: the decoder's shape.
      mesh: the devices; None: no shardings.
      where: the model, for messages.

    Returns:
      Tree of NamedSharding like `init_params`, or None without a mesh.

    Raises:
      InputError: sizes that the mesh does not divide.
    """
    if mesh is None:
        return None
    check_divides(config, mesh, where=where)
    axes = logical_axes(config)
    if config.vocab_size % mesh.shape["tensor"]:
        axes = jax.tree.map(
            lambda names: tuple(None if name == "vocab" else name for name in names),
            axes,
            is_leaf=lambda node: type(node) is tuple,
        )
    return tree_shardings(axes, mesh)


def check_divides(config: DecoderConfig, mesh: Mesh, *, where: str) -> None:
    """Refuses a mesh that does not divide the decoder's dimensions.

    Args:
      config: the decoder's shape.
      mesh: the devices.
      where: the model, for messages.

    Raises:
      InputError: names the axis, the size and the model.
    """
    sizes = {
        "attention heads": ("tensor", config.num_heads),
        "key and value heads": ("tensor", config.num_kv_heads),
        "hidden units of a layer": ("tensor", config.intermediate_size),
        "dimensions of the hidden states": ("fsdp", config.hidden_size),
    }
    for what, (axis, size) in sizes.items():
        if size % mesh.shape[axis]:
            raise InputError(
                f"config.mesh.{axis}: is {mesh.shape[axis]}, which does not divide the {size} {what} of "
                f"{where}; choose a divisor of {size}."
            )


def place_lora(lora: Lora, mesh: Mesh | None) -> Lora:
    """Places adapters on a mesh in the same way as their projections.

    Args:
      lora: the adapters.
      mesh: the devices; None: nothing is moved.

    Returns:
      The placed adapters.
    """
    if mesh is None:
        return lora
    axes = lora_axes(tuple(lora.params["layers"]))
    return lora.replace(params=jax.device_put(lora.params, tree_shardings(axes, mesh)))


def place_head(head: dict[str, Any], mesh: Mesh | None) -> dict[str, Any]:
    """Places the head of a score model on a mesh, divided along the hidden states.

    Args:
      head: {"kernel" [D, 1] and, if the model has one, "bias" [1]}.
      mesh: the devices; None: nothing is moved.

    Returns:
      The placed head.
    """
    if mesh is None:
        return head
    return jax.device_put(head, head_shardings(head, mesh))


def head_shardings(head: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Sharding of every array of a score model's head."""
    return tree_shardings({name: _HEAD_AXES[name] for name in head}, mesh)
