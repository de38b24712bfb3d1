"""Layers' matrices in int8: half of bfloat16's memory and traffic, for weights that are not trained.

    W ~ q s,   s_f = max_d |W_df| / 127,   q_df = round(W_df / s_f)    one scale for each output f

The product is (x q) s. Norms, biases, embedding and head keep their type: they are few, and the head's errors
would go to every logit.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from alignjax.models.config import DecoderConfig
from alignjax.models.lora import projection_sizes

LARGEST = 127


@functools.partial(jax.jit, donate_argnums=0)
def rounded(kernel: Array) -> dict[str, Array]:
    """One stack of matrices in int8; its memory is given back.

    Args:
      kernel: [L, D, F] float, a matrix for each layer.

    Returns:
      {"kernel": [L, D, F] int8, "kernel_scale": [L, F] float32}; |W - q s| <= s / 2 in every entry.
    """
    wide = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=1)
    scale = jnp.where(largest > 0, largest / LARGEST, 1.0)  # an output without weights stays 0
    steps = jnp.round(wide / jnp.broadcast_to(scale[:, None, :], wide.shape))
    return {"kernel": steps.astype(jnp.int8), "kernel_scale": scale}


def widened(pair: dict[str, Array]) -> Array:
    """The matrices that `rounded` stands for, [L, D, F] float32."""
    kernel = pair["kernel"].astype(jnp.float32)
    return kernel * jnp.broadcast_to(pair["kernel_scale"][:, None, :], kernel.shape)


def widened_params(params: Any) -> Any:
    """Parameters with every int8 matrix as the float32 numbers that it stands for; others are as they are."""
    layers = dict(params["layers"])
    for name, leaves in layers.items():
        if "kernel_scale" in leaves:
            rest = {key: leaf for key, leaf in leaves.items() if key not in ("kernel", "kernel_scale")}
            layers[name] = {**rest, "kernel": widened(leaves)}
    return {**params, "layers": layers}


def is_rounded(config: DecoderConfig, path: tuple[str, ...]) -> bool:
    """Whether a leaf of the parameters is one of the matrices that int8 weights round."""
    return path[0] == "layers" and path[-1] == "kernel" and path[1] in projection_sizes(config)


def round_params(config: DecoderConfig, params: Any) -> Any:
    """Parameters with the layers' matrices in int8, one stack after the other; `params` is used up.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them for weights "float".

    Returns:
      The parameters of the same decoder with weights "int8".
    """
    layers = dict(params["layers"])
    for name in layers:
        if is_rounded(config, ("layers", name, "kernel")):
            layers[name] = {**layers[name], **rounded(layers[name]["kernel"])}
    return {**params, "layers": layers}


def finisher(config: DecoderConfig) -> Callable[[tuple[str, ...], Array], dict[str, Array]] | None:
    """What becomes of a leaf when it is read, for `weights.assemble`; None: it stays as it is."""
    if config.weights == "float":
        return None

    def finish(path: tuple[str, ...], leaf: Array) -> dict[str, Array]:
        return rounded(leaf) if is_rounded(config, path) else {path[-1]: leaf}

    return finish
