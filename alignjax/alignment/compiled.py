"""The train steps, compiled once however many stages of a run use them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from alignjax.alignment import losses
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import (
    AdapterSettings,
    LossFn,
    TrainState,
    dpo_loss_fn,
    make_train_step,
    score_loss_fn,
    sft_loss_fn,
)
from alignjax.config import LossSettings, ScoreModelSettings, TrainingSettings
from alignjax.models import DecoderConfig, Lora
from alignjax.models.score_model import Kind


class Layout(NamedTuple):
    """Where every array of a state lies; hashable, unlike a tree of shardings."""

    structure: Any
    shardings: tuple[Any, ...]

    @classmethod
    def of(cls, state: TrainState) -> "Layout":
        """The layout of a state of arrays or of shapes."""
        leaves, structure = jax.tree.flatten(state)
        return cls(structure, tuple(leaf.sharding for leaf in leaves))


class Steps(NamedTuple):
    """The train step of one optax run; runs with equal settings share it, so that nothing compiles twice.

    Attributes:
      tx: the optimizer.
      train: gives the compiled step for the layout of its state.
    """

    tx: optax.GradientTransformation
    train: Callable[[Layout], jax.stages.Wrapped]


@functools.lru_cache(maxsize=8)
def loss_of(settings: LossSettings) -> losses.PreferenceLoss:
    """The configured preference loss; equal settings give the same object."""
    return losses.pairwise_loss(settings.name, label_smoothing=settings.label_smoothing)


@functools.lru_cache(maxsize=8)
def dpo_steps(
    decoder: DecoderConfig,
    adapter: AdapterSettings | None,
    beta: float,
    loss: losses.PreferenceLoss,
    optimizer: OptimizerSettings,
) -> Steps:
    """Train step of DPO and its family; `loss` is of `loss_of`, so that runs share the step."""
    return _steps(dpo_loss_fn(decoder, adapter, beta=beta, loss=loss), optimizer)


@functools.lru_cache(maxsize=4)
def score_steps(
    decoder: DecoderConfig,
    adapter: AdapterSettings | None,
    kind: Kind,
    extra: ScoreModelSettings,
    optimizer: OptimizerSettings,
) -> Steps:
    """Train step of a score model."""
    weights = {"regularizer": extra.regularizer, "centering": extra.centering}
    return _steps(score_loss_fn(decoder, adapter, kind=kind, **weights), optimizer)


@functools.lru_cache(maxsize=2)
def sft_steps(decoder: DecoderConfig, optimizer: OptimizerSettings) -> Steps:
    """Train step of a world's reference: the likelihood of its corpus, all weights."""
    return _steps(sft_loss_fn(decoder, None), optimizer)


def optimizer_of(settings: TrainingSettings, per_epoch: int) -> OptimizerSettings:
    """The optimizer of a run.

    Args:
      settings: of the run.
      per_epoch: batches of an epoch.
    """
    updates = max(1, round(settings.epochs * per_epoch / settings.accumulate))
    return OptimizerSettings(
        learning_rate=settings.learning_rate,
        total_steps=updates,
        schedule=settings.schedule,  # pyright: ignore[reportArgumentType]  # config/checks.py checked it
        warmup_steps=min(settings.warmup_steps, updates - 1),
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate,
    )


def adapter_settings(lora: Lora | None) -> AdapterSettings | None:
    """What of the adapters is compiled into a train step; None: all weights are trained."""
    return None if lora is None else AdapterSettings(lora.scale, lora.dropout)


def _steps(loss_fn: LossFn, optimizer: OptimizerSettings) -> Steps:
    tx, schedule = make_optimizer(optimizer)

    @functools.lru_cache(maxsize=2)
    def train(layout: Layout) -> jax.stages.Wrapped:
        shardings = jax.tree.unflatten(layout.structure, layout.shardings)
        return make_train_step(loss_fn, tx, schedule, shardings=shardings)

    return Steps(tx, train)
