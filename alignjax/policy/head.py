"""Log-probabilities of targets from hidden states; the gradient in these needs the logits only once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from alignjax.models import DecoderConfig, unembed

_SLOPE = "slope of the hidden states"
STORED = jax.checkpoint_policies.save_only_these_names(_SLOPE)
"""For `jax.checkpoint` around `target_logps`: what its backward pass needs."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def target_logps(config: DecoderConfig, params: Any, hidden: Array, targets: Array, valid: Array) -> Array:
    """Log-probability of each target.

        log softmax(W h)[y],   with the slope in h   W_y - sum_v softmax(W h)_v W_v

    The slope of a row is as small as the row. Where the weights are not trained, as under adapters, it is
    computed with the value, while the logits are there, and the backward pass only multiplies it. Where they
    are trained, the backward pass computes the logits again.

    Args:
      config: the decoder's shape.
      params: those of its parameters that `unembed` reads.
      hidden: h [B, R, D].
      targets: y [B, R] int32.
      valid: [B, R] bool; False gives 0.

    Returns:
      [B, R] float32, nats.
    """
    return _logps(config, params, hidden, targets, valid)


def _logps(config: DecoderConfig, params: Any, hidden: Array, targets: Array, valid: Array) -> Array:
    logits = unembed(config, params, hidden)
    chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=2, mode="clip")[:, :, 0]
    return jnp.where(valid, chosen - jax.nn.logsumexp(logits, axis=2), 0.0)


def _is_given(leaf: Any) -> bool:
    return isinstance(leaf, CustomVJPPrimal)


def _forward(config: DecoderConfig, *given: Any) -> tuple[Array, tuple[Any, Array | None]]:
    trained = any(leaf.perturbed for leaf in jax.tree.leaves(given[0], is_leaf=_is_given))
    params, hidden, targets, valid = jax.tree.map(lambda leaf: leaf.value, given, is_leaf=_is_given)
    if trained:
        return _logps(config, params, hidden, targets, valid), ((params, hidden, targets, valid), None)
    values, slopes = jax.vjp(lambda h: _logps(config, params, h, targets, valid), hidden)
    slope = checkpoint_name(slopes(jnp.ones_like(values))[0], _SLOPE)
    return values, (None, slope)


def _backward(config: DecoderConfig, kept: tuple[Any, Array | None], weight: Any) -> tuple[Any, ...]:
    given, slope = kept
    if isinstance(weight, SymbolicZero):
        weight = jnp.zeros(weight.shape, jnp.float32)
    if slope is not None:
        return None, (weight[:, :, None] * slope.astype(weight.dtype)).astype(slope.dtype), None, None
    params, hidden, targets, valid = given
    _, slopes = jax.vjp(lambda p, h: _logps(config, p, h, targets, valid), params, hidden)
    return *slopes(weight), None, None


target_logps.defvjp(_forward, _backward, symbolic_zeros=True)
