"""A run small enough to compile in a second, as a configuration and as what its stages are built from."""

from typing import Any

import jax
import pytest

from alignjax.aot.chips import any_gpu
from alignjax.config import Config, from_mapping, presets
from alignjax.models import DecoderConfig
from alignjax.planning.run import setup_of
from alignjax.planning.unnamed_files import with_placeholder_paths

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
    tree = with_placeholder_paths(values.to_dict())
    tree["align"] |= {"batch_size": 8, "accumulate": 1}
    scores = "prealign" if method == "pecan" else "score_training"  # score models have a loss of their own
    tree[scores] = {name: tree["align"][name] for name in tree[scores]}
    for name, change in changes.items():
        tree[name] = {**tree.get(name, {}), **change} if isinstance(change, dict) else change
    return from_mapping(tree)


def _make_setup(config: Config, decoder: DecoderConfig = DECODER, devices: int = 1, pairs: int = 1000):
    return setup_of(config, decoder, "model", CHIP, jax.devices()[:devices], pairs=pairs)


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
def make_setup():
    """What the stages of a planned run are built from, on so many simulated devices."""
    return _make_setup
