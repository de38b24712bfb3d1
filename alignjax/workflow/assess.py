"""Evaluation after training: what every policy reaches, beside what the dual promised."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.tokenize import Template, TokenizedResponse, tokenize_prompts
from alignjax.data.worlds import Enumeration
from alignjax.data.worlds import enumerable as tree
from alignjax.errors import InputError
from alignjax.policy.sampling import end_ids
from alignjax.runtime.files import remove
from alignjax.stages import read_json, write_json
from alignjax.workflow.contests import Played, contests
from alignjax.workflow.context import Context
from alignjax.workflow.dualize import calibration_draws, read_calibration
from alignjax.workflow.estimates import Figure, calibrated_means, mean_figure, resampling_weights
from alignjax.workflow.preferences import Preferences
from alignjax.workflow.scorers import Scorer, require_tables, score_responses
from alignjax.workflow.scoring import (
    FORMS,
    Policy,
    ResponseLogps,
    Responses,
    draw,
    response_forms,
    response_kl,
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
      forms: [N, 4] the columns of `scoring.FORMS`.
      scatter: [N, K, 1+m] raw scores of single responses, for histograms.
      kl_from_optimum: nats, KL(pi_lam* || policy), where sums are exact.
    """

    scores: np.ndarray
    kl: np.ndarray
    truth: np.ndarray | None
    forms: np.ndarray
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
        means, played = _exact(context, world.enumeration, template, scorers, policies, logps)
    else:
        reference = policies["reference"]
        drawn = {name: _draw(context, preferences, template, policy) for name, policy in policies.items()}
        require_tables(scorers, context.workdir / "unscored.jsonl", drawn=list(drawn.values()))
        # One model after the other, and not one policy after the other: each is read once.
        found = [
            {name: scorer.responses(some) for name, some in drawn.items()} for scorer in scorers.values()
        ]
        scores = {name: np.stack([one[name] for one in found], axis=-1) for name in policies}
        means = {
            name: _sampled(context, scores[name], reference, policy, drawn[name])
            for name, policy in policies.items()
        }
        first = {name: [texts[0] for texts in found.texts] for name, found in drawn.items()}
        played = Played(
            {name: found.scatter for name, found in means.items()}, None, drawn["reference"].prompts, first
        )
    write_json(context.workdir / "evaluation.json", _record(context, means, played))
    write_npz(context.workdir / "evaluation_scores.npz", **{name: m.scatter for name, m in means.items()})
    # Not before a judge of the user's own is through, which may fail after hours of sampling.
    for name in policies:
        remove(context.cache("evaluation", "jsonl", name))


def _draw(context: Context, preferences: Preferences, template: Template, policy: Policy) -> Responses:
    """Samples the policy on prompts that no training has seen: evaluation_samples/POLICY.jsonl."""
    part = context.cache("evaluation", "jsonl", policy.name)
    drawn = draw(context, policy, template, preferences.eval_prompts, context.config.evaluation, part)
    folder = context.workdir / "evaluation_samples"
    write_responses(folder / f"{policy.name}.jsonl", drawn, {"policy": policy.name})
    return drawn


def _sampled(
    context: Context, scores: np.ndarray, reference: Policy, policy: Policy, drawn: Responses
) -> Means:
    """Means over responses sampled from the policy itself, with their scores [N, K, 1+m]."""
    kl = response_kl(context, policy, reference, drawn)
    forms = response_forms(drawn, end_ids(policy.model), context.config.refusals)
    truth = None
    if context.world is not None:
        world = context.world
        pairs = zip(drawn.prompts, drawn.texts, strict=True)
        truth = np.stack([world.true_scores(str(prompt), texts).mean(axis=0) for prompt, texts in pairs])
    return Means(scores.mean(axis=1), kl.mean(axis=1), truth, forms.mean(axis=1), scores)


def _exact(
    context: Context,
    world: Enumeration,
    template: Template,
    scorers: Mapping[str, Scorer],
    policies: Mapping[str, Policy],
    logps: ResponseLogps,
) -> tuple[dict[str, Means], Played]:
    """Sums over every response of every prompt."""
    config = context.config
    listed = _all_responses(world, template, policies["reference"])
    require_tables(scorers, context.workdir / "unscored.jsonl", drawn=[listed])
    found = {name: logps.of(policy, listed) for name, policy in policies.items()}
    ref = found["reference"]
    scores = score_responses(scorers, listed)
    truth = world.scores
    margins = np.array([c.margin if c.margin is not None else np.nan for c in config.constraints.values()])
    optimum = None
    if np.isfinite(margins).all():
        optimum = tree.exact_dual(ref, truth, beta=config.beta, margins=margins.tolist()).log_policy
    rng = np.random.default_rng(context.seed("histogram"))
    forms = response_forms(listed, end_ids(policies["reference"].model), config.refusals)
    probabilities = {name: np.exp(values) for name, values in found.items()}
    means = {}
    for name, values in found.items():
        weights = probabilities[name]
        shown = np.stack([rng.choice(len(w), size=256, p=w / w.sum()) for w in weights])
        means[name] = Means(
            np.einsum("py,pyd->pd", weights, scores),
            np.sum(weights * (values - ref), axis=1),
            np.einsum("py,pyd->pd", weights, truth),
            np.einsum("py,pyd->pd", weights, forms),
            np.take_along_axis(scores, shown[..., None], axis=1),
            None if optimum is None else float(tree.exact_kl(optimum, values)),
        )
    return means, Played(dict.fromkeys(found, scores), probabilities, listed.prompts, None)


def _all_responses(world: Enumeration, template: Template, reference: Policy) -> Responses:
    tokenizer = tokenizer_of(reference.model)
    prompts = list(world.prompts)
    limit = max(len(prompt.split()) for prompt in prompts)
    ids, _ = tokenize_prompts(tokenizer, template, prompts, max_prompt_length=limit)
    rows = [tokens[:length] for tokens, length in zip(world.tokens, world.lengths, strict=True)]
    listed = [[TokenizedResponse(prompt, row) for row in rows] for prompt in ids]
    return Responses([*prompts], [list(world.texts)] * len(prompts), listed)


def _record(context: Context, means: Mapping[str, Means], played: Played) -> dict[str, Any]:
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
            **_named(FORMS, [mean_figure(column, resamples) for column in policy.forms.T]),
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
    played = played._replace(scores={k: raw @ calibration.matrix.T for k, raw in played.scores.items()})
    return record | {"contests": contests(config, played, resamples)}


def _named(names: Iterable[str], figures: list[Figure]) -> dict[str, dict[str, float]]:
    names = list(names)
    if len(names) != len(figures):
        raise InputError(
            f"constraints: {len(names)} are configured, the scores hold {len(figures)}; redo the scores."
        )
    return {name: figure.to_json() for name, figure in zip(names, figures, strict=True)}
