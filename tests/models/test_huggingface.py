import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from alignjax.errors import InputError
from alignjax.models import (
    huggingface,
    init_lora,
    load_adapter,
    load_pretrained,
    merge_lora,
    save_adapter,
    save_pretrained,
)

NAMES = ("llama", "tied", "mistral", "qwen2", "qwen3")


@pytest.fixture
def folder(random_model, tmp_path):
    save_pretrained(random_model("llama"), tmp_path / "model")
    return tmp_path / "model"


def shard(folder, parts=3):
    """The one file as several with an index, as large models come."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {
        name: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, name in enumerate(sorted(tensors))
    }
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change(file, **fields):
    kept = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in kept.items() if value is not None}))


@pytest.mark.parametrize("kind", NAMES)
def test_round_trip(kind, random_model, logits, tmp_path):
    model = random_model(kind)
    save_pretrained(model, tmp_path / "a")
    back = load_pretrained(tmp_path / "a")
    assert back.config == model.config and back.tokenizer is None
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    names = load_file(tmp_path / "a" / "model.safetensors")
    assert ("lm_head.weight" in names) == (kind != "tied")
    assert names["model.layers.1.self_attn.k_proj.weight"].shape == (
        2 * model.config.head_dim,
        16,
    )  # [out, in]
    shard(tmp_path / "a")
    np.testing.assert_array_equal(logits(load_pretrained(tmp_path / "a")), logits(model))


def test_a_file_is_opened_anew_while_it_is_read(folder, monkeypatch):
    whole, opened = load_pretrained(folder), []

    def counted(file, **options):
        opened.append(file)
        return safe_open(file, **options)

    monkeypatch.setattr(huggingface, "safe_open", counted)
    monkeypatch.setattr(huggingface, "_MOST_MAPPED", 1000)
    again = load_pretrained(folder)
    assert len(opened) > 5
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_the_index_is_not_read_where_the_one_file_is(folder, logits):
    whole = logits(load_pretrained(folder))
    (folder / "model.safetensors.index.json").write_text("{")
    np.testing.assert_array_equal(logits(load_pretrained(folder)), whole)


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_stored_types(folder, stored):
    file = folder / "model.safetensors"
    exact = load_pretrained(folder).params
    kind = np.dtype(ml_dtypes.bfloat16) if stored == "bfloat16" else np.dtype(stored)
    save_file({name: tensor.astype(kind) for name, tensor in load_file(file).items()}, file)
    found = load_pretrained(folder).params
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    rounded = jax.tree.map(lambda x: np.asarray(x).astype(kind).astype(np.float32), exact)
    jax.tree.map(np.testing.assert_array_equal, found, rounded)
    half = load_pretrained(folder, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    assert half.config.dtype == "bfloat16"


def test_bfloat16_parameters_are_written_as_they_are(random_model, tmp_path):
    model = random_model("llama")
    model = model.replace(params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params))
    save_pretrained(model, tmp_path / "half")
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    jax.tree.map(
        np.testing.assert_array_equal,
        load_pretrained(tmp_path / "half", dtype="bfloat16").params,
        model.params,
    )


def test_a_tokenizer_goes_along(random_model, tiny_tokenizer, tmp_path):
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    save_pretrained(random_model("llama").replace(tokenizer=tiny_tokenizer), tmp_path / "model")
    back = load_pretrained(tmp_path / "model").tokenizer
    assert back is not None and back.get_vocab() == tiny_tokenizer.get_vocab()
    assert back.encode("abc", add_special_tokens=False) == [3, 4, 5]
    assert (back.bos_token_id, back.eos_token_id) == (1, 2)
    assert back.chat_template == tiny_tokenizer.chat_template
    # transformers 4 would make token types, which its decoders refuse.
    fields = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert fields["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"is_local", "local_files_only"} & set(fields)


def test_all_ends_of_text_are_known(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7, 9]}')
    assert load_pretrained(folder).config.eos_ids == (2, 7, 9)
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert load_pretrained(folder).config.eos_ids == (2, 5)
    (folder / "generation_config.json").write_text('{"eos_token_id": "end"}')
    with pytest.raises(InputError, match="generation_config.json: field \"eos_token_id\" is 'end'"):
        load_pretrained(folder)


def test_an_equal_copy_of_the_tied_head_is_ignored_and_another_refused(random_model, tmp_path):
    model = random_model("tied")
    save_pretrained(model, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    extra = {"lm_head.weight": tensors["model.embed_tokens.weight"].copy(),
             "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}  # fmt: skip
    save_file(tensors | extra, file)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path / "model").params, model.params)
    save_file(tensors | {"lm_head.weight": extra["lm_head.weight"] + 1}, file)
    with pytest.raises(InputError, match="tie_word_embeddings is true, but lm_head.weight differs"):
        load_pretrained(tmp_path / "model")


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight missing"),
        (without("lm_head.weight"), "lm_head.weight missing"),
        (
            lambda t: t | {"model.norm.weight": np.ones(17, np.float32)},
            r"model.norm.weight is \[17\], must be \[16\]",
        ),
        (
            lambda t: t | {"model.layers.0.self_attn.q_proj.bias": np.ones(16, np.float32)},
            "self_attn.q_proj.bias unknown to this architecture",
        ),
        (
            lambda t: t | {"model.layers.2.input_layernorm.weight": np.ones(16, np.float32)},
            "layers.2.* unknown",
        ),
    ],
)
def test_tensors_that_do_not_fit(folder, spoil, message):
    file = folder / "model.safetensors"
    save_file(spoil(load_file(file)), file)
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


def test_a_missing_shard_is_named(folder):
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        InputError, match="model-00002-of-00003.safetensors: no such file; download the missing part"
    ):
        load_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text('{"weights": {}}')
    with pytest.raises(InputError, match='index.json: "weight_map" is missing'):
        load_pretrained(folder)


def test_a_folder_is_written_whole_or_not_at_all(random_model, tmp_path, monkeypatch):
    model = random_model("llama")

    def fail(*args, **options):
        raise OSError("no space left")

    monkeypatch.setattr("alignjax.models.huggingface.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_pretrained(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be(random_model, tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(InputError, match="model: is a file; give a folder"):
        save_pretrained(random_model("llama"), tmp_path / "model")


@pytest.fixture
def lora(random_model):
    config = random_model("llama").config
    lora = init_lora(jax.random.key(1), config, rank=3, alpha=6.0, targets=("q", "down"), dropout=0.25)
    return lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))


def test_adapters_round_trip_and_are_pefts(lora, random_model, logits, tmp_path):
    model = random_model("llama")
    save_adapter(lora, model.config, tmp_path / "adapter", base_model="base")
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"], fields["lora_dropout"]) == (3, 6.0, 0.25)
    assert (
        set(fields["target_modules"]) == {"q_proj", "down_proj"}
        and fields["base_model_name_or_path"] == "base"
    )
    back = load_adapter(tmp_path / "adapter", model.config)
    assert (back.scale, back.dropout) == (2.0, 0.25)
    jax.tree.map(np.testing.assert_array_equal, back.params, lora.params)
    # PEFT's own definition: W + alpha / r B A, with A [r, in] and B [out, r].
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_pretrained(model, tmp_path / "merged")
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    for i in range(2):
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            key = f"base_model.model.model.layers.{i}.{name}"
            update = tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"]
            weights[f"model.layers.{i}.{name}.weight"] += 6.0 / 3 * update
    save_file(weights, tmp_path / "merged" / "model.safetensors")
    ours = model.replace(params=merge_lora(model.params, back))
    np.testing.assert_allclose(logits(ours), logits(load_pretrained(tmp_path / "merged")), atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"r": 0}, "r is 0; must be a positive number"),
        ({"lora_alpha": "big"}, "lora_alpha is 'big'"),
        ({"r": 4}, r"lora_A.weight is \[3, 16\], must be \[4, 16\]"),
    ],
)
def test_adapters_of_other_kinds_are_refused(lora, random_model, tmp_path, fields, message):
    config = random_model("llama").config
    save_adapter(lora, config, tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", **fields)
    with pytest.raises(InputError, match=message):
        load_adapter(tmp_path / "adapter", config)


def test_rank_stabilized_adapters_have_their_own_scale(lora, random_model, tmp_path):
    config = random_model("llama").config
    save_adapter(lora, config, tmp_path / "adapter")
    change(tmp_path / "adapter" / "adapter_config.json", use_rslora=True)
    assert load_adapter(tmp_path / "adapter", config).scale == pytest.approx(6.0 / 3**0.5)


def test_tensors_of_an_adapter_are_all_used(lora, random_model, tmp_path):
    config = random_model("llama").config
    save_adapter(lora, config, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.lm_head.lora_A.weight"
    save_file(tensors | {name: np.ones((3, 16), np.float32)}, file)
    with pytest.raises(InputError, match=f"tensor {name} is not an adapter of a known projection"):
        load_adapter(tmp_path / "adapter", config)
    save_file({}, file)
    with pytest.raises(InputError, match="holds no adapter"):
        load_adapter(tmp_path / "adapter", config)
