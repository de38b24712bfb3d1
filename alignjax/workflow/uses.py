"""What stages run on devices: the programs of forward passes and trainings, with how often they run."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from alignjax.alignment.compiled import loss_of
from alignjax.alignment.training import LabelledPairs, Trainer
from alignjax.aot.program import Use
from alignjax.aot.shapes import copies, score_model_on
from alignjax.config import (
    PreferenceTrainingSettings,
    SamplingSettings,
    ScoreModelSettings,
    TrainingSettings,
)
from alignjax.data.preferences import Dimension
from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedPair
from alignjax.models import Lora, ScoreModel
from alignjax.models.score_model import Kind
from alignjax.policy.batching import Batching
from alignjax.policy.values import Policy
from alignjax.scores.scorers import ImplicitScorer, LearnedScorer, Scorer
from alignjax.workflow import programs, sampling_programs

_NOTHING: Mapping[str, int] = {}
LoadScore = Callable[[], tuple[ScoreModel, Lora | None]]
"""Gives a score model and its adapters, which may take the place of another in device memory."""


def pair_logps(
    policy: Policy,
    tokens: Sequence[TokenizedPair],
    batching: Batching,
    *,
    held: Mapping[str, int] = MappingProxyType({}),
) -> Use:
    """Log-probabilities of both responses of n pairs under a policy; `held` as in `Use`."""
    return Use(
        f"log-probabilities of pairs by {policy.name}",
        lambda: programs.pair_logps(policy.model, policy.lora, tokens, batching),
        len(tokens),
        held,
        ("pairs", policy.name, id(tokens)),
    )


def response_logps(policy: Policy, drawn: Responses, batching: Batching) -> Use:
    """Log-probabilities of sampled responses under a policy."""
    flat = drawn.flat
    return Use(
        f"log-probabilities of responses by {policy.name}",
        lambda: programs.response_logps(policy.model, policy.lora, flat, batching),
        len(flat),
        _NOTHING,
        ("responses", policy.name, id(drawn)),
    )


def pair_scores(name: str, load: LoadScore, tokens: Sequence[TokenizedPair], batching: Batching) -> Use:
    """Scores of both responses of n pairs by the score model of a dimension, which `load` gives."""
    return Use(
        f"{name} of pairs",
        lambda: programs.pair_scores(*load(), tokens, batching),
        len(tokens),
        _NOTHING,
    )


def response_scores(name: str, load: LoadScore, drawn: Responses, batching: Batching) -> Use:
    """Scores of sampled responses by the score model of a dimension, which `load` gives."""
    flat = drawn.flat
    return Use(
        f"{name} of responses",
        lambda: programs.response_scores(*load(), flat, batching),
        len(flat),
        _NOTHING,
    )


def scoring_pairs(by: Iterable[Scorer], tokens: Sequence[TokenizedPair], batching: Batching) -> Iterable[Use]:
    """Scoring both responses of n pairs by every scorer; tables and functions run no compiled program."""
    for scorer in by:
        if isinstance(scorer, ImplicitScorer):
            yield pair_logps(scorer.policy, tokens, batching)
        elif isinstance(scorer, LearnedScorer):
            yield pair_scores(scorer.name, scorer.load, tokens, batching)


def scoring_responses(
    by: Iterable[Scorer], drawn: Responses, batching: Batching, *, known: Collection[str] = ()
) -> Iterable[Use]:
    """Scoring sampled responses by every scorer; tables and functions run no compiled program.

    Args:
      by: scorers.
      drawn: the responses.
      batching: shapes of batches.
      known: names of policies whose log-probabilities of these responses the run has already.
    """
    for scorer in by:
        if isinstance(scorer, ImplicitScorer):
            for policy in (scorer.reference, scorer.policy):
                if policy.name not in known:
                    yield response_logps(policy, drawn, batching)
        elif isinstance(scorer, LearnedScorer):
            yield response_scores(scorer.name, scorer.load, drawn, batching)


def draws(
    policy: Policy, ids: Sequence[np.ndarray], settings: SamplingSettings, batching: Batching
) -> list[Use]:
    """Sampling a policy on the prompts with these tokens: drawing, and reading the prompts."""
    arguments = policy.model, policy.lora, ids, settings, batching
    return [
        Use(
            "sampler",
            lambda: sampling_programs.sampler(*arguments),
            len(ids) * settings.num_samples,
            _NOTHING,
        ),
        Use("sampler's prompts", lambda: sampling_programs.prompt_reader(*arguments), len(ids), _NOTHING),
    ]


def divergence(policy: Policy, reference: Policy, drawn: Responses, batching: Batching) -> Use:
    """KL divergence of a policy from the reference on responses that it sampled."""
    flat = drawn.flat
    return Use(
        "KL",
        lambda: programs.divergence(policy.model, policy.lora, reference.model, flat, batching),
        len(flat),
        _NOTHING,
    )


def dpo(
    trainer: Trainer,
    name: str,
    reference: Policy,
    train: LabelledPairs,
    held_out: LabelledPairs | None,
    settings: PreferenceTrainingSettings,
    *,
    beta: float,
    begin: Policy | None = None,
) -> Iterable[Use]:
    """Training a policy by DPO, and its held-out evaluations; arguments as of `training.train_dpo`.

    Args:
      trainer: what all trainings share.
      name: of the policy.
      reference: pi_ref.
      train: pairs to learn from.
      held_out: pairs that choose the best step; None: the last step is the best.
      settings: of loss and optimizer.
      beta: KL weight.
      begin: a policy to begin at; None: the reference.
    """
    batching, model = trainer.batching, reference.model
    lora = programs.new_adapters(model.config, trainer.lora, batching.mesh)
    trained = model.params if lora is None else lora.params
    own_start = lora is not None and begin is None
    held = functools.partial(programs.held_while_training, trained, own_start=own_start)
    step = programs.dpo_step(
        model, lora, settings, train.tokens, batching, beta=beta, loss=loss_of(settings.loss)
    )
    # The reference reads all pairs in one call; what it says of either list is known from then on.
    lists = [train.tokens] if held_out is None else [train.tokens, held_out.tokens]
    both = pair_logps(
        reference, [pair for tokens in lists for pair in tokens], batching, held=held(judged=False)
    )
    for tokens in lists:
        yield both._replace(examples=len(tokens), key=("pairs", reference.name, id(tokens)))
    yield Use(
        "train step",
        lambda: step,
        settings.epochs * len(train.tokens),
        held(judged=held_out is not None),
    )
    if held_out is None:
        return
    optimizer = {"optimizer": step.kinds["optimizer"]}
    copy = model.replace(params=copies(model.params)) if lora is None else model
    policy = Policy(name, lambda: copy, None if lora is None else lora.replace(dropout=0.0), name, "")
    # Adapters that have not moved are not evaluated: before the first step they are the reference.
    count = settings.evals + (lora is None)
    use = pair_logps(policy, held_out.tokens, batching, held=held(judged=True) | optimizer)
    yield use._replace(what="held-out log-probabilities", examples=count * len(held_out.tokens))


def score_training(
    trainer: Trainer,
    name: str,
    reference: Policy,
    data: Dimension,
    settings: TrainingSettings,
    extra: ScoreModelSettings,
    kind: Kind,
) -> Iterable[Use]:
    """Training a score model on the reference's weights, and its held-out evaluations."""
    batching = trainer.batching
    lora = programs.new_adapters(reference.model.config, trainer.lora, batching.mesh)
    model = score_model_on(reference.model, batching.mesh, kind=kind)
    trained = model.params if lora is None else {"lora": lora.params, "head": model.params["head"]}
    held = programs.held_while_training(trained, own_start=lora is not None, judged=True)
    step = programs.score_step(
        model,
        lora,
        settings,
        extra,
        data.train.tokens,
        batching,
        signs=kind == "cost" and extra.signs and any(pair.safe for pair in data.train.texts),
    )
    yield Use("train step", lambda: step, settings.epochs * len(data.train.tokens), held)
    tokens, frozen = data.held_out.tokens, None
    if lora is None:
        model = model.replace(params=copies(model.params))
    else:
        frozen = lora.replace(dropout=0.0)
    yield Use(
        "held-out scores",
        lambda: programs.pair_scores(model, frozen, tokens, batching),
        (settings.evals + 1) * len(tokens),  # once before the first step
        held | {"optimizer": step.kinds["optimizer"]},
    )
