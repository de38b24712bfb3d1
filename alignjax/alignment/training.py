"""Trains policies: an embedded world's reference by likelihood, everything else by DPO from the reference."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.alignment import compiled
from alignjax.alignment.compiled import optimizer_of
from alignjax.alignment.course import course_of
from alignjax.alignment.held_out import preference_metrics
from alignjax.alignment.loop import FitResult, FitSettings, check_first_dpo_step, epochs, fit
from alignjax.alignment.optimizer import OptimizerSettings
from alignjax.alignment.step import AdapterSettings, init_state
from alignjax.config import LoraSettings, PreferenceTrainingSettings, TrainingSettings
from alignjax.data.batches import pair_batches, pair_lengths, response_batches, response_lengths
from alignjax.data.buckets import RowCost
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.models import Lora, Model, ScoreModel, init_lora, is_neutral, place_lora
from alignjax.policy.batching import Batching
from alignjax.policy.known_logps import LogpsCache, logps_of_pairs
from alignjax.policy.row_cost import row_cost
from alignjax.policy.values import Outcome, Policy
from alignjax.runtime import preemption
from alignjax.runtime.checkpoint import Checkpoints, restore_tree, save_tree
from alignjax.runtime.log import Log
from alignjax.runtime.mesh import batch_rows, placer
from alignjax.runtime.metrics import progress
from alignjax.runtime.profiling import Profile, traced
from alignjax.runtime.seeds import Seeds
from alignjax.runtime.work import Work

Tree = Any
"""A flax tree of arrays."""


class LabelledPairs(NamedTuple):
    """What DPO is trained or judged on.

    Attributes:
      tokens: n pairs.
      labels: [n] float in [0, 1], P(chosen preferred).
    """

    tokens: list[TokenizedPair]
    labels: np.ndarray


class Trainer(NamedTuple):
    """What all trainings of a run share.

    Attributes:
      batching: mesh and shapes of batches.
      seeds: of the run.
      log: of the run.
      lora: adapters that are trained; rank 0: all weights are.
      logps: log-probabilities that are known.
      profile: steps that are traced; None: none.
    """

    batching: Batching
    seeds: Seeds
    log: Log
    lora: LoraSettings
    logps: LogpsCache
    profile: Profile | None = None


class Start(NamedTuple):
    """Where a training begins.

    Attributes:
      trainable: what is trained.
      frozen: the weights below adapters; None where all are trained.
      adapter: how adapters sit on the weights; None likewise.
    """

    trainable: Tree
    frozen: Tree
    adapter: AdapterSettings | None


@preemption.deferred()
def train_sft(
    trainer: Trainer,
    name: str,
    model: Model,
    tokens: Sequence[TokenizedResponse],
    settings: TrainingSettings,
    work: Work,
) -> Model:
    """Trains all weights of a model on the likelihood of responses.

    Args:
      trainer: what all trainings share.
      name: of the stage.
      model: before training, placed on the mesh.
      tokens: responses to learn from.
      settings: of the optimizer.
      work: of the stage.

    Returns:
      The model after the last step.
    """
    cost = row_cost(model.config, settings.epochs, trained=True)
    buckets = trainer.batching.buckets(response_lengths(tokens), cost)
    seed = trainer.seeds.seed(f"order {name}")

    @functools.lru_cache(maxsize=2)
    def make_epoch(epoch: int) -> Any:
        return response_batches(
            tokens,
            batch_size=settings.batch_size,
            buckets=buckets,
            seed=seed,
            epoch=epoch,
            shuffle=True,
            drop_remainder=True,
        )

    optimizer = optimizer_of(settings, len(make_epoch(0)))
    steps = compiled.sft_steps(model.config, optimizer)
    start = Start(model.params, None, None)
    result = fit_stage(trainer, name, steps, optimizer, start, make_epoch, settings, work)
    return model.replace(params=result.trainable)


@preemption.deferred()
def train_dpo(
    trainer: Trainer,
    name: str,
    reference: Policy,
    train: LabelledPairs,
    held_out: LabelledPairs | None,
    settings: PreferenceTrainingSettings,
    work: Work,
    *,
    beta: float,
    begin: Policy | None = None,
) -> Policy:
    """Trains a policy from the reference by DPO.

    Args:
      trainer: what all trainings share.
      name: of the stage and of its lines in metrics.jsonl.
      reference: pi_ref; its log-probabilities are computed once and kept.
      train: pairs and labels.
      held_out: pairs that choose the best step; None: the last step is the best.
      settings: of loss and optimizer.
      work: of the stage.
      beta: KL weight > 0.
      begin: a trained policy to begin at; None: the reference, which stays what the policy is held to.

    Returns:
      The policy, with the outcome of its training.
    """
    model = reference.model
    start = start_of(trainer, name, model)
    if begin is not None:
        adapter = begin.adapter
        start = start._replace(trainable=begin.model.params if adapter is None else adapter.params)
    # With the held-out pairs, which the first evaluation needs: one call has fewer incomplete batches than
    # two, and no training holds memory yet.
    both = [*train.tokens, *(() if held_out is None else held_out.tokens)]
    ref = trainer.logps.of_pairs(reference, both)[: len(train.tokens)]
    columns = {"labels": train.labels, "ref_chosen": ref[:, 0], "ref_rejected": ref[:, 1]}
    cost = row_cost(model.config, settings.epochs, trained=True)
    make_epoch = pair_epochs(trainer, name, train.tokens, settings.batch_size, columns, cost)
    optimizer = optimizer_of(settings, len(make_epoch(0)))
    judge = None if held_out is None else _Judge(trainer, name, reference, held_out, beta, [])
    exact = model.config.dtype == "float32"
    starts_equal = begin is None and settings.loss.name == "dpo"  # then the first loss is ln 2
    result = fit_stage(
        trainer,
        name,
        compiled.dpo_steps(model.config, start.adapter, beta, compiled.loss_of(settings.loss), optimizer),
        optimizer,
        start,
        make_epoch,
        settings,
        work,
        evaluate=judge,
        check=check_first_dpo_step(tolerance=1e-3 if exact else 5e-2) if starts_equal else None,
    )
    policy = policy_of(trainer, name, name, reference, result.trainable, work)
    steps = [record["step"] for record in result.history if "eval_loss" in record]
    if judge is not None and result.best_step in steps:  # a resumed run may have kept an earlier one
        trainer.logps.remember(policy, judge.pairs.tokens, judge.logps[steps.index(result.best_step)])
    return policy._replace(outcome=outcome_of(trainer, name, result))


def outcome_of(trainer: Trainer, name: str, result: FitResult) -> Outcome:
    """How a training ended, which is also told."""
    trainer.log.say(f"  {name}: step {result.best_step} of {result.steps} kept")
    return Outcome(
        result.trainable, result.state.trainable, result.best_step, result.steps, result.stopped_early
    )


def save_outcome(folder: Path, outcome: Outcome | None) -> None:
    """Writes what was trained as `folder`/best and `folder`/last."""
    assert outcome is not None, "only a value that was computed is saved"
    fields = {"best_step": outcome.best_step, "steps": outcome.steps, "stopped_early": outcome.stopped_early}
    save_tree(folder / "best", outcome.best, fields)
    save_tree(folder / "last", outcome.last, fields)


def load_policy(
    folder: Path, trainer: Trainer, stage: str, name: str, reference: Policy, work: Work
) -> Policy:
    """A policy whose outcome was saved, on the reference's own weights where it is an adapter.

    Args:
      folder: of the outcome.
      trainer: what all trainings share.
      stage: that trained it.
      name: of the policy.
      reference: pi_ref.
      work: of the stage.

    Raises:
      InputError: the checkpoint is damaged, is of another model, or holds a number that is not finite.
    """
    like = start_of(trainer, stage, reference.model).trainable
    trainable, _ = restore_tree(folder / "best", like, finite=True)
    return policy_of(trainer, stage, name, reference, trainable, work)


def policy_of(
    trainer: Trainer, stage: str, name: str, reference: Policy, trainable: Tree, work: Work
) -> Policy:
    """What a stage trained as a policy, without dropout."""
    lora = trainer.lora
    if lora.rank == 0:
        model = reference.model.replace(params=trainable)
        return Policy(name, lambda: model, None, stage, work.fingerprint)
    adapters = Lora(trainable, lora.alpha / lora.rank, 0.0)
    return Policy(name, reference.load, adapters, stage, work.fingerprint)


def start_of(trainer: Trainer, name: str, model: Model | ScoreModel) -> Start:
    """Where the training of a stage begins: the model's weights, or new adapters on them."""
    settings = trainer.lora
    if settings.rank == 0:
        return Start(model.params, None, None)
    lora = init_lora(
        trainer.seeds.key(f"lora {name}"),
        model.config,
        rank=settings.rank,
        alpha=settings.alpha,
        targets=settings.targets,
        dropout=settings.dropout,
    )
    placed = place_lora(lora, trainer.batching.mesh)
    return Start(placed.params, model.params, AdapterSettings(lora.scale, lora.dropout))


