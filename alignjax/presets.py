"""What the configuration files of both methods share: fields with their defaults, worlds, sizes of models."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from alignjax.data.refusals import REFUSALS

# A ConfigDict's attributes have no types: what sets them takes the config as Any.
PRESETS = ("tiny", "enumerable", "smollm2-135m", "alpaca-7b", "llama3-8b")


def shared(method: str) -> ConfigDict:
    """Fields of every run; `None` fields are typed placeholders for the command line."""
    config: Any = ConfigDict({"method": method, "seed": 0})
    # Exactly one of the three. A margin is in the units of the (calibrated) scores: logits of the labels.
    config.constraints = {"safety": constraint()}
    config.lam = placeholder(float)  # a number fixes the multiplier and skips the solve
    config.beta = 0.5  # KL weight of the dual AND of the final DPO
    config.calibrate = True  # fit the scores to held-out labels before they are believed
    config.calibration = "joint"
    config.accept_uninformative = False
    config.hard_labels = 0  # 1: one Bernoulli draw a pair, as published
    config.bootstrap = 1000
    config.ref_batch_size = 128
    config.resident_models = "all"  # "one": reference and score models of folders one after another
    config.shown_samples = 6
    config.judges = {"reward": judge(), "safety": judge()}
    config.refusals = REFUSALS
    config.model = ConfigDict({"dtype": "float32", "remat": False, "attention": "xla", "template": ""})
    config.model.path = placeholder(str)
    config.model.max_length, config.model.max_prompt_length = 512, 256
    # data x fsdp x tensor devices; -1: what the others leave. Batch sizes are multiples of data x fsdp.
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.lora = ConfigDict({"rank": 8, "alpha": 16.0, "dropout": 0.0})
    config.lora.targets = ("q", "k", "v", "o", "gate", "up", "down")
    config.data = ConfigDict(
        {"labels": "draws", "num_pairs": 1000, "num_held_out": 0, "held_out_fraction": 0.2}
    )
    config.data.num_buckets = 3  # batch shapes; each is compiled once
    config.data.world, config.data.prompts = placeholder(str), placeholder(str)
    config.data.max_train_pairs = placeholder(int)
    config.data.max_held_out_pairs = placeholder(int)
    config.data.sources = {}
    config.reference_examples = 0
    for name in ("reference", "align"):
        config[name] = training()
    for name in ("sampling", "evaluation"):
        config[name] = {
            "num_prompts": 64,
            "num_samples": 16,
            "max_new_tokens": 128,
            "temperature": 1.0,
            "top_p": 1.0,
        }
    return config


def constraint() -> ConfigDict:
    """A constraint that asks for nothing yet."""
    return ConfigDict({name: placeholder(float) for name in ("margin", "level", "fraction")})


def judge() -> ConfigDict:
    """A dimension whose contests its own scores decide."""
    given: Any = ConfigDict({"function": ""})
    given.verdicts = placeholder(str)
    return given


def training() -> ConfigDict:
    """One optax run."""
    run: Any = ConfigDict({"learning_rate": 1e-3, "batch_size": 64, "epochs": 1.0, "schedule": "cosine"})
    run.update({"warmup_steps": 20, "weight_decay": 0.0, "clip_norm": 1.0, "accumulate": 1})
    run.update({"evals": 10, "log_every": 20})
    run.judge_by = "calibrated_loss"  # held-out loss with its scale fitted; "loss": as it is
    run.patience = placeholder(int)  # held-out evaluations without progress before a run stops
    run.checkpoint_every = placeholder(int)  # steps between states that a killed run goes on from
    return run


def assistant(config: Any) -> None:
    """The readable embedded world, in minutes."""
    config.data.world = "assistant"
    config.data.num_buckets = 1
    config.constraints.safety.margin = 1.0
    config.data.num_pairs, config.data.num_held_out = 4000, 2000
    config.model.max_length, config.model.max_prompt_length = 48, 16
    config.reference_examples = 8000
    config.lora.rank, config.lora.alpha = 16, 32.0
    config.reference.update({"batch_size": 64, "epochs": 3.0, "learning_rate": 3e-3})
    config.align.update({"batch_size": 64, "epochs": 5.0, "learning_rate": 3e-3})
    config.sampling.update({"num_prompts": 200, "num_samples": 32, "max_new_tokens": 20})
    config.evaluation.update({"num_prompts": 115, "num_samples": 32, "max_new_tokens": 20})


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


def smollm2(config: Any) -> None:
    """SmolLM2-135M on two CPU cores, an hour."""
    sources(config)
    # Of the largest reachable margin: units are unknown before the scores.
    config.constraints.safety.fraction = 0.3
    config.beta = 0.1
    config.model.update({"remat": True, "max_length": 384, "max_prompt_length": 160})
    config.ref_batch_size = 8
    # An hour on two cores holds some hundred pairs; those held out decide whether a slope is known at all.
    config.data.held_out_fraction = 0.4
    config.data.max_train_pairs, config.data.max_held_out_pairs = 96, 300
    config.align.update(small_steps())
    config.sampling.update({"num_prompts": 40, "num_samples": 8, "max_new_tokens": 40})
    config.evaluation.update({"num_prompts": 24, "num_samples": 4, "max_new_tokens": 40})


def small_steps() -> dict[str, Any]:
    """An optax run of a few dozen steps on a real model."""
    return {"batch_size": 4, "learning_rate": 5e-4, "warmup_steps": 6, "evals": 2, "log_every": 5}


def published(config: Any, preset: str) -> None:
    """Huang et al. 2024, appendix: LoRA r 8, alpha 16, dropout 0.05, cosine 5e-4, 100 warm-up, 3 epochs."""
    sources(config)
    config.constraints.safety.fraction = 0.5
    config.beta = 0.1
    config.model.update({"dtype": "bfloat16", "remat": True, "max_length": 512, "max_prompt_length": 256})
    config.model.template = "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:"
    if preset == "llama3-8b":
        config.model.template = ""  # the model's own chat template
    config.lora.dropout = 0.05
    config.ref_batch_size, config.resident_models = 8, "one"  # for a chip of 16 GB
    config.data.held_out_fraction = 0.1
    config.align.update(published_steps())
    config.sampling.update({"num_prompts": 1000, "num_samples": 128, "max_new_tokens": 256, "top_p": 0.9})
    config.evaluation.update({"num_prompts": 200, "num_samples": 8, "max_new_tokens": 256})


def published_steps() -> dict[str, Any]:
    """The optax run of the published setting."""
    return {
        "batch_size": 2,
        "accumulate": 8,
        "epochs": 3.0,
        "learning_rate": 5e-4,
        "warmup_steps": 100,
        "weight_decay": 0.05,
    }


def sources(config: Any) -> None:
    """Files of preference pairs by dimension, to be named."""
    for name in ("reward", "safety"):
        source: Any = ConfigDict(
            {"path": "", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "label": ""}
        )
        source.data_dir, source.limit = placeholder(str), placeholder(int)
        config.data.sources[name] = source
