"""Names of topologies, known shapes, and what is refused."""

import importlib.util

import pytest

from alignjax.aot.chips import GIB, GPUS, SLICES, TPUS
from alignjax.config import ModelSettings
from alignjax.errors import InputError
from alignjax.planning import architectures, targets


@pytest.mark.parametrize(
    ("name", "count", "usable"),
    [("v5e:1x1", 1, 15.75), ("v5e:4x4", 16, 15.75), ("v5p:2x2x1", 4, 95.73), ("gpu:80GiB:8", 8, 72.0),
     ("h100", 1, 72.0), ("a100-40:2", 2, 36.0)],
)  # fmt: skip
def test_names(name, count, usable):
    target = targets.parse(name)
    assert target.count == count and target.chip.usable == pytest.approx(usable * GIB)
    assert target.simulated == (not name.startswith("v"))


# Sessions of 9 hours at Kaggle, of 12 at Colab: 18 hours are two of the first, 18.1 are three.
@pytest.mark.parametrize(
    ("name", "slice", "count", "hours", "sessions"),
    [("kaggle", "v5e:2x4", 8, 18.0, 2), ("kaggle", "v5e:2x4", 8, 18.1, 3),
     ("colab-v5e", "v5e:1x1", 1, 12.0, 1), ("colab-v6e", "v6e:1x1", 1, 13.0, 2),
     ("v5e:2x4", "v5e:2x4", 8, 18.0, None), ("h100:8", "", 8, 1.0, None)],
)  # fmt: skip
def test_what_is_lent_by_the_session(name, slice, count, hours, sessions):
    target = targets.parse(name)
    assert (target.name, target.slice, target.count, target.sessions(hours)) == (name, slice, count, sessions)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:1x1", r"no such topology; known are TPU slices v4:2x2x1.*v5e:1x1.*kaggle.*; GPUs a100-40"),
        ("v5e:3x5", r"v5e has no slice '3x5'; use v5e:1x1, v5e:2x2"),
        ("v5e", r"v5e has no slice 'of no size'; use v5e:1x1"),
        ("gpu:0GiB", "no such topology"),
        ("h100:0", "no such topology"),
        ("", "no such topology"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        targets.parse(name)


def test_too_few_simulated_devices():
    with pytest.raises(InputError, match="gpu:80GiB:9: 8 devices are simulated"):
        targets.devices(targets.parse("gpu:80GiB:9"))


def test_libtpu_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install libtpu"):
        targets.devices(targets.parse("v5e:1x1"))


def test_every_chip_has_a_source_and_more_memory_than_is_usable():
    for chip in (*TPUS.values(), *GPUS.values()):
        assert chip.source and 0 < chip.usable <= chip.memory
    assert set(SLICES) == set(TPUS)


# Parameters of the published models, in the millions that their cards give.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("smollm2-135m", 134.5), ("tinyllama-1b", 1100), ("llama3.2-1b", 1236), ("llama-7b", 6738),
     ("alpaca-7b", 6738), ("llama3-8b", 8030), ("llama3-70b", 70554)],
)  # fmt: skip
def test_shapes_have_the_published_size(name, millions):
    config = architectures.SHAPES[name]
    head = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    layer = config.hidden_size * (2 * head + 2 * kv + 3 * config.intermediate_size + 2)
    ends = config.vocab_size * config.hidden_size * (1 if config.tie_embeddings else 2)
    assert (config.num_layers * layer + ends + config.hidden_size) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_which_shape(tmp_path):
    settings = ModelSettings(path="not-there", dtype="bfloat16", remat=True)
    found, name = architectures.decoder_of(settings, "", "alpaca-7b")
    assert (found.vocab_size, found.dtype, found.remat, name) == (32001, "bfloat16", "layers", "alpaca-7b")
    assert architectures.decoder_of(settings, "llama3-8b", "alpaca-7b")[0].vocab_size == 128256
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "vocab_size": 7, "hidden_size": 8, "num_attention_heads": 2,'
        ' "num_hidden_layers": 1, "intermediate_size": 16}'
    )
    assert architectures.decoder_of(settings, str(tmp_path), "alpaca-7b")[0].vocab_size == 7
    here = ModelSettings(path=str(tmp_path))
    assert architectures.decoder_of(here, "", "llama3-8b")[0].vocab_size == 7
    with pytest.raises(InputError, match="--model=llama-9b: no such model.*llama-7b"):
        architectures.decoder_of(settings, "llama-9b", "")
    with pytest.raises(InputError, match="config.model.path: not-there holds no config.json"):
        architectures.decoder_of(settings, "", "own")
