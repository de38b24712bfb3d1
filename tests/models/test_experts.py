import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.decoder import hidden_states, init_params
from alignjax.models.experts import Experts
from alignjax.models.lora import init_lora, num_layer_weights, projection_sizes
from alignjax.models.placement import decoder_shardings
from alignjax.runtime.mesh import make_mesh, shard_batch

CONFIG = DecoderConfig(
    "mixtral", 11, 8, 12, 2, 2, 2, 4, num_experts=4, experts_per_token=2, normalize_experts=True
)
X = jax.random.normal(jax.random.key(1), (2, 3, 8))


def slow_experts(config, params, x):
    """Each token by itself, in float64."""
    w = {name: np.asarray(value, np.float64) for name, value in params.items()}
    out = np.zeros(x.shape)
    for at in np.ndindex(*x.shape[:2]):
        token = np.asarray(x[at], np.float64)
        logits = token @ w["router"]
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        chosen = np.argsort(-shares)[: config.experts_per_token]
        total = shares[chosen].sum() if config.normalize_experts else 1.0
        for e in chosen:
            gate = token @ w["gate"][e]
            inner = gate / (1 + np.exp(-gate)) * (token @ w["up"][e])
            out[at] += shares[e] / total * (inner @ w["down"][e])
    return out


@pytest.mark.parametrize("normalize", [True, False])
def test_each_token_uses_its_experts(normalize):
    config = DecoderConfig(
        "qwen3_moe", 11, 8, 12, 2, 2, 2, 4, num_experts=4, experts_per_token=2, normalize_experts=normalize
    )
    layer = Experts(config)
    variables = nn.unbox(layer.init(jax.random.key(0), X))
    assert variables["params"]["gate"].shape == (4, 8, 12)
    np.testing.assert_allclose(
        np.asarray(layer.apply(variables, X)), slow_experts(config, variables["params"], X), atol=1e-5
    )


@pytest.mark.parametrize("sizes", [(2, 2, 2), (8, 1, 1)])
def test_eight_devices_agree_with_one(sizes):
    params = init_params(jax.random.key(0), CONFIG)
    ids = jax.random.randint(jax.random.key(2), (8, 5), 0, 11)
    positions, ones = jnp.broadcast_to(jnp.arange(5)[None], (8, 5)), jnp.ones((8, 5), jnp.int32)

    def loss(params, rows):
        return jnp.sum(hidden_states(CONFIG, params, *rows)[..., 0] ** 2)

    step, rows = jax.jit(jax.value_and_grad(loss)), (ids, positions, ones)
    value, slopes = step(params, rows)
    mesh = make_mesh(*sizes)
    placed = jax.device_put(params, decoder_shardings(CONFIG, mesh, where="test"))
    there, of_parts = step(placed, shard_batch(rows, mesh))
    np.testing.assert_allclose(there, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), of_parts, slopes)


def test_experts_have_no_adapters():
    assert set(projection_sizes(CONFIG)) == {"q", "k", "v", "o"}
    assert set(init_lora(jax.random.key(0), CONFIG, rank=2, alpha=4.0).params["layers"]) == {
        "q",
        "k",
        "v",
        "o",
    }
    with pytest.raises(InputError, match="the model has none of up, down; it has q, k, v, o"):
        init_lora(jax.random.key(0), CONFIG, rank=2, alpha=4.0, targets=("up", "down"))
    # 4 projections of 8 x 8, a router of 8 x 4, and 4 experts of three matrices of 8 x 12.
    assert num_layer_weights(CONFIG) == 4 * 64 + 32 + 4 * 3 * 96
