"""Evaluation after training: what every policy reaches, beside what the dual promised."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.tokenize import Template, TokenizedResponse, tokenize_prompts
from alignjax.data.worlds import Enumeration
from alignjax.data.worlds import enumerable as tree
from alignjax.errors import InputError
from alignjax.stages import read_json, write_json
from alignjax.workflow.context import Context
from alignjax.workflow.dualize import calibration_draws, read_calibration
from alignjax.workflow.estimates import Figure, calibrated_means, mean_figure, resampling_weights
from alignjax.workflow.preferences import Preferences
from alignjax.workflow.scorers import Scorer, TableScorer, require_scores, score_responses
from alignjax.workflow.scoring import (
    Policy,
    ResponseLogps,
    Responses,
    draw,
    tokenizer_of,
    write_npz,
    write_responses,
)


class Means(NamedTuple):
    """What one policy reaches on each prompt, a mean over its responses.

    Attributes:
      scores: [N, 1+m] raw implicit scores.
      kl: [N] nats, KL(policy || reference).
      truth: [N, 2] true scores where a world knows them.
      scatter: [N, K, 1+m] raw scores of single responses, for histograms.
      kl_from_optimum: nats, KL(pi_lam* || policy), where sums are exact.
    """

    scores: np.ndarray
    kl: np.ndarray
    truth: np.ndarray | None
    scatter: np.ndarray
    kl_from_optimum: float | None = None


def evaluate(
    context: Context,
    preferences: Preferences,
    template: Template,
    scorers: Mapping[str, Scorer],
    policies: Mapping[str, Policy],
    logps: ResponseLogps,
) -> None:
    """Writes evaluation.json, the samples of every policy and the scores for the histograms.

    Args:
      context: the run.
      preferences: its prompts for evaluation.
      template: how a prompt is shown.
      scorers: by dimension, the reward first.
      policies: by name; "reference" first.
      logps: shared with the scorers.
    """
    world = context.world
    if world is not None and world.enumeration is not None:
        means = _exact(context, world.enumeration, template, scorers, policies, logps)
    else:
        if any(isinstance(scorer, TableScorer) for scorer in scorers.values()):
            drawn = [_drawn(context, preferences, template, policy) for policy in policies.values()]
            require_scores(scorers, context.workdir / "unscored.jsonl", drawn=drawn)
        means = {
            name: _sampled(context, preferences, template, scorers, policies["reference"], policy, logps)
            for name, policy in policies.items()
        }
    for name in policies:
        context.cache("evaluation", "jsonl", name).unlink(missing_ok=True)
    write_json(context.workdir / "evaluation.json", _record(context, means))
    write_npz(context.workdir / "evaluation_scores.npz", **{name: m.scatter for name, m in means.items()})


def _sampled(
    context: Context,
    preferences: Preferences,
    template: Template,
    scorers: Mapping[str, Scorer],
    reference: Policy,
    policy: Policy,
    logps: ResponseLogps,
) -> Means:
    """Means over responses sampled from the policy itself on prompts that no training has seen."""
    drawn = _drawn(context, preferences, template, policy)
    folder = context.workdir / "evaluation_samples"
    write_responses(folder / f"{policy.name}.jsonl", drawn, {"policy": policy.name})
    scores = score_responses(scorers, drawn)
    own, ref = logps.of(policy, drawn), logps.of(reference, drawn)
    truth = None
    if context.world is not None:
        world = context.world
        pairs = zip(drawn.prompts, drawn.texts, strict=True)
        truth = np.stack([world.true_scores(str(prompt), texts).mean(axis=0) for prompt, texts in pairs])
    return Means(scores.mean(axis=1), (own - ref).mean(axis=1), truth, scores)


def _drawn(context: Context, preferences: Preferences, template: Template, policy: Policy) -> Responses:
    """Responses of a policy to the evaluation prompts; what was drawn before is not drawn again."""
    part = context.cache("evaluation", "jsonl", policy.name)
    return draw(context, policy, template, preferences.eval_prompts, context.config.evaluation, part)


def _exact(
    context: Context,
    world: Enumeration,
    template: Template,
    scorers: Mapping[str, Scorer],
    policies: Mapping[str, Policy],
    logps: ResponseLogps,
) -> dict[str, Means]:
    """Sums over every response of every prompt."""
    config = context.config
    listed = _all_responses(world, template, policies["reference"])
    require_scores(scorers, context.workdir / "unscored.jsonl", drawn=[listed])
    found = {name: logps.of(policy, listed) for name, policy in policies.items()}
    ref = found["reference"]
    scores = score_responses(scorers, listed)
    truth = world.scores
    margins = np.array([c.margin if c.margin is not None else np.nan for c in config.constraints.values()])
    optimum = None
    if np.isfinite(margins).all():
        optimum = tree.exact_dual(ref, truth, beta=config.beta, margins=margins.tolist()).log_policy
    rng = np.random.default_rng(context.seed("histogram"))
    means = {}
    for name, values in found.items():
        weights = np.exp(values)
        shown = np.stack([rng.choice(len(w), size=256, p=w / w.sum()) for w in weights])
        means[name] = Means(
            np.einsum("py,pyd->pd", weights, scores),
            np.sum(weights * (values - ref), axis=1),
            np.einsum("py,pyd->pd", weights, truth),
            np.take_along_axis(scores, shown[..., None], axis=1),
            None if optimum is None else float(tree.exact_kl(optimum, values)),
        )
    return means


def _all_responses(world: Enumeration, template: Template, reference: Policy) -> Responses:
    tokenizer = tokenizer_of(reference.model)
    prompts = list(world.prompts)
    limit = max(len(prompt.split()) for prompt in prompts)
    ids, _ = tokenize_prompts(tokenizer, template, prompts, max_prompt_length=limit)
    rows = [tokens[:length] for tokens, length in zip(world.tokens, world.lengths, strict=True)]
    listed = [[TokenizedResponse(prompt, row) for row in rows] for prompt in ids]
    return Responses([*prompts], [list(world.texts)] * len(prompts), listed)


def _record(context: Context, means: Mapping[str, Means]) -> dict[str, Any]:
    config = context.config
    dual = read_json(context.workdir / "dual.json")
    calibration = read_calibration(context.workdir)
    matrices = calibration_draws(context, calibration)
    base = means["reference"]
    rng = np.random.default_rng(context.seed("evaluate"))
    resamples = resampling_weights(rng, len(base.kl), config.bootstrap, population=context.population)
    predicted = dual["predicted"]
    record: dict[str, Any] = {
        "asked": {name: asked["margin"] for name, asked in dual["asked"].items()},
        "predicted": {
            **{k: predicted[k] for k in ("reward", "kl", "utilities", "margins")},
            **predicted["margins"],
        },
        "policies": {},
    }
    for name, policy in means.items():
        levels = calibrated_means(policy.scores, calibration.matrix, matrices, resamples)
        gains = calibrated_means(policy.scores - base.scores, calibration.matrix, matrices, resamples)
        entry: dict[str, Any] = {
            "reward": levels[0].to_json(),
            "reward_gain": gains[0].to_json(),
            "kl": mean_figure(policy.kl, resamples).to_json(),
            "utilities": _named(config.constraints, levels[1:]),
            "margins": _named(config.constraints, gains[1:]),
        }
        if policy.truth is not None and base.truth is not None:
            entry["true_reward"] = mean_figure(policy.truth[:, 0], resamples).to_json()
            true = [
                mean_figure(policy.truth[:, 1 + j] - base.truth[:, 1 + j], resamples)
                for j in range(len(gains) - 1)
            ]
            entry["true_margins"] = _named(config.constraints, true)
        if policy.kl_from_optimum is not None:
            value = policy.kl_from_optimum
            entry["kl_from_optimum"] = Figure(value, value, value).to_json()
        record["policies"][name] = entry
    return record


def _named(names: Mapping[str, Any], figures: list[Figure]) -> dict[str, dict[str, float]]:
    if len(names) != len(figures):
        raise InputError(
            f"constraints: {len(names)} are configured, the scores hold {len(figures)}; redo the scores."
        )
    return {name: figure.to_json() for name, figure in zip(names, figures, strict=True)}
