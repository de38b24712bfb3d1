"""A training that was begun on eight devices goes on on four and on one."""

import math

import jax
import numpy as np
import pytest

from alignjax.alignment.loop import FitSettings, epochs, fit
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import AdapterSettings, dpo_loss_fn, init_state, make_train_step
from alignjax.models import Lora, decoder_shardings, place_lora
from alignjax.runtime.checkpoint import Checkpoints
from alignjax.runtime.mesh import make_mesh, placer
from alignjax.runtime.preemption import Stopped

PAIRS = [
    ([1, 2, 3], [4, 5, 10], [6, 10]),
    ([1, 7], [8, 10], [9, 9, 9, 10]),
    ([1, 3, 5, 7], [2, 10], [4, 10]),
    ([2], [3], [4, 4]),
]


def _train(policy, batch, folder, mesh, *, stop_at=None):
    """Eight steps with a checkpoint after each two; the logged losses by step, and the result."""
    config, params, lora = policy
    tx, schedule = make_optimizer(
        OptimizerSettings(learning_rate=0.02, total_steps=4, schedule="constant", accumulate=2)
    )
    loss_fn = dpo_loss_fn(config, AdapterSettings(scale=2.0), beta=0.5)
    frozen = jax.device_put(params, decoder_shardings(config, mesh, where="model"))
    state = init_state(place_lora(Lora(lora), mesh).params, tx, jax.random.key(2), mesh=mesh)
    step = make_train_step(loss_fn, tx, schedule, shardings=jax.tree.map(lambda x: x.sharding, state))
    losses, result = {}, None
    with Checkpoints(folder) as checkpoints:
        try:
            result = fit(
                state,
                step,
                frozen,
                epochs(lambda epoch: [batch]),
                FitSettings("policy", 8, log_every=1, checkpoint_every=2),
                place=placer(mesh),
                log=lambda number, record: losses.__setitem__(number, record["loss"]),
                checkpoints=checkpoints,
                stop=lambda: len(losses) + 1 >= (stop_at or 99),
            )
        except Stopped:
            assert stop_at is not None
    return losses, result


@pytest.mark.parametrize("sizes", [(1, 2, 2), (1, 1, 1)])
def test_a_training_begun_on_eight_devices_goes_on_on_fewer(policy, make_pairs, tmp_path, sizes):
    batch = make_pairs(PAIRS)
    one = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    unbroken, whole = _train(policy, batch, tmp_path / "unbroken", one)
    begun, _ = _train(policy, batch, tmp_path / "broken", make_mesh(2, 2, 2), stop_at=4)
    assert 2 <= len(begun) < 8
    fewer = make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    rest, ended = _train(policy, batch, tmp_path / "broken", fewer)
    assert sorted({*begun, *rest}) == list(range(1, 9)) and 1 not in rest
    losses = [{**begun, **rest}[step] for step in range(1, 9)]
    np.testing.assert_allclose(losses, list(unbroken.values()), rtol=1e-5)
    assert whole is not None and ended is not None
    for leaf in jax.tree.leaves(ended.trainable):
        assert leaf.sharding.mesh == fewer
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ended.trainable, whole.trainable
    )
