"""Losses of score models, and their training: by hand, against differences, and with nan in padding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment import losses
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import (
    AdapterSettings,
    init_state,
    make_eval_step,
    make_train_step,
    score_loss_fn,
)
from alignjax.data.batches import pair_batches
from alignjax.data.tokenize import TokenizedPair
from alignjax.errors import InputError
from alignjax.models import Lora, Model, ScoreModel, identity_normalizer, init_score_model, pair_scores
from alignjax.runtime.mesh import make_mesh, shard_batch

PAIRS = [
    ([1, 2, 3], [4, 5, 10], [6, 10]),
    ([1, 7], [8, 10], [9, 9, 9, 10]),
    ([1, 3, 5, 7], [2, 10], [4, 10]),
]
METRICS = {
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "rewards/mean",
    "rewards/min", "rewards/max", "weight",
}  # fmt: skip
ADAPTER = AdapterSettings(scale=2.0)
# d = 2 - 1 = 1: -log sigma(1) = log(1 + e^-1) and -log sigma(-1) = log(1 + e).
STRAIGHT, TURNED = 0.31326169, 1.31326169


def test_bradley_terry_by_hand():
    """At p = 3/4, with 0.01 (2^2 + 1^2) = 0.05 and 0.1 (2 + 1)^2 = 0.9."""
    chosen, rejected = jnp.array([2.0, 2.0]), jnp.array([1.0, 1.0])
    soft = 0.75 * STRAIGHT + 0.25 * TURNED
    value = losses.bradley_terry(chosen, rejected, label=jnp.array([0.75, 1.0]))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, [soft, STRAIGHT], rtol=1e-6)
    more = losses.bradley_terry(chosen, rejected, label=0.75, regularizer=0.01, centering=0.1)
    np.testing.assert_allclose(more, soft + 0.05 + 0.9, rtol=1e-6)
    zeros = jnp.zeros(1)
    np.testing.assert_allclose(losses.bradley_terry(zeros, zeros, label=0.3), math.log(2), rtol=1e-6)


def test_cost_by_hand():
    """Safer costs 1, harmful 2, and d = 2 - 1 = 1.

    Signs as they are: -log sigma(-1 * 1) = TURNED for a safe response that costs 1, -log sigma(2) = 0.1269280
    for an unsafe one that costs 2. The other way: -log sigma(1) = STRAIGHT and -log sigma(-2) = 2.1269280.
    """
    safer, harmful = jnp.ones(4), jnp.full(4, 2.0)
    value = losses.cost(
        safer,
        harmful,
        chosen_sign=jnp.array([-1.0, 1.0, 0.0, jnp.nan]),
        rejected_sign=jnp.array([1.0, -1.0, jnp.nan, 1.0]),
    )
    signs = np.array([TURNED + 0.1269280, STRAIGHT + 2.1269280, 0.0, 0.1269280])
    np.testing.assert_allclose(value, STRAIGHT + signs, rtol=1e-6)
    plain = losses.cost(safer, harmful, label=0.75, regularizer=0.01, centering=0.1)
    np.testing.assert_allclose(plain, 0.75 * STRAIGHT + 0.25 * TURNED + 0.05 + 0.9, rtol=1e-6)


def test_a_cost_is_a_reward_with_the_other_sign():
    c, r = jax.random.normal(jax.random.key(0), (2, 8)) * 3
    p = jax.random.uniform(jax.random.key(1), (8,))
    np.testing.assert_allclose(losses.cost(c, r, label=p), losses.bradley_terry(-c, -r, label=p), rtol=1e-6)
    np.testing.assert_allclose(
        losses.cost(c, r, label=p), losses.cost(r, c, label=1 - p), rtol=1e-5, atol=1e-6
    )


FAMILY = {
    "bradley_terry": functools.partial(losses.bradley_terry, label=0.7, regularizer=0.03, centering=0.2),
    "cost": functools.partial(
        losses.cost, label=0.7, chosen_sign=-1.0, rejected_sign=1.0, regularizer=0.03, centering=0.2
    ),
}


@pytest.mark.parametrize("name", FAMILY)
def test_derivatives_by_central_differences_in_float64(name):
    with jax.enable_x64(True):
        f = lambda c, r: FAMILY[name](c[None], r[None])[0]  # noqa: E731 - scalar view of the loss
        c, r, h = jnp.float64(1.3), jnp.float64(-0.4), 1e-5
        gradient = jax.grad(f, (0, 1))(c, r)
        differences = (f(c + h, r) - f(c - h, r)) / (2 * h), (f(c, r + h) - f(c, r - h)) / (2 * h)
        np.testing.assert_allclose(gradient, differences, rtol=1e-8)
        slope = jax.grad(f)
        second = jax.grad(slope)(c, r)
        np.testing.assert_allclose(second, (slope(c + h, r) - slope(c - h, r)) / (2 * h), rtol=1e-7)


@pytest.mark.parametrize("name", FAMILY)
def test_finite_at_scores_of_any_size_and_equal_under_jit_and_vmap(name):
    chosen, rejected = jnp.array([1e4, -1e4]), jnp.array([-1e4, 1e4])
    loss = functools.partial(FAMILY[name], regularizer=0.0)
    value, gradient = jax.value_and_grad(lambda c: loss(c, rejected).sum())(chosen)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    jitted, mapped = jax.jit(loss)(chosen, rejected), jax.vmap(loss)(chosen, rejected)
    np.testing.assert_allclose(jitted, loss(chosen, rejected), rtol=1e-6)
    np.testing.assert_allclose(mapped, loss(chosen, rejected), rtol=1e-6)


def test_unknown_signs_reach_no_gradient():
    c, r, nan = jnp.array([1.0]), jnp.array([2.0]), jnp.array([jnp.nan])
    plain = jax.grad(lambda c: losses.cost(c, r).sum())(c)
    signed = jax.grad(lambda c: losses.cost(c, r, chosen_sign=nan, rejected_sign=nan).sum())(c)
    np.testing.assert_array_equal(signed, plain)


def make_trees(policy, kind, form):
    """What is trained and what is frozen: adapters or everything, each with the head."""
    config, params, lora = policy
    model = init_score_model(jax.random.key(3), Model(params, config), kind=kind)
    head, body = model.params["head"], model.params["decoder"]
    if form == "lora":
        return {"lora": lora, "head": head}, params, ADAPTER
    return {"decoder": body, "head": head}, None, None


def the_scores(policy, kind, trainable, frozen, batch):
    config, adapted = policy[0], "lora" in trainable
    body = frozen if adapted else trainable["decoder"]
    lora = Lora(trainable["lora"], ADAPTER.scale) if adapted else None
    params = {"decoder": body, "head": trainable["head"]}
    model = ScoreModel(params=params, normalizer=identity_normalizer(), config=config, kind=kind)
    return [np.asarray(x) for x in jax.jit(pair_scores)(model, batch, lora=lora)]


@pytest.mark.parametrize(("kind", "form"), [("reward", "lora"), ("cost", "full")])
def test_training_orders_three_pairs(policy, make_pairs, kind, form):
    """Of the cost model also the zero: the first pair is safe, the second unsafe, the third divided by it."""
    config = policy[0]
    trainable, frozen, adapter = make_trees(policy, kind, form)
    batch = make_pairs(PAIRS, ref=([np.nan] * 3, [np.nan] * 3))  # no reference is asked for
    signs = np.array([-1, 1, -1], np.float32), np.array([-1, 1, 1], np.float32)
    if kind == "cost":
        batch = batch._replace(chosen_sign=signs[0], rejected_sign=signs[1])
    tx, schedule = make_optimizer(OptimizerSettings(learning_rate=0.02, total_steps=60, schedule="constant"))
    step = make_train_step(score_loss_fn(config, adapter, kind=kind), tx, schedule)
    state, history = init_state(trainable, tx, jax.random.key(2)), []
    for _ in range(60):
        state, metrics = step(state, frozen, batch)
        history.append(jax.device_get(metrics))
    assert set(history[0]) == METRICS - {"weight"} | {"loss", "grad_norm", "learning_rate", "num_tokens"}
    # Scores start near 0: log 2 for the order, and for each of two signs.
    terms = 1 if kind == "reward" else 3
    np.testing.assert_allclose(history[0]["loss"], terms * math.log(2), atol=0.3)
    assert history[-1]["loss"] < 0.3 and history[-1]["rewards/accuracies"] == 1
    chosen, rejected = the_scores(policy, kind, state.trainable, frozen, batch)
    if kind == "reward":
        assert (chosen > rejected).all()
    else:
        assert (chosen < rejected).all()
        assert (chosen * signs[0] > 0).all() and (rejected * signs[1] > 0).all()


@pytest.mark.parametrize("kind", ["reward", "cost"])
def test_loss_and_metrics_by_hand(policy, make_pairs, kind):
    """Against numpy on the scores themselves; the second pair's label says that rejected is better."""
    config = policy[0]
    trainable, frozen, adapter = make_trees(policy, kind, "lora")
    trainable = jax.tree.map(lambda x: x + 0.1, trainable)
    labels = np.array([0.9, 0.2, 1.0])
    batch = make_pairs(PAIRS, labels=labels, padding=1)
    if kind == "cost":
        batch = batch._replace(chosen_sign=np.array([-1, 0, np.nan, np.nan], np.float32))
    loss_fn = score_loss_fn(config, adapter, kind=kind, regularizer=0.02, centering=0.03)
    loss, metrics = jax.jit(loss_fn)(trainable, frozen, batch, None)
    assert set(metrics) == METRICS
    c, r = (x[:3].astype(np.float64) for x in the_scores(policy, kind, trainable, frozen, batch))
    u, v = (c, r) if kind == "reward" else (-c, -r)
    expected = labels * np.log1p(np.exp(v - u)) + (1 - labels) * np.log1p(np.exp(u - v))
    expected += 0.02 * (c**2 + r**2) + 0.03 * (c + r) ** 2
    expected += [np.log1p(np.exp(c[0])) if kind == "cost" else 0.0, 0.0, 0.0]
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-4)
    right = np.where(labels >= 0.5, u > v, u < v)
    both = np.concatenate([u, v])
    by_name = {
        "rewards/chosen": u.mean(), "rewards/rejected": v.mean(), "rewards/margins": (u - v).mean(),
        "rewards/accuracies": right.mean(), "rewards/mean": both.mean(), "rewards/min": both.min(),
        "rewards/max": both.max(), "weight": 3,
    }  # fmt: skip
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), metrics, by_name)


