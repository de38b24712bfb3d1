"""Train steps that are compiled once, however many stages of a run use them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from alignjax.alignment import losses
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import AdapterSettings, LossFn, TrainState, dpo_loss_fn, make_train_step
from alignjax.models import DecoderConfig


class Layout(NamedTuple):
    """Where every array of a state lies; hashable, unlike a tree of shardings."""

    structure: Any
    shardings: tuple[Any, ...]

    @classmethod
    def of(cls, state: TrainState) -> "Layout":
        """That of a state."""
        leaves, structure = jax.tree.flatten(state)
        return cls(structure, tuple(leaf.sharding for leaf in leaves))


class Steps(NamedTuple):
    """Compiled step of one optax run; runs with equal settings share it: nothing compiles twice."""

    tx: optax.GradientTransformation
    train: Callable[[Layout], jax.stages.Wrapped]


@functools.lru_cache(maxsize=8)
def dpo_steps(
    decoder: DecoderConfig, adapter: AdapterSettings | None, beta: float, optimizer: OptimizerSettings
) -> Steps:
    """Train step of DPO."""
    return steps_of(dpo_loss_fn(decoder, adapter, beta=beta, loss=losses.dpo), optimizer)


def steps_of(loss_fn: LossFn, optimizer: OptimizerSettings) -> Steps:
    """Train step of any loss."""
    tx, schedule = make_optimizer(optimizer)

    @functools.lru_cache(maxsize=2)
    def train(layout: Layout) -> jax.stages.Wrapped:
        shardings = jax.tree.unflatten(layout.structure, layout.shardings)
        return make_train_step(loss_fn, tx, schedule, shardings=shardings)

    return Steps(tx, train)
