"""The train step: SFT and DPO on a two-layer decoder, donation, compilation, sharding."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from alignjax.alignment import losses
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import (
    AdapterSettings,
    dpo_loss_fn,
    init_state,
    make_eval_step,
    make_train_step,
    sft_loss_fn,
    state_shardings,
)
from alignjax.models import Model, init_lora, init_params, logical_axes, lora_axes
from alignjax.policy.logps import completion_logps, pair_logps
from alignjax.runtime.mesh import make_mesh, shard_batch, tree_shardings

PAIRS = [
    ([1, 2, 3], [4, 5, 10], [6, 10]),
    ([1, 7], [8, 10], [9, 9, 9, 10]),
    ([1, 3, 5, 7], [2, 10], [4, 10]),
]
METRICS = {
    "loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
    "logps/rejected", "grad_norm", "learning_rate", "num_tokens",
}  # fmt: skip
ADAPTER = AdapterSettings(scale=2.0)


def _referenced(policy, make_pairs, **options):
    """Pairs with their reference log-probabilities."""
    config, params, _ = policy
    batch = make_pairs(PAIRS, **options)
    ref = [np.asarray(x)[: len(PAIRS)] for x in jax.jit(pair_logps)(Model(params, config), batch)]
    return make_pairs(PAIRS, ref=ref, **options)


def _compilations(caplog):
    """How often a train step was compiled. The size of jit's own cache also counts cheap second look-ups."""
    return sum(r.getMessage().startswith("Compiling jit(step)") for r in caplog.records)


def _optimizer(total=60, rate=0.02, **options):
    return make_optimizer(
        OptimizerSettings(learning_rate=rate, total_steps=total, schedule="constant", **options)
    )


@functools.cache
def _dpo_loss(config):
    """The loss alone, compiled once for all tests."""
    return jax.jit(dpo_loss_fn(config, ADAPTER, beta=0.5))


@functools.cache
def _dpo_step(config):
    """Optimizer and step of most tests, compiled once."""
    tx, schedule = _optimizer()
    return tx, make_train_step(dpo_loss_fn(config, ADAPTER, beta=0.5), tx, schedule)


def test_dpo_starts_at_log_2_and_overfits_three_pairs(policy, make_pairs, caplog):
    config, params, lora = policy
    batch = _referenced(policy, make_pairs)
    tx, step = _dpo_step(config)
    state, metrics = step(init_state(lora, tx, jax.random.key(2)), params, batch)
    history = [jax.device_get(metrics)]
    with jax.log_compiles():
        for _ in range(39):
            state, metrics = step(state, params, batch)
            assert set(metrics) == METRICS
            history.append(jax.device_get(metrics))
    first, last = history[0], history[-1]
    np.testing.assert_allclose(first["loss"], math.log(2), atol=1e-5)
    np.testing.assert_allclose([first["rewards/chosen"], first["rewards/rejected"]], 0.0, atol=1e-5)
    # Tokens: 3 + 3 + 2, 2 + 2 + 4, 4 + 2 + 2.
    assert first["num_tokens"] == 24 and first["learning_rate"] == np.float32(0.02) and first["grad_norm"] > 0
    assert last["loss"] < 0.1 and last["rewards/accuracies"] == 1.0
    np.testing.assert_allclose(
        last["rewards/margins"], last["rewards/chosen"] - last["rewards/rejected"], rtol=1e-5
    )
    assert int(state.step) == 40 and _compilations(caplog) == 0


def test_soft_labels_are_reached(policy, make_pairs):
    """The minimum over p-labels has z = logit p: at labels 0.7, 0.4, 0.5 the loss is their entropy."""
    config, params, lora = policy
    labels = np.array([0.7, 0.4, 0.5])
    batch = _referenced(policy, make_pairs, labels=labels)
    tx, step = _dpo_step(config)
    state, metrics = init_state(lora, tx, jax.random.key(2)), {}
    for _ in range(100):
        state, metrics = step(state, params, batch)
    entropy = -(labels * np.log(labels) + (1 - labels) * np.log(1 - labels)).mean()
    np.testing.assert_allclose(metrics["loss"], entropy, atol=2e-3)


