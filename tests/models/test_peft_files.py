"""Adapters of other layouts: patterns of rank and scale, bases that are named, and what is refused."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    init_lora,
    init_params,
    load_adapter,
    load_pretrained,
    merge_lora,
    save_adapter,
    save_pretrained,
)
from alignjax.models.weights import disassemble

CONFIG = DecoderConfig("llama", 12, 16, 32, 2, 2, 1, 8, eos_ids=(2,))
PHI = dataclasses.replace(CONFIG, architecture="phi3")  # qkv_proj has 16 + 8 + 8 rows, gate_up_proj 32 + 32
PREFIX = "base_model.model.model.layers"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_pretrained(Model(init_params(jax.random.key(0), CONFIG), CONFIG), folder / "base")
    return folder / "base"


def write(folder: Path, tensors: dict[str, np.ndarray], **fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    given = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(given | fields))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def drawn(ranks: dict[int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for layer, rank in ranks.items():
        name = f"{PREFIX}.{layer}.self_attn.q_proj"
        found[f"{name}.lora_A.weight"] = rng.normal(size=(rank, 16)).astype(np.float32)
        found[f"{name}.lora_B.weight"] = rng.normal(size=(16, rank)).astype(np.float32)
    return found


# PEFT's scale is alpha / r, or alpha / sqrt(r) with use_rslora, each module with its own alpha and r.
@pytest.mark.parametrize(
    ("fields", "ranks", "scales"),
    [
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 3}}, [2, 3], [2.0, 4 / 3]),
        ({"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"0.self_attn.q_proj": 6}}, [3, 3], [2.0, 4 / 3]),
        ({"rank_pattern": {r".*\.1\..*": 4}, "use_rslora": True}, [2, 4], [4 / 2**0.5, 2.0]),
        ({"rank_pattern": {"proj": 9}}, [2, 2], [2.0, 2.0]),  # not the end of the name from a dot on
    ],
)
def test_patterns_of_rank_and_alpha(tmp_path, fields, ranks, scales):
    tensors = drawn(dict(enumerate(ranks)))
    lora = load_adapter(write(tmp_path / "a", tensors, **fields), CONFIG)
    params = init_params(jax.random.key(0), CONFIG)
    before = np.asarray(params["layers"]["q"]["kernel"], np.float64)
    after = np.asarray(merge_lora(params, lora)["layers"]["q"]["kernel"], np.float64)
    for i, scale in enumerate(scales):
        a, b = (tensors[f"{PREFIX}.{i}.self_attn.q_proj.lora_{x}.weight"].astype(np.float64) for x in "AB")
        np.testing.assert_allclose(after[i], before[i] + scale * (b @ a).T, rtol=0, atol=2e-6)


def added_to_files(folder: Path) -> dict[str, np.ndarray]:
    """What an adapter adds to each tensor of the base's file, by the rule of PEFT."""
    fields, tensors = (
        json.loads((folder / "adapter_config.json").read_text()),
        load_file(folder / "adapter_model.safetensors"),
    )
    found = {}
    for name in (n for n in tensors if n.endswith("lora_A.weight")):
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = (tensors[name.replace("lora_A", f"lora_{x}")].astype(np.float64) for x in "AB")
        end = ".".join(module.split(".")[-2:])
        rank = fields["rank_pattern"].get(end, fields["r"])
        alpha = fields["alpha_pattern"].get(end, fields["lora_alpha"])
        assert a.shape[0] == b.shape[1] == rank
        found[f"{module}.weight"] = alpha / rank * (b @ a)
    return found


@pytest.mark.parametrize("targets", [("q", "k", "v", "o", "gate", "up", "down"), ("q", "v", "up")])
def test_adapters_of_projections_in_one_tensor_are_exact(tmp_path, targets):
    """Three adapters of q, k and v are one of qkv_proj at three times the rank."""
    keys = iter(jax.random.split(jax.random.key(1), 2 * len(targets) + 1))
    lora = init_lora(next(keys), PHI, rank=2, alpha=5.0, targets=targets)
    lora = lora.replace(params=jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), lora.params))
    params = init_params(jax.random.key(0), PHI)
    save_adapter(lora, PHI, tmp_path / "a")
    fields = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    ranks = (
        {"self_attn.qkv_proj": 6, "mlp.gate_up_proj": 4} if len(targets) == 7 else {"self_attn.qkv_proj": 4}
    )
    assert fields["r"] == 2 and fields["rank_pattern"] == ranks
    others = {"o_proj", "down_proj"} if len(targets) == 7 else set()
    assert set(fields["target_modules"]) == {"qkv_proj", "gate_up_proj"} | others
    before, after = (dict(disassemble(PHI, p)) for p in (params, merge_lora(params, lora)))
    added = added_to_files(tmp_path / "a")
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name], tensor + added.get(name, 0.0), rtol=0, atol=5e-6)
    read = merge_lora(params, load_adapter(tmp_path / "a", PHI))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=5e-6), read, merge_lora(params, lora)
    )


