"""A feed-forward layer of experts, of which each token uses a few."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from alignjax.models.config import DecoderConfig
from alignjax.models.rows import row_axes
from alignjax.runtime.mesh import LOGICAL_RULES


class Experts(nn.Module):
    """sum_e p_e down_e(silu(gate_e(x)) * up_e(x)) over the k experts with the largest p = softmax(router x).

    The weights p of the k experts are made to sum to 1 if `normalize_experts`.

    Reference: Jiang et al. 2024, arXiv 2401.04088, section 2.1.
    """

    config: DecoderConfig
    init_scale: float = 1.0  # variance of `down`, in units of 1 / fan-in

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, T, D] to [B, T, D] in the dtype of x."""
        c = self.config
        count, hidden, inner = c.num_experts, c.hidden_size, c.intermediate_size

        def weight(
            name: str, axes: tuple[str | None, ...], shape: tuple[int, ...], scale: float = 1.0
        ) -> Array:
            init = nn.initializers.variance_scaling(
                scale, "fan_in", "truncated_normal", batch_axis=tuple(range(len(shape) - 2))
            )
            boxed: Any = nn.with_logical_partitioning(init, axes)  # flax types the box, not the array in it
            return self.param(name, boxed, shape, jnp.float32).astype(x.dtype)

        router = weight("router", ("embed", None), (hidden, count))
        wide = (None, "embed", "mlp")
        gate = weight("gate", wide, (count, hidden, inner))
        up = weight("up", wide, (count, hidden, inner))
        down = weight("down", (None, "mlp", "embed"), (count, inner, hidden), self.init_scale)
        shares = jax.nn.softmax(jnp.einsum("btd,de->bte", x, router).astype(jnp.float32), axis=-1)
        shares, chosen = jax.lax.top_k(shares, c.experts_per_token)
        if c.normalize_experts:
            shares = shares / jnp.sum(shares, axis=-1, keepdims=True)
        return _on_mesh(x, shares.astype(x.dtype), chosen, gate, up, down)


def _on_mesh(x: Array, shares: Array, chosen: Array, gate: Array, up: Array, down: Array) -> Array:
    """Each device computes its own rows with its own part of every expert; the parts are then added."""
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty or mesh.size == 1:
        return _chosen_experts(x, shares, chosen, gate, up, down)
    rows = PartitionSpec(row_axes(x))
    split = LOGICAL_RULES["mlp"]
    specs = (rows, rows, rows, *(PartitionSpec(None, None, split),) * 2, PartitionSpec(None, split))

    def own(*arrays: Array) -> Array:
        return _chosen_experts(*arrays)[None]

    parts = jax.shard_map(
        own, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(split, *rows), check_vma=False
    )
    return jnp.sum(parts(x, shares, chosen, gate, up, down), axis=0)


def _chosen_experts(x: Array, shares: Array, chosen: Array, gate: Array, up: Array, down: Array) -> Array:
    """One product for all tokens of an expert: tokens are sorted by expert, and go back to their places.

    Args:
      x: [B, T, D].
      shares: [B, T, k], of each chosen expert.
      chosen: [B, T, k] int32.
      gate: [E, D, I].
      up: [E, D, I].
      down: [E, I, D].

    Returns:
      [B, T, D].
    """
    uses = chosen.shape[-1]
    experts = chosen.reshape(-1)
    order = jnp.argsort(experts, stable=True)
    sizes = jnp.bincount(experts, length=gate.shape[0]).astype(jnp.int32)
    rows = jnp.take(x.reshape(-1, x.shape[-1]), order // uses, axis=0)
    inner = jax.nn.silu(jax.lax.ragged_dot(rows, gate, sizes)) * jax.lax.ragged_dot(rows, up, sizes)
    outputs = jax.lax.ragged_dot(inner, down, sizes)
    places = jnp.argsort(order)
    outputs = jnp.take(outputs, places, axis=0).reshape(*chosen.shape, -1)
    return jnp.sum(outputs * shares[..., None], axis=-2)
