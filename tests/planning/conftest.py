"""A run small enough to compile in a second, as a configuration and as what all of its programs share."""

from typing import Any

import jax
import pytest

from alignjax import presets
from alignjax.config import Config, from_mapping
from alignjax.models import DecoderConfig
from alignjax.planning.chips import any_gpu
from alignjax.planning.inputs import filled
from alignjax.planning.run import setting_of

DECODER = DecoderConfig("llama", 96, 32, 64, 2, 4, 2, 8, max_positions=256, eos_ids=(2,), remat=True)
CHIP = any_gpu(16)


def _make_config(method: str = "pecan", **changes) -> Config:
    """A run on files, small enough to compile in a second."""
    values: Any = presets.shared(method)
    presets.published(values, "llama3-8b")
    values.model.update({"dtype": "float32", "max_length": 64, "max_prompt_length": 16})
    values.ref_batch_size = 8
    for name in ("sampling", "evaluation"):
        values[name].update({"num_prompts": 8, "num_samples": 4, "max_new_tokens": 8})
    tree = filled(values.to_dict())
    tree["align"] |= {"batch_size": 8, "accumulate": 1}
    tree["prealign" if method == "pecan" else "score_training"] = tree["align"]
    for name, change in changes.items():
        tree[name] = {**tree.get(name, {}), **change} if isinstance(change, dict) else change
    return from_mapping(tree)


def _make_setting(config: Config, decoder: DecoderConfig = DECODER, devices: int = 1):
    return setting_of(config, decoder, "model", CHIP, jax.devices()[:devices])


@pytest.fixture(scope="session")
def decoder() -> DecoderConfig:
    """Two layers."""
    return DECODER


@pytest.fixture(scope="session")
def chip():
    """One of which only the memory is known: 16 GiB."""
    return CHIP


@pytest.fixture(scope="session")
def make_config():
    """The configuration of a method with changes."""
    return _make_config


@pytest.fixture(scope="session")
def make_setting():
    """What the programs of a configuration share, on so many simulated devices."""
    return _make_setting