def test_one_loss_in_the_family_by_another_name(policy, make_pairs):
    config, params, lora = policy
    batch = _referenced(policy, make_pairs)
    loss_fn = dpo_loss_fn(
        config, ADAPTER, beta=0.5, loss=functools.partial(losses.robust, label_smoothing=0.1)
    )
    loss, metrics = jax.jit(loss_fn)(lora, params, batch, None)
    np.testing.assert_allclose(loss, math.log(2), atol=1e-5)
    assert metrics["weight"] == 3


def test_metrics_by_hand(policy, make_pairs):
    """Reference log-probabilities moved by 2 and -1: rewards beta * (-2, 1), margins -3 beta."""
    config, params, lora = policy
    batch = _referenced(policy, make_pairs, labels=[1.0, 0.9, 0.0])
    batch = batch._replace(ref_chosen=batch.ref_chosen + 2, ref_rejected=batch.ref_rejected - 1)
    loss, metrics = _dpo_loss(config)(lora, params, batch, None)
    np.testing.assert_allclose(metrics["rewards/chosen"], -1.0, atol=1e-5)
    np.testing.assert_allclose(metrics["rewards/rejected"], 0.5, atol=1e-5)
    np.testing.assert_allclose(metrics["rewards/margins"], -1.5, atol=1e-5)
    np.testing.assert_allclose(metrics["rewards/accuracies"], 1 / 3, atol=1e-6)  # the third label says so
    # -(p log sigma(-1.5) + (1 - p) log sigma(1.5)) = p 1.7014133 + (1 - p) 0.2014133, mean p 1.9 / 3.
    np.testing.assert_allclose(loss, 0.2014133 + 1.5 * 1.9 / 3, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_sft_lowers_the_loss(policy, make_responses, kind):
    config, params, lora = policy
    batch = make_responses([([1, 2], [3, 4, 10]), ([1], [5, 10])])
    adapter, trainable, frozen = (ADAPTER, lora, params) if kind == "lora" else (None, params, None)
    tx, schedule = _optimizer()
    step = make_train_step(sft_loss_fn(config, adapter), tx, schedule)
    state, values, metrics = init_state(trainable, tx, jax.random.key(2)), [], {}
    for _ in range(20):
        state, metrics = step(state, frozen, batch)
        values.append(float(metrics["loss"]))
    logps = np.asarray(completion_logps(Model(params, config), batch))
    np.testing.assert_allclose(values[0], -logps.sum() / 5, rtol=1e-5)  # five target tokens in two responses
    assert values[-1] < 0.5 * values[0]
    assert set(metrics) == {"loss", "logps", "grad_norm", "learning_rate", "num_tokens"}


def test_padding_rows_change_nothing(policy, make_pairs):
    """One row of padding, or of another pair with weight 0 and nothing but nan beside it."""
    config, params, lora = policy
    padded = _referenced(policy, make_pairs, padding=1)
    garbage = make_pairs([*PAIRS, ([5], [5, 5], [5])])
    last = np.arange(4) == 3
    garbage = padded._replace(
        rows=garbage.rows,
        **{
            name: np.where(last, np.nan, x).astype(np.float32)
            for name, x in (("ref_chosen", padded.ref_chosen), ("ref_rejected", padded.ref_rejected))
        },
    )
    moved = jax.tree.map(lambda x: x + 0.1, lora)
    loss_fn = jax.jit(jax.value_and_grad(dpo_loss_fn(config, ADAPTER, beta=0.5), has_aux=True))
    results = [loss_fn(moved, params, batch, None) for batch in (padded, garbage)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), results[0], results[1])
    unpadded = _dpo_loss(config)(moved, params, _referenced(policy, make_pairs), None)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), results[0][0], unpadded)


def test_evaluation_sums_do_not_depend_on_the_batching(policy, make_pairs):
    config, params, lora = policy
    eval_step = make_eval_step(dpo_loss_fn(config, ADAPTER, beta=0.5))
    whole = eval_step(lora, params, make_pairs(PAIRS))
    parts = [
        eval_step(lora, params, make_pairs(PAIRS[:1], padding=2)),
        eval_step(lora, params, make_pairs(PAIRS[1:], padding=1)),
    ]
    jax.tree.map(lambda w, *p: np.testing.assert_allclose(w, sum(p), rtol=1e-5), whole, *parts)
    assert whole["weight"] == 3


