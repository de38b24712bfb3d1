"""Scores ready for sums over samples and prompts, whatever their number, type and units."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from alignjax.dual.plain import Array, aligned, module_of, room_for
from alignjax.errors import InputError

# Elements evaluated at once; larger tables go through in chunks of prompts: temporaries stay near 100 MB.
CHUNK_ELEMENTS = 2**22
# On a CPU scores beyond what its cache holds go through in chunks that a core's own cache holds.
_CACHED_SCORES, _SCORES_A_CHUNK = 2**20, 2**15
_NUMPY_ELEMENTS = 2**14  # of NumPy's passes, whose temporaries then stay in the processor's cache


class Samples(NamedTuple):
    """Scores ready for sums: absent samples cleared, constraints first so that the last axis is long.

    The arrays stay as they were given, float32 of a large table too: `loaded` brings a chunk of them into the
    type and the units of the sums.

    Attributes:
      rewards: [N, K] float, 0 where absent.
      utilities: [m, N, K] float, 0 where absent.
      log_base: [N, K] float, log of the weight of every sample under the reference, each row's weights sum to
        1; -inf where absent, nan in a row without samples. None: 1 / K each.
      prompt_weights: [N] float, sums to 1. None: 1 / N each.
      centres: [1 + m, N] float, what is subtracted from a prompt's rewards and from each of its utilities.
        None: 0.
      units: [1 + m] float, what rewards and utilities are divided by after that. None: 1.
    """

    rewards: Array
    utilities: Array
    log_base: Array | None
    prompt_weights: Array | None
    centres: Array | None = None
    units: Array | None = None


class Summary(NamedTuple):
    """The reference's scores of every prompt, the reward first, then the utilities: each [1 + m, N].

    Attributes:
      mean: E_ref x.
      variance: E_ref (x - mean)^2.
      top: max x - mean, over the samples that exist.
      extent: max |x - mean|.
      size: max |x|.
    """

    mean: Array
    variance: Array
    top: Array
    extent: Array
    size: Array


def gather(
    rewards: ArrayLike,
    utilities: ArrayLike,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    importance: ArrayLike | None = None,
    *,
    kind: DTypeLike | None = None,
    where: str = "dual",
) -> Samples:
    """Checks shapes, clears absent samples and normalises weights.

    Args:
      rewards: [N, K] float.
      utilities: [N, K, m] float.
      mask: [N, K] bool or None.
      prompt_weights: [N] float >= 0 or None.
      importance: [N, K] float >= 0 or None.
      kind: float type of the weights; None: that of the rewards.
      where: the caller's name, for messages.

    Returns:
      The samples; the scores in the types they have.

    Raises:
      InputError: shapes that do not fit.
    """
    xp = module_of(rewards, utilities, mask, prompt_weights, importance)
    r, g = xp.asarray(rewards), xp.asarray(utilities)
    _check_shapes(r, g, mask, prompt_weights, importance, where)
    g = xp.moveaxis(g, 2, 0)
    kind = r.dtype if kind is None else kind
    outer = None
    if prompt_weights is not None:
        outer = xp.asarray(prompt_weights).astype(kind)
        outer = outer / xp.sum(outer)
    if mask is None and importance is None:
        return Samples(r, g, None, outer)
    inner = xp.ones(r.shape, kind) if importance is None else xp.asarray(importance).astype(kind)
    present = inner > 0
    if mask is not None:
        present = present & xp.asarray(mask)
    # Padding may hold nan. Clear the inputs, not the product: the gradient of a masked product with respect
    # to lam is 0 * g, and 0 * nan is nan.
    r, g = (xp.where(x, y, xp.zeros((), y.dtype)) for x, y in ((present, r), (present[None], g)))
    total = xp.sum(xp.where(present, inner, 0), axis=1, keepdims=True)  # 0 / 0 = nan: a row without samples
    log_base = xp.where(present, xp.log(xp.where(present, inner, 1)) - xp.log(total), -xp.inf)
    return Samples(r, g, xp.where(total > 0, log_base, xp.nan), outer)


def _check_shapes(
    r: Array,
    g: Array,
    mask: ArrayLike | None,
    prompt_weights: ArrayLike | None,
    importance: ArrayLike | None,
    where: str,
) -> None:
    """Refuses what `gather` cannot take."""
    if r.ndim != 2 or 0 in r.shape:
        raise InputError(
            f"{where}: rewards has shape {r.shape}, must be [prompts, samples] with at least one of each."
        )
    if g.ndim != 3 or g.shape[:2] != r.shape or g.shape[2] == 0:
        raise InputError(
            f"{where}: utilities has shape {g.shape}, must be rewards' shape {r.shape} and one column for "
            "each constraint; stack them on the last axis."
        )
    if not jnp.issubdtype(r.dtype, jnp.floating) or not jnp.issubdtype(g.dtype, jnp.floating):
        raise InputError(
            f"{where}: rewards and utilities are {r.dtype} and {g.dtype}, must be floating point."
        )
    given = {
        "mask": (mask, r.shape),
        "prompt_weights": (prompt_weights, r.shape[:1]),
        "importance": (importance, r.shape),
    }
    for name, (value, shape) in given.items():
        if value is not None and jnp.shape(value) != shape:
            raise InputError(f"{where}: {name} has shape {jnp.shape(value)}, must be {shape}.")


def summarise_prompts(samples: Samples, kind: DTypeLike) -> Summary:
    """What the reference's samples of every prompt have, in sums of the given type."""
    xp = module_of(samples)

    def of(part: Samples) -> Array:
        r, g, base = loaded(part, kind)
        weights = None if part.log_base is None else xp.exp(base)
        present = None if weights is None else weights > 0
        rows = []
        for x in (r, *g):
            highest = xp.max(_where(xp, present, x, -xp.inf), axis=1)
            lowest = xp.min(_where(xp, present, x, xp.inf), axis=1)
            # Rounding must not push a mean past the scores: equal scores are 0 when centred, exactly.
            mean = xp.clip(_weighted(xp, weights, x), lowest, highest)
            centred = _where(xp, present, x - mean[:, None], 0.0)
            spread = _weighted(xp, weights, centred * centred)
            top, below = highest - mean, mean - lowest
            rows += [mean, spread, top, xp.maximum(top, below), xp.maximum(abs(highest), abs(lowest))]
        return xp.stack(rows)

    columns = by_chunks(of, samples)
    columns = columns.reshape(1 + samples.utilities.shape[0], 5, -1)
    return Summary(*(columns[:, i] for i in range(5)))


