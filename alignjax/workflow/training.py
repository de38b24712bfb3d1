"""Trains policies: the embedded reference by likelihood, everything else by DPO from the reference."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from alignjax.alignment.held_out import preference_metrics
from alignjax.alignment.loop import (
    FitResult,
    FitSettings,
    check_first_dpo_step,
    epochs,
    fit,
)
from alignjax.alignment.optimizer import OptimizerSettings
from alignjax.alignment.step import (
    AdapterSettings,
    init_state,
    sft_loss_fn,
)
from alignjax.config import LoraSettings, TrainingSettings
from alignjax.config_checks import check_kernel
from alignjax.data.batches import pair_batches, pair_lengths, response_batches, response_lengths
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse, tokenize_responses
from alignjax.data.worlds import World
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Lora,
    Model,
    ScoreModel,
    check_divides,
    config_from_hf,
    decoder_shardings,
    init_lora,
    init_params,
    is_neutral,
    load_pretrained,
    place_lora,
    save_pretrained,
)
from alignjax.runtime import preemption
from alignjax.runtime.checkpoint import Checkpoints, restore_tree, save_tree
from alignjax.runtime.files import remove
from alignjax.runtime.mesh import batch_rows, placer
from alignjax.runtime.metrics import progress
from alignjax.workflow import compiled
from alignjax.workflow.context import Context
from alignjax.workflow.scoring import Policy, compute_pair_logps, pair_logps, remember_pair_logps

_Body = TypeVar("_Body", Model, ScoreModel)


class LabelledPairs(NamedTuple):
    """What DPO is trained or judged on: n pairs and [n] P(chosen preferred)."""

    tokens: list[TokenizedPair]
    labels: np.ndarray


def load_reference(context: Context) -> Model:
    """The reference: the world's own, trained by `train_reference`, or the configured model."""
    settings = context.config.model
    path = context.workdir / "reference" if context.world is not None else Path(settings.path or "")
    model = load_pretrained(path, dtype=settings.dtype, remat=settings.remat, mesh=context.mesh)
    if settings.max_length > (most := model.config.max_positions):
        raise InputError(
            f"config.model.max_length: is {settings.max_length}; {path} has a context of {most} tokens; "
            "lower it."
        )
    return with_kernel(context, model)


def with_kernel(context: Context, model: _Body) -> _Body:
    """The model with the attention that `config.model.attention` names.

    Raises:
      InputError: as in `check_kernel`.
    """
    _check_kernel(context, model.config)
    return model.replace(config=dataclasses.replace(model.config, attention=context.config.model.attention))


def _check_kernel(context: Context, decoder: DecoderConfig) -> None:
    platforms = {device.platform for device in context.mesh.devices.flat}
    check_kernel(context.config.model, platforms, decoder.head_dim, decoder.sliding_window)


def reference_policy(context: Context) -> Policy:
    """The reference, read when its weights are asked for."""

    def load() -> Model:
        return context.residence.get("reference", lambda: load_reference(context))

    return Policy("reference", load, None, context.stages.fingerprints["reference"])


def check_mesh(context: Context) -> None:
    """Refuses devices that do not fit the configuration or a world's reference, before it is trained.

    Raises:
      InputError: names the field of `config.mesh`, or the batch size.
    """
    if context.world is None:
        _ = context.mesh  # the model's sizes are checked where it is read, before its weights
    else:
        decoder = config_from_hf(dict(context.world.decoder_fields))
        check_divides(decoder, context.mesh, where=f"the reference of {context.world.name}")
        _check_kernel(context, decoder)


@preemption.deferred()
def train_reference(context: Context, world: World) -> None:
    """Trains a world's reference on its corpus and writes it as a Hugging Face folder, reference/."""
    config = context.config
    corpus = world.make_reference_corpus(context.seed("corpus"), config.reference_examples)
    model = config.model
    tokens, _ = tokenize_responses(
        world.tokenizer,
        world.template,
        corpus,
        max_length=model.max_length,
        max_prompt_length=model.max_prompt_length,
    )
    decoder = config_from_hf(dict(world.decoder_fields))
    shardings = decoder_shardings(decoder, context.mesh, where=f"the reference of {world.name}")
    params = jax.device_put(init_params(context.key("reference"), decoder), shardings)
    make_epoch = _response_epochs(context, tokens, config.reference.batch_size)
    optimizer = optimizer_of(config.reference, len(make_epoch(0)))
    result = fit_stage(
        context,
        "reference",
        compiled.steps_of(sft_loss_fn(decoder, None), optimizer),
        optimizer,
        trainable=params,
        frozen=None,
        make_epoch=make_epoch,
        settings=config.reference,
        evaluate=None,
        check=None,
    )
    save_pretrained(Model(result.trainable, decoder, world.tokenizer), context.workdir / "reference")


