"""Relabels the pairs with the score of the Lagrangian."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from alignjax.alignment.relabel import bernoulli_labels, entropy, flip_rate, soft_labels
from alignjax.data.records import prompt_key
from alignjax.runtime.files import write_text
from alignjax.stages import read_json
from alignjax.workflow.context import Context
from alignjax.workflow.dualize import read_calibration
from alignjax.workflow.preferences import Preferences
from alignjax.workflow.scorers import Scorer, score_pairs
from alignjax.workflow.scoring import write_npz


def relabel(context: Context, preferences: Preferences, scorers: Mapping[str, Scorer]) -> None:
    """Writes labels.jsonl: every pair with P(chosen preferred) under s = r + <lambda*, g>.

    The scores are calibrated, so that s is in the logits of the labels. `config.raw_labels` drops beta_pre as
    the authors' code does, `config.hard_labels` draws Bernoulli labels instead of keeping the probability.
    """
    config = context.config
    lam = np.array(list(read_json(context.workdir / "dual.json")["lam"].values()))
    raw = score_pairs(scorers, preferences.align, preferences.align_pairs)
    calibrated = raw @ read_calibration(context.workdir).matrix.T  # [n, 2, 1+m]
    write_npz(context.workdir / "pair_scores.npz", scores=calibrated)
    total = calibrated[..., 0] + calibrated[..., 1:] @ lam
    if config.raw_labels:
        total = total / config.beta_pre
    total = jnp.asarray(total, jnp.float32)
    labels = soft_labels(total[:, 0], total[:, 1])
    if config.hard_labels:
        labels = bernoulli_labels(context.key("labels"), labels, draws=config.hard_labels)
    flips = flip_rates(np.asarray(labels), preferences.human)
    bits = float(jnp.mean(entropy(labels)))
    context.metrics.rewind("labels", -1)
    context.metrics.write(
        "labels", 0, {"labels/entropy": bits, **{f"labels/flip_rate/{k}": v for k, v in flips.items()}}
    )
    shown = ", ".join(f"{name} {rate:.1%}" for name, rate in flips.items())
    against = f"labels turned over against the people's: {shown}; " if flips else ""
    context.say(f"  {len(labels)} pairs; {against}mean entropy {bits:.3f} nats")
    lines = [
        json.dumps(
            {"prompt": prompt_key(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected, "label": p}
        )
        for pair, p in zip(preferences.align_pairs, np.asarray(labels, np.float64).tolist(), strict=True)
    ]
    write_text(context.workdir / "labels.jsonl", "\n".join(lines) + "\n")


def labels_of(workdir: Path, weights: np.ndarray) -> np.ndarray:
    """P(chosen preferred) under another combination of the scores of the same pairs, [n] float32.

        p = sigma(<w, s(chosen) - s(rejected)>),   s calibrated, the reward first

    Args:
      workdir: the run's folder, whose pairs `relabel` has scored.
      weights: [1+m] float, w.
    """
    with np.load(workdir / "pair_scores.npz") as stored:
        total = jnp.asarray(stored["scores"] @ weights, jnp.float32)
    return np.asarray(soft_labels(total[:, 0], total[:, 1]))


def flip_rates(labels: np.ndarray, human: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Share of pairs, by dimension, whose preferred response is another than the people's.

    Pairs without a label of that dimension do not count.
    """
    rates = {}
    for name, given in human.items():
        known = ~np.isnan(given)
        rates[name] = float(flip_rate(jnp.asarray(labels[known]), jnp.asarray(given[known])))
    return rates


def read_labels(workdir: Path) -> np.ndarray:
    """[n] float32 labels in the order of the pairs."""
    lines = (workdir / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([json.loads(line)["label"] for line in lines], np.float32)
