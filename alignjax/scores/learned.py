"""Scores by reward and cost models, and the calibration error of the probabilities they imply."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alignjax.data.batches import Bucket, ResponseBatch
from alignjax.data.shared_rows import RowShapes, responses_per_row
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import Lora, ScoreModel, pair_scores, response_scores
from alignjax.policy.passes import over_pairs, over_responses


def learned_scores(
    model: ScoreModel,
    responses: Sequence[TokenizedResponse],
    *,
    lora: Lora | None = None,
    batch_size: int,
    shapes: RowShapes | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Scores of any number of responses, in batches of a few fixed shapes.

    Responses to equal prompts share rows, wherever they are in the list, so that a prompt is read once for
    many of them.

    Args:
      model: a reward or a cost model; costs are returned as costs, see `models.as_utility`.
      responses: n responses with their prompts.
      lora: adapters; None: the base model.
      batch_size: responses per batch, >= 1.
      shapes: of the rows, see `policy.batching`; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: the devices that rows are divided over, where the weights lie; None: the default device.

    Returns:
      [n] float32, in the order given.

    Raises:
      InputError: an empty prompt, a response longer than every bucket, batch_size < 1, or a score that is not
        finite.
    """
    model = model.replace(tokenizer=None)  # not an argument of the compiled program
    result = over_responses(
        lambda batch: response_scores_jit(model, lora, batch),
        responses,
        1,
        where="learned_scores",
        config=model.config,
        batch_size=batch_size,
        shapes=shapes,
        progress=progress,
        mesh=mesh,
    )
    _check_finite(result, "learned_scores", "response")
    return result[:, 0]


def learned_pair_scores(
    model: ScoreModel,
    pairs: Sequence[TokenizedPair],
    *,
    lora: Lora | None = None,
    batch_size: int,
    buckets: Sequence[Bucket] | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Scores of both responses of any number of pairs, whose prompts are read once.

    Args:
      model: a reward or a cost model; costs are returned as costs, see `models.as_utility`.
      pairs: n pairs.
      lora: adapters; None: the base model.
      batch_size: rows per batch, >= 1.
      buckets: shapes of the rows; None: chosen from the lengths.
      progress: called with the number of pairs done since the last call.
      mesh: the devices that rows are divided over, where the weights lie; None: the default device.

    Returns:
      [n, 2] float32, chosen and rejected, in the order given.

    Raises:
      InputError: as in `learned_scores`.
    """
    model = model.replace(tokenizer=None)
    result = over_pairs(
        lambda batch: pair_scores_jit(model, lora, batch),
        pairs,
        where="learned_pair_scores",
        config=model.config,
        batch_size=batch_size,
        buckets=buckets,
        progress=progress,
        mesh=mesh,
    )
    _check_finite(result, "learned_pair_scores", "pair")
    return result


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: how far predicted probabilities are from observed frequencies.

        ECE = sum_b n_b / n | mean of p in bin b - mean of y in bin b |

    over bins of equal width on [0, 1]. Each pair is given once, in an order drawn at random or fixed by the
    data; if the label decided the order, every y would be 1.

    Args:
      probabilities: [n] float in [0, 1], p; for a pair sigma(s(first) - s(second)).
      labels: [n] float in [0, 1], y, hard or soft.
      bins: >= 1.

    Returns:
      The error in [0, 1]; 0 is calibrated.

    Raises:
      InputError: shapes that do not fit, no pairs, numbers outside [0, 1], or bins < 1.

    Reference: Naeini, Cooper, Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian
    binning", the expected calibration error.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if p.ndim != 1 or p.shape != y.shape or not p.size:
        raise InputError(
            f"expected_calibration_error: probabilities {p.shape} and labels {y.shape} must both be [n], "
            "with n >= 1."
        )
    if bins < 1:
        raise InputError(f"expected_calibration_error: bins is {bins}; it must be at least 1.")
    for name, values in (("probability", p), ("label", y)):
        wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))  # nan is wrong as well
        if wrong.size:
            raise InputError(
                f"expected_calibration_error: {name} {wrong[0]} is {values[wrong[0]]}; must be in [0, 1]."
            )
    places = np.minimum((p * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(places, p - y)).sum() / p.size)


def _score_rows(model: ScoreModel, lora: Lora | None, batch: ResponseBatch) -> jax.Array:
    """Scores of the responses of every row: [B, M]."""
    return response_scores(model, batch, lora=lora).reshape(-1, responses_per_row(batch))


# Compiled once for each shape of batch; the columns of the result are the responses of a row.
response_scores_jit = jax.jit(_score_rows)
pair_scores_jit = jax.jit(lambda model, lora, batch: jnp.stack(pair_scores(model, batch, lora=lora), axis=1))


def _check_finite(scores: np.ndarray, where: str, what: str) -> None:
    """Refuses scores [n, S] that are not finite; nan in one response of a pair reaches the other."""
    wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if wrong.size:
        shown = ", ".join(str(score) for score in scores[wrong[0]])
        raise InputError(
            f"{where}: {what} {wrong[0]} scores {shown}; check the weights and the normalizer of the score "
            "model, or compute in float32 where it is bfloat16."
        )
