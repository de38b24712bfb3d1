"""How many rows the sampler has: enough to share the reading of the weights, if memory allows.

This is arithmetic on shapes alone, so that a plan for other devices computes the same numbers as a run on
them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alignjax.models import DecoderConfig
from alignjax.models.lora import num_layer_weights
from alignjax.runtime.mesh import row_parts

# Most rows on each part of the mesh: on chips, and on a CPU.
_ROWS, _ROWS_OF_CPU = 256, 128
# Rows for which a CPU computes as long as it reads the weights. Chips have many times as many.
_EVEN_ON_CPU = 64
# Mean lengths that are reckoned with, as shares of T: of responses that end by themselves, and of those that
# are cut off.
_MEAN_SHARES = 1 / 3, 1.0
# Bytes that could be read in the time that a step takes in any case, and the exchange of a group's prompts.
_STEP, _EXCHANGE = 2**28, 2**31
_ROUNDS = 16
# Share of the memory reserved for everything else: the prompts' hidden states, logits, adapters.
_RESERVE = 1 / 16
# A TPU's compiler keeps the caches of several bodies in another order within the loop, and pads them there.
_WITH_COPY = 3
_QUARTER = 2**28  # bytes; limits are rounded down to a multiple of it, so that devices of one kind agree


class Grid(NamedTuple):
    """What the sampler works on at once.

    Attributes:
      parts: that columns are divided into: those of the mesh's rows.
      columns: prompts on each part, a multiple of `group`.
      rows: of each column, which draw its samples; at most K.
      group: columns of each part that are given new prompts together, when all their samples are drawn.
    """

    parts: int
    columns: int
    rows: int
    group: int

    @property
    def all_columns(self) -> int:
        """Columns on all parts."""
        return self.parts * self.columns

    @property
    def groups(self) -> int:
        """Groups of columns."""
        return self.columns // self.group


class Asked(NamedTuple):
    """What is to be drawn: K = `num_samples` samples of up to T = `max_new_tokens` tokens of each prompt.

    Attributes:
      num_prompts: N.
      num_samples: K.
      max_new_tokens: T; see `cache_slots`.
      width: tokens that prompts are padded to.
    """

    num_prompts: int
    num_samples: int
    max_new_tokens: int
    width: int


def grid_of(
    config: DecoderConfig, asked: Asked, mesh: Mesh | None, memory: int | None, *, bodies: int, int8: bool
) -> Grid:
    """Chooses columns, rows and groups of the sampler.

    Rows of all columns together, on each part of the mesh, are at most 256 (128 where the memory is not
    known, as on a CPU), and such that

        weights + cache of rows and of prompts  <=  memory (1 - 1 / 16),

    with the cache counted three times where several bodies are computed.

    Few rows to a column waste little at the column's end, and many need fewer prompts in memory; large groups
    are read at once, and small ones wait less for their slowest column. Chosen is what draws most tokens for
    the bytes that are read:

        tokens of a group / (L (weights + caches + c) + groups (2 weights + d)),    L the steps of a group

    where c and d stand for the time that a step and the exchange of a group take in any case; on a CPU, where
    arithmetic binds, the weights count once more for every 64 rows. The lengths that this depends on are not
    known beforehand: bytes are added up over responses of T / 3 tokens in the mean, and of T.

    Args:
      config: the decoder's shape.
      asked: what is to be drawn.
      mesh: the devices; None: one.
      memory: bytes per device, as `memory_of` returns them; None: unknown, no limit.
      bodies: how many are computed for each row, see `models.num_bodies`.
      int8: whether keys and values are rounded to int8.

    Returns:
      The grid; one column of one row where memory has room for no more, or for less.
    """
    fsdp, tensor = (1, 1) if mesh is None else (mesh.shape["fsdp"], mesh.shape["tensor"])
    weights = weight_bytes(config) / (fsdp * tensor)
    parts, most = row_parts(mesh), _ROWS_OF_CPU if memory is None else _ROWS
    best, fastest = Grid(parts, 1, 1, 1), 0.0
    for rows in _candidates(min(asked.num_samples, most)):
        one = Grid(1, 1, rows, 1)
        each = cache_bytes(config, one, asked.max_new_tokens, asked.width, bodies, int8=int8) / tensor
        columns = min(most // rows, -(-asked.num_prompts // parts))
        if memory is not None:
            held = each * (1 if bodies == 1 else _WITH_COPY)
            columns = min(columns, int((memory * (1 - _RESERVE) - weights) // held))
        for groups in _candidates(columns):
            grid = Grid(parts, columns // groups * groups, rows, columns // groups)
            step = weights + grid.columns * each + _STEP
            if memory is None:
                step += weights * grid.columns * rows / _EVEN_ON_CPU
            speed = _speed(grid, asked, step, 2 * weights + _EXCHANGE)
            best, fastest = (grid, speed) if speed > fastest else (best, fastest)
    return best


def _candidates(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... and `most` itself: numbers between which little lies."""
    sizes = {step << shift for shift in range(most.bit_length()) for step in (2, 3)} | {1, most}
    return sorted(size for size in sizes if 1 <= size <= most)