@preemption.deferred()
def train_dpo(
    context: Context,
    stage: str,
    reference: Policy,
    train: LabelledPairs,
    held_out: LabelledPairs | None,
    settings: TrainingSettings,
    *,
    beta: float,
    begin: Policy | None = None,
) -> None:
    """Trains a policy from the reference by DPO; saves it in the run's folder as `stage`/best and /last.

    Args:
      context: the run.
      stage: name of the folder and of the lines in metrics.jsonl.
      reference: pi_ref; its log-probabilities are computed once and kept.
      train: pairs and labels.
      held_out: pairs that choose the best step; None: the last step is the best.
      settings: the optax run.
      beta: KL weight > 0.
      begin: a trained policy to begin at; None: the reference, which stays what the policy is held to.
    """
    config, model = context.config, reference.model
    trainable, frozen, adapter = start_of(context, stage, model)
    if begin is not None:
        trainable = begin.model.params if begin.lora is None else begin.lora.params
    make_epoch = _pair_epochs(context, stage, reference, train, settings.batch_size)
    optimizer = optimizer_of(settings, len(make_epoch(0)))
    judged: list[np.ndarray] = []
    exact = config.model.dtype == "float32"
    evaluate = (
        None if held_out is None else _held_out_metrics(context, stage, reference, held_out, beta, judged)
    )
    result = fit_stage(
        context,
        stage,
        compiled.dpo_steps(model.config, adapter, beta, optimizer),
        optimizer,
        trainable=trainable,
        frozen=frozen,
        make_epoch=make_epoch,
        settings=settings,
        evaluate=evaluate,
        check=None if begin is not None else check_first_dpo_step(tolerance=1e-3 if exact else 5e-2),
    )
    save_result(context, stage, result)
    steps = [record["step"] for record in result.history if "eval_loss" in record]
    if held_out is not None and result.best_step in steps:  # a resumed run may have kept an earlier one
        kept = _policy(context, stage, reference, result.trainable, stage)
        remember_pair_logps(context, kept, held_out.tokens, judged[steps.index(result.best_step)])


def save_result(context: Context, stage: str, result: FitResult) -> None:
    """Saves what was trained as `stage`/best and /last."""
    metadata = {"best_step": result.best_step, "steps": result.steps, "stopped_early": result.stopped_early}
    save_tree(context.workdir / stage / "best", result.trainable, metadata)
    save_tree(context.workdir / stage / "last", result.state.trainable, metadata)
    context.say(f"  {stage}: step {result.best_step} of {result.steps} kept")


def load_policy(context: Context, stage: str, reference: Policy, name: str) -> Policy:
    """A policy that `train_dpo` saved, on the reference's own weights where it is an adapter."""
    like, _, _ = start_of(context, stage, reference.model)
    trainable, _ = restore_tree(context.workdir / stage / "best", like)
    return _policy(context, stage, reference, trainable, name)


def _policy(context: Context, stage: str, reference: Policy, trainable: Any, name: str) -> Policy:
    """What was trained as a policy, without dropout."""
    fingerprint, settings = context.stages.fingerprints[stage], context.config.lora
    if settings.rank == 0:
        model = reference.model.replace(params=trainable)
        return Policy(name, lambda: model, None, fingerprint)
    return Policy(name, reference.load, Lora(trainable, settings.alpha / settings.rank, 0.0), fingerprint)


def start_of(
    context: Context, stage: str, model: Model | ScoreModel
) -> tuple[Any, Any, AdapterSettings | None]:
    """What is trained, what is not, and how the one sits on the other."""
    settings: LoraSettings = context.config.lora
    if settings.rank == 0:
        return model.params, None, None
    lora = init_lora(
        context.key(f"lora {stage}"),
        model.config,
        rank=settings.rank,
        alpha=settings.alpha,
        targets=settings.targets,
        dropout=settings.dropout,
    )
    placed = place_lora(lora, context.mesh)
    return placed.params, model.params, AdapterSettings(lora.scale, lora.dropout)


