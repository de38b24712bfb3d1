"""What can be configured: frozen dataclasses, checked once, before anything is loaded.

A ConfigDict from configs/ becomes a `Config` here and nowhere else. Every message names the field as it is
written on the command line, `config.constraints.safety: ...`.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from alignjax.errors import InputError
from alignjax.models.lora import TARGETS

METHODS = ("pecan",)
WORLDS = ("assistant", "enumerable")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is run."""

    path: str | None = None  # Hugging Face folder or .gguf file; None where a world brings its own reference
    dtype: str = "float32"  # compute type: float32 or bfloat16
    remat: bool = False  # recompute each layer in the backward pass: less memory, a third more work
    template: str = ""  # plain text with {prompt}; empty: the tokenizer's chat template
    max_length: int = 512  # tokens of prompt and response together
    max_prompt_length: int = 256


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Adapter; rank 0 means full fine-tuning."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Preference pairs of one dimension."""

    path: str = ""  # JSON Lines (.gz too), or tfds:NAME:SPLIT
    data_dir: str | None = None  # where TFDS keeps prepared data
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    label: str = ""  # column with the id (0 or 1) of the better of response_0, response_1; empty: chosen wins
    limit: int | None = None  # rows read from the file's start


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where pairs and prompts come from: an embedded world, or files by dimension."""

    world: str | None = None
    labels: str = "draws"  # worlds: draws (one Bradley-Terry draw a pair) or exact (the probability itself)
    num_pairs: int = 1000  # worlds: training pairs
    num_held_out: int = 0  # worlds: labelled pairs held out for calibration and early stopping
    held_out_fraction: float = 0.2  # files: share of the prompts held out
    sources: Mapping[str, SourceSettings] = dataclasses.field(default_factory=dict)
    num_buckets: int = 3  # shapes of batches: more pad less and compile longer
    max_train_pairs: int | None = None  # files: pairs kept a dimension after cleaning, drawn by seed
    max_held_out_pairs: int | None = None


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """One optax run: used for the embedded reference, pre-alignment and final alignment."""

    learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: float = 1.0
    schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    accumulate: int = 1  # micro-batches a step
    evals: int = 10  # held-out evaluations in a run
    judge_by: str = "calibrated_loss"  # the best step is that of the lowest: calibrated_loss, or loss
    patience: int | None = (
        None  # evaluations without a better held-out loss before stopping; None: never stop
    )
    log_every: int = 10
    checkpoint_every: int | None = None  # steps between states kept to resume from; None: a run begins anew


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """Responses drawn from a policy."""

    num_prompts: int = 64
    num_samples: int = 16
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class ConstraintSettings:
    """Exactly one of the three: margin in score units, level absolute, fraction of the reachable margin."""

    margin: float | None = None
    level: float | None = None
    fraction: float | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    method: str
    seed: int
    model: ModelSettings
    lora: LoraSettings
    data: DataSettings
    reference: TrainingSettings
    reference_examples: int
    prealign: TrainingSettings
    align: TrainingSettings
    sampling: SamplingSettings
    evaluation: SamplingSettings
    constraints: Mapping[str, ConstraintSettings]
    beta: float
    beta_pre: float
    lam: float | None = None
    calibrate: bool = True
    calibration: str = "joint"  # joint: labels on all scores; slope: each on its own
    accept_uninformative: bool = False  # go on where held-out labels contradict a score
    hard_labels: int = 0  # 0: exact soft labels; n > 0: the mean of n Bernoulli draws (the authors: 1)
    raw_labels: bool = False  # the authors' labels: log-ratios without beta_pre
    bootstrap: int = 1000
    ref_batch_size: int = 64  # rows a batch where nothing is differentiated
    shown_samples: int = 6

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The reward first, then every constraint."""
        return ("reward", *self.constraints)


def from_mapping(values: Mapping[str, Any]) -> Config:
    """Checks a resolved ConfigDict and freezes it.

    Args:
      values: nested mapping, as `ConfigDict.to_dict()` gives it.

    Returns:
      The configuration.

    Raises:
      InputError: an unknown or missing field, a wrong type, a value out of range, or an impossible
        combination.
    """
    config = _build(Config, values, "config")
    _check(config)
    return config


