"""GGUF files written with llama.cpp's own package, q and k permuted as its converter does."""

import dataclasses
import math

import gguf
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    RopeScaling,
    config_from_hf,
    init_params,
    load_pretrained,
    save_pretrained,
)
from alignjax.models.gguf_file import unpermute

PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
}  # fmt: skip
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# What the metadata of a file says about the decoder.
FIELDS = """
architecture vocab_size hidden_size intermediate_size num_layers num_heads num_kv_heads head_dim norm_eps
rope_theta tie_embeddings qkv_bias qk_norm max_positions
""".split()
TOKENS = [
    "<unk>",
    "<s>",
    "</s>",
    *(chr(97 + i) for i in range(26)),
    "ab",
    "abc",
    *(f"<{i}>" for i in range(9)),
]


def permute(weight, heads):
    """convert_hf_to_gguf.py, LlamaModel.permute."""
    rows = weight.shape[0]
    return (
        weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def gguf_name(name):
    if name.startswith("model.layers."):
        _, _, layer, *part, leaf = name.split(".")
        return f"blk.{layer}.{PARTS['.'.join(part)]}.{leaf}"
    part, _, leaf = name.rpartition(".")
    return f"{TOP[part]}.{leaf}"


def write(
    path, model, tensors, *, arch=None, quantization=None, tokens=TOKENS, change=lambda writer: None, skip=()
):
    config, arch = model.config, arch or model.config.architecture
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if 0 < i < 3 else 1 for i in range(len(tokens))])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    change(writer)
    for name, tensor in tensors.items():
        if name in skip:
            continue
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = permute(tensor, config.num_heads if "q_proj" in name else config.num_kv_heads)
        if quantization is not None and tensor.ndim == 2:
            data = gguf.quants.quantize(tensor, quantization)
            writer.add_tensor(gguf_name(name), data, raw_dtype=quantization)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def pair(random_model, tmp_path):
    """A model and the tensors of its Hugging Face folder."""

    def make(kind):
        model = random_model(kind)
        save_pretrained(model, tmp_path / kind)
        return model, load_file(tmp_path / kind / "model.safetensors")

    return make


@pytest.mark.parametrize("kind", ["llama", "tied", "qwen2", "qwen3"])
def test_equal_logits_from_both_kinds_of_file(kind, pair, logits, tmp_path):
    model, tensors = pair(kind)
    back = load_pretrained(write(tmp_path / "m.gguf", model, tensors))
    for field in FIELDS:
        assert getattr(back.config, field) == getattr(model.config, field), field
    assert (back.config.bos_id, back.config.eos_ids) == (1, (2,))
    np.testing.assert_array_equal(logits(back), logits(model))


GEMMA_NORMS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


@pytest.mark.parametrize("arch", ["gemma", "gemma2", "gemma3"])
def test_gemma_as_llama_cpp_writes_it(arch, logits, tmp_path, monkeypatch):
    # Widths of heads and layers as in the published models, whose scale of attention a file does not give.
    fields = {
        "architectures": [f"{arch.capitalize()}ForCausalLM"],
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
        "sliding_window": 4, "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    config = config_from_hf(fields)
    keys = iter(jax.random.split(jax.random.key(0), 64))
    params = jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), init_params(next(keys), config)
    )
    model = Model(params=params, config=config)
    save_pretrained(model, tmp_path / "folder")
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    # GemmaModel.modify_tensors in convert_hf_to_gguf.py: norms are stored with their offset.
    tensors = {n: np.asarray(t) + n.endswith("norm.weight") for n, t in tensors.items()}

    def change(writer):
        if arch != "gemma":
            writer.add_sliding_window(4)
        if arch == "gemma2":
            writer.add_attn_logit_softcapping(50.0)
            writer.add_final_logit_softcapping(30.0)

    if arch != "gemma":
        monkeypatch.setattr(f"{__name__}.PARTS", PARTS | GEMMA_NORMS)
    back = load_pretrained(write(tmp_path / "m.gguf", model, tensors, arch=arch, change=change))
    assert back.config == config
    np.testing.assert_allclose(logits(back), logits(model), atol=1e-5)


def test_unpermute_undoes_llama_cpps_permute():
    weight = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    for heads in (1, 2, 3):
        np.testing.assert_array_equal(unpermute(permute(weight, heads), heads), weight)
    # By hand, one head of width 4: rows of both halves alternate in the file.
    np.testing.assert_array_equal(
        unpermute(np.array([[0.0], [2.0], [1.0], [3.0]]), 1)[:, 0], [0.0, 1.0, 2.0, 3.0]
    )


def test_half_precision(pair, logits, tmp_path):
    model, tensors = pair("llama")
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    back = load_pretrained(write(tmp_path / "m.gguf", model, halves))
    exact = halves["model.layers.1.self_attn.v_proj.weight"].T.astype(np.float32)
    np.testing.assert_array_equal(back.params["layers"]["v"]["kernel"][1], exact)
    assert np.abs(logits(back) - logits(model)).max() < 0.05


