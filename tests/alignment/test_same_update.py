"""The same training on every mesh: no way to divide it changes what adapters learn.

B of a new adapter is zero, so the first gradient of A is zero. Adam divides a gradient by its size: rounding
in place of this zero, as a sum over devices can leave it, would move A by a whole step in a random direction.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import AdapterSettings, dpo_loss_fn, init_state, make_train_step
from alignjax.models import DecoderConfig, Model, decoder_shardings, init_lora, init_params, place_lora
from alignjax.policy.logps import pair_logps_jit
from alignjax.runtime.mesh import make_mesh, placer

CONFIG = DecoderConfig("llama", 40, 32, 64, 1, 8, 8, 4, eos_ids=(10,))
STEPS = 30
MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 8)}
# What the backward pass computes again: it changes nothing either.
REMAT = {"data": "layers", "fsdp": "products", "tensor": "products"}


@functools.cache
def weights(dtype):
    params = init_params(jax.random.key(0), CONFIG)
    return jax.tree.map(lambda x: x.astype(dtype), params)


def train(batch, dtype, mesh, remat="none"):
    """Losses by step, and the first change of A and of B in units of the learning rate."""
    config = dataclasses.replace(CONFIG, dtype=dtype, remat=remat)
    tx, schedule = make_optimizer(
        OptimizerSettings(learning_rate=0.02, total_steps=STEPS, schedule="constant", weight_decay=0.0)
    )
    lora = place_lora(init_lora(jax.random.key(1), config, rank=4, alpha=8.0), mesh)
    state = init_state(lora.params, tx, jax.random.key(2), mesh=mesh)
    step = make_train_step(
        dpo_loss_fn(config, AdapterSettings(scale=2.0), beta=0.5),
        tx,
        schedule,
        shardings=jax.tree.map(lambda x: x.sharding, state),
    )
    frozen = jax.device_put(weights(dtype), decoder_shardings(config, mesh, where="model"))
    batch, begun, losses, moved = placer(mesh)(batch), jax.tree.map(np.asarray, lora.params), [], {}
    for number in range(STEPS):
        state, metrics = step(state, frozen, batch)
        losses.append(float(metrics["loss"]))
        if number == 0:
            for name, pair in state.trainable["layers"].items():
                for part in ("a", "b"):
                    change = np.abs(np.asarray(pair[part]) - begun["layers"][name][part]).max() / 0.02
                    moved[part] = max(moved.get(part, 0.0), float(change))
    return np.array(losses), moved


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_thirty_steps_on_every_mesh(make_pairs, dtype, close):
    rng = np.random.default_rng(0)
    ids = lambda low, high: rng.integers(1, 10, size=rng.integers(low, high)).tolist()  # noqa: E731 (three uses)
    pairs = [(ids(2, 6), [*ids(2, 5), 10], [*ids(2, 5), 10]) for _ in range(8)]
    reference = Model(weights(dtype), dataclasses.replace(CONFIG, dtype=dtype))
    batch = make_pairs(pairs, ref=[np.asarray(x) for x in pair_logps_jit(reference, make_pairs(pairs))])
    alone, moved = train(batch, dtype, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    assert alone[0] == pytest.approx(np.log(2), rel=1e-3)  # the policy begins at the reference
    assert alone[-1] < 0.5 * alone[0]
    assert moved["a"] == 0.0 and moved["b"] == pytest.approx(1.0, rel=0.01)  # Adam's first step
    for name, sizes in MESHES.items():
        losses, moved = train(batch, dtype, make_mesh(*sizes, devices=jax.devices()), REMAT[name])
        np.testing.assert_allclose(losses, alone, rtol=close, atol=close / 10, err_msg=name)
        assert moved["a"] == 0.0 and moved["b"] == pytest.approx(1.0, rel=0.01), name
