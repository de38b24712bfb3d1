"""Every compiled program of a run as shapes, for a plan; those of the sampler are in `sampling_programs`.

A builder takes the values that the run works on (models, adapters, tokenized rows) and returns the program
that the run would compile for them, with the shapes of its largest batch. In a plan these values hold shapes
in place of arrays, see `aot.shapes`. Log-probabilities and scores are computed by trained policies, whose
adapters have a dropout of 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from alignjax.alignment import losses
from alignjax.alignment.compiled import (
    Layout,
    Steps,
    adapter_settings,
    dpo_steps,
    optimizer_of,
    score_steps,
    sft_steps,
)
from alignjax.alignment.optimizer import OptimizerSettings
from alignjax.aot import shapes
from alignjax.aot.program import Program
from alignjax.aot.shapes import bytes_per_device
from alignjax.config import LoraSettings, ScoreModelSettings, TrainingSettings
from alignjax.data.batches import ResponseBatch, pair_lengths, response_lengths
from alignjax.data.shared_rows import rows_per_batch
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.models import Adapters, DecoderConfig, Lora, Model, ScoreModel
from alignjax.policy.batching import Batching
from alignjax.policy.divergence import completion_kl_jit
from alignjax.policy.logps import shared_logps_jit, slot_logps_jit
from alignjax.runtime.mesh import batch_rows, row_parts
from alignjax.scores.learned import pair_scores_jit, response_scores_jit

Tree = Any


def new_adapters(decoder: DecoderConfig, settings: LoraSettings, mesh: Mesh) -> Lora | None:
    """Shapes of the adapters before training; None with rank 0, where all weights are trained."""
    if settings.rank == 0:
        return None
    options = {"alpha": settings.alpha, "targets": settings.targets, "dropout": settings.dropout}
    return shapes.adapters(decoder, mesh, rank=settings.rank, **options)


def longest_pair(max_length: int) -> TokenizedPair:
    """The longest row of a data set of pairs: a prompt of one token, and two responses that fill the limit.

    Args:
      max_length: tokens of a prompt and a response together, >= 2.
    """
    response = np.zeros(max_length - 1, np.int32)
    return TokenizedPair(np.zeros(1, np.int32), response, response)


def longest_response(prompt_tokens: int, response_tokens: int) -> TokenizedResponse:
    """A response and its prompt of these lengths."""
    return TokenizedResponse(np.zeros(prompt_tokens, np.int32), np.zeros(response_tokens, np.int32))


def sft_step(
    model: Model, settings: TrainingSettings, responses: Sequence[TokenizedResponse], batching: Batching
) -> Program:
    """Train step of a world's reference; all weights are trained, in float32.

    Args:
      model: before training.
      settings: of the run; a last incomplete batch is left out.
      responses: n rows of the corpus.
      batching: for the shapes of rows.
    """
    rows = settings.batch_size
    optimizer = optimizer_of(settings, max(1, len(responses) // rows))
    bucket = batching.buckets(response_lengths(responses))[-1]
    batch = shapes.response_batch(rows, bucket, batching.mesh)
    return _train_step(sft_steps(model.config, optimizer), model.params, None, batch, batching.mesh)


def dpo_step(
    model: Model,
    lora: Lora | None,
    settings: TrainingSettings,
    pairs: Sequence[TokenizedPair],
    batching: Batching,
    *,
    beta: float,
    loss: losses.PreferenceLoss = losses.dpo,
) -> Program:
    """Train step of DPO from the reference.

    Args:
      model: the reference.
      lora: the adapters before training, with the dropout of training; None: all weights are trained.
      settings: of the run.
      pairs: n pairs to learn from.
      batching: for the shapes of rows.
      beta: KL weight.
      loss: of `alignment.losses`.
    """
    batch, optimizer = _pair_training(settings, pairs, batching, signs=False)
    steps = dpo_steps(model.config, adapter_settings(lora), beta, loss, optimizer)
    trainable, frozen = (model.params, None) if lora is None else (lora.params, model.params)
    return _train_step(steps, trainable, frozen, batch, batching.mesh)


def score_step(
    model: ScoreModel,
    lora: Lora | None,
    settings: TrainingSettings,
    extra: ScoreModelSettings,
    pairs: Sequence[TokenizedPair],
    batching: Batching,
    *,
    signs: bool,
) -> Program:
    """Train step of a score model.

    Args:
      model: before training, on the reference's body.
      lora: the adapters before training, with the dropout of training; None: all weights are trained.
      settings: of the run.
      extra: weights of the loss.
      pairs: n pairs to learn from.
      batching: for the shapes of rows.
      signs: whether the pairs say which responses are safe.
    """
    batch, optimizer = _pair_training(settings, pairs, batching, signs=signs)
    steps = score_steps(model.config, adapter_settings(lora), model.kind, extra, optimizer)
    trainable, frozen = model.params, None
    if lora is not None:
        trainable = {"lora": lora.params, "head": model.params["head"]}
        frozen = model.params["decoder"]
    return _train_step(steps, trainable, frozen, batch, batching.mesh)


def held_while_training(trainable: Tree, *, own_start: bool, judged: bool) -> dict[str, int]:
    """Bytes per device that a train loop keeps beside its state, by kind; kinds of no bytes are left out.

    Args:
      trainable: shapes of what is trained.
      own_start: whether the first weights are arrays of their own, as new adapters are. If not, they are
        those of a model that the run holds anyway.
      judged: whether held-out pairs choose the best step, whose weights are kept.
    """
    size = bytes_per_device(trainable)
    kept = {"first weights": own_start, "best weights": judged}
    return {kind: size for kind, is_kept in kept.items() if is_kept}


def pair_logps(
    model: Model, lora: Adapters | None, pairs: Sequence[TokenizedPair], batching: Batching
) -> Program:
    """Log-probabilities of both responses of n pairs."""
    bucket = batching.pair_buckets(model.config, pairs)[-1]
    rows = batching.batch_size(len(pairs))
    arguments = model.config, model.params, lora, shapes.token_rows(rows, bucket, batching.mesh), 2
    return Program(slot_logps_jit, arguments, _kinds(model, lora), rows, rows * bucket.tokens)


def response_logps(
    model: Model, lora: Adapters | None, responses: Sequence[TokenizedResponse], batching: Batching
) -> Program:
    """Log-probabilities of n responses."""
    batch, count = _response_rows(model.config, responses, batching)
    rows, tokens = batch.rows.tokens.shape
    arguments = model.config, model.params, lora, batch.rows, count
    return Program(shared_logps_jit, arguments, _kinds(model, lora), rows * count, rows * tokens)


def pair_scores(
    model: ScoreModel, lora: Lora | None, pairs: Sequence[TokenizedPair], batching: Batching
) -> Program:
    """Scores of both responses of n pairs."""
    bucket = batching.pair_buckets(model.config, pairs)[-1]
    batch = shapes.pair_batch(batching.batch_size(len(pairs)), bucket, batching.mesh)
    return _scores(pair_scores_jit, model, lora, batch)


def response_scores(
    model: ScoreModel, lora: Lora | None, responses: Sequence[TokenizedResponse], batching: Batching
) -> Program:
    """Scores of n responses."""
    batch, _ = _response_rows(model.config, responses, batching)
    return _scores(response_scores_jit, model, lora, batch)


def divergence(
    model: Model,
    lora: Adapters | None,
    reference: Model,
    responses: Sequence[TokenizedResponse],
    batching: Batching,
) -> Program:
    """KL divergence of a policy from the reference on n responses.

    Args:
      model: the policy's; the reference itself where the policy is adapters on it.
      lora: the policy's adapters.
      reference: the reference, which has none.
      responses: n responses that the policy sampled.
      batching: of the forward passes.
    """
    batch, count = _response_rows(model.config, responses, batching)
    rows, tokens = batch.rows.tokens.shape
    # As in `completion_kl`: weights that the two share are given once.
    shared = reference.params is model.params
    weights = (model.params,) if shared else (model.params, reference.params)
    arguments = (model.config, reference.config), weights, (lora, None), batch.rows, count
    kinds = {"parameters": bytes_per_device(weights), "adapters": bytes_per_device(lora)}
    return Program(completion_kl_jit, arguments, kinds, rows * count, rows * tokens)


def _pair_training(
    settings: TrainingSettings, pairs: Sequence[TokenizedPair], batching: Batching, *, signs: bool
) -> tuple[Any, OptimizerSettings]:
    """The batch and the optimizer of a run on pairs."""
    rows = batch_rows(settings.batch_size, len(pairs), batching.mesh)
    bucket = batching.buckets(pair_lengths(pairs))[-1]
    batch = shapes.pair_batch(rows, bucket, batching.mesh, signs=signs)
    return batch, optimizer_of(settings, -(-len(pairs) // rows))


def _train_step(steps: Steps, trainable: Tree, frozen: Tree, batch: Any, mesh: Mesh) -> Program:
    state = shapes.train_state(trainable, steps.tx, mesh)
    kinds = {"parameters": 0, "adapters": 0, "optimizer": bytes_per_device(state.opt_state)}
    kinds["parameters" if frozen is None else "adapters"] = bytes_per_device(trainable)
    if frozen is not None:
        kinds["parameters"] = bytes_per_device(frozen)
    rows, tokens = batch.rows.tokens.shape
    return Program(steps.train(Layout.of(state)), (state, frozen, batch), kinds, rows, rows * tokens)


def _response_rows(
    decoder: DecoderConfig, responses: Sequence[TokenizedResponse], batching: Batching
) -> tuple[ResponseBatch, int]:
    """The largest batch of a data set of responses, and how many of them share a row."""
    found = batching.response_shapes(decoder, responses)
    parts = row_parts(batching.mesh)
    rows = rows_per_batch(responses, found, batch_size=batching.rows, parts=parts)
    batch = shapes.response_batch(rows, found.buckets[-1], batching.mesh, count=found.number)
    return batch, found.number


def _kinds(model: Model, lora: Adapters | None) -> dict[str, int]:
    return {"parameters": bytes_per_device(model.params), "adapters": bytes_per_device(lora)}


def _scores(function: Any, model: ScoreModel, lora: Lora | None, batch: Any) -> Program:
    model = model.replace(tokenizer=None)  # not part of the compiled program
    kinds = {"parameters": bytes_per_device(model), "adapters": bytes_per_device(lora)}
    rows, tokens = batch.rows.tokens.shape
    return Program(function, (model, lora, batch), kinds, batch.weights.shape[0], rows * tokens)
