"""The one train step: SFT, DPO on hard or soft labels and score models differ in the loss passed in.

A loss function here is `loss_fn(trainable, frozen, batch, key) -> (loss, metrics)`:

  trainable: the tree that is differentiated: adapters, or all parameters
  frozen: the tree that is not: the base parameters, or None; an argument, never a constant of the program
  batch: PairBatch or ResponseBatch
  key: PRNG key for dropout, or None: no dropout (evaluation)
  loss: [] float32, a weighted mean over the batch
  metrics: weighted means of the same kind, [] float32, and under "weight" the total weight they stand for
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
    """What the step itself reads of a batch."""

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
    """All that one step hands to the next.

    Attributes:
      step: [] int32, train steps done.
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
    """The static part of a Lora: what is not in its parameter tree.

    Attributes:
      scale: factor on the adapter's product, alpha / rank.
      dropout: dropout rate on the adapter's input while training, in [0, 1).
    """

    scale: float
    dropout: float = 0.0


def init_state(
    trainable: Tree, tx: optax.GradientTransformation, key: Array, *, mesh: Mesh | None = None
) -> TrainState:
    """State before the first step.

    The arrays are copied, because the step donates (overwrites) its state: the caller's stay usable.

    Args:
      trainable: tree of parameters; shardings are kept.
      tx: the optimizer.
      key: PRNG key for all steps.
      mesh: the devices that `trainable` lies on, each leaf by a NamedSharding; the rest of the state is then
        made where `state_shardings` has it. None: the default device.
    """

    def build(trainable: Tree, key: Array) -> TrainState:
        trainable, key = jax.tree.map(jnp.copy, (trainable, key))
        return TrainState(step=jnp.int32(0), trainable=trainable, opt_state=tx.init(trainable), key=key)

    if mesh is None:
        return build(trainable, key)
    own = jax.tree.map(lambda leaf: leaf.sharding, trainable)
    # Compiled, so that moments are made in parts and never exist whole on one device.
    shardings = state_shardings(jax.eval_shape(build, trainable, key), tx, own, mesh)
    return jax.jit(build, out_shardings=shardings)(trainable, key)


