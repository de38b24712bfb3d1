import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.models import DecoderConfig, config_from_hf, config_to_hf, init_params, unembed
from alignjax.models.block import Norm
from alignjax.models.weights import slots

FIELDS = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GRANITE = {
    "embedding_multiplier": 12,
    "attention_multiplier": 0.125,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}


def read(name, **fields):
    return config_from_hf(FIELDS | {"architectures": [f"{name}ForCausalLM"]} | fields)


def test_what_a_gemma_config_means():
    config = read("Gemma")
    # transformers' defaults: heads of 256, tied, the tanh approximation; embeddings times sqrt(16).
    assert (config.head_dim, config.tie_embeddings, config.activation) == (256, True, "gelu_tanh")
    assert (config.norm_offset, config.embedding_multiplier) == (1.0, 4.0)
    assert read("Gemma", hidden_act="gelu") == config  # the first released configs
    assert read("Gemma", hidden_activation="gelu_pytorch_tanh") == config
    assert read("Gemma", tie_word_embeddings=False).tie_embeddings is False


def test_what_a_granite_config_means():
    config = read("Granite", **GRANITE)
    assert (config.embedding_multiplier, config.attention_multiplier) == (12.0, 0.125)
    assert (config.residual_multiplier, config.logits_divisor) == (0.22, 8.0)
    # The class default is 1 and not 1 / sqrt(H).
    assert read("Granite").attention_multiplier == 1.0


@pytest.mark.parametrize(
    ("name", "fields", "biases"),
    [
        ("Llama", {}, (False, False, False)),
        ("Llama", {"attention_bias": True}, (True, True, False)),
        ("Llama", {"mlp_bias": True}, (False, False, True)),
        ("Qwen2", {"attention_bias": True}, (True, False, False)),
        ("Qwen3", {"attention_bias": True}, (True, True, False)),
        ("SeedOss", {}, (True, False, False)),
        ("SeedOss", {"attention_bias": False, "attention_out_bias": True}, (False, True, False)),
        ("Granite", {"attention_bias": True, "mlp_bias": True}, (True, True, True)),
    ],
)
def test_biases_and_their_tensors(name, fields, biases):
    config = read(name, **fields)
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == biases
    names = {n for slot in slots(config) for n in slot.names if n.startswith("model.layers.1.")}
    found = tuple(
        f"model.layers.1.{part}.bias" in names
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    )
    assert found == biases
    tree = jax.eval_shape(functools.partial(init_params, config=config), jax.random.key(0))
    paths = {tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(tree)}
    assert paths == {slot.path for slot in slots(config)}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Gemma", {}),
        ("Granite", GRANITE),
        ("SeedOss", {"attention_out_bias": True}),
        ("SeedOss", {"attention_bias": False}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Qwen3", {"attention_bias": True}),
    ],
)
def test_written_and_read_back(name, fields):
    config = read(name, **fields)
    assert config_from_hf(config_to_hf(config)) == config


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Gemma", {"hidden_act": "silu"}, 'hidden_act "silu" is not supported; only "gelu_pytorch_tanh" is'),
        ("Gemma", {"hidden_activation": "relu"}, 'hidden_activation "relu" is not supported'),
        ("Gemma", {"use_bidirectional_attention": True}, "only causal attention is supported"),
        ("Gemma", {"mlp_bias": True}, "mlp_bias is true"),
        ("Granite", {"residual_multiplier": 0}, '"residual_multiplier" is 0, must be a positive number'),
        ("Granite", {"logits_scaling": "8"}, "\"logits_scaling\" is '8', must be a positive number"),
        ("Granite", {"attention_multiplier": math.inf}, '"attention_multiplier" is inf'),
        ("Llama", {"attention_out_bias": True}, "attention_out_bias is true"),
    ],
)
def test_what_a_family_does_not_have_is_refused(name, fields, message):
    with pytest.raises(InputError) as caught:
        read(name, **fields)
    assert message in str(caught.value) and str(caught.value).startswith("config.json: ")


def test_a_norm_with_an_offset():
    norm, x = Norm(0.0, offset=1.0), jnp.asarray([3.0, -4.0])
    fresh = norm.init(jax.random.key(0), x)
    # The root of the mean square is sqrt(12.5); a new norm multiplies by 1 + 0.
    np.testing.assert_allclose(np.asarray(norm.apply(fresh, x)), np.array([3.0, -4.0]) / 12.5**0.5, rtol=1e-6)
    found = norm.apply({"params": {"scale": jnp.asarray([0.5, -1.0])}}, x)
    np.testing.assert_allclose(np.asarray(found), np.array([4.5, 0.0]) / 12.5**0.5, rtol=1e-6)


def test_an_option_that_transformers_would_not_read_is_not_written():
    config = read("Gemma")
    with pytest.raises(InputError, match=r"norm_offset is 0.0, but transformers reads every gemma as 1.0"):
        config_to_hf(dataclasses.replace(config, norm_offset=0.0))
    with pytest.raises(InputError, match="activation is gelu_tanh, but transformers reads every llama"):
        config_to_hf(dataclasses.replace(read("Llama"), activation="gelu_tanh"))


def test_logits_are_divided():
    config = DecoderConfig("granite", 40, 16, 24, 2, 4, 2, 4, tie_embeddings=True)
    params = init_params(jax.random.key(0), config)
    hidden = jax.random.normal(jax.random.key(1), (3, 16))
    halved = unembed(dataclasses.replace(config, logits_divisor=2.0), params, hidden)
    np.testing.assert_allclose(halved, unembed(config, params, hidden) / 2, rtol=1e-6)
