"""The train step. SFT, DPO with hard or soft labels and score models differ only in the loss function.

A loss function is `loss_fn(trainable, frozen, batch, key) -> (loss, metrics)`:

  trainable: the tree of parameters that is differentiated: adapters, or all parameters
  frozen: the tree that is not: the base parameters, or None; an argument, so that it is not compiled in
  batch: PairBatch or ResponseBatch
  key: PRNG key for dropout; None: no dropout, as for evaluation
  loss: [] float32, a weighted mean over the batch
  metrics: other weighted means, [] float32; "weight" is the total weight of the rows they are means of
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alignjax.alignment import losses
from alignjax.data.batches import Array as BatchArray
from alignjax.data.batches import PairBatch, ResponseBatch, Rows
from alignjax.models import (
    DecoderConfig,
    Lora,
    Model,
    ScoreModel,
    as_utility,
    identity_normalizer,
    pair_scores,
)
from alignjax.models.score_model import Kind
from alignjax.policy.logps import completion_logps, pair_logps

Tree = Any
Metrics = dict[str, Array]


class Batch(Protocol):
    """The fields of a batch that the step itself reads."""

    @property
    def rows(self) -> Rows:
        """Token rows."""
        ...

    @property
    def weights(self) -> BatchArray:
        """[B] float32, 0 for padding rows."""
        ...


LossFn = Callable[[Tree, Tree, Any, Array | None], tuple[Array, Metrics]]


@flax.struct.dataclass
class TrainState:
    """State between two train steps.

    Attributes:
      step: [] int32, number of train steps done.
      trainable: the parameters that are trained.
      opt_state: the optimizer's state.
      key: PRNG key of the run; step t uses fold_in(key, t), so a resumed run draws the same numbers.
    """

    step: Any
    trainable: Tree
    opt_state: Tree
    key: Any


@dataclasses.dataclass(frozen=True)
class AdapterSettings:
    """The static fields of a Lora, which are not in its parameter tree.

    Attributes:
      scale: factor on the adapter's product, alpha / rank.
      dropout: dropout rate on the adapter's input while training, in [0, 1).
    """

    scale: float
    dropout: float = 0.0


def init_state(
    trainable: Tree, tx: optax.GradientTransformation, key: Array, *, mesh: Mesh | None = None
) -> TrainState:
    """The state before the first step.

    The arrays are copied, because the step donates (overwrites) its state and the caller's must stay usable.

    Args:
      trainable: tree of parameters; shardings are kept.
      tx: the optimizer.
      key: PRNG key for all steps.
      mesh: the devices that `trainable` is placed on, each leaf with a NamedSharding; the rest of the state
        is placed as `state_shardings` says. None: the default device.

    Returns:
      The state.
    """

    def build(trainable: Tree, key: Array) -> TrainState:
        trainable, key = jax.tree.map(jnp.copy, (trainable, key))
        return TrainState(step=jnp.int32(0), trainable=trainable, opt_state=tx.init(trainable), key=key)

    if mesh is None:
        return build(trainable, key)
    own = jax.tree.map(lambda leaf: leaf.sharding, trainable)
    # Compiled, so that each device makes its own part of the moments.
    shardings = state_shardings(jax.eval_shape(build, trainable, key), tx, own, mesh)
    return jax.jit(build, out_shardings=shardings)(trainable, key)


def state_shardings(
    state: TrainState, tx: optax.GradientTransformation, trainable_shardings: Tree, mesh: Mesh
) -> TrainState:
    """Shardings of a state on a mesh: moments as their parameters, everything else copied to every device.

    Args:
      state: arrays or shapes.
      tx: the optimizer that the state was made with.
      trainable_shardings: tree of NamedSharding like `state.trainable`.
      mesh: the devices.

    Returns:
      A TrainState of NamedSharding, for `jax.device_put` and for `make_train_step`.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    opt_state = optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        state.opt_state,
        trainable_shardings,
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(step=everywhere, trainable=trainable_shardings, opt_state=opt_state, key=everywhere)


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    schedule: Callable[[Any], Any],
    *,
    shardings: TrainState | None = None,
) -> jax.stages.Wrapped:
    """One step of gradient descent on one batch, compiled.

    Args:
      loss_fn: see the module's docstring.
      tx: the optimizer.
      schedule: train step -> learning rate, for the metrics.
      shardings: from `state_shardings`, if the state is on several devices.

    Returns:
      step(state, frozen, batch) -> (state, metrics). The state passed in is donated: use the one returned.
      Metrics are device scalars that have not been waited for: those of the loss function, loss, grad_norm
      (before clipping), learning_rate (of the update that this step belongs to) and num_tokens (of the
      batch).
    """

    def step(state: TrainState, frozen: Tree, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = gradient(state.trainable, frozen, batch, key)
        # optax mixes integer counters with float32, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
            trainable = optax.apply_updates(state.trainable, updates)
            learning_rate = jnp.asarray(schedule(state.step), jnp.float32)
            grad_norm = optax.tree.norm(grads)
        metrics = {name: value for name, value in metrics.items() if name != "weight"}
        metrics |= {"loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
        metrics["num_tokens"] = count_tokens(batch)
        state = TrainState(state.step + 1, trainable, opt_state, state.key)
        return state, metrics

    out_shardings = None if shardings is None else (shardings, None)
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def make_eval_step(loss_fn: LossFn) -> jax.stages.Wrapped:
    """Loss and metrics of a held-out batch as sums, compiled, without dropout; see `loop.evaluate_batches`.

    Args:
      loss_fn: see the module's docstring.

    Returns:
      step(trainable, frozen, batch) -> sums: the loss and each metric times the batch's total weight, and
      "weight" itself. The sums of all batches divided by their weight are means over rows (SFT: over tokens),
      whatever the batches.
    """

    def step(trainable: Tree, frozen: Tree, batch: Any) -> Metrics:
        loss, metrics = loss_fn(trainable, frozen, batch, None)
        weight = metrics["weight"]
        means = {name: value for name, value in metrics.items() if name != "weight"} | {"loss": loss}
        return {name: value * weight for name, value in means.items()} | {"weight": weight}

    return jax.jit(step)


def dpo_loss_fn(
    config: DecoderConfig,
    adapter: AdapterSettings | None,
    *,
    beta: float,
    loss: losses.PreferenceLoss = losses.dpo,
) -> LossFn:
    """The loss of DPO or one of its variants on a PairBatch that holds the reference's log-probabilities.

    Args:
      config: the decoder.
      adapter: settings of the adapters, which are `trainable`, on the base parameters, which are `frozen`;
        None: `trainable` is all parameters and `frozen` is None.
      beta: KL weight > 0, in the units of the scores per nat.
      loss: of `alignment.losses`; bind its other arguments with functools.partial.

    Returns:
      A loss function. Its metrics: rewards/chosen and rewards/rejected (beta times the log-ratio),
      rewards/margins (their difference), rewards/accuracies (share of pairs whose implicit preference agrees
      with the likelier label; for hard labels the same as TRL's), logps/chosen and logps/rejected.
    """

    def loss_fn(trainable: Tree, frozen: Tree, batch: PairBatch, key: Array | None) -> tuple[Array, Metrics]:
        model, lora = _policy(config, adapter, trainable, frozen)
        chosen, rejected = pair_logps(model, batch, lora=lora, dropout_key=_dropout_key(adapter, key))
        labels, weights = jnp.asarray(batch.labels), jnp.asarray(batch.weights)
        # Clear padding before the loss: the derivative of log sigma at nan is nan, and 0 * nan is nan.
        real = weights > 0
        chosen_logratio = jnp.where(real, chosen - batch.ref_chosen, 0.0)
        rejected_logratio = jnp.where(real, rejected - batch.ref_rejected, 0.0)
        values = loss(chosen_logratio, rejected_logratio, beta=beta, label=labels)
        margins = beta * (chosen_logratio - rejected_logratio)
        agrees = jnp.where(labels >= 0.5, margins > 0, margins < 0).astype(jnp.float32)
        per_pair = {
            "rewards/chosen": beta * chosen_logratio,
            "rewards/rejected": beta * rejected_logratio,
            "rewards/margins": margins,
            "rewards/accuracies": agrees,
            "logps/chosen": chosen,
            "logps/rejected": rejected,
        }
        metrics = {name: losses.weighted_mean(v, weights) for name, v in per_pair.items()}
        metrics["weight"] = jnp.sum(weights)
        return losses.weighted_mean(values, weights), metrics

    return loss_fn


def sft_loss_fn(config: DecoderConfig, adapter: AdapterSettings | None) -> LossFn:
    """Negative log-likelihood of the responses of a ResponseBatch, averaged over all their tokens.

    Args:
      config: the decoder.
      adapter: as in `dpo_loss_fn`.

    Returns:
      A loss function, in nats per token. Its metrics: logps (mean over responses) and weight (tokens).
    """

    def loss_fn(
        trainable: Tree, frozen: Tree, batch: ResponseBatch, key: Array | None
    ) -> tuple[Array, Metrics]:
        model, lora = _policy(config, adapter, trainable, frozen)
        logps = completion_logps(model, batch, lora=lora, dropout_key=_dropout_key(adapter, key))
        lengths = jnp.sum(jnp.asarray(batch.rows.target_slot) >= 0, axis=1, dtype=jnp.int32)
        rows = jnp.asarray(batch.weights)
        tokens = rows * lengths.astype(jnp.float32)
        loss = losses.weighted_mean(losses.sft(logps, lengths), tokens)
        return loss, {"logps": losses.weighted_mean(logps, rows), "weight": jnp.sum(tokens)}

    return loss_fn


def score_loss_fn(
    config: DecoderConfig,
    adapter: AdapterSettings | None,
    *,
    kind: Kind,
    regularizer: float = 0.0,
    centering: float = 0.0,
) -> LossFn:
    """The loss of a score model on a PairBatch whose labels are P(chosen preferred).

    A reward model is trained with `losses.bradley_terry`. A cost model is trained with `losses.cost` on pairs
    where preferred means safer, with the signs that the batch holds. Scores are not normalized in training.

    Args:
      config: the decoder.
      adapter: settings of the adapters in `trainable` = {"lora", "head"}, with the decoder's parameters as
        `frozen`; None: `trainable` = {"decoder", "head"} and `frozen` is None.
      kind: "reward" or "cost".
      regularizer: weight >= 0 of the squares of the scores.
      centering: weight >= 0 of the square of their sum.

    Returns:
      A loss function. Its metrics: rewards/chosen, rewards/rejected, rewards/margins (their difference),
      rewards/accuracies (share of pairs whose scores agree with the likelier label; for hard labels the same
      as TRL's), rewards/mean, rewards/min and rewards/max (over both responses of real rows; evaluation
      averages the extremes of the batches). For a cost model they are utilities, minus its costs, so that
      higher is always better.
    """

    def loss_fn(trainable: Tree, frozen: Tree, batch: PairBatch, key: Array | None) -> tuple[Array, Metrics]:
        body = trainable["decoder" if adapter is None else "lora"]
        policy, lora = _policy(config, adapter, body, frozen)
        params = {"decoder": policy.params, "head": trainable["head"]}
        model = ScoreModel(params=params, normalizer=identity_normalizer(), config=config, kind=kind)
        scores = pair_scores(model, batch, lora=lora, dropout_key=_dropout_key(adapter, key))
        labels, weights = jnp.asarray(batch.labels), jnp.asarray(batch.weights)
        # Clear padding before the loss, as in `dpo_loss_fn`.
        real = weights > 0
        chosen, rejected = (jnp.where(real, x, 0.0) for x in scores)
        options = {"label": labels, "regularizer": regularizer, "centering": centering}
        if kind == "reward":
            values = losses.bradley_terry(chosen, rejected, **options)
        else:
            signs = {"chosen_sign": batch.chosen_sign, "rejected_sign": batch.rejected_sign}
            known = {name: jnp.asarray(sign) for name, sign in signs.items() if sign is not None}
            values = losses.cost(chosen, rejected, **known, **options)
        utilities = as_utility(kind, chosen), as_utility(kind, rejected)
        return losses.weighted_mean(values, weights), _score_metrics(*utilities, labels, weights)

    return loss_fn


def _score_metrics(chosen: Array, rejected: Array, labels: Array, weights: Array) -> Metrics:
    """Metrics of `score_loss_fn` from scores [B], higher is better, and labels and weights [B]."""
    real, margins = weights > 0, chosen - rejected
    per_pair = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": margins,
        "rewards/accuracies": jnp.where(labels >= 0.5, margins > 0, margins < 0).astype(jnp.float32),
        "rewards/mean": 0.5 * (chosen + rejected),
    }
    metrics = {name: losses.weighted_mean(v, weights) for name, v in per_pair.items()}
    # 0 for a batch of padding alone, like a mean: infinity times the weight 0 would make a sum of evaluation
    # nan.
    some = jnp.any(real)
    lowest = jnp.min(jnp.where(real, jnp.minimum(chosen, rejected), jnp.inf))
    highest = jnp.max(jnp.where(real, jnp.maximum(chosen, rejected), -jnp.inf))
    metrics["rewards/min"] = jnp.where(some, lowest, 0.0)
    metrics["rewards/max"] = jnp.where(some, highest, 0.0)
    metrics["weight"] = jnp.sum(weights)
    return metrics


def count_tokens(batch: Batch) -> Array:
    """Number of tokens of the rows of positive weight, prompts included; [] int32."""
    real = (jnp.asarray(batch.rows.segment_ids) > 0) & (jnp.asarray(batch.weights) > 0)[:, None]
    return jnp.sum(real, dtype=jnp.int32)


def _policy(
    config: DecoderConfig, adapter: AdapterSettings | None, trainable: Tree, frozen: Tree
) -> tuple[Model, Lora | None]:
    """The policy in training, as the arguments of the log-probability functions."""
    if adapter is None:
        return Model(params=trainable, config=config, tokenizer=None), None
    lora = Lora(params=trainable, scale=adapter.scale, dropout=adapter.dropout)
    return Model(params=frozen, config=config, tokenizer=None), lora


def _dropout_key(adapter: AdapterSettings | None, key: Array | None) -> Array | None:
    """The key if there is dropout, else None, so that no random numbers are compiled in."""
    return key if adapter is not None and adapter.dropout > 0 else None
