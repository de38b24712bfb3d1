"""How many continuations are drawn together: enough to share the reading of the weights, if memory allows.

This is arithmetic on shapes alone, so that a plan for other devices computes the same numbers as a run on
them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alignjax.models import DecoderConfig
from alignjax.models.lora import num_layer_weights
from alignjax.runtime.mesh import row_parts

# Continuations drawn together on each part of the rows, unless K or memory requires another number: enough to
# share the reading of the weights.
_ROWS = 128
# Share of the memory reserved for everything else: the prompts' hidden states, logits, adapters.
_RESERVE = 1 / 16
_QUARTER = 2**28  # bytes; limits are rounded down to a multiple of it, so that devices of one kind agree


class Together(NamedTuple):
    """Size of one call of the sampler.

    Attributes:
      prompts: number of prompts, a multiple of the parts that rows are divided into.
      samples: continuations of each prompt.
    """

    prompts: int
    samples: int


def drawn_together(
    config: DecoderConfig,
    num_samples: int,
    max_new_tokens: int,
    width: int,
    mesh: Mesh | None,
    memory: int | None,
    bodies: int = 1,
) -> Together:
    """Divides K continuations of many prompts into calls of the sampler.

    A call has 128 rows on each part of the mesh, or K if that is more; the number is halved until

        weights + cache of rows and of prompts  <=  memory (1 - 1 / 16)

    where a cache takes 2 L KV H numbers of the compute type per token and body. If K exceeds the number of
    rows, the continuations of one prompt are divided evenly over several calls.

    Args:
      config: the decoder's shape.
      num_samples: K.
      max_new_tokens: T; a continuation's cache has T - 1 slots.
      width: tokens that prompts are padded to.
      mesh: the devices; None: one.
      memory: bytes per device, as `memory_of` returns them; None: unknown, no limit.
      bodies: how many are computed for each continuation, see `models.num_bodies`.

    Returns:
      Prompts and continuations per call.
    """
    fsdp, tensor = (1, 1) if mesh is None else (mesh.shape["fsdp"], mesh.shape["tensor"])
    rows = max(_ROWS, 1 << (num_samples - 1).bit_length())
    if memory is not None:
        weights = weight_bytes(config) / (fsdp * tensor)
        free = memory * (1 - _RESERVE) - weights

        def needed(rows: int) -> int:
            return cache_bytes(config, _shape(rows, num_samples), max_new_tokens, width, bodies)

        while rows > 1 and needed(rows) / tensor > free:
            rows //= 2
    prompts, samples = _shape(rows, num_samples)
    calls = -(-num_samples // samples)
    return Together(prompts * row_parts(mesh), -(-num_samples // calls))


def cache_bytes(
    config: DecoderConfig, drawn: Together, max_new_tokens: int, width: int, bodies: int = 1
) -> int:
    """Bytes of keys and values while decoding from prompts padded to `width` tokens, for all bodies."""
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * jnp.dtype(config.dtype).itemsize
    slots = drawn.samples * max(max_new_tokens - 1, 1)
    return bodies * drawn.prompts * token * (slots + width)


def _shape(rows: int, num_samples: int) -> Together:
    return Together(max(1, rows // num_samples), min(rows, num_samples))


def num_weights(config: DecoderConfig) -> int:
    """Number of entries of a decoder's matrices: layers, embedding and, if untied, the head."""
    ends = config.vocab_size * config.hidden_size * (1 if config.tie_embeddings else 2)
    return config.num_layers * num_layer_weights(config) + ends


def weight_bytes(config: DecoderConfig) -> int:
    """Bytes of a decoder's matrices as they are held; the scales of int8 weights are too few to count."""
    each = jnp.dtype(config.dtype).itemsize
    layers = config.num_layers * num_layer_weights(config)
    return layers * (1 if config.weights == "int8" else each) + (num_weights(config) - layers) * each


def memory_of(mesh: Mesh | None) -> int | None:
    """Bytes that programs may use on one local device; None if the device does not say, as on a CPU."""
    device = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
    stats = device.memory_stats()
    return None if not stats or "bytes_limit" not in stats else rounded(stats["bytes_limit"])


def rounded(limit: float) -> int:
    """A number of bytes rounded down to a multiple of a quarter of a GiB."""
    return int(limit) // _QUARTER * _QUARTER
