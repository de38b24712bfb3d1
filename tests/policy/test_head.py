"""Log-probabilities of targets and their gradients against automatic differentiation of the formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.aot.products import product_flops
from alignjax.models import DecoderConfig, init_params, unembed
from alignjax.policy.head import STORED, target_logps

CONFIGS = {
    "tied": DecoderConfig("llama", 50, 16, 32, 1, 2, 2, 8, tie_embeddings=True),
    "capped": DecoderConfig("gemma2", 50, 16, 32, 1, 2, 2, 8, logits_soft_cap=3.0),
}


def formula(config, params, hidden, targets, valid):
    logps = jax.nn.log_softmax(unembed(config, params, hidden), axis=2)
    own = jnp.take_along_axis(logps, targets[:, :, None], axis=2)[:, :, 0]
    return jnp.where(valid, own, 0.0)


def loss(params, hidden, targets, valid, *, config, of_chunk):
    """Chunks of which the last has no target, as in `token_logps`."""

    @functools.partial(jax.checkpoint, policy=STORED)
    def body(_, chunk):
        skip = lambda hidden, targets, valid: jnp.zeros(valid.shape, jnp.float32)  # noqa: E731
        return None, jax.lax.cond(
            jnp.any(chunk[2]), functools.partial(of_chunk, config, params), skip, *chunk
        )

    return jnp.sum(jnp.sin(jax.lax.scan(body, None, (hidden, targets, valid))[1]))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_the_formula(name, trained):
    config, (first, second, third) = CONFIGS[name], jax.random.split(jax.random.key(0), 3)
    params = {k: v for k, v in init_params(first, config).items() if k in ("embedding", "head")}
    hidden = jax.random.normal(second, (3, 2, 4, 16))
    targets = jax.random.randint(third, (3, 2, 4), 0, 50, jnp.int32)
    valid = jnp.ones((3, 2, 4), bool).at[0, 0, 1:].set(False).at[2].set(False)
    found, flops = [], []
    for of_chunk in (target_logps, formula):
        f = functools.partial(loss, config=config, of_chunk=of_chunk)
        traced = jax.jit(jax.value_and_grad(f, argnums=(0, 1) if trained else 1)).trace(
            params, hidden, targets, valid
        )
        found.append(traced.lower().compile()(params, hidden, targets, valid))
        flops.append(product_flops(traced.jaxpr) / (2 * 3 * 2 * 4 * 16 * 50))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)
    # Logits and their slope in h, once each; the formula computes logits twice, as it does where the slope in
    # the weights is a product of its own.
    assert flops == ([4.0, 4.0] if trained else [2.0, 3.0])
