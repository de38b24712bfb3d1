"""Adapters of other layouts: patterns of rank and scale, bases that are named, and what is refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

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

CONFIG = DecoderConfig("llama", 12, 16, 32, 2, 2, 1, 8, eos_ids=(2,))
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