def to_mapping(config: Any) -> Any:
    """The configuration as plain dicts and lists, ready for JSON; the inverse of `from_mapping`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_mapping(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_mapping(value) for key, value in config.items()}
    return [to_mapping(value) for value in config] if isinstance(config, tuple) else config


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: is {values!r}, must be a table of fields.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise InputError(f"{where}.{unknown[0]}: no such field; {where} has {', '.join(sorted(fields))}.")
    hints = typing.get_type_hints(kind)
    built = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{name}: is missing; set it in the configuration file.")
    return kind(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _convert(options[0], value, where)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: is {value!r}, must be a list.")
        return tuple(_convert(typing.get_args(hint)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None:  # Mapping[str, X]
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: is {value!r}, must be a table by name.")
        return {str(k): _convert(typing.get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{where}: is {value!r} of type {type(value).__name__}, must be {hint.__name__}.")
    if hint is float and not math.isfinite(value):
        raise InputError(f"{where}: is {value!r}, must be a finite number.")
    return value


def _require(condition: bool, where: str, value: Any, rule: str) -> None:
    if not condition:
        raise InputError(f"config.{where}: is {value!r}, {rule}")


def _check(config: Config) -> None:
    _require(config.method in METHODS, "method", config.method, f"must be one of {', '.join(METHODS)}.")
    for name in ("beta", "beta_pre"):
        value = getattr(config, name)
        _require(value > 0, name, value, "must be greater than 0: it is a KL weight.")
    _require(config.seed >= 0, "seed", config.seed, "must be at least 0.")
    _require(config.bootstrap >= 100, "bootstrap", config.bootstrap, "must be at least 100 resamples.")
    _require(config.ref_batch_size > 0, "ref_batch_size", config.ref_batch_size, "must be at least 1.")
    _require(config.shown_samples >= 0, "shown_samples", config.shown_samples, "must be at least 0.")
    _require(
        config.hard_labels >= 0, "hard_labels", config.hard_labels, "must be 0 (soft) or a number of draws."
    )
    _require(
        config.calibration in ("joint", "slope"), "calibration", config.calibration, "must be joint or slope."
    )
    _check_constraints(config)
    _check_data(config)
    _check_model(config)
    for name in ("reference", "prealign", "align"):
        _check_training(name, getattr(config, name))
    for name in ("sampling", "evaluation"):
        _check_sampling(name, getattr(config, name))


def _check_constraints(config: Config) -> None:
    _require(
        bool(config.constraints), "constraints", {}, 'is empty; ask for one, as {"safety": {"margin": 1.0}}.'
    )
    _require(
        "reward" not in config.constraints, "constraints.reward", "reward", "is the objective's own name."
    )
    for name, constraint in config.constraints.items():
        _require(
            name.isidentifier() and name not in ("reference", "aligned"),
            f"constraints.{name}",
            name,
            "must be a word of letters, digits and underscores, other than reference and aligned.",
        )
        given = [k for k in ("margin", "level", "fraction") if getattr(constraint, k) is not None]
        if len(given) != 1 and config.lam is None:
            problem = "give " + (
                " or ".join(given) + ", not both; set all but one to None" if given else "one of"
            )
            tail = "." if given else " margin, level, fraction."
            raise InputError(f"config.constraints.{name}: {problem}{tail}")
        if constraint.fraction is not None:
            _require(
                0 < constraint.fraction < 1,
                f"constraints.{name}.fraction",
                constraint.fraction,
                "must lie between 0 and 1: it is a share of the largest reachable margin.",
            )
    if config.lam is not None:
        _require(config.lam >= 0, "lam", config.lam, "must be at least 0: it multiplies a utility.")


def _check_data(config: Config) -> None:
    data = config.data
    _require(data.labels in ("draws", "exact"), "data.labels", data.labels, "must be draws or exact.")
    _require(
        0 < data.held_out_fraction < 1,
        "data.held_out_fraction",
        data.held_out_fraction,
        "must lie in (0, 1).",
    )
    _require(data.num_buckets >= 1, "data.num_buckets", data.num_buckets, "must be at least 1.")
    if data.world is not None:
        _require(
            data.world in WORLDS, "data.world", data.world, f"must be one of {', '.join(WORLDS)}, or None."
        )
        _require(data.num_pairs >= 2, "data.num_pairs", data.num_pairs, "must be at least 2.")
        least = config.reference.batch_size
        _require(config.reference_examples >= least, "reference_examples", config.reference_examples,
                 f"must fill a batch ({least}): a world's reference is trained on them.")  # fmt: skip
        _require(data.num_held_out >= 2, "data.num_held_out", data.num_held_out, "must be at least 2.")
        _require(set(config.constraints) == {"safety"}, "constraints", set(config.constraints),
                 "an embedded world knows one constraint, safety.")  # fmt: skip
        _require(not data.sources, "data.sources", set(data.sources), "give a world or sources, not both.")
        return
    for field in ("max_train_pairs", "max_held_out_pairs"):
        value = getattr(data, field)
        _require(value is None or value >= 2, f"data.{field}", value, "must be at least 2, or None for all.")
    for name in config.dimensions:
        if name not in data.sources or not data.sources[name].path:
            raise InputError(
                f"config.data.sources.{name}.path: is missing; name a JSON Lines file of preference pairs."
            )
    extra = set(data.sources) - set(config.dimensions)
    _require(
        not extra,
        "data.sources",
        sorted(extra),
        "names no dimension: reward and the constraints are dimensions.",
    )


def _check_model(config: Config) -> None:
    model = config.model
    _require(
        model.dtype in ("float32", "bfloat16"), "model.dtype", model.dtype, "must be float32 or bfloat16."
    )
    _require(
        0 < model.max_prompt_length < model.max_length,
        "model.max_prompt_length",
        model.max_prompt_length,
        f"must be positive and below model.max_length ({model.max_length}).",
    )
    _require(
        not model.template or "{prompt}" in model.template,
        "model.template",
        model.template,
        "must contain {prompt}, or be empty for the tokenizer's chat template.",
    )
    if config.data.world is None and not model.path:
        raise InputError("config.model.path: is missing; name a Hugging Face folder or a .gguf file.")
    if config.data.world is not None and model.path:
        raise InputError("config.model.path: an embedded world trains its own reference; set it to None.")
    lora = config.lora
    _require(lora.rank >= 0, "lora.rank", lora.rank, "must be at least 1, or 0 for full fine-tuning.")
    _require(0 <= lora.dropout < 1, "lora.dropout", lora.dropout, "must lie in [0, 1).")
    _require(
        lora.alpha > 0, "lora.alpha", lora.alpha, "must be greater than 0: alpha / rank scales the adapter."
    )
    known = bool(lora.targets) and set(lora.targets) <= set(TARGETS)
    _require(known, "lora.targets", lora.targets, f"must be some of {', '.join(TARGETS)}.")


def _check_training(name: str, settings: TrainingSettings) -> None:
    for field in ("learning_rate", "epochs", "batch_size", "accumulate", "evals", "log_every", "clip_norm"):
        value = getattr(settings, field)
        _require(value > 0, f"{name}.{field}", value, "must be greater than 0.")
    _require(
        settings.judge_by in ("calibrated_loss", "loss"),
        f"{name}.judge_by",
        settings.judge_by,
        "must be calibrated_loss or loss.",
    )
    for field in ("patience", "checkpoint_every"):
        value = getattr(settings, field)
        _require(value is None or value > 0, f"{name}.{field}", value, "must be greater than 0, or None.")
    for field in ("warmup_steps", "weight_decay"):
        value = getattr(settings, field)
        _require(value >= 0, f"{name}.{field}", value, "must be at least 0.")
    _require(
        settings.schedule in ("cosine", "linear", "constant"),
        f"{name}.schedule",
        settings.schedule,
        "must be cosine, linear or constant.",
    )


def _check_sampling(name: str, settings: SamplingSettings) -> None:
    for field in ("num_prompts", "num_samples", "max_new_tokens", "temperature"):
        value = getattr(settings, field)
        _require(value > 0, f"{name}.{field}", value, "must be greater than 0.")
    _require(settings.num_samples >= 2, f"{name}.num_samples", settings.num_samples, "must be at least 2.")
    _require(0 < settings.top_p <= 1, f"{name}.top_p", settings.top_p, "must lie in (0, 1].")