def spreads(summary: Summary, samples: Samples) -> tuple[Array, Array]:
    """Root mean square within prompts, [1 + m], and where that is more than rounding, [1 + m] bool.

    In the units of rounding errors everything would be noise.
    """
    xp = module_of(summary, samples)
    spread = xp.sqrt(over_prompts(summary.variance, samples))
    return spread, spread > 8 * jnp.finfo(spread.dtype).eps * xp.max(summary.size, axis=1)


def loaded(part: Samples, kind: DTypeLike) -> tuple[Array, list[Array], Array]:
    """Rewards [n, K], utilities [n, K] by constraint, and log weights, in the type and units of the sums."""
    scores = [part.rewards.astype(kind), *(g.astype(kind) for g in part.utilities)]
    if part.centres is not None:
        centres = part.centres.astype(kind)
        scores = [x - centres[i][:, None] for i, x in enumerate(scores)]
    if part.units is not None:
        factors = 1 / part.units.astype(kind)
        scores = [x * factors[i] for i, x in enumerate(scores)]
    return scores[0], scores[1:], log_base(part, kind)


def shuffled(samples: Samples, key: Array) -> Samples:
    """Each prompt's samples in random order, those that exist first.

    The order in which samples were given may hold meaning: they may be sorted by utility. Every fourth of a
    random order is a random quarter; with those that exist first, the quarters are of nearly equal size.
    """
    xp = module_of(samples)
    place = xp.asarray(jax.random.uniform(key, samples.rewards.shape, jnp.float32))
    base = samples.log_base
    if base is not None:
        place = xp.where(xp.isneginf(base), xp.asarray(2, place.dtype), place)
    order = xp.argsort(place, axis=1, stable=True)
    return samples._replace(
        rewards=xp.take_along_axis(samples.rewards, order, axis=1),
        utilities=xp.stack([xp.take_along_axis(g, order, axis=1) for g in samples.utilities]),
        log_base=None if base is None else xp.take_along_axis(base, order, axis=1),
    )


def over_prompts(columns: Array, samples: Samples) -> Array:
    """Weighted mean over prompts of the last axis: [..., N] -> [...]."""
    if samples.prompt_weights is None:
        return module_of(columns).mean(columns, axis=-1)
    return columns @ samples.prompt_weights.astype(columns.dtype)


def standard_errors(columns: Array, samples: Samples, exposure: Array | None = None) -> Array:
    """Standard errors over the draw of prompts of means, in which a constraint may weigh prompts on its own.

        se^2 = n / (n - 1) sum_i q_i^2 (u_i - sum_i q_i u_i)^2,   q_i ~ p_i e_i,   x_i = e_i u_i

    q sums to 1. n = 1 / sum_i q_i^2 is the number of prompts where all weigh the same. The size of a
    group is not noise: its prompts alone count.

    Args:
      columns: [C, N] float, x.
      samples: of N prompts, with their weights p.
      exposure: [C, N] float >= 0, e; None: 1.

    Returns:
      [C] float; 0 where a single prompt counts, of which there is none.
    """
    xp = module_of(columns, samples, exposure)
    p = samples.prompt_weights
    n = columns.shape[-1]
    if p is None and exposure is None:
        squares = xp.square(columns - over_prompts(columns, samples)[..., None])
        return xp.sqrt(xp.sum(squares, axis=-1) / (n * max(n - 1, 1)))
    p = xp.full(n, 1 / n, columns.dtype) if p is None else p.astype(columns.dtype)
    e = xp.ones_like(columns) if exposure is None else exposure.astype(columns.dtype)
    total = e @ p
    total = xp.where(total > 0, total, 1)
    left = (columns - e * (columns @ p / total)[:, None]) / total[:, None]
    concentration = xp.square(e) @ xp.square(p) / xp.square(total)  # 1 / n
    single = concentration > 1 - 1e-6
    factor = xp.where(single, 0, 1 / xp.where(single, 1, 1 - concentration))
    return xp.sqrt(xp.square(left) @ xp.square(p) * factor)


