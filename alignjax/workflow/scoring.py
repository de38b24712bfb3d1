"""The stages from pre-alignment to calibrated scores."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from alignjax.alignment import score_training, training
from alignjax.alignment.score_training import TrainedScore
from alignjax.alignment.training import LabelledPairs
from alignjax.aot.shapes import decoder_params, score_model_on
from alignjax.aot.shapes import score_model as abstract_score_model
from alignjax.config import SamplingSettings, ScoreSettings, determining
from alignjax.data import responses
from alignjax.data.preferences import Labelled
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedPair
from alignjax.errors import InputError
from alignjax.models import Lora, ScoreModel, load_score_model
from alignjax.policy import drawing
from alignjax.policy.values import Policy
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.scores import calibration as calib
from alignjax.scores.lookup import read_lookup
from alignjax.scores.reading import reader_of
from alignjax.scores.scorers import (
    FunctionScorer,
    ImplicitScorer,
    LearnedScorer,
    Scorer,
    TableScorer,
    function_scorer,
    require_tables,
    score_pair_sets,
    score_responses,
    table_digests,
    true_scorer,
)
from alignjax.scores.table import ScoreTable
from alignjax.stages import Run, Stage, Stored, Work
from alignjax.workflow import calibrate as calibrating
from alignjax.workflow import own_samples, programs, stand_ins, uses
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.given_samples import given_samples
from alignjax.workflow.groundwork import Data, with_kernel
from alignjax.workflow.setup import Setup, content, part, trainer_of

Scorers = Mapping[str, Scorer]
"""By dimension, the reward first."""


def prealigned(setup: Setup, reference: Policy, data: Data, name: str) -> Stage[Policy]:
    """PeCAN: the policy aligned with the labels of one dimension alone."""
    config, trainer = setup.config, trainer_of(setup)
    train, held_out = (LabelledPairs(one.tokens, one.labels) for one in data.pairs.dimensions[name])
    beta = config.beta_pre
    return Stage.of(
        stored_prealigned(setup, reference, name),
        compute=lambda work: training.train_dpo(
            trainer, name, reference, train, held_out, config.prealign, work, beta=beta
        ),
        save=lambda folder, policy: training.save_outcome(folder / name, policy.outcome),
        slim=lambda policy: policy._replace(outcome=None),
        abstract=lambda: abstract_policy(setup, reference, name, name),
        programs=lambda: uses.dpo(trainer, name, reference, train, held_out, config.prealign, beta=beta),
    )


def stored_prealigned(setup: Setup, reference: Policy, name: str) -> Stored[Policy]:
    """What `prealigned` trained; arguments as there."""
    trainer = trainer_of(setup)
    return Stored(
        name=name,
        settings=part(setup, "prealign", "lora", "beta_pre"),
        inputs=("data",),
        outputs=(f"{name}/best", f"{name}/last"),
        load=lambda folder, work: training.load_policy(folder / name, trainer, name, name, reference, work),
    )


def abstract_policy(setup: Setup, reference: Policy, stage: str, name: str) -> Policy:
    """A trained policy of a plan: shapes of adapters on the reference's weights, or of weights of its own."""
    decoder, mesh = reference.model.config, setup.batching.mesh
    lora = programs.new_adapters(decoder, setup.config.lora, mesh)
    trained = decoder_params(decoder, mesh, where=stage) if lora is None else lora.params
    return training.policy_of(trainer_of(setup), stage, name, reference, trained, Work("", None))


def implicit_scorers(setup: Setup, reference: Policy, policies: Mapping[str, Policy]) -> dict[str, Scorer]:
    """PeCAN: the scores that pre-aligned policies imply, by dimension."""
    beta_pre = setup.config.beta_pre
    return {
        name: ImplicitScorer(reference, policy, beta_pre, setup.logps, setup.batching)
        for name, policy in policies.items()
    }


def trained_score(setup: Setup, reference: Policy, data: Data, name: str) -> Stage[TrainedScore]:
    """MoCAN: a score model trained on the labelled pairs of one dimension."""
    config, trainer = setup.config, trainer_of(setup)
    pairs = data.pairs.dimensions[name]
    extra = config.score_model

    def abstract() -> TrainedScore:
        decoder, mesh = reference.model.config, setup.batching.mesh
        lora, kind = programs.new_adapters(decoder, config.lora, mesh), score_training.kind_of(name)
        if lora is None:
            model = abstract_score_model(decoder, mesh, kind=kind, where=name)
            return TrainedScore(lambda: (model, None))
        model, frozen = score_model_on(reference.model, mesh, kind=kind), lora.replace(dropout=0.0)

        def load() -> tuple[ScoreModel, Lora | None]:
            reference.load()  # adapters sit on the reference's weights
            return model, frozen

        return TrainedScore(load)

    return Stage.of(
        stored_score(setup, reference, name),
        compute=lambda work: score_training.train_score_model(
            trainer, name, reference, pairs, config.score_training, extra, work
        ),
        save=lambda folder, found: training.save_outcome(folder / name, found.outcome),
        slim=lambda found: found._replace(outcome=None),
        abstract=abstract,
        programs=lambda: uses.score_training(
            trainer, name, reference, pairs, config.score_training, extra, score_training.kind_of(name)
        ),
    )


