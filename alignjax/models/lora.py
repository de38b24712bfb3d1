"""Low-rank adapters (LoRA), a small parameter tree separate from the frozen weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig

# Logical names of the axes (in, out) of each projection that can be adapted.
TARGET_AXES = {
    "q": ("embed", "heads"),
    "k": ("embed", "kv_heads"),
    "v": ("embed", "kv_heads"),
    "o": ("heads", "embed"),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}
TARGETS = tuple(TARGET_AXES)


@flax.struct.dataclass
class Lora:
    """Adapters: each projection becomes x W + scale (x A) B.

    Attributes:
      params: {"layers": {"q": {"a": [L, in, r], "b": [L, r, out]}, ...}} float32; the only trainable part.
      scale: alpha / r; static.
      dropout: share of the adapters' inputs that is set to 0 in training; static.
    """

    params: Any
    scale: float = flax.struct.field(pytree_node=False, default=1.0)
    dropout: float = flax.struct.field(pytree_node=False, default=0.0)

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> Self:
            """A copy with other values of some fields."""
            ...


def is_neutral(lora: Lora) -> bool:
    """Whether every B is zero, as after `init_lora`, so that the adapters change nothing."""
    return not any(bool(jnp.any(pair["b"] != 0)) for pair in lora.params["layers"].values())


def projection_sizes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of each projection of a layer that can be adapted; experts have no adapters."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    sizes = {
        "q": (hidden, heads),
        "k": (hidden, kv),
        "v": (hidden, kv),
        "o": (heads, hidden),
        "gate": (hidden, mlp),
        "up": (hidden, mlp),
        "down": (mlp, hidden),
    }
    if not config.gated:
        del sizes["gate"]
    if config.num_experts:
        sizes = {name: sizes[name] for name in ("q", "k", "v", "o")}
    return sizes


def num_layer_weights(config: DecoderConfig) -> int:
    """Number of entries of one layer's matrices.

    Args:
      config: the decoder's shape.

    Returns:
      The number.
    """
    experts = config.num_experts * (3 * config.hidden_size * config.intermediate_size + config.hidden_size)
    return experts + sum(rows * columns for rows, columns in projection_sizes(config).values())


def init_lora(
    key: Array,
    config: DecoderConfig,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str] = TARGETS,
    dropout: float = 0.0,
) -> Lora:
    """New adapters, which change nothing: A is uniform with variance 1 / (3 in), B is zero.

    Args:
      key: PRNG key.
      config: the decoder they belong to.
      rank: r >= 1.
      alpha: scale times rank.
      targets: projections to adapt, any of "q", "k", "v", "o", "gate", "up", "down"; those that the model
        does not have are passed over.
      dropout: in [0, 1); active only where a dropout key is given.

    Returns:
      The adapters, float32.

    Raises:
      InputError: an unknown target, no target that the model has, rank < 1, or a dropout outside [0, 1).

    Reference: Hu et al. 2021, arXiv 2106.09685, section 4.1; A starts as in PEFT.
    """
    unknown = [t for t in targets if t not in TARGET_AXES]
    if unknown or not targets:
        raise InputError(f"lora.targets: {unknown or 'empty'}; choose from {', '.join(TARGETS)}.")
    if rank < 1:
        raise InputError(f"lora.rank: is {rank}; must be at least 1.")
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"lora.dropout: is {dropout}; must be at least 0 and below 1.")
    sizes = projection_sizes(config)
    if not set(targets) & set(sizes):
        raise InputError(
            f"lora.targets: the model has none of {', '.join(targets)}; it has {', '.join(sizes)}."
        )
    layers = {}
    for target, subkey in zip(TARGETS, jax.random.split(key, len(TARGETS)), strict=True):
        if target not in targets or target not in sizes:
            continue
        fan_in, out = sizes[target]
        bound = fan_in**-0.5
        a = jax.random.uniform(subkey, (config.num_layers, fan_in, rank), jnp.float32, -bound, bound)
        layers[target] = {"a": a, "b": jnp.zeros((config.num_layers, rank, out), jnp.float32)}
    return Lora(params={"layers": layers}, scale=alpha / rank, dropout=dropout)


def merge_lora(params: Any, lora: Lora) -> Any:
    """Adds adapters to the weights: W + scale A B.

    Args:
      params: the decoder's parameters; not changed.
      lora: the adapters.

    Returns:
      New parameters, in the dtype of W.
    """
    layers = dict(params["layers"])
    for name, pair in lora.params["layers"].items():
        kernel = layers[name]["kernel"]
        delta = lora.scale * jnp.einsum("lir,lro->lio", pair["a"], pair["b"], precision="highest")
        merged = (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)
        layers[name] = {**layers[name], "kernel": merged}
    return {**params, "layers": layers}


def lora_axes(targets: Sequence[str] = TARGETS) -> Any:
    """The tree of `Lora.params` with the logical names of the axes in place of each array."""
    return {
        "layers": {
            t: {
                "a": ("layers", TARGET_AXES[t][0], "lora_rank"),
                "b": ("layers", "lora_rank", TARGET_AXES[t][1]),
            }
            for t in targets
        }
    }