def by_chunks(of: Callable[[Samples], Array], samples: Samples) -> Array:
    """Applies a function of prompts chunk by chunk where the table is large.

    Args:
      of: samples of n prompts -> [C, n].
      samples: of N prompts.

    Returns:
      [C, N].
    """
    n, k = samples.rewards.shape
    if module_of(samples) is np:
        return np.concatenate([of(_cut(samples, *rows)) for rows in _chunks(n, k)], axis=1)
    size = _prompts_a_chunk(samples)
    if n <= size:
        return of(samples)
    full = n // size
    parts = jax.lax.map(lambda i: of(_cut(samples, i * size, size)), jnp.arange(full))  # [full, C, size]
    columns = jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], full * size)
    if n % size == 0:
        return columns
    return jnp.concatenate([columns, of(_cut(samples, full * size, n % size))], axis=1)


def _prompts_a_chunk(samples: Samples) -> int:
    """Prompts that a traced pass takes at once on the device that it is for."""
    n, k = samples.rewards.shape
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    platform = jax.default_backend() if device is None else getattr(device, "platform", device)
    scores = samples.rewards.size + samples.utilities.size
    if platform == "cpu" and scores > _CACHED_SCORES:
        return max(1, _SCORES_A_CHUNK * n // scores)
    return max(1, CHUNK_ELEMENTS // k)


def _chunks(n: int, k: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of every chunk that NumPy takes at once."""
    size = max(1, _NUMPY_ELEMENTS // k)
    return ((start, min(size, n - start)) for start in range(0, n, size))


def _cut(samples: Samples, start: ArrayLike, length: int) -> Samples:
    """Some prompts of many."""
    plain = module_of(samples) is np
    part = functools.partial(
        _rows if plain else jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=length
    )
    base, outer, centres = samples.log_base, samples.prompt_weights, samples.centres
    return Samples(
        part(samples.rewards),
        part(samples.utilities, axis=1),
        None if base is None else part(base),
        None if outer is None else part(outer),
        None if centres is None else part(centres, axis=1),
        samples.units,
    )


def in_one_piece(samples: Samples, kind: DTypeLike) -> Samples:
    """Of a plain call: the scores as `loaded` gives them, once for all passes, where programs read them.

    Those of a table that goes through in chunks keep their type: it may be half as large.
    """
    if module_of(samples) is not np:
        return samples
    base = None if samples.log_base is None else aligned(samples.log_base)
    if samples.rewards.size + samples.utilities.size > CHUNK_ELEMENTS:
        kept = aligned(samples.rewards), aligned(samples.utilities)
        return samples._replace(rewards=kept[0], utilities=kept[1], log_base=base)
    rewards, utilities = room_for(samples.rewards.shape, kind), room_for(samples.utilities.shape, kind)
    for start, length in _chunks(*samples.rewards.shape):
        r, g, _ = loaded(_cut(samples, start, length), kind)
        rewards[start : start + length] = r
        for a, column in enumerate(g):
            utilities[a, start : start + length] = column
    return Samples(rewards, utilities, base, samples.prompt_weights)


def _rows(array: np.ndarray, start_index: int, slice_size: int, axis: int = 0) -> np.ndarray:
    at = slice(start_index, start_index + slice_size)
    return array[at] if axis == 0 else array[:, at]


def _where(xp: Any, present: Array | None, x: Array, other: float) -> Array:
    """The scores x where samples exist, everywhere if `present` is None; else another number."""
    return x if present is None else xp.where(present, x, xp.asarray(other, x.dtype))


def _weighted(xp: Any, weights: Array | None, x: Array) -> Array:
    """Sums over the samples [n] by their weights; means where these are None."""
    return xp.mean(x, axis=1) if weights is None else xp.sum(weights * x, axis=1)


def sum_constraints(lam: Array, utilities: Array | Sequence[Array]) -> Array:
    """<lam, g>: [m], m times [...] -> [...], as a sum of m products, which fuses with what follows."""
    total = lam[0] * utilities[0]
    for j in range(1, len(utilities)):
        total = total + lam[j] * utilities[j]
    return total


def log_base(samples: Samples, kind: DTypeLike) -> Array:
    """Log of every sample's weight under the reference: [N, K], or [] where all are equal."""
    if samples.log_base is not None:
        return samples.log_base.astype(kind)
    xp = module_of(samples)
    return -xp.log(xp.asarray(samples.rewards.shape[1], kind))


def check_vector(vector: Array, samples: Samples, name: str, where: str) -> None:
    """Raises InputError where a vector does not have one number a constraint."""
    m = samples.utilities.shape[0]
    if vector.shape != (m,):
        raise InputError(
            f"{where}: {name} has shape {vector.shape}, must be ({m},), one for each constraint."
        )