def fit_stage(
    trainer: Trainer,
    name: str,
    steps: compiled.Steps,
    optimizer: OptimizerSettings,
    start: Start,
    make_epoch: Callable[[int], Any],
    settings: TrainingSettings,
    work: Work,
    *,
    evaluate: Callable[[Tree], dict[str, float]] | None = None,
    check: Callable[[str, dict[str, float]], None] | None = None,
) -> FitResult:
    """Runs the training loop under a stage's name: metrics, progress bar, checkpoints to resume from.

    Args:
      trainer: what all trainings share.
      name: of the stage.
      steps: compiled train step.
      optimizer: of the steps.
      start: what is trained, and on what.
      make_epoch: number of an epoch -> its batches.
      settings: of the training.
      work: of the stage; checkpoints lie in its scratch folder.
      evaluate: trainable -> means on held-out pairs; None: the last step is the best.
      check: called with the name and the first step's metrics.
    """
    mesh, num_steps = trainer.batching.mesh, optimizer.num_steps
    state = init_state(start.trainable, steps.tx, trainer.seeds.key(f"train {name}"), mesh=mesh)
    fit_settings = FitSettings(
        stage=name,
        num_steps=num_steps,
        log_every=settings.log_every,
        eval_every=-(-num_steps // settings.evals),  # rounded up: none is due just before the last
        patience=settings.patience,
        checkpoint_every=settings.checkpoint_every,
        steps_per_epoch=len(make_epoch(0)),
        judge_by=settings.judge_by,
    )
    step = steps.train(compiled.Layout.of(state))
    with progress(num_steps, name) as bar, traced(step, trainer.profile, name) as train_step:

        def run(checkpoints: Checkpoints | None) -> FitResult:
            return fit(
                state,
                train_step,
                start.frozen,
                epochs(make_epoch),
                fit_settings,
                place=placer(mesh),
                evaluate=evaluate,
                first_step_check=check,
                log=lambda step, record: trainer.log.write(name, step, record),
                on_resume=lambda step: trainer.log.rewind(name, step),
                checkpoints=checkpoints,
                stop=preemption.asked,
                bar=bar,
            )

        if work.scratch is None:
            result = run(None)
        else:
            with Checkpoints(work.scratch / "steps") as checkpoints:
                result = run(checkpoints)
    if course := course_of([record["loss"] for record in result.history if "loss" in record]):
        trainer.log.say(f"  {name}: the training {course}.")
    return result


def pair_epochs(
    trainer: Trainer,
    name: str,
    tokens: Sequence[TokenizedPair],
    batch_size: int,
    columns: Mapping[str, np.ndarray],
    cost: RowCost,
) -> Callable[[int], Any]:
    """Number of an epoch -> its batches of pairs, shuffled; `columns` are other arrays of `pair_batches`."""
    buckets = trainer.batching.buckets(pair_lengths(tokens), cost)
    seed = trainer.seeds.seed(f"order {name}")
    rows = batch_rows(batch_size, len(tokens), trainer.batching.mesh)

    @functools.lru_cache(maxsize=2)
    def make_epoch(epoch: int) -> Any:
        return pair_batches(
            tokens,
            **columns,
            batch_size=rows,
            buckets=buckets,
            seed=seed,
            epoch=epoch,
            shuffle=True,
            drop_remainder=False,
        )

    return make_epoch


class _Judge(NamedTuple):
    """Trainable -> what the held-out pairs say of it; their log-probabilities are added to `logps`."""

    trainer: Trainer
    name: str
    reference: Policy
    pairs: LabelledPairs
    beta: float
    logps: list[np.ndarray]

    def __call__(self, trainable: Tree) -> dict[str, float]:
        """Means of `preference_metrics`."""
        ref = self.trainer.logps.of_pairs(self.reference, self.pairs.tokens)
        name = f"{self.name} (held out)"
        policy = policy_of(self.trainer, self.name, name, self.reference, trainable, Work("", None))
        if policy.adapter is not None and is_neutral(policy.adapter):
            found = ref  # before the first step
        else:
            found = logps_of_pairs(policy, self.pairs.tokens, self.trainer.batching, leave_bar=False)
        self.logps.append(found)
        return preference_metrics(found, ref, self.pairs.labels, beta=self.beta)