def test_state_is_donated_and_the_callers_arrays_are_not(policy, make_pairs):
    config, params, lora = policy
    tx, step = _dpo_step(config)
    key = jax.random.key(0)
    state = init_state(lora, tx, key)
    new, _ = step(state, params, make_pairs(PAIRS))
    assert all(x.is_deleted() for x in jax.tree.leaves((state.trainable, state.opt_state)))
    assert not any(x.is_deleted() for x in jax.tree.leaves((lora, params, new, key)))


def test_base_parameters_are_arguments_not_constants(policy, make_pairs):
    config, params, lora = policy
    tx, step = _dpo_step(config)
    lowered = step.lower(init_state(lora, tx, jax.random.key(0)), params, make_pairs(PAIRS))
    constants = [line for line in lowered.as_text().splitlines() if "stablehlo.constant" in line]
    assert not any("tensor<11x16xf32>" in line for line in constants if "dense<0.0" not in line)


def test_dropout_draws_anew_every_step_and_not_in_evaluation(policy, make_pairs):
    config, params, lora = policy
    moved = jax.tree.map(lambda x: x + 0.1, lora)
    batch = make_pairs(PAIRS)
    loss_fn = jax.jit(dpo_loss_fn(config, AdapterSettings(scale=2.0, dropout=0.5), beta=0.5))
    a, b = (loss_fn(moved, params, batch, jax.random.fold_in(jax.random.key(0), i))[0] for i in (0, 1))
    assert a != b
    off = _dpo_loss(config)(moved, params, batch, None)[0]
    np.testing.assert_allclose(loss_fn(moved, params, batch, None)[0], off, rtol=1e-6)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_eight_devices_agree_with_one(config, make_pairs, kind, caplog):
    config = dataclasses.replace(config, vocab_size=12)  # 11 does not divide
    params = init_params(jax.random.key(0), config)
    lora = init_lora(jax.random.key(1), config, rank=2, alpha=4.0).params
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(1, 12, n).tolist() for n in (3, 4, 5)) for _ in range(8)]
    batch = make_pairs(pairs, ref=jax.jit(pair_logps)(Model(params, config), make_pairs(pairs)))
    adapter, trainable, frozen = (ADAPTER, lora, params) if kind == "lora" else (None, params, None)
    tx, schedule = _optimizer(rate=1e-2)
    loss_fn = dpo_loss_fn(config, adapter, beta=0.5)

    single = make_train_step(loss_fn, tx, schedule)
    state = init_state(trainable, tx, jax.random.key(0))
    state, metrics = single(state, frozen, batch)
    np.testing.assert_allclose(metrics["loss"], math.log(2), atol=1e-5)
    history = [metrics["loss"]]
    for _ in range(19):
        state, metrics = single(state, frozen, batch)
        history.append(metrics["loss"])

    mesh = make_mesh(2, 2, 2)
    base = tree_shardings(logical_axes(config), mesh, like=params)
    own = base if kind == "full" else tree_shardings(lora_axes(), mesh, like=lora)
    many = init_state(jax.device_put(trainable, own), tx, jax.random.key(0), mesh=mesh)
    shardings = state_shardings(many, tx, own, mesh)
    same = jax.tree.map(
        lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim), many, shardings
    )
    assert all(jax.tree.leaves(same))
    placed = None if frozen is None else jax.device_put(frozen, base)
    step = make_train_step(loss_fn, tx, schedule, shardings=shardings)
    sharded_metrics, sharded_history = {}, []
    with jax.log_compiles():
        for _ in range(20):
            many, sharded_metrics = step(many, placed, shard_batch(batch, mesh))
            sharded_history.append(float(sharded_metrics["loss"]))
    np.testing.assert_allclose(sharded_history, history, rtol=1e-5)
    assert _compilations(caplog) == 1
    q = many.trainable["layers"]["q"]
    assert not (q["kernel"] if kind == "full" else q["a"]).sharding.is_fully_replicated
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, jax.device_get(metrics), jax.device_get(sharded_metrics))
