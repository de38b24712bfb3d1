import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.aot.shapes import decoder_params
from alignjax.errors import InputError
from alignjax.models import (
    Model,
    decoder_shardings,
    hidden_states,
    init_lora,
    load_pretrained,
    save_adapter,
    save_pretrained,
    unembed,
)
from alignjax.models.quantized import round_params, rounded, widened, widened_params
from alignjax.policy.sampling import greedy
from alignjax.runtime.mesh import make_mesh


def in_int8(model: Model) -> Model:
    params = jax.tree.map(jnp.copy, model.params)  # `round_params` uses them up
    config = dataclasses.replace(model.config, weights="int8")
    return model.replace(params=round_params(config, params), config=config)


def in_float(model: Model) -> Model:
    """The floats that int8 weights stand for."""
    config = dataclasses.replace(model.config, weights="float")
    return model.replace(params=widened_params(model.params), config=config)


def test_rounding_by_hand():
    # Column 0: the largest is 2.54, so s = 0.02 and 1 / 0.02 = 50. Column 1 has no weights.
    kernel = jnp.array([[[1.0, 0.0], [-2.54, 0.0]]])
    pair = rounded(kernel)
    np.testing.assert_array_equal(pair["kernel"], [[[50, 0], [-127, 0]]])
    np.testing.assert_allclose(pair["kernel_scale"], [[0.02, 1.0]], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_no_entry_moves_by_more_than_half_a_step(seed, size):
    kernel = size * np.random.default_rng(seed).standard_t(2, size=(2, 5, 3)).astype(np.float32)
    pair = rounded(jnp.array(kernel))
    wide, scale = np.asarray(widened(pair)), np.asarray(pair["kernel_scale"])
    assert (np.abs(wide - kernel) <= 0.5001 * scale[:, None, :]).all()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "phi3"])
def test_products_are_those_of_the_rounded_weights(random_model, logits, kind):
    model = in_int8(random_model(kind))
    np.testing.assert_allclose(logits(model), logits(in_float(model)), rtol=1e-5, atol=1e-5)
    assert np.abs(logits(model) - logits(random_model(kind))).max() > 1e-4  # it is another model


def test_sampling_reads_the_same_weights(random_model):
    model, prompt = in_int8(random_model("qwen2")), [np.array([1, 5, 9], np.int32)]
    drawn = greedy(model, prompt, max_new_tokens=6)
    plain = greedy(in_float(model), prompt, max_new_tokens=6)
    np.testing.assert_array_equal(drawn.tokens, plain.tokens)
    np.testing.assert_allclose(drawn.logps, plain.logps, rtol=1e-5)


def test_adapters_are_trained_on_them(random_model):
    model = in_int8(random_model("llama"))
    lora = init_lora(jax.random.key(1), model.config, rank=2, alpha=4.0)
    lora = lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))
    ids = jnp.array([[1, 7, 3, 9]])
    positions = jnp.arange(4, dtype=jnp.int32)[None]

    def slopes(of: Model):
        def loss(params):
            adapters = lora.replace(params=params)
            hidden = hidden_states(of.config, of.params, ids, positions, jnp.ones_like(ids), lora=adapters)
            return jnp.sum(jnp.sin(unembed(of.config, of.params, hidden)))

        return jax.grad(loss)(lora.params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        slopes(model),
        slopes(in_float(model)),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_read_from_a_folder_as_a_plan_expects_it(random_model, tmp_path, dtype):
    save_pretrained(random_model("phi3"), tmp_path / "model")
    mesh = make_mesh(data=2, fsdp=2, tensor=2, devices=jax.devices())
    read = load_pretrained(tmp_path / "model", dtype=dtype, weights="int8", mesh=mesh)
    whole = load_pretrained(tmp_path / "model", dtype=dtype)
    expected = in_int8(whole).params
    planned = decoder_params(read.config, mesh, where="model")

    def check(leaf, planned, expected):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (planned.shape, planned.dtype, planned.sharding)
        np.testing.assert_array_equal(leaf, expected)

    jax.tree.map(check, read.params, planned, expected)


def test_on_a_mesh(random_model, logits):
    model = in_int8(random_model("qwen3"))
    mesh = make_mesh(data=2, fsdp=2, tensor=2, devices=jax.devices())
    placed = jax.device_put(model.params, decoder_shardings(model.config, mesh, where="model"))
    np.testing.assert_allclose(logits(model.replace(params=placed)), logits(model), rtol=1e-5, atol=1e-5)


def test_written_as_the_numbers_they_stand_for(random_model, logits, tmp_path):
    model = in_int8(random_model("phi3"))
    save_pretrained(model, tmp_path / "model")
    np.testing.assert_allclose(
        logits(load_pretrained(tmp_path / "model")), logits(model), rtol=1e-5, atol=1e-5
    )


def test_an_adapter_is_merged_before_rounding(random_model, tmp_path):
    model = random_model("llama")
    save_pretrained(model, tmp_path / "base")
    lora = init_lora(jax.random.key(1), model.config, rank=2, alpha=4.0)
    lora = lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))
    save_adapter(lora, model.config, tmp_path / "adapter", base_model=str(tmp_path / "base"))
    read = load_pretrained(tmp_path / "adapter", weights="int8")
    merged = in_int8(load_pretrained(tmp_path / "adapter"))
    jax.tree.map(np.testing.assert_array_equal, read.params, merged.params)


def test_scales_are_not_rounded_to_bfloat16(random_model):
    whole = random_model("llama")
    stored = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), whole.params)
    params = round_params(dataclasses.replace(whole.config, weights="int8"), stored)
    assert params["layers"]["q"]["kernel_scale"].dtype == jnp.float32


def test_experts_and_unknown_names_are_refused(kinds):
    with pytest.raises(InputError, match=r"config.model.weights: 'int3' is not known; use float or int8"):
        dataclasses.replace(kinds["llama"], weights="int3")
    with pytest.raises(
        InputError, match=r"config.model.weights: int8 is not supported for models of experts"
    ):
        dataclasses.replace(kinds["llama"], weights="int8", num_experts=4, experts_per_token=2)