def stored_score(setup: Setup, reference: Policy, name: str) -> Stored[TrainedScore]:
    """What `trained_score` trained; arguments as there."""
    trainer = trainer_of(setup)
    return Stored(
        name=name,
        settings=part(setup, "score_training", "score_model", "lora"),
        inputs=("data",),
        outputs=(f"{name}/best", f"{name}/last"),
        load=lambda folder, work: score_training.load_score_model(folder / name, trainer, name, reference),
    )


def scorers(run: Run, setup: Setup, reference: Policy, data: Data) -> tuple[dict[str, Scorer], list[str]]:
    """MoCAN: the score of every dimension, from the configured source or from a model trained in this run.

    Returns:
      Scorers by dimension, and the names of the stages that trained one.
    """
    found, trained = dict[str, Scorer](), list[str]()
    for name in setup.config.dimensions:
        given = _given_scorer(setup, reference, data, name)
        if given is None:
            model = run.do(trained_score(setup, reference, data, name))
            given = LearnedScorer(name, model.load, setup.batching)
            trained.append(name)
        found[name] = given
    return found, trained


def _given_scorer(setup: Setup, reference: Policy, data: Data, name: str) -> Scorer | None:
    """The scorer of a dimension from the configured source; None: it is to be trained."""
    config, world = setup.config, setup.world
    source = config.scores.get(name, ScoreSettings())
    if source.exact and world is not None:
        return true_scorer(world, config.dimensions.index(name))
    if setup.shape is not None and (source.function or source.table):
        return FunctionScorer(name, lambda prompts, responses: [])  # a plan scores nothing
    if source.function:
        return function_scorer(source.function, f"config.scores.{name}.function")
    if source.table:
        return TableScorer(name, source.table, read_lookup(source.table, name))
    if not source.path:
        return None
    path = source.path

    def read() -> ScoreModel:
        if setup.shape is not None:
            decoder = setup.shape.scored_by.get(name, setup.shape.decoder)
            kind = score_training.kind_of(name)
            return abstract_score_model(decoder, setup.batching.mesh, kind=kind, where=f"the model of {name}")
        model = load_score_model(path, dtype=config.model.dtype, mesh=setup.batching.mesh)
        return model.replace(config=with_kernel(setup, model.config))

    load = functools.partial(setup.models.get, f"score {name}", read)
    if setup.shape is not None:
        load()  # a folder that cannot be used is refused now
        return LearnedScorer(name, lambda: (load(), None), setup.batching)
    # Of the policy first: its weights and the score model's may not be held at once.
    tokenizer, vocab_size, settings = reference.tokenizer, reference.model.config.vocab_size, config.model
    reader = reader_of(
        load(),
        tokenizer,
        data.template,
        own_template=source.template,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
        vocab_size=vocab_size,
        where=path,
        field=f"config.scores.{name}.template",
        say=setup.log.say,
    )
    return LearnedScorer(name, lambda: (load(), None), setup.batching, reader)


def samples(setup: Setup, policy: Policy, data: Data) -> Stage[Responses]:
    """K responses of the reference to each of N prompts: samples.jsonl."""
    settings = setup.config.sampling
    prompts = data.pairs.train_prompts[: settings.num_prompts]
    drawn = responses_stage(setup, policy, data, prompts, "samples", "samples.jsonl", "sampling")
    if settings.responses is None:
        return drawn
    given = given_samples(drawn, setup, policy, data, prompts)
    return dataclasses.replace(given, abstract=lambda: drawn.abstract()._replace(logps=None))


def responses_stage(
    setup: Setup, policy: Policy, data: Data, prompts: Sequence[Prompt], name: str, file: str, field: str
) -> Stage[Responses]:
    """Responses drawn from a policy.

    Args:
      setup: of the run.
      policy: whom to sample.
      data: its template.
      prompts: N prompts.
      name: of the stage.
      file: JSON Lines that keep the responses, under the run's folder.
      field: of the configuration with the settings of sampling: sampling or evaluation.
    """
    config, batching = setup.config, setup.batching
    settings = config.sampling if field == "sampling" else config.evaluation_sampling
    key = setup.seeds.key(f"sample {policy.name}")
    # Only scores that are log-ratios read log-probabilities, and only the reference's are not at hand anyway.
    known = config.method == "pecan" and policy.stage == "reference"
    planned = own_samples.planned_logps(config.model.dtype, settings, len(prompts)) if known else None

    @functools.cache
    def ids() -> list[np.ndarray]:
        limit = config.model.max_prompt_length
        if setup.shape is not None:
            return stand_ins.prompts(config.model, setup.shape.lengths, len(prompts))
        return drawing.prompt_ids(policy, data.template, prompts, limit)

    def compute(work: Work) -> Responses:
        part = work.file("drawn.jsonl")
        drawn = drawing.draw(key, policy, prompts, ids(), settings, batching, part=part)
        return drawn if known else drawn._replace(logps=None)

    extra = {} if name == "samples" else {"policy": policy.name}
    return Stage(
        name=name,
        settings=part(setup) | {field: determining(dataclasses.replace(settings, responses=None))},
        inputs=("data",) if policy.stage == "reference" else ("data", policy.stage),
        outputs=(file,),
        compute=compute,
        save=lambda folder, drawn: responses.write_responses(folder / file, drawn, extra),
        load=lambda folder, work: responses.read_responses(folder / file, prompts, ids())._replace(
            policy=policy.name
        ),
        abstract=lambda: abstract_responses(setup, prompts, settings)._replace(logps=planned),
        programs=lambda: uses.draws(policy, ids(), settings, batching),
    )


