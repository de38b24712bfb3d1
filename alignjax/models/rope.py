"""Rotary position embeddings: the scaling of their frequencies, the tables, and the rotation itself."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from alignjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Scaling of the rotary frequencies for long contexts.

    Attributes:
      kind: "linear" (all frequencies divided by `factor`), "llama3" or "yarn" (only the slow ones), or
        "longrope" (each by its own factor).
      factor: the divisor, > 0; longrope: only `attention_factor` depends on it.
      low_freq_factor: llama3 only; frequencies of wavelengths above original / low are divided by `factor`.
      high_freq_factor: llama3 only; frequencies of wavelengths below original / high are unchanged.
      original_max_positions: all but linear; the context length before scaling, in tokens.
      beta_fast: yarn only; frequencies with more turns over the original context are unchanged.
      beta_slow: yarn only; frequencies with fewer turns over the original context are divided by `factor`.
      attention_factor: yarn and longrope; multiplies cosines and sines; None: see `attention_factor`.
      mscale: yarn only; see `attention_factor`.
      mscale_all_dim: yarn only; see `attention_factor`.
      truncate: yarn only; the two ends of the transition are rounded to whole indices.
      short_factors: longrope only; the divisor of each frequency in texts within the original context.
      long_factors: longrope only; the same for longer texts; kept for `save_pretrained`, see `check_length`.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Rope:
    """The rotary embedding of one kind of layer.

    Attributes:
      theta: base of the frequencies.
      scaling: of the frequencies, or None.
      width: how many of the H entries of each head are rotated, the first ones; even.
    """

    theta: float
    scaling: RopeScaling | None
    width: int


def frequencies(theta: float, width: int, scaling: RopeScaling | None) -> tuple[float, ...]:
    """Angular frequencies of the rotary embedding, in float64 on the host: float32 loses digits of theta^x.

        f_i = theta^(-2 i / width),   i < width / 2

    With scaling "linear" all of them are divided by `factor`; with "llama3" and "yarn" those that are slow
    compared with the original context, with a linear transition in between; with "longrope" each by its own
    of `short_factors`.

    Args:
      theta: the base.
      width: entries of a head that are rotated.
      scaling: of the frequencies, or None.

    Returns:
      width / 2 numbers, radians per token.

    Reference: Su et al. 2021, arXiv 2104.09864, section 3; Llama 3.1's released inference code; Peng et al.
    2023, arXiv 2309.00071, section 3.2 (YaRN); Ding et al. 2024, arXiv 2402.13753 (LongRoPE).
    """
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    if scaling is None:
        return tuple(plain)
    if scaling.kind == "yarn":
        kept = _yarn_kept(theta, width, scaling)
        return tuple(k * f + (1 - k) * f / scaling.factor for f, k in zip(plain, kept, strict=True))
    if scaling.kind == "longrope":
        return tuple(f / divisor for f, divisor in zip(plain, scaling.short_factors, strict=True))
    return tuple(rope_stretch(f, scaling) for f in plain)


def rope_stretch(frequency: float, scaling: RopeScaling) -> float:
    """One angular frequency after scaling of kind "linear" or "llama3"; see `frequencies`.

    Args:
      frequency: radians per token.
      scaling: of the decoder.

    Returns:
      Radians per token.
    """
    if scaling.kind == "linear":
        return frequency / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_positions * frequency / (2 * math.pi)  # over the original context
    keep = min(max((turns - low) / (high - low), 0.0), 1.0)
    return keep * frequency + (1 - keep) * frequency / scaling.factor


def _yarn_kept(theta: float, width: int, scaling: RopeScaling) -> list[float]:
    """YaRN's share of each frequency that stays: 1 for the fast ones, 0 for the slow ones."""

    def index(turns: float) -> float:
        """The index, not rounded, of the frequency with this many turns over the original context."""
        wavelength = scaling.original_max_positions / turns
        return width * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    first, last = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001  # as transformers does; a step instead of a slope
    return [1 - min(max((i - first) / (last - first), 0.0), 1.0) for i in range(width // 2)]


def attention_factor(scaling: RopeScaling | None) -> float:
    """The multiplier of the cosines and sines, so that scores are multiplied by its square.

        yarn: m(1), or m(mscale) / m(mscale_all_dim) if both are given; m(a) = 1 + 0.1 a log(factor)
        longrope: sqrt(1 + log(factor) / log(original_max_positions))

    It is 1 for other kinds and for factors up to 1; a given `RopeScaling.attention_factor` replaces it.

    Args:
      scaling: of the decoder, or None.

    Returns:
      The multiplier, > 0.

    Reference: Peng et al. 2023, arXiv 2309.00071, section 3.4; Ding et al. 2024, arXiv 2402.13753, released
    code.
    """
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1.0:
        return 1.0
    growth = math.log(scaling.factor)
    if scaling.kind == "longrope":
        return math.sqrt(1 + growth / math.log(scaling.original_max_positions))
    if scaling.mscale is not None and scaling.mscale_all_dim is not None:
        return (1 + 0.1 * scaling.mscale * growth) / (1 + 0.1 * scaling.mscale_all_dim * growth)
    return 1 + 0.1 * growth


def check_length(scaling: RopeScaling | None, length: int) -> None:
    """Refuses texts beyond the original context of a model with "longrope".

    transformers divides by `long_factor` as soon as the longest text of a batch is beyond the original
    context, so that the numbers of a text depend on the others of its batch, and on tokens after them.
    Here every text is within the original context, where `short_factor` is right for all positions.

    Args:
      scaling: of the decoder, or None.
      length: the largest number of positions that a text can have, tokens of a row or prompt and response.

    Raises:
      InputError: `length` is beyond the original context.
    """
    if scaling is not None and scaling.kind == "longrope" and length > scaling.original_max_positions:
        raise InputError(
            f"model: rows of {length} tokens are beyond the original context of the model, "
            f"{scaling.original_max_positions}; its rope type, longrope, is only supported for shorter rows."
        )


def rotary_tables(positions: Array, of: Sequence[float], multiplier: float = 1.0) -> tuple[Array, Array]:
    """Cosines and sines for `apply_rope`.

    Args:
      positions: [B, T] int32.
      of: R / 2 angular frequencies.
      multiplier: of both tables, from `attention_factor`.

    Returns:
      Two tables [B, T, R / 2] float32.
    """
    angles = positions.astype(jnp.float32)[:, :, None] * jnp.asarray(of, jnp.float32)[None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if multiplier == 1.0 else (cos * multiplier, sin * multiplier)


def apply_rope(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    """Rotates each pair of entries by its position's angle, in float32.

    Args:
      x: [B, T, heads, H].
      cos: [B, T, R / 2] float32; R <= H, the other H - R entries of a head stay as they are.
      sin: the same.
      interleaved: pairs are (x_2i, x_2i+1); otherwise (x_i, x_i+R/2).

    Returns:
      [B, T, heads, H] in the dtype of x.
    """
    half = cos.shape[-1]
    turned, rest = x[..., : 2 * half].astype(jnp.float32), x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    cos, sin = (jnp.broadcast_to(t[:, :, None, :], first.shape) for t in (cos, sin))
    parts = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        rotated = jnp.stack(parts, axis=-1).reshape(turned.shape)
    else:
        rotated = jnp.concatenate(parts, axis=-1)
    rotated = rotated.astype(x.dtype)
    return jnp.concatenate([rotated, rest], axis=-1) if rest.shape[-1] else rotated
