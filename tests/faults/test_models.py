"""Model folders and files that cannot be run exactly: named, with what is wrong."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import alignjax

CONFIG = pathlib.Path(alignjax.__file__).parents[1] / "configs" / "pecan.py"


@pytest.fixture
def refused(refusal, lines, tmp_path):
    """The line on standard error where `sample` is given this model."""

    def run(path, row=None):
        prompts = lines("prompts.jsonl", {"prompt": "hi"} if row is None else row)
        output = tmp_path / "out.jsonl"
        line = refusal(
            "sample", f"--model={path}", f"--prompts={prompts}", f"--output={output}", "--max_new_tokens=1"
        )
        assert not output.exists()
        return line

    return run


def change(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_one_line_from_a_process_of_its_own(model, lines, tmp_path):
    # Libraries that warn on import or while they load would be seen here alone.
    change(model / "config.json", vocab_size=200, eos_token_id=None)
    (model / "generation_config.json").unlink()
    options = [
        f"--model={model}",
        f"--prompts={lines('p.jsonl', {'prompt': 'hi'})}",
        f"--output={tmp_path / 'out'}",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "alignjax.sample", *options, "--max_new_tokens=1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(alignjax.__file__).parents[1],
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2 and "with id 257, but the weights have only 200 embeddings" in line


def test_no_such_folder(refused, tmp_path):
    assert f"{tmp_path / 'none'}: no such file or folder; give a Hugging Face" in refused(tmp_path / "none")


def test_a_file_that_is_no_model(refused, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    assert "model.bin: not a model" in refused(tmp_path / "model.bin")


def test_no_config(refused, model):
    (model / "config.json").unlink()
    assert "config.json: no such file" in refused(model)


def test_a_damaged_config(refused, model):
    (model / "config.json").write_text('{"architectures": [')
    assert "config.json: not valid JSON" in refused(model)


def test_an_unsupported_architecture(refused, model):
    change(model / "config.json", architectures=["MambaForCausalLM"])
    line = refused(model)
    assert "config.json: architecture MambaForCausalLM is not supported; use one of LlamaForCausalLM" in line


@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [None, "many", 0, -4, [1]])
def test_a_number_that_is_none(refused, model, field, value):
    change(model / "config.json", **{field: value})
    line = refused(model)
    assert "config.json" in line and field in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eos_token_id", "</s>"),
        ("bos_token_id", {"id": 1}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": "big"}),
        ("rope_parameters", [1]),
        ("rms_norm_eps", "small"),
        ("num_key_value_heads", 3),
        ("num_key_value_heads", 0),
        ("head_dim", 3),
        ("max_position_embeddings", "long"),
        ("architectures", "LlamaForCausalLM"),
    ],
)
def test_a_field_that_makes_no_sense(refused, model, field, value):
    change(model / "config.json", **{field: value})
    line = refused(model)
    assert "config.json" in line


def test_a_context_that_is_too_short_for_the_training(refusal, model, lines, tmp_path):
    pairs = lines("pairs.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"})
    line = refusal(
        "train",
        f"--config={CONFIG}:smollm2-135m",
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.path={model}",
        *(f"--config.data.sources.{name}.path={pairs}" for name in ("reward", "safety")),
    )
    assert "config.model.max_length: is 384" in line and "64 tokens" in line


def test_no_weights(refused, model):
    (model / "model.safetensors").unlink()
    assert "has neither model.safetensors nor model.safetensors.index.json" in refused(model)


@pytest.mark.parametrize("size", [0, 4, 100, 2000])
def test_truncated_weights(refused, model, size):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert "model.safetensors: not a readable safetensors file" in refused(model)


def test_weights_that_are_no_safetensors(refused, model):
    (model / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(4000))
    assert "model.safetensors: not a readable safetensors file" in refused(model)


def test_a_missing_tensor(refused, model):
    file = model / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file)
    assert "model.norm.weight missing" in refused(model)


def test_weights_that_are_not_finite(refused, model):
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    save_file(tensors, file)
    assert "not finite" in refused(model)


def test_a_tokenizer_with_more_tokens_than_the_weights(refused, model):
    file = model / "tokenizer.json"
    fields = json.loads(file.read_text())
    fields["added_tokens"].append(fields["added_tokens"][0] | {"id": 258, "content": "<one too many>"})
    file.write_text(json.dumps(fields))
    assert "the tokenizer has token '<one too many>' with id 258, but the weights have only 258" in refused(
        model
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"version": "1.0"}', "\xff"])
def test_a_damaged_tokenizer(refused, model, text):
    (model / "tokenizer.json").write_text(text)
    assert "transformers cannot load the tokenizer" in refused(model)


def test_text_for_a_folder_without_tokenizer(refused, model):
    for file in model.glob("tokenizer*"):
        file.unlink()
    line = refused(model)
    assert 'prompts.jsonl:1: "prompt" is text, and' in line and 'give "prompt_ids"' in line


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"PK\x03\x04" + bytes(100), b"GGUF" + bytes(200), b"GGUF\x03\0\0\0" + b"\xff" * 64],
)
def test_a_damaged_gguf(refused, tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    assert "model.gguf: not a readable GGUF file" in refused(tmp_path / "model.gguf")
