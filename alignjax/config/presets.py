"""What the files in configs/ share: fields with the settings' defaults, worlds, sizes of models."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from alignjax.config.asking import ConstraintSettings
from alignjax.config.fields import method_of
from alignjax.config.settings import Config, JudgeSettings, SourceSettings
from alignjax.config.sizes import OPEN
from alignjax.errors import InputError, did_you_mean

# A ConfigDict's attributes have no types: what sets them takes the config as Any.
PRESETS = ("tiny", "enumerable", "own", "smollm2-135m", "alpaca-7b", "llama3-8b")


def check_preset(preset: str, file: str) -> None:
    """Refuses what is not in PRESETS.

    Args:
      preset: what follows the colon of --config.
      file: that asks, for the message.

    Raises:
      InputError: with the nearest preset, and all of them.
    """
    if preset not in PRESETS:
        raise InputError(
            f"{file}: no preset {preset!r}; {did_you_mean(preset, PRESETS)}choose from {', '.join(PRESETS)}."
        )


def shared(method: str) -> ConfigDict:
    """Every field that a method reads, at its default; one constraint, `safety`, asks for nothing yet.

    Args:
      method: pecan or mocan.

    Returns:
      The fields of `Config`. Those that are None are placeholders with a type, so that a command line can set
      them.
    """
    config: Any = fields_of(Config(method))
    config.constraints.safety = fields_of(ConstraintSettings())
    config.judges = {name: fields_of(JudgeSettings()) for name in ("reward", "safety")}
    return config


def fields_of(settings: Any) -> ConfigDict:
    """A settings dataclass as a ConfigDict; of a `Config` only the fields that its method reads."""
    hints = typing.get_type_hints(type(settings))
    config = ConfigDict()
    for field in dataclasses.fields(settings):
        owner = method_of(field)
        if owner is None or owner == settings.method:
            config[field.name] = entry_of(hints[field.name], getattr(settings, field.name))
    return config


def entry_of(hint: Any, value: Any) -> Any:
    """A field of a ConfigDict.

    Args:
      hint: the type of the setting.
      value: its value.

    Returns:
      The value; tables as ConfigDicts, and for None a placeholder of the first type that it may have instead.
    """
    if isinstance(hint, types.UnionType) and value is None:
        return placeholder(next(kind for kind in typing.get_args(hint) if kind is not types.NoneType))
    if hint == bool | str:
        # A switch that also has names: a file may set either, which a field of one type would refuse.
        return FieldReference(value, field_type=object)
    if dataclasses.is_dataclass(value):
        return fields_of(value)
    if isinstance(value, Mapping):
        items = {
            name: fields_of(item) if dataclasses.is_dataclass(item) else item for name, item in value.items()
        }
        return ConfigDict(items)
    return value


def assistant(config: Any) -> None:
    """The readable embedded world, in minutes."""
    config.data.world = "assistant"
    config.data.num_buckets = 1
    config.constraints.safety.margin = 1.0
    config.data.num_pairs, config.data.num_held_out = 4000, 2000
    config.model.max_length, config.model.max_prompt_length = 48, 16
    config.reference_examples = 8000
    config.lora.rank, config.lora.alpha = 16, 32.0
    config.reference.update({"epochs": 3.0, "learning_rate": 3e-3})
    config.align.update({"epochs": 5.0, "learning_rate": 3e-3})
    config.sampling.update({"num_prompts": 200, "num_samples": 64, "max_new_tokens": 20})
    # Every test prompt of the world: few samples of many prompts show a margin more surely than the reverse.
    config.evaluation.update({"num_prompts": 346, "num_samples": 12, "max_new_tokens": 20})


def enumerable(config: Any) -> None:
    """The world whose every response is listed."""
    config.data.world = "enumerable"
    config.data.num_buckets = 1
    config.constraints.safety.margin = 1.0
    config.data.num_pairs, config.data.num_held_out = 20000, 8000
    # Two symbols ask, four answer: the list of responses is complete at exactly these lengths.
    config.model.max_length, config.model.max_prompt_length = 6, 2
    config.reference_examples = 8000
    config.lora.rank, config.lora.alpha = 32, 64.0
    config.reference.update({"batch_size": 256, "epochs": 10.0, "learning_rate": 3e-3})
    config.align.update({"batch_size": 256, "epochs": 24.0, "learning_rate": 3e-3})
    config.sampling.update({"num_prompts": 8, "num_samples": 4096, "max_new_tokens": 4})
    config.evaluation.update({"num_prompts": 8, "num_samples": 64, "max_new_tokens": 4})


def own(config: Any, run: str) -> None:
    """One's own model and pairs: every size is decided by the rules of `config.sizes`, no pair is left out.

    Args:
      config: of either method.
      run: the training beside the final alignment: prealign or score_training.
    """
    sources(config)
    # Of the safety-only tilt's margin: the unit is unknown before there are scores.
    config.constraints.safety.fraction = 0.5
    config.beta = 0.1
    config.model.remat = "auto"
    config.align.learning_rate = config[run].learning_rate = 5e-4
    config[run].patience = 3
    for path in OPEN:
        *parents, last = path.split(".")
        node = config
        for name in parents:
            node = node.get(name, {})
        if last in node:
            kind = type(node[last])
            del node[last]
            node[last] = placeholder(kind)


def smollm2(config: Any) -> None:
    """SmolLM2-135M on two CPU cores, an hour."""
    sources(config)
    # Of the safety-only tilt's margin: the unit is unknown before there are scores.
    config.constraints.safety.fraction = 0.3
    config.beta = 0.1
    config.model.update({"remat": "auto", "max_length": 384, "max_prompt_length": 160})
    config.ref_batch_size = 8
    # In an hour two cores train on about a hundred pairs; the held-out ones decide whether a slope is known.
    config.data.held_out_fraction = 0.4
    config.data.max_train_pairs, config.data.max_held_out_pairs = 96, 300
    config.align.update(small_steps())
    config.sampling.update({"num_prompts": 40, "num_samples": 8, "max_new_tokens": 40})
    config.evaluation.update({"num_prompts": 48, "num_samples": 2, "max_new_tokens": 40})


def small_steps() -> dict[str, Any]:
    """An optax run of a few dozen steps on a real model."""
    return {"batch_size": 4, "learning_rate": 5e-4, "warmup_steps": 6, "evals": 2, "log_every": 5}


def published(config: Any, preset: str) -> None:
    """Huang et al. 2024, appendix: LoRA r 8, alpha 16, dropout 0.05, cosine 5e-4, 100 warm-up, 3 epochs.

    Responses are sampled with top_p 0.9, as published. The distribution that the multiplier is solved for and
    every prediction is about is then the reference's nucleus, not the reference: DPO keeps the mass outside
    it, and no weights on the samples bring it back. Policies are evaluated with the same top_p, so that what
    is promised and what is measured are of one kind. --config.sampling.top_p=1.0 removes the difference.
    """
    sources(config)
    config.constraints.safety.fraction = 0.5
    config.beta = 0.1
    config.model.update({"dtype": "bfloat16", "remat": "auto"})
    # llama3-8b has the chat template of its own tokenizer.
    if preset != "llama3-8b":
        config.model.template = "BEGINNING OF CONVERSATION: {turn}USER: {prompt} ASSISTANT:"
    config.lora.dropout = 0.05
    config.ref_batch_size, config.resident_models = 8, "one"  # for a chip of 16 GB
    config.data.held_out_fraction = config.test.share = 0.1  # of thousands of prompts
    config.align.update(published_steps())
    config.sampling.update({"num_prompts": 1000, "num_samples": 128, "max_new_tokens": 256, "top_p": 0.9})
    config.evaluation.update({"num_prompts": 400, "num_samples": 4, "max_new_tokens": 256})


def published_steps() -> dict[str, Any]:
    """The optax run of the published setting."""
    return {
        "batch_size": 2,
        "accumulate": 8,
        "epochs": 3.0,
        "learning_rate": 5e-4,
        "warmup_steps": 100,
        "weight_decay": 0.05,
        "evals": 6,  # two an epoch: each reads thousands of held-out pairs
    }


def sources(config: Any) -> None:
    """Files of preference pairs by dimension, to be named on the command line."""
    config.data.sources = {name: fields_of(SourceSettings()) for name in ("reward", "safety")}
