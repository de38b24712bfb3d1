"""Draws K responses for each one that is returned, scores them, and keeps one of them: no training at all.

Letters: N prompts, S responses that are kept of each, K draws behind each of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import SamplingSettings
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.errors import InputError
from alignjax.policy.batching import Batching
from alignjax.policy.drawing import draw
from alignjax.policy.values import Policy


class Kept(NamedTuple):
    """The responses that were kept.

    Attributes:
      responses: S to each of N prompts.
      chosen: [N, S] int, the number of each among its K draws.
      weights: [N, S] float64, the probability that it was kept with, once the K were drawn.
    """

    responses: Responses
    chosen: np.ndarray
    weights: np.ndarray


def keep_weights(scores: np.ndarray, *, beta: float) -> np.ndarray:
    """The probabilities that each of K draws is kept with.

        w_k = exp(s_k / beta) / sum_l exp(s_l / beta),   s = r + <lam, g>

    Args:
      scores: [..., K], s of the K draws, in the units of the reward.
      beta: KL weight > 0.

    Returns:
      [..., K] float64; sums to 1 over the last axis.
    """
    exponents = np.asarray(scores, np.float64) / beta
    weights = np.exp(exponents - exponents.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def keep_one(key: jax.Array, scores: np.ndarray, *, beta: float) -> np.ndarray:
    """Chooses one of K draws, with the probabilities of `keep_weights`.

    The choice is a function of the key, the row, the column and the K scores, and not of the other rows.

    Args:
      key: PRNG key.
      scores: [N, S, K], s of the draws, in the units of the reward.
      beta: KL weight > 0.

    Returns:
      [N, S] int64, the number of the draw that is kept, from 0.
    """
    rows, columns, count = scores.shape
    if not rows * columns:
        return np.zeros((rows, columns), np.int64)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = jax.vmap(fold, in_axes=(0, None))(fold(key, jnp.arange(rows)), jnp.arange(columns))
    noise = jax.vmap(jax.vmap(lambda one: jax.random.gumbel(one, (count,), jnp.float32)))(keys)
    # The largest of log-weight plus Gumbel noise is a draw by the weights.
    with np.errstate(divide="ignore"):  # a weight that is too small for a float is never kept
        logs = np.log(keep_weights(scores, beta=beta))
    return np.argmax(logs + np.asarray(noise, np.float64), axis=-1)


def best_of(
    key: jax.Array,
    policy: Policy,
    prompts: Sequence[Prompt],
    ids: Sequence[np.ndarray],
    settings: SamplingSettings,
    batching: Batching,
    *,
    count: int,
    score: Callable[[Responses], np.ndarray],
    beta: float,
    part: Path | None = None,
) -> Kept:
    """Draws K responses of a policy for each that is wanted, and keeps one by the weights of the tilt.

    Of the reference this is the policy that the draw-K forecast is about: its expectations are those of the
    forecast at any K, and its KL from the reference is at most log K.

    Args:
      key: of the draws and the choices.
      policy: whom to sample; the reference.
      prompts: N prompts.
      ids: their tokens.
      settings: of sampling; `num_samples` S is the number of responses to return for each prompt.
      batching: mesh, and memory that the sampler may use.
      count: K >= 1, draws for each response; at 1 the policy itself is sampled.
      score: gives r + <lam, g> of responses, [N, S K], in calibrated units.
      beta: KL weight > 0, that of the multiplier.
      part: file that keeps finished draws, as in `drawing.draw`.

    Returns:
      S responses to each prompt.

    Raises:
      InputError: `count` is below 1.

    Reference: docs/method.md, the draw-K forecast; Chatterjee and Diaconis 2018, arXiv 1511.01437, on how
    large K has to be.
    """
    if count < 1:
        raise InputError(f"best_of: is {count}; it must be at least 1, the draws behind each response.")
    keys = jax.random.split(key)
    wanted = settings.num_samples
    drawn = draw(
        keys[0],
        policy,
        prompts,
        ids,
        dataclasses.replace(settings, num_samples=wanted * count),
        batching,
        part=part,
    )
    scores = np.asarray(score(drawn), np.float64).reshape(len(ids), wanted, count)
    chosen = keep_one(keys[1], scores, beta=beta)
    weights = np.take_along_axis(keep_weights(scores, beta=beta), chosen[..., None], axis=-1)[..., 0]
    places = chosen + count * np.arange(wanted)[None, :]
    return Kept(
        Responses(
            drawn.prompts,
            [[row[i] for i in at] for row, at in zip(drawn.texts, places, strict=True)],
            [[row[i] for i in at] for row, at in zip(drawn.tokens, places, strict=True)],
            logps=None if drawn.logps is None else np.take_along_axis(drawn.logps, places, axis=1),
        ),
        chosen,
        weights,
    )