def test_padding_rows_change_nothing(policy, make_pairs):
    """A row of padding, or of another pair with weight 0 and nothing but nan beside it."""
    config = policy[0]
    trainable, frozen, adapter = make_trees(policy, "cost", "full")
    trainable = jax.tree.map(lambda x: x + 0.1, trainable)
    signs = np.array([-1, 1, 0, 0], np.float32)
    padded = make_pairs(PAIRS, padding=1)._replace(chosen_sign=signs, rejected_sign=-signs)
    last = np.arange(4) == 3
    nan = lambda x: np.where(last, np.nan, x).astype(np.float32)  # noqa: E731
    garbage = padded._replace(
        rows=make_pairs([*PAIRS, ([5], [5, 5], [5])]).rows,
        labels=nan(padded.labels), ref_chosen=nan(padded.ref_chosen), ref_rejected=nan(padded.ref_rejected),
        chosen_sign=nan(signs), rejected_sign=nan(-signs),
    )  # fmt: skip
    loss_fn = score_loss_fn(config, adapter, kind="cost", regularizer=0.1, centering=0.1)
    f = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    one, two = (f(trainable, frozen, batch, None) for batch in (padded, garbage))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(two))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, two)
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(one[1]["head"]))
    nothing = padded._replace(weights=np.zeros(4, np.float32))
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(f(trainable, frozen, nothing, None)))


