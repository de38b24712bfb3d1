"""Multi-shot: what the trained policy misses of its margins corrects the multiplier, and it is aligned again.

    lam  <-  max(0, lam - eta (achieved - asked)),   then DPO on the new labels from the last policy's weights

The reference stays the same. Huang et al. 2024, arXiv 2405.19544, iterated dualization; one round is the
one-shot method.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alignjax.dual import frontier
from alignjax.runtime.files import remove
from alignjax.scores.table import read_table
from alignjax.stages import read_json, write_json
from alignjax.workflow import labels, scoring, training
from alignjax.workflow.context import Context
from alignjax.workflow.dualize import read_calibration
from alignjax.workflow.scorers import Scorer, score_responses
from alignjax.workflow.scoring import Policy
from alignjax.workflow.steps import Start, part
from alignjax.workflow.training import LabelledPairs

_NUDGE = 1e-3  # of a multiplier's size: the step of the difference that gives the slope of a margin


def refine(context: Context, start: Start, scorers: Mapping[str, Scorer], first: Policy) -> Policy:
    """Every further round: rounds/N.json says what the policy of round N reaches and at which multiplier.

    Args:
      context: the run; `config.rounds.count` rounds in all.
      start: the reference and the pairs.
      scorers: by dimension, the reward first.
      first: the policy of the one-shot round.

    Returns:
      The policy of the last round; `first` where there is one round only.
    """
    count = context.config.rounds.count
    if count == 1:
        return first
    lam = np.array(list(read_json(context.workdir / "dual.json")["lam"].values()))
    policy, before = first, "policy"
    for number in range(1, count + 1):
        found = _measure(context, start, scorers, policy, lam, number, before)
        if number == count:
            break
        lam = np.array(list(found["next_lam"].values()))
        before = f"rounds/{number + 1}"
        policy = _align_again(context, start, policy, lam, before, f"rounds/{number}.json")
    return policy


def _measure(
    context: Context,
    start: Start,
    scorers: Mapping[str, Scorer],
    policy: Policy,
    lam: np.ndarray,
    number: int,
    trained: str,
) -> dict[str, Any]:
    """Samples the policy where the reference was sampled, and compares: rounds/NUMBER.json."""
    stage, config = f"rounds/{number}.json", context.config

    def work() -> None:
        kept = context.cache(stage, "jsonl")
        prompts = start.data.train_prompts
        drawn = scoring.draw(context, policy, start.template, prompts, config.sampling, kept)
        kl = np.mean(scoring.response_kl(context, policy, start.reference, drawn))
        scores = score_responses(scorers, drawn) @ read_calibration(context.workdir).matrix.T
        table = read_table(context.workdir / "scores.npz")
        achieved = scores[..., 1:].mean(axis=(0, 1)) - np.asarray(table.utilities, np.float64).mean(
            axis=(0, 1)
        )
        dual = read_json(context.workdir / "dual.json")
        asked = np.array([one["margin"] for one in dual["asked"].values()], np.float64)
        step = config.rounds.step
        eta = _inverse_slopes(table.rewards, table.utilities, lam, config.beta) if step is None else step
        following = np.maximum(0.0, lam - eta * (achieved - asked))
        rows = zip(lam, asked, achieved, following, strict=True)
        named = dict(zip(config.constraints, rows, strict=True))
        record = {
            "round": number,
            "lam": {name: float(v[0]) for name, v in named.items()},
            "asked": {name: float(v[1]) for name, v in named.items()},
            "achieved": {name: float(v[2]) for name, v in named.items()},
            "next_lam": {name: float(v[3]) for name, v in named.items()},
            "reward": float(scores[..., 0].mean()),
            "kl": float(kl),
        }
        write_json(context.workdir / stage, record)
        remove(kept)
        for name, (value, wanted, got, _) in named.items():
            met = f"margin {got:.3f} of {wanted:.3f}"
            context.say(f"  round {number}: lambda of {name} {value:.4f}, {met}, KL {kl:.3f}")

    context.stages.run(
        stage, work, settings=part(context, "sampling", "rounds"), inputs=[trained], outputs=[stage]
    )
    return read_json(context.workdir / stage)


def _align_again(
    context: Context, start: Start, policy: Policy, lam: np.ndarray, stage: str, measured: str
) -> Policy:
    """DPO on the labels of another multiplier, from the last policy's weights."""
    given = labels.labels_of(context.workdir, np.concatenate([[1.0], lam]))
    context.stages.run(
        stage,
        lambda: training.train_dpo(
            context,
            stage,
            start.reference,
            LabelledPairs(start.data.align, given),
            None,
            context.config.align,
            beta=context.config.beta,
            begin=policy,
        ),
        settings=part(context, "align", "lora", "beta"),
        inputs=[measured],
        outputs=[f"{stage}/best"],
    )
    return training.load_policy(context, stage, start.reference, "aligned")


def _inverse_slopes(rewards: Any, utilities: Any, lam: np.ndarray, beta: float) -> np.ndarray:
    """How much lam_j buys a unit of margin_j on the predicted curve, [m]: a Newton step's factor."""
    size = _NUDGE * (1.0 + np.abs(lam))
    lams = np.concatenate([lam[None], lam + np.diag(size)])
    margins = np.asarray(frontier(rewards, utilities, beta=beta, lams=lams).margins)
    rise = np.diag(margins[1:] - margins[0])
    return size / np.maximum(rise, 1e-12)
