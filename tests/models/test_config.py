import dataclasses

import pytest

from alignjax.errors import InputError
from alignjax.models import DecoderConfig, RopeScaling, config_from_hf, config_to_hf

FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(**fields):
    kept = FIELDS | fields
    return config_from_hf({name: value for name, value in kept.items() if value is not None})


def test_defaults_are_those_of_transformers():
    config = read()
    assert config == DecoderConfig("llama", 100, 64, 128, 3, 8, 8, 8, norm_eps=1e-6, rope_theta=10000.0)
    assert (config.tie_embeddings, config.sliding_window, config.max_positions) == (False, None, 2048)


def test_every_field_of_a_llama():
    config = read(
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=LLAMA3,
        tie_word_embeddings=True,
        max_position_embeddings=131072,
        bos_token_id=7,
        eos_token_id=[8, 9],
    )
    assert config == DecoderConfig(
        "llama", 100, 64, 128, 3, 8, 2, 16, norm_eps=1e-5, rope_theta=500000.0,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192), tie_embeddings=True, max_positions=131072,
        bos_id=7, eos_ids=(8, 9),
    )  # fmt: skip


def test_what_the_architectures_bring_by_themselves():
    qwen2 = read(architectures=["Qwen2ForCausalLM"], attention_bias=True)
    assert (qwen2.qkv_bias, qwen2.qk_norm, qwen2.head_dim) == (True, None, 8)
    qwen3 = read(architectures=["Qwen3ForCausalLM"])
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, "head", 128)
    assert read(architectures=None, model_type="mistral").architecture == "mistral"


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"architectures": ["MistralForCausalLM"]}, 4096),  # Mistral's class default
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 32}, 32),
        ({"sliding_window": 32}, None),  # Llama has none, whatever the file says
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32}, None),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "use_sliding_window": False}, None),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 32,
                "use_sliding_window": True,
                "max_window_layers": 3,
            },
            None,  # the first 3 layers are full, and there are 3
        ),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 32,
                "use_sliding_window": True,
                "max_window_layers": 0,
            },
            32,
        ),
        # transformers gives every layer of a Mistral the window.
        (
            {
                "architectures": ["MistralForCausalLM"],
                "sliding_window": 32,
                "layer_types": ["full_attention"] * 3,
            },
            32,
        ),
    ],
)
def test_sliding_windows(fields, window):
    assert read(**fields).sliding_window == window


def test_mistral_without_a_window():
    assert (
        config_from_hf(
            FIELDS | {"architectures": ["MistralForCausalLM"], "sliding_window": None}
        ).sliding_window
        is None
    )


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({}, 10000.0, None),
        ({"rope_theta": 5.0}, 5.0, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, 7.0, None),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}}, 7.0, None),  # the newer form goes first
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 10000.0, RopeScaling("linear", 2.0)),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 7.0}}, 7.0, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)),
    ],
)
def test_old_and_new_forms_of_rope(fields, theta, scaling):
    config = read(**fields)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["FalconForCausalLM"]}, "architecture FalconForCausalLM is not supported"),
        (
            {"architectures": ["MixtralForCausalLM"]},
            'field "num_local_experts" is None, must be a whole number',
        ),
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4},
            'field "num_experts_per_tok" is 8, but there are 4 experts',
        ),
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 8, "mlp_only_layers": [0]},
            "mlp_only_layers is [0]; only [] is supported",
        ),
        ({"tie_word_embeddings": "no"}, "field \"tie_word_embeddings\" is 'no', must be true or false"),
        ({"architectures": 5}, 'field "architectures" is 5, must be a list with one name'),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "LlamaForSequenceClassification is not supported",
        ),
        ({"architectures": None, "model_type": "mamba"}, "architecture mamba is not supported"),
        ({"architectures": None}, "architecture None is not supported"),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported'),
        ({"architectures": ["MistralForCausalLM"], "attention_bias": True}, "attention_bias is true"),
        ({"architectures": ["Qwen3ForCausalLM"], "mlp_bias": True}, "mlp_bias is true"),
        ({"architectures": ["Qwen2ForCausalLM"], "mlp_bias": True}, "mlp_bias is true"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantized"),
        ({"rope_scaling": {"rope_type": "yarn"}}, 'rope type "yarn" needs a positive number "factor"'),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, 'rope type "dynamic" is not supported'),
        ({"rope_scaling": {"rope_type": "longrope"}}, 'rope type "longrope" needs a positive number "orig'),
        ({"rope_scaling": {"rope_type": "linear"}}, 'needs a positive number "factor"; found None'),
        (
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 0}},
            'needs a positive number "low_freq_factor"; found 0',
        ),
        ({"rope_theta": -1.0}, 'field "rope_theta" is -1.0, must be a positive number'),
        ({"hidden_size": None}, 'field "hidden_size" is missing'),
        ({"num_hidden_layers": True}, 'field "num_hidden_layers" is True'),
        ({"vocab_size": 1.5}, 'field "vocab_size" is 1.5'),
        ({"num_key_value_heads": 3}, "8 heads, 3 key/value heads"),
        ({"head_dim": 7}, "head_dim 7"),
        ({"eos_token_id": [2, 4096]}, '"eos_token_id" is [2, 4096], must be below vocab_size'),
        ({"eos_token_id": -1}, 'field "eos_token_id" is -1, must be below vocab_size'),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": "wide"},
            "field \"sliding_window\" is 'wide', must be a whole number of at least 1",
        ),
        ({"num_hidden_layers": 10**6}, 'field "num_hidden_layers" is 1000000, must be at most 10000'),
        ({"hidden_size": 10**400}, 'field "hidden_size" is 10000'),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields, message):
    with pytest.raises(InputError) as caught:
        read(**fields)
    assert message in str(caught.value) and str(caught.value).startswith("config.json: ")


@pytest.mark.parametrize("kind", ["llama", "tied", "mistral", "qwen2", "qwen3", "phi3"])
def test_written_and_read_back(kinds, kind):
    assert config_from_hf(config_to_hf(kinds[kind])) == kinds[kind]


@pytest.mark.parametrize("scaling", [RopeScaling("linear", 2.0), RopeScaling("llama3", 8.0, 1.0, 4.0, 512)])
def test_rope_is_written_in_both_forms(kinds, scaling):
    config = dataclasses.replace(kinds["llama"], rope_scaling=scaling, rope_theta=5.0)
    fields = config_to_hf(config)
    for form in (("rope_theta", "rope_scaling"), ("rope_parameters",)):
        kept = {
            n: v
            for n, v in fields.items()
            if n in form or n not in ("rope_theta", "rope_scaling", "rope_parameters")
        }
        assert config_from_hf(kept) == config


def test_a_sliding_qwen_is_written_as_one():
    config = read(
        architectures=["Qwen2ForCausalLM"], sliding_window=9, use_sliding_window=True, max_window_layers=0
    )
    assert config.sliding_window == 9 and config_from_hf(config_to_hf(config)) == config