def test_evaluation_sums_do_not_depend_on_the_batching(policy, make_pairs):
    config = policy[0]
    trainable, frozen, adapter = make_trees(policy, "reward", "lora")
    step = make_eval_step(score_loss_fn(config, adapter, kind="reward"))
    whole = step(trainable, frozen, make_pairs(PAIRS))
    # The extremes are not among them: of each batch its own.
    parts = [step(trainable, frozen, make_pairs(PAIRS[i : i + 1], padding=2)) for i in range(3)]
    for name in METRICS - {"rewards/min", "rewards/max"} | {"loss"}:
        np.testing.assert_allclose(whole[name], sum(p[name] for p in parts), rtol=1e-5, atol=1e-6)
    assert whole["weight"] == 3
    empty = step(trainable, frozen, make_pairs([], padding=3))
    assert all(float(x) == 0 for x in empty.values())


def test_eight_devices_agree_with_one(policy, make_pairs):
    config = policy[0]
    trainable, frozen, adapter = make_trees(policy, "cost", "lora")
    trainable = jax.tree.map(lambda x: x + 0.1, trainable)
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(1, 11, n).tolist() for n in (3, 4, 5)) for _ in range(8)]
    signs = np.tile(np.array([1, -1], np.float32), 4)
    batch = make_pairs(pairs)._replace(chosen_sign=signs, rejected_sign=signs)
    f = jax.jit(score_loss_fn(config, adapter, kind="cost"))
    one = f(trainable, frozen, batch, None)
    many = f(trainable, frozen, shard_batch(batch, make_mesh(8, 1, 1)), None)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, jax.device_get(one), jax.device_get(many))


def test_signs_follow_their_pairs():
    rng = np.random.default_rng(0)
    pairs = [
        TokenizedPair(*(rng.integers(0, 9, n).astype(np.int32) for n in row))
        for row in rng.integers(1, 9, (11, 3))
    ]
    signs = np.arange(11) % 3 - 1.0
    for batch in pair_batches(pairs, batch_size=4, chosen_sign=signs, shuffle=True):
        real = batch.weights > 0
        found = np.asarray(batch.chosen_sign)
        assert found.dtype == np.float32 and batch.rejected_sign is None
        np.testing.assert_array_equal(found[real], signs[batch.indices[real]])
        assert not found[~real].any()
    with pytest.raises(InputError, match=r"rejected_sign has shape \(3,\), must be \(11,\)"):
        pair_batches(pairs, batch_size=4, rejected_sign=np.zeros(3))
