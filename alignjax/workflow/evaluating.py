"""The stages after training: every policy is sampled and scored, and compared with what was promised."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignjax.aot.program import Use
from alignjax.data.responses import Responses
from alignjax.data.tokenize import Template, TokenizedResponse, tokenize_prompts
from alignjax.data.worlds import Enumeration
from alignjax.dual.statistics import resampling_weights
from alignjax.evaluation.audit import Means, Resampling, audit, exact_means, sampled_means
from alignjax.evaluation.comparison import Comparison
from alignjax.evaluation.response_stats import response_stats
from alignjax.policy.known_logps import kl_of_responses
from alignjax.policy.sampling import end_ids
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.evaluation import Evaluation
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.runtime.files import write_record
from alignjax.scores import calibration as calib
from alignjax.scores.scorers import require_tables, score_responses
from alignjax.stages import Run, Stage, Work
from alignjax.workflow import uses
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.scoring import Scorers, responses_stage
from alignjax.workflow.setup import Setup, content, part

_SCORES = "evaluation_scores.npz"


class Evaluated(NamedTuple):
    """What every policy reaches.

    Attributes:
      record: as evaluation.json holds it.
      scores: by policy, [N, K, 1+m] raw scores of single responses, for histograms.
    """

    record: Evaluation
    scores: Mapping[str, np.ndarray]


def responses_of(run: Run, setup: Setup, data: Data, policies: Mapping[str, Policy]) -> dict[str, Responses]:
    """Responses of every policy to prompts that no training has seen: evaluation_samples/NAME.jsonl.

    In a world whose every response is listed none are drawn.
    """
    if setup.population:
        return {}
    prompts = data.pairs.eval_prompts[: setup.config.evaluation.num_prompts]
    return {
        name: run.do(
            responses_stage(
                setup,
                policy,
                data,
                prompts,
                f"evaluation samples/{name}",
                f"evaluation_samples/{name}.jsonl",
                "evaluation",
            )
        )
        for name, policy in policies.items()
    }


def evaluated(
    setup: Setup,
    data: Data,
    policies: Mapping[str, Policy],
    drawn: Mapping[str, Responses],
    by: Scorers,
    calibration: Calibrated,
    answer: DualAnswer,
) -> Stage[Evaluated]:
    """What every policy reaches beside what was promised, and against each other: evaluation.json.

    Args:
      setup: of the run.
      data: template of prompts.
      policies: by name, the reference first.
      drawn: their responses; empty in a world whose every response is listed.
      by: scorers.
      calibration: of the scores.
      answer: of the dual.
    """
    config, world = setup.config, setup.world
    verdicts = {
        name: content(setup, judge.verdicts) for name, judge in config.judges.items() if judge.verdicts
    }
    made_by = [f"evaluation samples/{name}" for name in drawn] or [one.stage for one in policies.values()]

    def compute(work: Work) -> Evaluated:
        if world is not None and world.enumeration is not None:
            means, comparison = _exact(setup, world.enumeration, data.template, policies, by, answer)
        else:
            means, comparison = _sampled(setup, policies, drawn, by)
        resampling = _resampling(setup, calibration, len(means["reference"].kl))
        record = audit(means, comparison, answer, resampling, config.judges)
        return Evaluated(record, {name: one.scatter for name, one in means.items()})

    def save(folder: Path, found: Evaluated) -> None:
        write_npz(folder / _SCORES, **found.scores)
        write_record(folder / "evaluation.json", found.record)

    return Stage(
        name="evaluation",
        settings=part(setup, "bootstrap", "judges", "refusals") | {"verdicts": verdicts},
        inputs=("dual", *dict.fromkeys(made_by)),
        outputs=("evaluation.json", _SCORES),
        compute=compute,
        save=save,
        load=lambda folder, work: Evaluated(
            read_record(Evaluation, folder / "evaluation.json"), read_npz(folder / _SCORES)
        ),
        abstract=lambda: Evaluated(Evaluation({}, {}, {}, {}), {}),
        programs=lambda: _programs(setup, policies, drawn, by),
    )


def _sampled(
    setup: Setup, policies: Mapping[str, Policy], drawn: Mapping[str, Responses], by: Scorers
) -> tuple[dict[str, Means], Comparison]:
    """Means over responses that were sampled."""
    require_tables(by, setup.unscored, drawn=list(drawn.values()))
    # One score after the other, and not one policy after the other: each model is read once.
    columns = [{name: scorer.responses(some) for name, some in drawn.items()} for scorer in by.values()]
    reference, means = policies["reference"], {}
    for name, policy in policies.items():
        scores = np.stack([column[name] for column in columns], axis=-1)
        kl = kl_of_responses(policy, reference, drawn[name], setup.batching)
        stats = response_stats(drawn[name], end_ids(policy.model), setup.config.refusals)
        means[name] = sampled_means(scores, kl, stats, drawn[name], setup.world)
    first = {name: [texts[0] for texts in some.texts] for name, some in drawn.items()}
    scores = {name: one.scatter for name, one in means.items()}
    return means, Comparison(scores, None, drawn["reference"].prompts, first)


def _exact(
    setup: Setup,
    world: Enumeration,
    template: Template,
    policies: Mapping[str, Policy],
    by: Scorers,
    answer: DualAnswer,
) -> tuple[dict[str, Means], Comparison]:
    """Sums over every response of every prompt."""
    reference = policies["reference"]
    listed = all_responses(world, template, reference)
    require_tables(by, setup.unscored, drawn=[listed])
    logps = {name: setup.logps.of_responses(policy, listed) for name, policy in policies.items()}
    scores = score_responses(by, listed)
    stats = response_stats(listed, end_ids(reference.model), setup.config.refusals)
    asked = [constraint.margin for constraint in setup.config.constraints.values()]
    margins = [margin for margin in asked if margin is not None]
    rng = np.random.default_rng(setup.seeds.seed("histogram"))
    means = exact_means(
        logps,
        scores,
        stats,
        world,
        beta=answer.beta,
        margins=margins if len(margins) == len(asked) else None,
        rng=rng,
    )
    weights = {name: np.exp(values) for name, values in logps.items()}
    return means, Comparison(dict.fromkeys(logps, scores), weights, listed.prompts, None)


def all_responses(world: Enumeration, template: Template, reference: Policy) -> Responses:
    """Every response to every prompt of a world that lists them."""
    prompts = list(world.prompts)
    limit = max(len(prompt.split()) for prompt in prompts)
    ids, _ = tokenize_prompts(reference.tokenizer, template, prompts, max_prompt_length=limit)
    rows = [tokens[:length] for tokens, length in zip(world.tokens, world.lengths, strict=True)]
    listed = [[TokenizedResponse(prompt, row) for row in rows] for prompt in ids]
    return Responses([*prompts], [list(world.texts)] * len(prompts), listed)


def _resampling(setup: Setup, calibration: Calibrated, prompts: int) -> Resampling:
    count = setup.config.bootstrap
    rng = np.random.default_rng(setup.seeds.seed("evaluate"))
    weights = resampling_weights(rng, prompts, count, population=setup.population)
    matrices = np.asarray(calib.draws(setup.seeds.key("calibration"), calibration.fit, count))
    return Resampling(calibration.fit.matrix, matrices, weights)


def _programs(
    setup: Setup, policies: Mapping[str, Policy], drawn: Mapping[str, Responses], by: Scorers
) -> list[Use]:
    world = setup.world
    if world is not None and world.enumeration is not None:
        listed = _listed(world.enumeration)
        found = [uses.response_logps(policy, listed, setup.batching) for policy in policies.values()]
        return found + list(uses.scoring_responses(by.values(), listed, setup.batching))
    found = [
        use
        for scorer in by.values()
        for some in drawn.values()
        for use in uses.scoring_responses([scorer], some, setup.batching)
    ]
    reference = policies["reference"]
    return found + [
        uses.divergence(policy, reference, drawn[name], setup.batching) for name, policy in policies.items()
    ]


def _listed(world: Enumeration) -> Responses:
    """Shapes of `all_responses`."""
    width = max(len(prompt.split()) for prompt in world.prompts)
    prompt = np.zeros(width, np.int32)
    row = [
        TokenizedResponse(prompt, tokens[:n]) for tokens, n in zip(world.tokens, world.lengths, strict=True)
    ]
    count = len(world.prompts)
    return Responses([*world.prompts], [list(world.texts)] * count, [row] * count)