def abstract_responses(setup: Setup, prompts: Sequence[Prompt], settings: SamplingSettings) -> Responses:
    """The responses of a plan, each as long as it may be."""
    assert setup.shape is not None, "only a plan asks for shapes"
    return stand_ins.responses(setup.config.model, setup.shape.lengths, prompts, settings)


def require_scores(setup: Setup, data: Data, drawn: Responses, by: Scorers) -> None:
    """Refuses score tables that lack samples, held-out pairs or pairs to align on.

    Raises:
      InputError: some scores are missing; unscored.jsonl lists all of them.
    """
    held = [dimension.held_out.texts for dimension in data.pairs.dimensions.values()]
    require_tables(by, setup.unscored, drawn=[drawn], pairs=[*held, data.pairs.align_pairs])


def raw_scores(setup: Setup, drawn: Responses, by: Scorers, trained: Sequence[str]) -> Stage[np.ndarray]:
    """Scores of the samples by every dimension before calibration, [N, K, 1+m] float64: scores_raw.npz.

    Args:
      setup: of the run.
      drawn: the reference's samples.
      by: scorers.
      trained: names of the stages that the scorers come from.
    """
    config = setup.config
    folders = {name: content(setup, source.path) for name, source in config.scores.items()}
    settings = part(setup, *(("scores",) if config.scores else ())) | {"folders": folders}
    shape = (len(drawn.tokens), len(drawn.tokens[0]), len(by))

    def compute(work: Work) -> np.ndarray:
        own_samples.use_drawing(setup.logps, by.values(), drawn, setup.log.say)
        return score_responses(by, drawn)

    return Stage(
        name="scores",
        settings=settings | {"tables": table_digests(by, lambda table: table.responses(drawn))},
        inputs=("samples", *trained),
        outputs=("scores_raw.npz",),
        compute=compute,
        save=lambda folder, scores: write_npz(folder / "scores_raw.npz", scores=scores),
        load=lambda folder, work: read_npz(folder / "scores_raw.npz")["scores"],
        abstract=lambda: np.zeros(shape),
        programs=lambda: own_samples.programs_of(by.values(), drawn, setup.batching),
    )


def calibrated(setup: Setup, data: Data, by: Scorers, raw: np.ndarray) -> Stage[Calibrated]:
    """Scores in the logits of held-out labels: calibration.json, scores.npz, held_out_scores.npz."""
    config = setup.config
    held = {name: dimension.held_out for name, dimension in data.pairs.dimensions.items()}
    tables = [table_digests(by, _of_labelled(pairs)) for pairs in held.values()]

    def compute(work: Work) -> Calibrated:
        return calibrating.calibrate(
            raw,
            held,
            score_pair_sets(by, held),
            config.dimensions,
            kind=config.calibration if config.calibrate else "none",
            clustered=not setup.population,
            say=setup.log.say,
        )

    def abstract() -> Calibrated:
        fit = calib.identity(len(config.dimensions))
        table = ScoreTable(raw[..., 0], raw[..., 1:], tuple(config.constraints), None)
        return Calibrated(fit, calibrating.record_of(fit, config.dimensions), table, {}, {})

    return Stage(
        name="calibration",
        settings=part(setup, "calibrate", "calibration") | {"tables": tables},
        inputs=("scores",),
        outputs=("calibration.json", "held_out_scores.npz", "scores.npz"),
        compute=compute,
        save=calibrating.save,
        load=lambda folder, work: calibrating.load(folder),
        abstract=abstract,
        programs=lambda: uses.scoring_pairs(by.values(), _together(held), setup.batching),
    )


def require_informative(setup: Setup, calibration: Calibrated) -> None:
    """Refuses scores that do not predict their own held-out labels: no margin can be promised on them.

    Raises:
      InputError: names the score; `config.accept_uninformative` continues anyway.
    """
    config, stops = setup.config, calibration.record.stops
    if stops and config.calibrate and not config.accept_uninformative:
        raise InputError(f"{stops[0]} (config.accept_uninformative=True continues anyway).")


def _of_labelled(pairs: Labelled) -> Callable[[TableScorer], np.ndarray]:
    return lambda table: table.pairs(pairs.tokens, pairs.texts)


def _together(held: Mapping[str, Labelled]) -> list[TokenizedPair]:
    """The pairs of all dimensions; of those that dimensions share, as in a plan, the list itself."""
    lists = list({id(pairs.tokens): pairs.tokens for pairs in held.values()}.values())
    return lists[0] if len(lists) == 1 else [pair for tokens in lists for pair in tokens]