def test_quantized_blocks(tmp_path):
    config = DecoderConfig("llama", 40, 32, 64, 1, 4, 2, 8)
    model = Model(init_params(jax.random.key(0), config), config)
    save_pretrained(model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    file = write(tmp_path / "m.gguf", model, tensors, quantization=gguf.GGMLQuantizationType.Q8_0)
    assert file.stat().st_size < (tmp_path / "model" / "model.safetensors").stat().st_size / 2
    layers, found = model.params["layers"], load_pretrained(file).params["layers"]
    for part in ("q", "k", "v", "o", "gate", "up", "down"):
        # Q8_0: 32 weights in a row of the file share a scale, max |w| / 127, and are rounded to multiples of
        # it. The scale is a float16: 2^-11 of it, times 127.
        exact = np.asarray(layers[part]["kernel"][0]).T.reshape(-1, 32)
        blocks = np.asarray(found[part]["kernel"][0]).T.reshape(-1, 32)
        step = np.abs(exact).max(axis=1, keepdims=True) / 127
        assert (np.abs(blocks - exact) <= step * (0.5 + 127 * 2.0**-11 + 1e-3)).all()
        assert (blocks != exact).any()


def test_the_tokenizer_comes_along(pair, tmp_path):
    model, tensors = pair("llama")
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    file = write(tmp_path / "m.gguf", model, tensors, change=lambda w: w.add_chat_template(template))
    tokenizer = load_pretrained(file).tokenizer
    assert tokenizer is not None and tokenizer.chat_template == template
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    # Merges in order: a b -> ab, ab c -> abc.
    assert tokenizer.encode("abcab", add_special_tokens=False) == [TOKENS.index("abc"), TOKENS.index("ab")]
    assert tokenizer.encode("a</s>b", add_special_tokens=False) == [3, 2, 4]
    assert tokenizer.decode([TOKENS.index("abc"), 2], skip_special_tokens=True) == "abc"


def test_linear_rope(pair, logits, tmp_path):
    model, tensors = pair("llama")

    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)

    back = load_pretrained(write(tmp_path / "m.gguf", model, tensors, change=change))
    assert back.config.rope_scaling == RopeScaling("linear", 2.0)
    assert np.abs(logits(back) - logits(model)).max() > 1e-3


def test_a_mixture_of_experts_is_refused(pair, tmp_path):
    model, tensors = pair("llama")
    with pytest.raises(InputError, match=r"a mixture of experts \(4\) is not supported"):
        load_pretrained(write(tmp_path / "m.gguf", model, tensors, change=lambda w: w.add_expert_count(4)))


def test_yarn(pair, tmp_path):
    model, tensors = pair("qwen3")

    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(512)

    back = load_pretrained(write(tmp_path / "m.gguf", model, tensors, change=change))
    assert back.config.rope_scaling == RopeScaling("yarn", 4.0, original_max_positions=512)


def test_phi3(pair, logits, tmp_path):
    """Fused tensors, partial rotation, and longrope in two tensors, as the converter writes them."""
    model, tensors = pair("phi3")

    def change(writer):
        writer.add_rope_dimension_count(2)
        writer.add_sliding_window(0)
        writer.add_rope_scaling_orig_ctx_len(1024)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(2) / math.log(1024)))
        writer.add_tensor("rope_factors_short.weight", np.array([1.5], np.float32))
        writer.add_tensor("rope_factors_long.weight", np.array([4.0], np.float32))

    back = load_pretrained(write(tmp_path / "m.gguf", model, tensors, change=change))
    scaling = back.config.rope_scaling
    assert scaling is not None and scaling.attention_factor == pytest.approx(math.sqrt(1.1), rel=1e-6)
    assert dataclasses.replace(scaling, attention_factor=None) == model.config.rope_scaling
    assert (back.config.rotary_dim, back.config.sliding_window) == (2, None)
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    np.testing.assert_allclose(logits(back), logits(model), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), 'rope type "yarn" needs .* "factor"'),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), 'rope scaling "longrope" is not'),
        (lambda w: w.add_rope_dimension_count(2), "rope rotates only a part of each head"),
        (
            lambda w: w.add_tensor("rope_factors_short.weight", np.array([1.5], np.float32)),
            'needs a positive number "original_max_position_embeddings"; found None',
        ),
        (
            lambda w: w.add_tensor("rope_freqs.weight", np.array([1.0, np.inf], np.float32)),
            "rope_freqs.weight is not Llama 3's scaling",
        ),
        (
            lambda w: (
                w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
                w.add_rope_scaling_factor(4.0),
                w.add_rope_scaling_attn_factors(0.5),
            ),
            "llama.rope.scaling.attn_factor is 0.5, which is not supported",
        ),
    ],
)
def test_another_rope_is_refused(pair, tmp_path, change, message):
    model, tensors = pair("llama")
    with pytest.raises(InputError, match=message):
        load_pretrained(write(tmp_path / "m.gguf", model, tensors, change=change))


def test_a_missing_tensor_is_named(pair, tmp_path):
    model, tensors = pair("llama")
    with pytest.raises(InputError, match=r"blk.1.ffn_up.weight missing"):
        load_pretrained(
            write(tmp_path / "m.gguf", model, tensors, skip=["model.layers.1.mlp.up_proj.weight"])
        )
    with pytest.raises(InputError, match=r"token_embd.weight is missing"):
        load_pretrained(write(tmp_path / "n.gguf", model, tensors, skip=["model.embed_tokens.weight"]))


def test_more_tokens_than_embeddings(pair, tmp_path):
    model, tensors = pair("llama")
    with pytest.raises(InputError, match="token 'extra' with id 40, but the weights have only 40 embeddings"):
        load_pretrained(write(tmp_path / "m.gguf", model, tensors, tokens=[*TOKENS, "extra"]))


def test_other_architectures_are_refused_by_name(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "falcon")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="architecture falcon is not supported; use one of llama, qwen2"):
        load_pretrained(tmp_path / "m.gguf")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_damaged(pair, tmp_path, share):
    model, tensors = pair("llama")
    file = write(tmp_path / "m.gguf", model, tensors)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="m.gguf: not a readable GGUF file"):
        load_pretrained(file)