def state_shardings(
    state: TrainState, tx: optax.GradientTransformation, trainable_shardings: Tree, mesh: Mesh
) -> TrainState:
    """Where a state lives on a mesh: moments beside their parameters, everything else on every device.

    Args:
      state: arrays or shapes.
      tx: the optimizer the state was made with.
      trainable_shardings: tree of NamedSharding like `state.trainable`.
      mesh: the devices.

    Returns:
      TrainState of NamedSharding; for `jax.device_put`, and for `make_train_step`.
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
      loss_fn: see the module.
      tx: the optimizer.
      schedule: learning rate by train step, for the metrics.
      shardings: `state_shardings` when the state lives on several devices.

    Returns:
      step(state, frozen, batch) -> (state, metrics). The state passed in is donated: use the one returned.
      Metrics are device scalars that nothing has waited for: those of the loss and grad_norm (before
      clipping), learning_rate (of the update this step belongs to), num_tokens (of this batch).
    """

    def step(state: TrainState, frozen: Tree, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = gradient(state.trainable, frozen, batch, key)
        # optax mixes its integer counters with float32; only there is promotion harmless.
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
    """Sums for the mean loss and metrics over held-out batches, compiled; no dropout.

    Args:
      loss_fn: see the module.

    Returns:
      step(trainable, frozen, batch) -> sums: each metric times the batch's total weight, and "weight" itself.
      Adding the sums of all batches and dividing by the weight gives means over rows (SFT: over tokens)
      however they were batched.
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
    """DPO and its family on a PairBatch whose reference log-probabilities are in the batch.

    Args:
      config: the decoder.
      adapter: settings of the adapters that are trained on the frozen parameters; None: `trainable` is all
        the parameters and `frozen` None.
      beta: KL weight > 0, in the units of the scores per nat.
      loss: of `alignment.losses`; bind its other arguments with functools.partial.

    Returns:
      A loss function; metrics rewards/chosen, rewards/rejected (beta times log-ratio), rewards/margins
      (their difference), rewards/accuracies (share of pairs whose implicit preference agrees with the
      likelier label; with hard labels TRL's), logps/chosen, logps/rejected.
    """

    def loss_fn(trainable: Tree, frozen: Tree, batch: PairBatch, key: Array | None) -> tuple[Array, Metrics]:
        model, lora = _policy(config, adapter, trainable, frozen)
        chosen, rejected = pair_logps(model, batch, lora=lora, dropout_key=_dropout_key(adapter, key))
        labels, weights = jnp.asarray(batch.labels), jnp.asarray(batch.weights)
        # Cleared before the loss: the slope of log sigma at nan is nan, and 0 * nan would reach the gradient.
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
    """Negative log-likelihood of the responses of a ResponseBatch, mean over all their tokens.

    Args:
      config: the decoder.
      adapter: as in `dpo_loss_fn`.

    Returns:
      A loss function, nats a token; metrics logps (mean of a response), weight (tokens).
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
    """Loss of a score model on a PairBatch whose labels are P(chosen preferred).

    A reward model is trained by `losses.bradley_terry`, a cost model by `losses.cost` on the same pairs,
    where preferred means safer, with the signs that the batch has. Scores are not normalized while they are
    learned.

    Args:
      config: the decoder.
      adapter: settings of the adapters in `trainable` = {"lora", "head"}, where `frozen` are the decoder's
        parameters; None: `trainable` = {"decoder", "head"} and `frozen` None.
      kind: "reward" or "cost".
      regularizer: weight >= 0 of the squares of the scores.
      centering: weight >= 0 of the square of their sum.

    Returns:
      A loss function; metrics rewards/chosen, rewards/rejected, rewards/margins (their difference),
      rewards/accuracies (share of pairs whose scores agree with the likelier label; with hard labels TRL's),
      rewards/mean, rewards/min, rewards/max (over both responses of the rows that count; evaluation averages
      the extremes of its batches). A cost model's are utilities, minus its costs: higher is always better.
    """

    def loss_fn(trainable: Tree, frozen: Tree, batch: PairBatch, key: Array | None) -> tuple[Array, Metrics]:
        body = trainable["decoder" if adapter is None else "lora"]
        policy, lora = _policy(config, adapter, body, frozen)
        params = {"decoder": policy.params, "head": trainable["head"]}
        model = ScoreModel(params=params, normalizer=identity_normalizer(), config=config, kind=kind)
        scores = pair_scores(model, batch, lora=lora, dropout_key=_dropout_key(adapter, key))
        labels, weights = jnp.asarray(batch.labels), jnp.asarray(batch.weights)
        # Cleared before the loss, as in `dpo_loss_fn`.
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
    """Metrics of `score_loss_fn` from scores of which higher is better, all [B]."""
    real, margins = weights > 0, chosen - rejected
    per_pair = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": margins,
        "rewards/accuracies": jnp.where(labels >= 0.5, margins > 0, margins < 0).astype(jnp.float32),
        "rewards/mean": 0.5 * (chosen + rejected),
    }
    metrics = {name: losses.weighted_mean(v, weights) for name, v in per_pair.items()}
    # 0 where no row counts, as of a mean: infinity times the weight 0 would make a sum of evaluation nan.
    some = jnp.any(real)
    lowest = jnp.min(jnp.where(real, jnp.minimum(chosen, rejected), jnp.inf))
    highest = jnp.max(jnp.where(real, jnp.maximum(chosen, rejected), -jnp.inf))
    metrics["rewards/min"] = jnp.where(some, lowest, 0.0)
    metrics["rewards/max"] = jnp.where(some, highest, 0.0)
    metrics["weight"] = jnp.sum(weights)
    return metrics


def count_tokens(batch: Batch) -> Array:
    """Tokens of the rows that count, prompts included; [] int32."""
    real = (jnp.asarray(batch.rows.segment_ids) > 0) & (jnp.asarray(batch.weights) > 0)[:, None]
    return jnp.sum(real, dtype=jnp.int32)


def _policy(
    config: DecoderConfig, adapter: AdapterSettings | None, trainable: Tree, frozen: Tree
) -> tuple[Model, Lora | None]:
    """The trained policy as the log-probability functions take it."""
    if adapter is None:
        return Model(params=trainable, config=config, tokenizer=None), None
    lora = Lora(params=trainable, scale=adapter.scale, dropout=adapter.dropout)
    return Model(params=frozen, config=config, tokenizer=None), lora


def _dropout_key(adapter: AdapterSettings | None, key: Array | None) -> Array | None:
    """The key where dropout is asked for: without it the program holds no random numbers."""
    return key if adapter is not None and adapter.dropout > 0 else None