def _speed(grid: Grid, asked: Asked, step: float, exchange: float) -> float:
    """Tokens that are drawn for each byte that is read: `step` bytes in a step, `exchange` for a group."""
    samples, limit, read = asked.num_samples, asked.max_new_tokens, 0.0
    for share in _MEAN_SHARES:
        mean = max(1.0, limit * share)
        steps = samples * mean / (grid.rows * busy_share(grid, samples, limit, mean))
        read += (steps * step + grid.groups * exchange) / (grid.columns * samples * mean)
    return 1.0 / read


def cache_bytes(
    config: DecoderConfig, grid: Grid, max_new_tokens: int, width: int, bodies: int = 1, *, int8: bool = False
) -> int:
    """Bytes of keys and values of one part of the mesh, for all bodies, prompts padded to `width` tokens."""
    head = config.head_dim * jnp.dtype(config.dtype).itemsize
    if int8:
        head = config.head_dim + 4  # and a float32 scale
    token = 2 * config.num_layers * config.num_kv_heads * head
    slots = grid.rows * cache_slots(max_new_tokens)
    return bodies * grid.columns * token * (slots + width)


def cache_slots(max_new_tokens: int) -> int:
    """Slots of a row's cache: T - 1, since the last token is not read again, rounded up to a multiple of 8.

    Of another number a TPU holds the caches in another order between calls than within the loop, and copies
    them.
    """
    return -(-max(max_new_tokens - 1, 1) // 8) * 8


def busy_share(grid: Grid, num_samples: int, max_new_tokens: int, mean_length: float) -> float:
    """Expected share of rows that draw, while there are further prompts.

        sum of the lengths of a column's samples / (R x steps until its group is done)

    Rows idle from the time when a column has no samples left until the last one of its group has ended.
    Lengths are taken as geometric, cut off at T, with the mean given; 256 columns are simulated.

    Args:
      grid: of the sampler.
      num_samples: K.
      max_new_tokens: T.
      mean_length: tokens of a response, in [1, T].

    Returns:
      In (0, 1].
    """
    drawn, steps = _columns(grid.rows, num_samples, max_new_tokens, mean_length)
    whole = steps[: len(steps) // grid.group * grid.group].reshape(-1, grid.group)
    return float(drawn.mean() / (grid.rows * whole.max(axis=1).mean()))


def steps_of_group(grid: Grid, num_samples: int, max_new_tokens: int, mean_length: float) -> float:
    """Expected steps from the end of one group to the end of the next one, while there are further prompts.

    tokens of a group's samples / (rows of all columns x busy share);    arguments as of `busy_share`
    """
    busy = busy_share(grid, num_samples, max_new_tokens, mean_length)
    return num_samples * mean_length / (grid.rows * busy * grid.groups)


@functools.lru_cache(maxsize=1024)
def _columns(rows: int, num_samples: int, limit: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and steps of simulated columns, each [256] or more."""
    # Where a row draws more samples than this, the end of the column matters little.
    samples = min(num_samples, _ROUNDS * rows)
    ends, columns = _ending(mean, limit), 512
    lengths = np.full((samples, columns), limit)
    if ends > 0:
        lengths = np.minimum(np.random.default_rng(0).geometric(ends, lengths.shape), limit)
    done = np.zeros((columns, rows))
    for some in lengths:
        done[np.arange(columns), done.argmin(axis=1)] += some
    return lengths.sum(axis=0), done.max(axis=1)


def _ending(mean: float, limit: int) -> float:
    """The probability p of ending at each token: that with which (1 - (1 - p)^T) / p is the mean length."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        longer = (1 - (1 - middle) ** limit) / middle > mean
        low, high = (middle, high) if longer else (low, middle)
    return 0.0 if mean >= limit else high


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
