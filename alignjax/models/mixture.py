"""Mixtures: the product of policies that are adapters on one body.

Letters as in `decoder`; G adapters. A body is the decoder with one of the adapters, or with none.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.lora import Lora

Pair = dict[str, Array]  # {"a": [L, in, r], "b": [L, r, out]}


@flax.struct.dataclass
class Mixture:
    """Weighted adapters whose policies are multiplied, each relative to the reference, the bare decoder.

        log pi(v) = l_0(v) + sum_k w_k (l_k(v) - l_0(v)) + const

    with l_0 the reference's logits and l_k those with adapter k, so pi is proportional to
    ref prod_k (pi_k / ref)^w_k at every step. Logits are linear in the decoder's last hidden state h, so all
    bodies share one product with the vocabulary: that of (1 - sum_k w_k) h_0 + sum_k w_k h_k.

    Attributes:
      params: {"layers": {"q": {"a": [G, L, in, r], "b": [G, L, r, out]}, ...}} float32. Scales are part of b.
        A projection that an adapter does not have, and ranks above its own, hold zeros.
      weights: [G] float32, of any sign. An array, so that other weights compile nothing.
    """

    params: Any
    weights: Array

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> Self:
            """A copy with other values of some fields."""
            ...


Adapters = Lora | Mixture
"""What may stand above the frozen weights where a model is read; training is for `Lora` alone."""


def mixture_of(adapters: Sequence[Lora], weights: Sequence[float]) -> Mixture:
    """Makes a mixture of adapters.

    Args:
      adapters: G >= 1 adapters of one decoder; ranks and targets may differ. Dropout is left out.
      weights: G finite numbers of any sign, w_k.

    Returns:
      The mixture, whose arrays lie where those of the adapters do.

    Raises:
      InputError: no adapters, adapters of decoders of different shape, or weights that are not G finite
        numbers.
    """
    if not adapters:
        raise InputError("mixture: there are no adapters; give at least one.")
    check_one_body(adapters)
    pairs = [scaled_pairs(lora) for lora in adapters]
    layers = {}
    for name in dict.fromkeys(name for one in pairs for name in one):
        present = [one[name] for one in pairs if name in one]
        rank = max(pair["a"].shape[2] for pair in present)
        empty: Pair = jax.tree.map(jnp.zeros_like, present[0])
        filled = [with_rank(one[name] if name in one else empty, rank) for one in pairs]
        layers[name] = {part: jnp.stack([pair[part] for pair in filled]) for part in ("a", "b")}
    return with_weights(Mixture({"layers": layers}, jnp.zeros(len(adapters), jnp.float32)), weights)


def with_weights(mixture: Mixture, weights: Sequence[float]) -> Mixture:
    """The same adapters with other weights.

    Args:
      mixture: G adapters.
      weights: G finite numbers.

    Returns:
      The mixture; it has the same arrays of adapters.

    Raises:
      InputError: not G finite numbers.
    """
    return mixture.replace(weights=jnp.asarray(check_weights(weights, mixture.weights.shape[0]), jnp.float32))


def check_weights(weights: Sequence[float], count: int) -> list[float]:
    """The weights of `count` adapters as numbers.

    Args:
      weights: one for each adapter.
      count: of the adapters.

    Returns:
      The same.

    Raises:
      InputError: another number of weights, or one that is not finite.
    """
    values = [float(w) for w in weights]
    if len(values) != count:
        raise InputError(f"mixture: {len(values)} weights for {count} adapters; give one each.")
    for number, value in enumerate(values):
        if not math.isfinite(value):
            raise InputError(f"mixture: weight {number} is {value}; give a finite number.")
    return values


def check_one_body(adapters: Sequence[Lora]) -> None:
    """Refuses adapters that cannot belong to one decoder.

    Args:
      adapters: any number.

    Raises:
      InputError: names the adapter and the projection.
    """
    sizes: dict[str, tuple[int, tuple[int, ...]]] = {}
    depth = None
    for number, lora in enumerate(adapters):
        for name, pair in lora.params["layers"].items():
            (layers, fan_in, _), out = pair["a"].shape, pair["b"].shape[2]
            depth = layers if depth is None else depth
            first, size = sizes.setdefault(name, (number, (fan_in, out)))
            if layers != depth or size != (fan_in, out):
                raise InputError(
                    f"mixture: adapter {number} has {layers} layers with {fan_in} x {out} weights in {name}, "
                    f"adapter {first} has {depth} with {size[0]} x {size[1]}; give adapters of one model."
                )


def check_linear(config: DecoderConfig) -> None:
    """Refuses a decoder whose logits are not linear in its last hidden state.

    Args:
      config: the decoder's shape.

    Raises:
      InputError: the logits have a soft cap.
    """
    if config.logits_soft_cap is not None:
        raise InputError(
            f"mixture: {config.architecture} caps its logits (final_logit_softcapping is "
            f"{config.logits_soft_cap:g}), so adapters cannot be combined below the output layer; merge them "
            "into one adapter instead."
        )


def bodies(mixture: Mixture) -> Any:
    """The adapters of all bodies, of which the first is the reference: [1 + G, ...] in each array."""

    def with_zeros(x: Array) -> Array:
        return jnp.concatenate([jnp.zeros_like(x[:1]), x])

    return jax.tree.map(with_zeros, mixture.params)


def num_bodies(lora: Adapters | None) -> int:
    """How many bodies are computed for each row: 1 + G for a mixture, else 1."""
    return 1 + lora.weights.shape[0] if isinstance(lora, Mixture) else 1


def combined(mixture: Mixture, hidden: Array) -> Array:
    """(1 - sum_k w_k) h_0 + sum_k w_k h_k, in float32 and rounded once.

    In bfloat16 that saves a few percent of the error at most: the roundings of the bodies' own states, which
    the weights multiply, are nearly all of it.

    Args:
      mixture: G adapters.
      hidden: [1 + G, ..., D], of the reference and of each adapter.

    Returns:
      [..., D] in the dtype of `hidden`.
    """
    factors = jnp.concatenate([1.0 - jnp.sum(mixture.weights, keepdims=True), mixture.weights])
    factors = factors.reshape(-1, *(1,) * (hidden.ndim - 1))
    factors = jnp.broadcast_to(factors, (hidden.shape[0], *(1,) * (hidden.ndim - 1)))
    wide = hidden.astype(jnp.float32)
    return jnp.sum(wide * jnp.broadcast_to(factors, wide.shape), axis=0).astype(hidden.dtype)


def scaled_pairs(lora: Lora) -> dict[str, Pair]:
    """The pairs {"a", "b"} of every projection with the scale as part of b."""
    return {
        name: {"a": pair["a"], "b": lora.scale * pair["b"]} for name, pair in lora.params["layers"].items()
    }


def with_rank(pair: Pair, rank: int) -> Pair:
    """Fills a pair [L, in, r], [L, r, out] up with zeros to a rank."""
    missing = rank - pair["a"].shape[2]
    if missing == 0:
        return pair
    return {
        "a": jnp.pad(pair["a"], ((0, 0), (0, 0), (0, missing))),
        "b": jnp.pad(pair["b"], ((0, 0), (0, missing), (0, 0))),
    }
