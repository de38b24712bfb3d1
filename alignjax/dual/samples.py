"""Scores ready for sums over samples and prompts, whatever their number, type and units."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from alignjax.errors import InputError

# Elements evaluated at once; larger tables go through in chunks of prompts: temporaries stay near 100 MB.
CHUNK_ELEMENTS = 2**22


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
    r, g = jnp.asarray(rewards), jnp.asarray(utilities)
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
    g = jnp.moveaxis(g, 2, 0)
    kind = r.dtype if kind is None else kind
    outer = None
    if prompt_weights is not None:
        outer = jnp.asarray(prompt_weights).astype(kind)
        outer = outer / jnp.sum(outer)
    if mask is None and importance is None:
        return Samples(r, g, None, outer)
    inner = jnp.ones(r.shape, kind) if importance is None else jnp.asarray(importance).astype(kind)
    present = inner > 0
    if mask is not None:
        present = present & jnp.asarray(mask)
    # Padding may hold nan. Clear the inputs, not the product: the gradient of a masked product with respect
    # to lam is 0 * g, and 0 * nan is nan.
    r, g = jnp.where(present, r, 0), jnp.where(present[None], g, 0)
    total = jnp.sum(jnp.where(present, inner, 0), axis=1, keepdims=True)  # 0 / 0 = nan: a row without samples
    log_base = jnp.where(present, jnp.log(jnp.where(present, inner, 1)) - jnp.log(total), -jnp.inf)
    return Samples(r, g, jnp.where(total > 0, log_base, jnp.nan), outer)


def summarise_prompts(samples: Samples, kind: DTypeLike) -> Summary:
    """What the reference's samples of every prompt have, in sums of the given type."""

    def of(part: Samples) -> Array:
        r, g, base = loaded(part, kind)
        weights = jnp.exp(base) * jnp.ones_like(r)
        present = weights > 0
        rows = []
        for x in (r, *g):
            highest = jnp.max(jnp.where(present, x, -jnp.inf), axis=1)
            lowest = jnp.min(jnp.where(present, x, jnp.inf), axis=1)
            # Rounding must not push a mean past the scores: equal scores are 0 when centred, exactly.
            mean = jnp.clip(jnp.sum(weights * x, axis=1), lowest, highest)
            centred = jnp.where(present, x - mean[:, None], 0)
            top = highest - mean
            spread = jnp.sum(weights * centred * centred, axis=1)
            size = jnp.max(jnp.where(present, jnp.abs(x), 0), axis=1)
            rows += [mean, spread, top, jnp.max(jnp.abs(centred), axis=1), size]
        return jnp.stack(rows)

    columns = by_chunks(of, samples)
    columns = columns.reshape(1 + samples.utilities.shape[0], 5, -1)
    return Summary(*(columns[:, i] for i in range(5)))


def spreads(summary: Summary, samples: Samples) -> tuple[Array, Array]:
    """Root mean square within prompts, [1 + m], and where that is more than rounding, [1 + m] bool.

    In the units of rounding errors everything would be noise.
    """
    spread = jnp.sqrt(over_prompts(summary.variance, samples))
    return spread, spread > 8 * jnp.finfo(spread.dtype).eps * jnp.max(summary.size, axis=1)


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
    place = jax.random.uniform(key, samples.rewards.shape, jnp.float32)
    base = samples.log_base
    if base is not None:
        place = jnp.where(jnp.isneginf(base), jnp.asarray(2, place.dtype), place)
    order = jnp.argsort(place, axis=1)
    return samples._replace(
        rewards=jnp.take_along_axis(samples.rewards, order, axis=1),
        utilities=jnp.take_along_axis(samples.utilities, order[None], axis=2),
        log_base=None if base is None else jnp.take_along_axis(base, order, axis=1),
    )


def over_prompts(columns: Array, samples: Samples) -> Array:
    """Weighted mean over prompts of the last axis: [..., N] -> [...]."""
    if samples.prompt_weights is None:
        return jnp.mean(columns, axis=-1)
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
    p = samples.prompt_weights
    n = columns.shape[-1]
    if p is None and exposure is None:
        squares = jnp.square(columns - over_prompts(columns, samples)[..., None])
        return jnp.sqrt(jnp.sum(squares, axis=-1) / (n * max(n - 1, 1)))
    p = jnp.full(n, 1 / n, columns.dtype) if p is None else p.astype(columns.dtype)
    e = jnp.ones_like(columns) if exposure is None else exposure.astype(columns.dtype)
    total = e @ p
    total = jnp.where(total > 0, total, 1)
    left = (columns - e * (columns @ p / total)[:, None]) / total[:, None]
    concentration = jnp.square(e) @ jnp.square(p) / jnp.square(total)  # 1 / n
    single = concentration > 1 - 1e-6
    factor = jnp.where(single, 0, 1 / jnp.where(single, 1, 1 - concentration))
    return jnp.sqrt(jnp.square(left) @ jnp.square(p) * factor)


def by_chunks(of: Callable[[Samples], Array], samples: Samples) -> Array:
    """Applies a function of prompts chunk by chunk where the table is large.

    Args:
      of: samples of n prompts -> [C, n].
      samples: of N prompts.

    Returns:
      [C, N].
    """
    n, k = samples.rewards.shape
    size = max(1, CHUNK_ELEMENTS // k)
    if n <= size:
        return of(samples)

    def cut(start: ArrayLike, length: int) -> Samples:
        part = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=length)
        base, outer, centres = samples.log_base, samples.prompt_weights, samples.centres
        return Samples(
            part(samples.rewards),
            part(samples.utilities, axis=1),
            None if base is None else part(base),
            None if outer is None else part(outer),
            None if centres is None else part(centres, axis=1),
            samples.units,
        )

    full = n // size
    parts = jax.lax.map(lambda i: of(cut(i * size, size)), jnp.arange(full))  # [full, C, size]
    columns = jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], full * size)
    if n % size == 0:
        return columns
    return jnp.concatenate([columns, of(cut(full * size, n % size))], axis=1)


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
    return -jnp.log(jnp.asarray(samples.rewards.shape[1], kind))


def check_vector(vector: Array, samples: Samples, name: str, where: str) -> None:
    """Raises InputError where a vector does not have one number a constraint."""
    m = samples.utilities.shape[0]
    if vector.shape != (m,):
        raise InputError(
            f"{where}: {name} has shape {vector.shape}, must be ({m},), one for each constraint."
        )
