"""What the rules of `config.sizes` read: the amount of data, the size of the model, the device's memory."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.config import Config, from_mapping
from alignjax.config.sizes import (
    DataSize,
    DeviceSize,
    ModelSize,
    decided,
    left_open,
    with_defaults,
    with_sizes,
)
from alignjax.data.cleaning import canonical
from alignjax.data.preferences import template_of
from alignjax.data.records import PreferencePair, prompt_key
from alignjax.data.sources import Sources, chosen_places, read_sources
from alignjax.data.tokenize import tokenize_pairs
from alignjax.data.usable import check_shown
from alignjax.models.shape_alone import read_shape
from alignjax.models.tokenizer_alone import read_tokenizer
from alignjax.policy.batch_sizing import memory_of, num_weights, rounded
from alignjax.runtime.mesh import make_mesh, row_parts
from alignjax.runtime.seeds import Seeds

_MEASURED = 2000  # pairs whose tokens are counted, drawn by seed
_ANY = 2**40  # tokens: no limit


def sized(
    values: Mapping[str, Any], *, devices: Sequence[Any] | None = None, memory: int | None = None
) -> tuple[Config, list[str]]:
    """The configuration with every size that it leaves open decided by the rules of `config.sizes`.

    Args:
      values: nested mapping, as `ConfigDict.to_dict()` gives it; sizes may be None.
      devices: to run on; None: all there are.
      memory: bytes of one accelerator that a plan is made for; None: what the devices have.

    Returns:
      The checked configuration, and what was decided, as `model.max_length=512`.

    Raises:
      InputError: the configuration, its data or its model cannot be used.
    """
    if not left_open(values):
        return from_mapping(values), []
    config = from_mapping(with_defaults(values))  # all else is checked before anything is read
    sizes = decided(values, _of_data(config), _of_model(config), _of_device(config, devices, memory))
    return from_mapping(with_sizes(values, sizes)), [f"{path}={value}" for path, value in sizes.items()]


def _of_data(config: Config) -> DataSize:
    """Reads all files as a run does, and counts the tokens of some pairs."""
    tokenizer = read_tokenizer(config.model.path or "")
    template = template_of(config.model, tokenizer, None)
    seeds, settings = Seeds(config.seed), config.data
    check = functools.partial(check_shown, tokenizer, template, strict=settings.strict)
    found = read_sources(
        settings, config.dimensions, seeds, config.test.share, config.group_columns, {}, check
    )
    drawn = _drawn(found, seeds)
    whole, _ = tokenize_pairs(tokenizer, template, drawn, max_length=_ANY + 1, max_prompt_length=_ANY)
    prompt, first, second = (np.array([len(ids) for ids in column]) for column in zip(*whole, strict=True))
    together = prompt + np.maximum(first, second)
    train = {name: [canonical(pair) for pair in sides[0]] for name, sides in found.pairs.items()}
    everyone = {(prompt_key(one.prompt), one.chosen, one.rejected) for side in train.values() for one in side}
    sides = [*found.train_prompts, *found.test_prompts]
    sides += [pair.prompt for _, held_out in found.pairs.values() for pair in held_out]
    return DataSize(
        prompts=len({prompt_key(prompt) for prompt in sides}),
        to_sample=len({prompt_key(prompt) for prompt in found.train_prompts}),
        pairs={**{name: len(pairs) for name, pairs in train.items()}, "align": len(everyone)},
        prompt=_quantile(prompt, 0.99),
        together=_quantile(together, 0.99),
        response=_quantile(np.concatenate([first, second]), 0.95),
    )


def _drawn(found: Sources, seeds: Seeds) -> list[PreferencePair]:
    """Pairs of all dimensions, at most `_MEASURED`, drawn by seed."""
    pairs = [pair for train, _ in found.pairs.values() for pair in train]
    return [pairs[i] for i in chosen_places(len(pairs), _MEASURED, seeds.seed("sizes"))]


def _quantile(lengths: np.ndarray, share: float) -> int:
    return int(np.quantile(lengths, share, method="inverted_cdf"))


def _of_model(config: Config) -> ModelSize:
    shape = read_shape(config.model.path or "")
    return ModelSize(
        weights=num_weights(shape),
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        inner=shape.intermediate_size,
        heads=shape.num_heads,
        vocabulary=shape.vocab_size,
        context=shape.max_positions,
    )


def _of_device(config: Config, devices: Sequence[Any] | None, memory: int | None) -> DeviceSize:
    """Of one device of the mesh. A CPU says nothing of its memory: half of the machine's is taken for it."""
    mesh = make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp, tensor=config.mesh.tensor, devices=devices)
    accelerator = memory is not None or mesh.devices.flat[0].platform != "cpu"
    memory = memory_of(mesh) if memory is None else memory
    if memory is None:
        memory = rounded(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / mesh.devices.size)
    return DeviceSize(
        memory=memory,
        parts=row_parts(mesh),
        shares=mesh.shape["fsdp"] * mesh.shape["tensor"],
        accelerator=accelerator,
    )
