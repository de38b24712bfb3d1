"""Relabels pairs with the score of the Lagrangian."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.alignment.relabel import bernoulli_labels, entropy, flip_rate, soft_labels
from alignjax.data.files import read_json_lines
from alignjax.data.records import PreferencePair, prompt_json
from alignjax.runtime.files import write_text


class Labels(NamedTuple):
    """New labels of the pairs to align on.

    Attributes:
      values: [n] float32, P(chosen preferred) under s = r + <lambda*, g>.
      pairs: the n pairs; empty in a value that was loaded.
    """

    values: np.ndarray
    pairs: Sequence[PreferencePair] = ()


def relabel(
    scores: np.ndarray,
    weights: np.ndarray,
    *,
    scale: float = 1.0,
    draws: int = 0,
    key: jax.Array | None = None,
) -> np.ndarray:
    """P(chosen preferred) under a combination of the scores.

        p = sigma(scale <w, s(chosen) - s(rejected)>)

    Args:
      scores: [n, 2, 1+m] calibrated scores of chosen and rejected, the reward first.
      weights: [1+m] float, w: 1 and the multipliers, for the score of the Lagrangian.
      scale: 1; 1 / beta_pre for the authors' labels, which take log-ratios without beta_pre.
      draws: 0: the probability itself; n > 0: the mean of n Bernoulli draws of it (the authors: 1).
      key: of the draws.

    Returns:
      [n] float32.
    """
    total = jnp.asarray((scores @ weights) * scale, jnp.float32)
    labels = soft_labels(total[:, 0], total[:, 1])
    if draws:
        assert key is not None
        labels = bernoulli_labels(key, labels, draws=draws)
    return np.asarray(labels)


def label_metrics(labels: np.ndarray, human: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean entropy of labels in nats, and by dimension the share that differs from the human labels.

    Args:
      labels: [n] P(chosen preferred).
      human: by dimension, [n] human labels, nan where a pair has none; those pairs do not count.

    Returns:
      labels/entropy and labels/flip_rate/NAME.
    """
    metrics = {"labels/entropy": float(jnp.mean(entropy(jnp.asarray(labels))))}
    for name, given in human.items():
        known = ~np.isnan(given)
        rate = flip_rate(jnp.asarray(labels[known]), jnp.asarray(given[known]))
        metrics[f"labels/flip_rate/{name}"] = float(rate)
    return metrics


def save(workdir: Path, labels: Labels) -> None:
    """Writes labels.jsonl: every pair with its label."""
    lines = [
        json.dumps(
            {"prompt": prompt_json(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected, "label": p}
        )
        for pair, p in zip(labels.pairs, np.asarray(labels.values, np.float64).tolist(), strict=True)
    ]
    write_text(workdir / "labels.jsonl", "\n".join(lines) + "\n")


def load(workdir: Path) -> Labels:
    """Reads labels.jsonl."""
    rows = read_json_lines(workdir / "labels.jsonl")
    return Labels(np.array([row["label"] for _, row in rows], np.float32))
