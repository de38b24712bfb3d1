"""The functions that a run calls, as the package compiles them, with their arguments as shapes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alignjax.alignment.optimizer import OptimizerSettings
from alignjax.alignment.step import AdapterSettings, sft_loss_fn
from alignjax.config import Config, SamplingSettings, TrainingSettings
from alignjax.data.buckets import Bucket
from alignjax.models import DecoderConfig, Lora, ScoreModel, body_config, identity_normalizer
from alignjax.planning import abstract
from alignjax.planning.abstract import bytes_per_device
from alignjax.policy import batch_sizing, sampling
from alignjax.policy.divergence import completion_kl_jit
from alignjax.policy.logps import slot_logps_jit
from alignjax.runtime.mesh import batch_rows
from alignjax.scores.learned import pair_scores_jit, response_scores_jit
from alignjax.workflow.compiled import Layout, Steps, dpo_steps, steps_of
from alignjax.workflow.score_models import kind_of, score_steps
from alignjax.workflow.training import optimizer_of

Tree = Any
_SHORT = 48  # tokens; up to there the lengths of rows are rounded to 2, as workflow.context does


class Program(NamedTuple):
    """One function with the shapes that it is called with.

    Attributes:
      function: from jax.jit.
      arguments: static values, and trees of shapes with shardings.
      kinds: bytes a chip of the arguments, by kind.
      rows: examples a call, on all chips.
      tokens: tokens a call, on all chips: read, or drawn by the sampler.
      cache: bytes a chip of the keys and values that it holds while it runs.
      loops: turns of the loops that end when data say so, the outermost first.
    """

    function: Any
    arguments: tuple[Any, ...]
    kinds: Mapping[str, int]
    rows: int
    tokens: int
    cache: int = 0
    loops: tuple[float, ...] = ()


class Setting(NamedTuple):
    """What all programs of a run share.

    Attributes:
      config: the run's.
      decoder: shape of the reference.
      name: of the reference, for messages.
      mesh: the devices.
      memory: bytes of a device that programs may use.
      scored_by: bodies of score models that are read, by dimension; others are planned as the reference's.
    """

    config: Config
    decoder: DecoderConfig
    name: str
    mesh: Mesh
    memory: int
    scored_by: Mapping[str, DecoderConfig] = MappingProxyType({})


def reference_params(setting: Setting) -> Tree:
    """The reference as it is read."""
    return abstract.decoder_params(setting.decoder, setting.mesh, where=setting.name)


def adapter(setting: Setting) -> Lora | None:
    """The adapters that are trained; None: all weights are."""
    lora = setting.config.lora
    if lora.rank == 0:
        return None
    options = {"rank": lora.rank, "alpha": lora.alpha, "targets": lora.targets, "dropout": lora.dropout}
    return abstract.adapters(setting.decoder, setting.mesh, **options)


def score_model(setting: Setting, name: str) -> ScoreModel:
    """The score model of a dimension, on the reference's body or on its own; a cost's head has a bias."""
    decoder, kind = setting.scored_by.get(name, setting.decoder), kind_of(name)
    params = abstract.decoder_params(decoder, setting.mesh, where=setting.name)
    head = abstract.score_head(decoder, setting.mesh, bias=kind == "cost")
    body = {name: tree for name, tree in params.items() if name != "head"}
    normalizer = jax.tree.map(
        lambda x: abstract.everywhere(x.shape, x.dtype, setting.mesh), jax.eval_shape(identity_normalizer)
    )
    return ScoreModel(
        params={"decoder": body, "head": head},
        normalizer=normalizer,
        config=body_config(decoder),
        kind=kind,
    )


def reference_step(setting: Setting, decoder: DecoderConfig, examples: int) -> Program:
    """Train step of a world's reference: likelihood of its corpus, all weights, float32."""
    config, mesh = setting.config, setting.mesh
    params = abstract.decoder_params(decoder, mesh, where=setting.name, dtype="float32")
    optimizer = optimizer_of(config.reference, max(1, examples // config.reference.batch_size))
    bucket = response_bucket(config.model.max_length, config.model.max_length - 1)
    batch = abstract.response_batch(config.reference.batch_size, bucket, mesh)
    return _step(steps_of(sft_loss_fn(decoder, None), optimizer), params, None, batch, bucket, setting)


def dpo_step(setting: Setting, run: TrainingSettings, beta: float, pairs: int) -> Program:
    """Train step of DPO from the reference.

    Args:
      setting: of the run.
      run: the optax run.
      beta: KL weight.
      pairs: it learns from.
    """
    params, lora = reference_params(setting), adapter(setting)
    rows, optimizer, bucket, batch = _pairs(setting, run, pairs, signs=False)
    steps = dpo_steps(setting.decoder, _settings_of(lora), beta, optimizer)
    trainable, frozen = (params, None) if lora is None else (lora.params, params)
    return _step(steps, trainable, frozen, batch, bucket, setting)


def score_step(setting: Setting, name: str, pairs: int) -> Program:
    """Train step of a score model on the reference's body."""
    config, lora = setting.config, adapter(setting)
    model = score_model(setting, name)
    kind = model.kind
    signs = kind == "cost" and config.score_model.signs
    _, optimizer, bucket, batch = _pairs(setting, config.score_training, pairs, signs=signs)
    extra = config.score_model
    steps = score_steps(model.config, _settings_of(lora), kind, extra.regularizer, extra.centering, optimizer)
    trainable, frozen = model.params, None
    if lora is not None:
        trainable = {"lora": lora.params, "head": model.params["head"]}
        frozen = model.params["decoder"]
    return _step(steps, trainable, frozen, batch, bucket, setting)


def pair_logps(setting: Setting, pairs: int, *, adapted: bool) -> Program:
    """Log-probabilities of both responses of pairs."""
    bucket = pair_bucket(setting.config.model.max_length)
    return _logps(setting, bucket, pairs, 2, adapted=adapted)


def response_logps(setting: Setting, responses: int, new_tokens: int, *, adapted: bool) -> Program:
    """Log-probabilities of sampled responses."""
    bucket = _sampled_bucket(setting.config, new_tokens)
    return _logps(setting, bucket, responses, 1, adapted=adapted)


def pair_scores(setting: Setting, name: str, pairs: int, *, adapted: bool) -> Program:
    """Scores of both responses of pairs by a score model."""
    bucket = pair_bucket(setting.config.model.max_length)
    rows = batch_rows(setting.config.ref_batch_size, pairs, setting.mesh)
    batch = abstract.pair_batch(rows, bucket, setting.mesh, signs=False)
    return _scores(setting, pair_scores_jit, name, batch, rows * bucket.tokens, adapted=adapted)


def response_scores(
    setting: Setting, name: str, responses: int, new_tokens: int, *, adapted: bool
) -> Program:
    """Scores of sampled responses by a score model."""
    bucket = _sampled_bucket(setting.config, new_tokens)
    rows = batch_rows(setting.config.ref_batch_size, responses, setting.mesh)
    batch = abstract.response_batch(rows, bucket, setting.mesh)
    return _scores(setting, response_scores_jit, name, batch, rows * bucket.tokens, adapted=adapted)


def divergence(setting: Setting, responses: int, new_tokens: int) -> Program:
    """KL divergence of a trained policy from the reference."""
    config, mesh = setting.config, setting.mesh
    params, lora = reference_params(setting), adapter(setting)
    bucket = _sampled_bucket(config, new_tokens)
    rows = batch_rows(config.ref_batch_size, responses, mesh)
    # As in `completion_kl`: an adapted policy's weights are the reference's.
    weights = (params, params) if lora is None else (params,)
    kinds = {"parameters": len(weights) * bytes_per_device(params), "adapters": _size(lora)}
    configs = setting.decoder, setting.decoder
    batch = abstract.token_rows(rows, bucket, mesh)
    arguments = configs, weights, (_frozen(lora), None), batch
    return Program(completion_kl_jit, arguments, kinds, rows, rows * bucket.tokens)


def sampler(setting: Setting, asked: SamplingSettings, *, adapted: bool) -> Program:
    """One call of the sampler, which draws as many continuations as memory has room for."""
    config, mesh, decoder = setting.config, setting.mesh, setting.decoder
    params, lora = reference_params(setting), adapter(setting) if adapted else None
    width = sampling.padded_length(config.model.max_prompt_length)
    new = asked.max_new_tokens
    together = batch_sizing.drawn_together(decoder, asked.num_samples, new, width, mesh, setting.memory)
    rows = sampling.prompts_together(asked.num_prompts, together.prompts, mesh)
    draw = sampling.Draw(
        together.samples,
        new,
        decoder.eos_ids or (0,),
        greedy=False,
        tempered=asked.temperature != 1.0,
        nucleus=asked.top_p < 1.0,
    )
    number = abstract.everywhere((), np.float32, mesh)
    arguments = (
        decoder,
        draw,
        mesh,
        params,
        _frozen(lora),
        abstract.random_key(mesh),
        abstract.prompt_rows((rows, width), mesh),
        abstract.prompt_rows((rows,), mesh),
        abstract.prompt_rows((rows,), mesh),
        abstract.everywhere((), np.int32, mesh),
        number,
        number,
    )
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    cache = batch_sizing.cache_bytes(decoder, together._replace(prompts=rows // parts), new, width)
    drawn = rows * together.samples
    return Program(
        sampling.generate_jit,
        arguments,
        {"parameters": bytes_per_device(params), "adapters": _size(lora)},
        drawn,
        drawn * new,
        cache // mesh.shape["tensor"],
        # The first token is drawn before the loop; within it the nucleus takes another loop.
        (new - 1.0, 1.0),
    )


def pair_bucket(max_length: int) -> Bucket:
    """The largest row of a pair: a prompt of one token and two responses as long as they may be."""
    return _rounded(2 * max_length - 1, 2 * (max_length - 1))


def response_bucket(tokens: int, targets: int) -> Bucket:
    """A row of one response."""
    return _rounded(tokens, targets)


def _sampled_bucket(config: Config, new_tokens: int) -> Bucket:
    return _rounded(config.model.max_prompt_length + new_tokens, new_tokens)


def _rounded(tokens: int, targets: int) -> Bucket:
    token, target = (2, 2) if tokens <= _SHORT else (16, 8)
    return Bucket(-(-tokens // token) * token, -(-targets // target) * target)


def _pairs(
    setting: Setting, run: TrainingSettings, pairs: int, *, signs: bool
) -> tuple[int, OptimizerSettings, Bucket, Any]:
    """Rows, optimizer, shape of the rows and batch of a run on pairs."""
    rows = batch_rows(run.batch_size, pairs, setting.mesh)
    bucket = pair_bucket(setting.config.model.max_length)
    batch = abstract.pair_batch(rows, bucket, setting.mesh, signs=signs)
    return rows, optimizer_of(run, -(-pairs // rows)), bucket, batch


def _step(
    steps: Steps, trainable: Tree, frozen: Tree, batch: Any, bucket: Bucket, setting: Setting
) -> Program:
    state = abstract.train_state(trainable, steps.tx, setting.mesh)
    trained = "parameters" if frozen is None else "adapters"
    kinds = {
        "parameters": 0 if frozen is None else bytes_per_device(frozen),
        "adapters": 0,
        "optimizer": bytes_per_device(state.opt_state),
    }
    kinds[trained] += bytes_per_device(trainable)
    rows = batch.weights.shape[0]
    function = steps.train(Layout.of(state))
    return Program(function, (state, frozen, batch), kinds, rows, rows * bucket.tokens)


def _logps(setting: Setting, bucket: Bucket, count: int, slots: int, *, adapted: bool) -> Program:
    params, lora = reference_params(setting), adapter(setting) if adapted else None
    rows = batch_rows(setting.config.ref_batch_size, count, setting.mesh)
    batch = abstract.token_rows(rows, bucket, setting.mesh)
    arguments = setting.decoder, params, _frozen(lora), batch, slots
    kinds = {"parameters": bytes_per_device(params), "adapters": _size(lora)}
    return Program(slot_logps_jit, arguments, kinds, rows, rows * bucket.tokens)


def _scores(setting: Setting, function: Any, name: str, batch: Any, tokens: int, *, adapted: bool) -> Program:
    model = score_model(setting, name)
    lora = adapter(setting) if adapted else None
    kinds = {"parameters": bytes_per_device(model), "adapters": _size(lora)}
    return Program(function, (model, _frozen(lora), batch), kinds, batch.weights.shape[0], tokens)


def _settings_of(lora: Lora | None) -> AdapterSettings | None:
    return None if lora is None else AdapterSettings(lora.scale, lora.dropout)


def _frozen(lora: Lora | None) -> Lora | None:
    """Adapters as a trained policy has them, without dropout."""
    return None if lora is None else lora.replace(dropout=0.0)


def _size(lora: Lora | None) -> int:
    return 0 if lora is None else bytes_per_device(lora.params)
