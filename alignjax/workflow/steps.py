"""The stages that both methods are made of, each run once and kept."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.config import ScoreSettings, TrainingSettings, to_mapping
from alignjax.data.tokenize import Template
from alignjax.models import ScoreModel
from alignjax.models import load_score_model as load_folder
from alignjax.runtime.files import remove
from alignjax.scores.lookup import read_lookup
from alignjax.stages import file_digest, write_json
from alignjax.workflow import assess, dualize, judges, labels, preferences, score_models, scoring, training
from alignjax.workflow.context import Context
from alignjax.workflow.preferences import Preferences
from alignjax.workflow.scorers import (
    LearnedScorer,
    Scorer,
    TableScorer,
    function_scorer,
    require_tables,
    score_responses,
    table_digests,
    true_scorer,
)
from alignjax.workflow.scoring import Policy, ResponseLogps, Responses
from alignjax.workflow.training import LabelledPairs


class Start(NamedTuple):
    """What every later stage needs: the reference policy, how prompts are shown, and the labelled pairs."""

    reference: Policy
    template: Template
    data: Preferences


def part(context: Context, *fields: str) -> dict[str, Any]:
    """The settings that a stage depends on: the seed and these fields of the configuration."""
    settings = to_mapping(context.config)
    return {"seed": context.config.seed, **{field: settings[field] for field in fields}}


def prepare(context: Context) -> Start:
    """The reference policy (an embedded world's is trained) and the preference data, counted."""
    config, stages, world = context.config, context.stages, context.world
    judges.check(config)
    training.check_mesh(context)
    files = {"files": context.digests}
    stages.run(
        "reference",
        lambda: training.train_reference(context, world) if world is not None else None,
        settings=part(context, "reference", "reference_examples", "model")
        | {"world": config.data.world}
        | files,
        outputs=["reference"] if world is not None else [],
    )
    reference = training.reference_policy(context)
    tokenizer = scoring.tokenizer_of(reference.model)
    template = preferences.template_of(context, tokenizer)
    data = preferences.load(context, tokenizer, template)
    stages.run(
        "data",
        lambda: write_json(context.workdir / "data.json", data.counts),
        settings=part(context, "data", "model") | {"dimensions": list(config.dimensions)} | files,
        inputs=["reference"],
        outputs=["data.json"],
    )
    for name, counts in data.counts.items():
        context.say(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in counts.items()))
    return Start(reference, template, data)


def prealign(context: Context, start: Start, name: str) -> Policy:
    """PeCAN: the policy aligned with the labels of one dimension alone."""
    train, held_out = start.data.dimensions[name]
    context.stages.run(
        name,
        lambda: training.train_dpo(
            context,
            name,
            start.reference,
            LabelledPairs(train.tokens, train.labels),
            LabelledPairs(held_out.tokens, held_out.labels),
            context.config.prealign,
            beta=context.config.beta_pre,
        ),
        settings=part(context, "prealign", "lora", "beta_pre"),
        inputs=["data"],
        outputs=[f"{name}/best"],
    )
    return training.load_policy(context, name, start.reference, name)


def sample(context: Context, start: Start) -> Responses:
    """K responses of the reference to each of N prompts: samples.jsonl."""
    path, prompts = context.workdir / "samples.jsonl", start.data.train_prompts

    def work() -> None:
        part = context.cache("samples", "jsonl")
        drawn = scoring.draw(context, start.reference, start.template, prompts, context.config.sampling, part)
        scoring.write_responses(path, drawn, {})
        remove(part)

    context.stages.run(
        "samples", work, settings=part(context, "sampling"), inputs=["data"], outputs=["samples.jsonl"]
    )
    return scoring.read_responses(path, context, start.reference, start.template, prompts)


def score(
    context: Context, drawn: Responses, scorers: Mapping[str, Scorer], inputs: Sequence[str]
) -> np.ndarray:
    """Raw scores of the samples by every dimension, [N, K, 1+m] float64: scores_raw.npz."""
    path = context.workdir / "scores_raw.npz"
    context.stages.run(
        "scores",
        lambda: scoring.write_npz(path, scores=score_responses(scorers, drawn)),
        settings=part(context, "scores")
        | {"files": context.digests, "tables": table_digests(scorers, lambda table: table.responses(drawn))},
        inputs=["samples", *inputs],
        outputs=["scores_raw.npz"],
    )
    with np.load(path) as stored:
        return stored["scores"]


def require_scores(context: Context, start: Start, drawn: Responses, scorers: Mapping[str, Scorer]) -> None:
    """Scores that are looked up in a table must be there for samples, held-out pairs and pairs to align on.

    Raises:
      InputError: some are missing; unscored.jsonl lists all of them.
    """
    held = [dimension.held_out.texts for dimension in start.data.dimensions.values()]
    pairs = [*held, start.data.align_pairs]
    require_tables(scorers, context.workdir / "unscored.jsonl", drawn=[drawn], pairs=pairs)


