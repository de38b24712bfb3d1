"""The weighted sum of adapters as one adapter, which other tools can load."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from alignjax.errors import InputError
from alignjax.models.lora import Lora
from alignjax.models.mixture import check_one_body, check_weights, scaled_pairs, with_rank
from alignjax.runtime.processes import to_host


class Merged(NamedTuple):
    """Several adapters as one.

    Attributes:
      lora: the adapter, of one rank for all projections (smaller ones hold zeros), without scale or dropout.
      lost: in [0, 1), the share of the squared Frobenius norm of the weights' change, over all layers and
        projections, that a smaller rank leaves out; 0 without a cut.
    """

    lora: Lora
    lost: float


def merged(adapters: Sequence[Lora], weights: Sequence[float], *, rank: int | None = None) -> Merged:
    """Adds adapters in weight space: W + sum_k w_k scale_k A_k B_k.

    Without a cut the sum is exact: all A side by side and all B, times their factors, one above the other.
    With one, every layer and projection keeps its `rank` largest singular values, which is the nearest matrix
    of this rank. The singular values are those of the small product of the triangular factors of A and B^T,
    so that the full matrix is never made.

    The merged policy is not the product of the policies (`mixture_of`), since the logits are not linear in
    the weights of the layers.

    Args:
      adapters: G >= 1 adapters of one decoder; ranks and targets may differ.
      weights: G finite numbers of any sign, w_k.
      rank: of the result, >= 1; None, or at least the sum of the ranks: no cut.

    Returns:
      The adapter, and what the cut leaves out.

    Raises:
      InputError: no adapters, adapters of different decoders, weights that are not G finite numbers, or a
        rank below 1.

    Reference: Eckart and Young 1936, the best approximation of lower rank.
    """
    if not adapters:
        raise InputError("merge: there are no adapters; give at least one.")
    if rank is not None and rank < 1:
        raise InputError(f"merge: rank is {rank}; must be at least 1.")
    check_one_body(adapters)
    factors = check_weights(weights, len(adapters))
    pairs = [scaled_pairs(lora) for lora in adapters]
    layers, kept, cut = {}, 0.0, 0.0
    for name in dict.fromkeys(name for one in pairs for name in one):
        own = [(one[name], factor) for one, factor in zip(pairs, factors, strict=True) if name in one]
        a = np.concatenate([np.asarray(to_host(pair["a"]), np.float64) for pair, _ in own], axis=2)
        b = np.concatenate([w * np.asarray(to_host(pair["b"]), np.float64) for pair, w in own], axis=1)
        if rank is not None and rank < a.shape[2]:
            a, b, values = _cut(a, b, rank)
            kept, cut = kept + np.sum(values[:, :rank] ** 2), cut + np.sum(values[:, rank:] ** 2)
        else:
            kept += np.sum(np.einsum("lir,lis->lrs", a, a) * np.einsum("lro,lso->lrs", b, b))
        layers[name] = {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32)}
    # Files in PEFT's layout have one rank.
    most = max(pair["a"].shape[2] for pair in layers.values())
    lora = Lora({"layers": {name: with_rank(pair, most) for name, pair in layers.items()}})
    return Merged(lora, float(cut / (kept + cut)) if cut > 0 else 0.0)


def _cut(a: np.ndarray, b: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [L, in, rank] and B [L, rank, out] nearest to the product, and its singular values [L, <= R]."""
    left, of_a = np.linalg.qr(a)
    right, of_b = np.linalg.qr(b.swapaxes(1, 2))
    u, values, v = np.linalg.svd(of_a @ of_b.swapaxes(1, 2), full_matrices=False)
    # Where adapters cancel, what is left is rounding.
    norms = [np.linalg.norm(x, axis=(1, 2)) for x in (of_a, of_b)]
    values = np.where(values < 1e-12 * (norms[0] * norms[1])[:, None], 0.0, values)
    # A thin matrix may have fewer singular values than the rank that was asked for.
    rank = min(rank, values.shape[1])
    root = np.sqrt(values[:, None, :rank])
    return left @ (u[:, :, :rank] * root), (root.swapaxes(1, 2) * v[:, :rank]) @ right.swapaxes(1, 2), values
