import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config.settings import LORA_TARGETS
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, hidden_states, init_lora, init_params, lora_axes, merge_lora
from alignjax.models.lora import TARGETS

CONFIG = DecoderConfig("qwen3", 31, 16, 24, 2, 4, 2, 8, qk_norm="head")
TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 0, 31)
ROWS = (TOKENS, jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32)[None], (2, 6)), jnp.ones_like(TOKENS))
PARAMS = init_params(jax.random.key(1), CONFIG)


def filled(lora):
    def draw(x):
        return 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)

    return lora.replace(params=jax.tree.map(draw, lora.params))


def test_new_adapters_change_nothing():
    lora = init_lora(jax.random.key(2), CONFIG, rank=3, alpha=6.0)
    assert lora.scale == 2.0
    # The adapters add exact zeros; only the order of the compiler's sums may differ.
    adapted, plain = hidden_states(CONFIG, PARAMS, *ROWS, lora=lora), hidden_states(CONFIG, PARAMS, *ROWS)
    np.testing.assert_allclose(adapted, plain, rtol=1e-5, atol=2e-6)
    # Uniform on +-1/sqrt(in), as PEFT's Kaiming initialisation with a = sqrt 5.
    a = lora.params["layers"]["down"]["a"]
    assert a.shape == (2, 24, 3) and float(jnp.abs(a).max()) <= 24**-0.5


@pytest.mark.parametrize("targets", [TARGETS, ("q", "v"), ("k",), ("down", "up"), ("o", "gate")])
def test_merged_weights_equal_adapters(targets):
    lora = filled(init_lora(jax.random.key(2), CONFIG, rank=3, alpha=6.0, targets=targets))
    assert set(lora.params["layers"]) == set(targets)
    adapted = hidden_states(CONFIG, PARAMS, *ROWS, lora=lora)
    np.testing.assert_allclose(hidden_states(CONFIG, merge_lora(PARAMS, lora), *ROWS), adapted, atol=2e-5)
    assert float(jnp.abs(adapted - hidden_states(CONFIG, PARAMS, *ROWS)).max()) > 0.01


def test_merge_by_hand():
    # One layer; A = (1, 2)^T, B = (3, 4), scale 0.5: W + 0.5 [[3, 4], [6, 8]].
    config = DecoderConfig("llama", 5, 2, 2, 1, 1, 1, 2)
    lora = init_lora(jax.random.key(0), config, rank=1, alpha=0.5, targets=("o",))
    pair = {"a": jnp.array([[[1.0], [2.0]]]), "b": jnp.array([[[3.0, 4.0]]])}
    params = init_params(jax.random.key(0), config)
    before = params["layers"]["o"]["kernel"]
    merged = merge_lora(params, lora.replace(params={"layers": {"o": pair}}))
    np.testing.assert_allclose(
        merged["layers"]["o"]["kernel"] - before, [[[1.5, 2.0], [3.0, 4.0]]], rtol=1e-6
    )
    assert params["layers"]["o"]["kernel"] is before


def test_dropout_needs_a_key_and_leaves_the_mean():
    lora = filled(init_lora(jax.random.key(2), CONFIG, rank=3, alpha=0.06, dropout=0.4))
    still = hidden_states(CONFIG, PARAMS, *ROWS, lora=lora)
    np.testing.assert_array_equal(still, hidden_states(CONFIG, PARAMS, *ROWS, lora=lora.replace(dropout=0.0)))
    f = jax.jit(lambda key: hidden_states(CONFIG, PARAMS, *ROWS, lora=lora, dropout_key=key))
    one, two = f(jax.random.key(3)), f(jax.random.key(4))
    assert bool((f(jax.random.key(3)) == one).all()) and bool((one != two).any())
    # The adapters are small, so the output is nearly linear in them and dropout nearly unbiased: the
    # mean of 400 draws comes closer to the output without dropout than any of them.
    draws = jax.lax.map(f, jax.random.split(jax.random.key(5), 400))
    error = float(jnp.sqrt(jnp.mean((draws.mean(axis=0) - still) ** 2)))
    assert error < 0.2 * float(jnp.sqrt(jnp.mean((one - still) ** 2)))


def test_dropout_differs_between_layers():
    # Both layers' weights and inputs are made equal, so that equal masks would give equal outputs.
    key = jax.random.key(0)
    config = DecoderConfig("llama", 5, 16, 16, 2, 2, 2, 8)
    lora = filled(init_lora(key, config, rank=4, alpha=4.0, targets=("down",), dropout=0.5))
    draws = []
    for layer in range(2):
        only = {
            "down": jax.tree.map(
                lambda x, i=layer: x[:1] * jnp.eye(2)[i][:, None, None], lora.params["layers"]["down"]
            )
        }
        params = init_params(key, config)
        params["layers"] = jax.tree.map(jnp.zeros_like, params["layers"])
        for name in ("attn_norm", "mlp_norm", "gate", "up"):
            params["layers"][name] = jax.tree.map(lambda x: jnp.ones_like(x) / 16, params["layers"][name])
        out = hidden_states(
            config,
            params,
            *ROWS[:0],
            jnp.ones((1, 1), jnp.int32),
            jnp.zeros((1, 1), jnp.int32),
            jnp.ones((1, 1), jnp.int32),
            lora=lora.replace(params={"layers": only}),
            dropout_key=key,
        )
        draws.append(out)
    assert bool(jnp.any(draws[0] != draws[1]))


def test_axes_have_the_adapters_structure():
    lora = init_lora(jax.random.key(2), CONFIG, rank=3, alpha=6.0, targets=("q", "down"))
    axes = lora_axes(("q", "down"))
    ranks = jax.tree.map(len, axes, is_leaf=lambda x: isinstance(x, tuple))
    assert ranks == jax.tree.map(jnp.ndim, lora.params)
    assert axes["layers"]["down"]["a"] == ("layers", "mlp", "lora_rank")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("q", "query")}, r"lora.targets: \['query'\]; choose from q, k, v, o, gate, up, down"),
        ({"targets": ()}, "lora.targets: empty"),
        ({"rank": 0}, "lora.rank: is 0"),
        ({"dropout": 1.0}, "lora.dropout: is 1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        init_lora(jax.random.key(0), CONFIG, **{"rank": 2, "alpha": 4.0, **options})


def test_the_configuration_offers_every_target():
    assert LORA_TARGETS == TARGETS