def optimizer_of(settings: TrainingSettings, per_epoch: int) -> OptimizerSettings:
    """The optimizer of a run of so many batches an epoch."""
    updates = max(1, round(settings.epochs * per_epoch / settings.accumulate))
    return OptimizerSettings(
        learning_rate=settings.learning_rate,
        total_steps=updates,
        schedule=settings.schedule,  # pyright: ignore[reportArgumentType]  # config.py checked it
        warmup_steps=min(settings.warmup_steps, updates - 1),
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate,
    )


def fit_stage(
    context: Context,
    stage: str,
    steps: compiled.Steps,
    optimizer: OptimizerSettings,
    *,
    trainable: Any,
    frozen: Any,
    make_epoch: Callable[[int], Any],
    settings: TrainingSettings,
    evaluate: Callable[[Any], dict[str, float]] | None,
    check: Callable[[str, dict[str, float]], None] | None,
) -> FitResult:
    """One optax run under a stage's name: metrics, progress bar, checkpoints to go on from."""
    num_steps = optimizer.num_steps
    folder = context.cache(stage)
    state = init_state(trainable, steps.tx, context.key(f"train {stage}"), mesh=context.mesh)
    with Checkpoints(folder) as checkpoints, progress(num_steps, stage) as bar:
        result = fit(
            state,
            steps.train(compiled.Layout.of(state)),
            frozen,
            epochs(make_epoch),
            FitSettings(
                stage=stage,
                num_steps=num_steps,
                log_every=settings.log_every,
                eval_every=-(-num_steps // settings.evals),  # rounded up: none is due just before the last
                patience=settings.patience,
                checkpoint_every=settings.checkpoint_every,
                steps_per_epoch=len(make_epoch(0)),
                judge_by=settings.judge_by,
            ),
            place=placer(context.mesh),
            evaluate=evaluate,
            first_step_check=check,
            log=lambda step, record: context.metrics.write(stage, step, record),
            on_resume=lambda step: context.metrics.rewind(stage, step),
            checkpoints=checkpoints,
            stop=preemption.asked,
            bar=bar,
        )
    remove(folder)  # the stage saves its result itself
    return result


def _pair_epochs(
    context: Context, stage: str, reference: Policy, pairs: LabelledPairs, batch_size: int
) -> Callable[[int], Any]:
    ref = pair_logps(context, reference, pairs.tokens)
    columns = {"labels": pairs.labels, "ref_chosen": ref[:, 0], "ref_rejected": ref[:, 1]}
    return labelled_epochs(context, stage, pairs.tokens, batch_size, columns)


def labelled_epochs(
    context: Context,
    stage: str,
    tokens: Sequence[TokenizedPair],
    batch_size: int,
    columns: Mapping[str, np.ndarray],
) -> Callable[[int], Any]:
    """Epoch number -> its batches of pairs, shuffled; `columns` are other arrays of `pair_batches`, [n]."""
    buckets = context.buckets(pair_lengths(tokens))
    seed = context.seed(f"order {stage}")

    @functools.lru_cache(maxsize=2)
    def make_epoch(epoch: int) -> Any:
        return pair_batches(
            tokens,
            **columns,
            batch_size=batch_rows(batch_size, len(tokens), context.mesh),
            buckets=buckets,
            seed=seed,
            epoch=epoch,
            shuffle=True,
            drop_remainder=False,
        )

    return make_epoch


def _held_out_metrics(
    context: Context,
    stage: str,
    reference: Policy,
    pairs: LabelledPairs,
    beta: float,
    judged: list[np.ndarray],
) -> Callable[[Any], dict[str, float]]:
    """Trainable -> what the held-out pairs say of it; their log-probabilities are added to `judged`."""
    ref = pair_logps(context, reference, pairs.tokens)

    def evaluate(trainable: Any) -> dict[str, float]:
        policy = _policy(context, stage, reference, trainable, f"{stage} (held out)")
        if policy.lora is not None and is_neutral(policy.lora):
            logps = ref  # before the first step
        else:
            logps = compute_pair_logps(context, policy, pairs.tokens, leave_bar=False)
        judged.append(logps)
        return preference_metrics(logps, ref, pairs.labels, beta=beta)

    return evaluate


def _response_epochs(
    context: Context, tokens: list[TokenizedResponse], batch_size: int
) -> Callable[[int], Any]:
    buckets = context.buckets(response_lengths(tokens))
    seed = context.seed("order reference")

    @functools.lru_cache(maxsize=2)
    def make_epoch(epoch: int) -> Any:
        return response_batches(
            tokens,
            batch_size=batch_size,
            buckets=buckets,
            seed=seed,
            epoch=epoch,
            shuffle=True,
            drop_remainder=True,
        )

    return make_epoch