def calibrate(context: Context, start: Start, scorers: Mapping[str, Scorer], raw: np.ndarray) -> None:
    """The scores in the logits of held-out labels: calibration.json, scores.npz."""
    held = [d.held_out for d in start.data.dimensions.values()]
    tables = [table_digests(scorers, lambda table, h=h: table.pairs(h.tokens, h.texts)) for h in held]
    context.stages.run(
        "calibration",
        lambda: dualize.calibrate(context, start.data, scorers, raw),
        settings=part(context, "calibrate", "calibration", "accept_uninformative") | {"tables": tables},
        inputs=["scores"],
        outputs=["calibration.json", "held_out_scores.npz", "scores.npz"],
    )


def solve(context: Context, raw: np.ndarray) -> None:
    """The multiplier and what it promises: dual.json."""
    context.stages.run(
        "dual",
        lambda: dualize.dualize(context, raw),
        settings=part(context, "constraints", "lam", "beta", "bootstrap"),
        inputs=["calibration"],
        outputs=["dual.json"],
    )


def scorer(context: Context, start: Start, name: str) -> Scorer:
    """MoCAN: the score of one dimension, from where the configuration has it; None of them: trained here."""
    config, world = context.config, context.world
    source = config.scores.get(name, ScoreSettings())
    if source.exact and world is not None:
        return true_scorer(world, config.dimensions.index(name))
    if source.function:
        return function_scorer(source.function, f"config.scores.{name}.function")
    if source.table:
        return TableScorer(name, source.table, read_lookup(source.table, name))
    if source.path:

        def read() -> ScoreModel:
            model = load_folder(source.path or "", dtype=config.model.dtype, mesh=context.mesh)
            return training.with_kernel(context, model)

        load = functools.partial(context.residence.get, f"score {name}", read)
        load()  # a folder that cannot be used is refused now
        return LearnedScorer(context, name, lambda: (load(), None))
    reference, data = start.reference, start.data.dimensions[name]
    context.stages.run(
        name,
        lambda: score_models.train_score_model(context, name, reference, data),
        settings=part(context, "score_training", "score_model", "lora"),
        inputs=["data"],
        outputs=[f"{name}/best"],
    )
    return LearnedScorer(context, name, score_models.load_score_model(context, name, reference))


def with_pairs(context: Context, start: Start, drawn: Responses) -> Start:
    """MoCAN: the pairs to align on: those of the data, or pairs of the reference's own samples."""
    settings, data = context.config.relabel, start.data
    if settings.pairs == "samples":
        rng = np.random.default_rng(context.seed("pairs of samples"))
        data = preferences.pairs_of_samples(data, drawn, settings.pairs_per_prompt, rng)
    data = preferences.at_most(data, settings.max_pairs, context.seed("pairs to align on"))
    return start._replace(data=data)


def relabel(context: Context, start: Start, scorers: Mapping[str, Scorer]) -> np.ndarray:
    """P(chosen preferred) under s = r + <lambda*, g> of every pair, [n] float32: labels.jsonl."""
    data = start.data
    tables = table_digests(scorers, lambda table: table.pairs(data.align, data.align_pairs))
    context.stages.run(
        "labels",
        lambda: labels.relabel(context, start.data, scorers),
        settings=part(context, "hard_labels", "raw_labels", "relabel") | {"tables": tables},
        inputs=["dual"],
        outputs=["labels.jsonl", "pair_scores.npz"],
    )
    return labels.read_labels(context.workdir)


def align(
    context: Context, start: Start, given: np.ndarray, *, stage: str = "policy", name: str = "aligned"
) -> Policy:
    """One DPO from the reference to the labels [n]; `stage` is the folder of its checkpoints."""
    settings: TrainingSettings = context.config.align
    context.stages.run(
        stage,
        lambda: training.train_dpo(
            context,
            stage,
            start.reference,
            LabelledPairs(start.data.align, given),
            None,
            settings,
            beta=context.config.beta,
        ),
        settings=part(context, "align", "lora", "beta"),
        inputs=["labels"],
        outputs=[f"{stage}/best"],
    )
    return training.load_policy(context, stage, start.reference, name)


def baselines(context: Context, start: Start) -> dict[str, Policy]:
    """MoCAN: policies aligned to single scores and to fixed multipliers, on the same pairs."""
    trained = {}
    for name, weights in context.config.baseline_weights().items():
        given = labels.labels_of(context.workdir, np.array(weights))
        trained[name] = align(context, start, given, stage=f"baselines/{name}", name=name)
    return trained


def evaluate(
    context: Context,
    start: Start,
    scorers: Mapping[str, Scorer],
    policies: Mapping[str, Policy],
    logps: ResponseLogps,
    inputs: Sequence[str],
) -> None:
    """What every policy reaches beside what was promised, and against each other: evaluation.json."""
    given = {name: judge.verdicts for name, judge in context.config.judges.items()}
    verdicts = {name: file_digest(path) for name, path in given.items() if path}
    context.stages.run(
        "evaluation",
        lambda: assess.evaluate(context, start.data, start.template, scorers, policies, logps),
        settings=part(context, "evaluation", "bootstrap", "judges", "refusals") | {"verdicts": verdicts},
        inputs=inputs,
        outputs=["evaluation.json", "evaluation_scores.npz"],
    )