def test_an_adapter_of_one_tensor_is_one_for_each_projection(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        name = f"{PREFIX}.{layer}.self_attn.qkv_proj"
        tensors[f"{name}.lora_A.weight"] = rng.normal(size=(2, 16)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = rng.normal(size=(32, 2)).astype(np.float32)
    lora = load_adapter(write(tmp_path / "a", tensors, target_modules=["qkv_proj"]), PHI)
    assert set(lora.params["layers"]) == {"q", "k", "v"}
    params = init_params(jax.random.key(0), PHI)
    before, after = (dict(disassemble(PHI, p)) for p in (params, merge_lora(params, lora)))
    for layer in range(2):
        a, b = (tensors[f"{PREFIX}.{layer}.self_attn.qkv_proj.lora_{x}.weight"] for x in "AB")
        name = f"model.layers.{layer}.self_attn.qkv_proj.weight"
        np.testing.assert_allclose(after[name], before[name] + 2.0 * b @ a, rtol=0, atol=5e-6)
    # Written again it is the same file, at the same rank.
    save_adapter(lora, PHI, tmp_path / "b")
    again = load_file(tmp_path / "b" / "adapter_model.safetensors")
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)


def test_modules_of_another_family_are_refused(tmp_path):
    message = r"self_attn.q_proj.lora_A.weight is not an adapter of a known projection \(self_attn.o_proj"
    with pytest.raises(InputError, match=message):
        load_adapter(write(tmp_path / "a", drawn({0: 2, 1: 2})), PHI)


def test_layers_that_are_not_adapted_stay(tmp_path):
    folder = write(tmp_path / "a", drawn({1: 2}), layers_to_transform=[1])
    lora = load_adapter(folder, CONFIG)
    assert not np.asarray(lora.params["layers"]["q"]["a"])[0].any()
    assert np.asarray(lora.params["layers"]["q"]["b"])[1].any()
    with pytest.raises(InputError, match="layers.0.self_attn.q_proj.lora_A.weight"):
        load_adapter(write(tmp_path / "a", drawn({1: 2})), CONFIG)  # a part of the file is missing


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights is 'pissa', which changes the weights of the base",
        ),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16', which changes"),
        ({"init_lora_weights": "olora"}, "'olora', which changes"),
        ({"init_lora_weights": "loftq"}, "'loftq', which changes"),
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj is 0; must be a positive number"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern has '\\(', no regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern is .*; must be an object"),
        ({"r": 2.5}, "r is 2.5; must be a whole number"),
        ({"r": True}, "r is True; must be a positive number"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
    ],
)
def test_what_is_refused(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        load_adapter(write(tmp_path / "a", drawn({0: 2, 1: 2}), **fields), CONFIG)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal"])
def test_beginnings_that_leave_the_base_alone(tmp_path, init):
    folder = write(tmp_path / "a", drawn({0: 2, 1: 2}), init_lora_weights=init)
    assert load_adapter(folder, CONFIG).scale == 2.0


def test_a_peft_folder_is_its_base_with_the_adapter_merged(base, tmp_path):
    lora = init_lora(jax.random.key(1), CONFIG, rank=2, alpha=4.0)
    lora = lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))
    save_adapter(lora, CONFIG, tmp_path / "a", base_model=str(base))
    expected = merge_lora(load_pretrained(base).params, lora)
    for found in (load_pretrained(tmp_path / "a"), load_pretrained(base, adapter=tmp_path / "a")):
        jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, load_pretrained(base).params, expected)


@pytest.mark.parametrize("named", [None, "Qwen/Qwen2.5-0.5B", "."])
def test_a_peft_folder_whose_base_is_elsewhere(tmp_path, named):
    folder = write(tmp_path / "a", drawn({0: 2, 1: 2}), base_model_name_or_path=named)
    with pytest.raises(
        InputError, match=r"adapter_config.json: base_model_name_or_path is .*; give the base"
    ):
        load_pretrained(folder)
