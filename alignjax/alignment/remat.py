"""What the backward pass of a training computes again: the least that fits a device's memory, by arithmetic.

Letters: B rows on one device, T tokens a row, D hidden, F feed-forward. The terms were compared with what the
compiler for TPUs says of 7B and 8B models: they are within a tenth of it.
"""

from typing import NamedTuple

import jax.numpy as jnp

from alignjax.models import DecoderConfig
from alignjax.models.config import REMAT
from alignjax.models.lora import projection_sizes
from alignjax.policy.batch_sizing import num_weights, weight_bytes

# Of what is trained: itself, its gradient, two moments, the sum of micro-batches, the first and the best one.
_COPIES = 7
# Share of the memory left to everything else: other policies' adapters, fragments, the terms' own errors.
_RESERVE = 1 / 16
# Stored of a token and layer without recomputation, in units of D + F numbers; and bytes of each score of
# attention: its value, its exponential in two types and its mask.
_INNER, _SCORE = 20, 12
# Alive in one layer's backward pass: of a token, in D and in F numbers; scores of attention in float32; where
# a kernel holds none, queries, keys, values and their gradients in its own layouts, in numbers of all heads.
_HIDDEN, _FORWARD, _SCORES, _KERNEL = 16, 8, 3.5, 24
_CHUNK_ROWS, _CHUNK_COPIES = 128, 3  # logits of a chunk of rows, their gradients and their exponentials
# Where no device says what memory it has: on a CPU, whose programs wait for the pages of large temporaries.
_LARGE = 2**28  # bytes


class Training(NamedTuple):
    """The largest batch of a training, on one device.

    Attributes:
      rows: B.
      tokens: T.
      rank: of the adapters; 0: all weights are trained.
      targets: the projections that have them.
      shares: parts that weights are divided into, fsdp x tensor.
      tensor: parts that heads and hidden units are divided into.
    """

    rows: int
    tokens: int
    rank: int
    targets: tuple[str, ...]
    shares: int = 1
    tensor: int = 1


def least_remat(config: DecoderConfig, training: Training, memory: int | None) -> str:
    """The least recomputation whose training fits, of "none", "products" and "layers".

    Args:
      config: the decoder's shape; its own `remat` is not read.
      training: its largest batch.
      memory: bytes of one device, as `memory_of` returns them; None: of a CPU.

    Returns:
      The name; "layers" where nothing fits. On a CPU "none" while what is stored is small, then "products".
    """
    if memory is None:
        return "none" if stored_bytes(config, training, "none") <= _LARGE else "products"
    free = memory * (1 - _RESERVE) - standing_bytes(config, training) - working_bytes(config, training)
    fitting = (name for name in REMAT if stored_bytes(config, training, name) <= free)
    return next(fitting, "layers")


def standing_bytes(config: DecoderConfig, training: Training) -> float:
    """Bytes of weights, of what is trained and of the optimizer's state on one device."""
    sizes = projection_sizes(config)
    frozen = weight_bytes(config) / training.shares
    if training.rank == 0:
        return frozen + _COPIES * num_weights(config) * jnp.dtype(config.dtype).itemsize / training.shares
    adapted = sum(sum(sizes[name]) for name in training.targets if name in sizes)
    return frozen + _COPIES * 4 * config.num_layers * training.rank * adapted / training.shares


def stored_bytes(config: DecoderConfig, training: Training, remat: str) -> float:
    """Bytes that the forward pass of a batch stores for the backward pass, on one device.

    Args:
      config: the decoder's shape.
      training: its largest batch.
      remat: "none", "products" or "layers".
    """
    number, parts = jnp.dtype(config.dtype).itemsize, training.tensor
    sizes, hidden = projection_sizes(config), config.hidden_size
    split = sum(sizes[name][1] for name in ("q", "k", "v", "gate", "up") if name in sizes) / parts
    if remat == "none":
        inner = config.intermediate_size * max(1, config.experts_per_token) / parts
        scores = config.num_heads / parts * training.tokens if config.attention == "xla" else 0
        token = _INNER * (hidden + inner) * number + _SCORE * scores
    elif remat == "products":
        adapted = training.rank * sum(name in sizes for name in training.targets)
        last = hidden if config.norm_order in ("both", "after") else 0
        # Twice D: the layer's input, and the result of o.
        token = (2 * hidden + split + adapted + last) * number
    else:
        token = hidden * number
    return config.num_layers * training.rows * training.tokens * token


def working_bytes(config: DecoderConfig, training: Training) -> float:
    """Bytes of one layer's backward pass, of weights that are gathered for it, and of a chunk of logits."""
    number, parts = jnp.dtype(config.dtype).itemsize, training.tensor
    inner = config.intermediate_size * max(1, config.experts_per_token) / parts
    token = (_HIDDEN * config.hidden_size + _FORWARD * inner) * number
    heads = config.num_heads / parts
    if config.attention == "xla":
        token += 4 * _SCORES * heads * training.tokens
    else:
        token += _KERNEL * heads * config.head_dim * number
    layer = training.rows * training.tokens * token
    gathered = 2 * weight_bytes(config) / config.num_layers / parts if training.shares > parts else 0
    return layer + gathered + 4 * _CHUNK_COPIES * _CHUNK_ROWS * config.vocab_size
