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

from alignjax.config_checks import check
from alignjax.data.refusals import REFUSALS
from alignjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is run."""

    path: str | None = None  # Hugging Face folder or .gguf file; None where a world brings its own reference
    dtype: str = "float32"  # compute type: float32 or bfloat16
    attention: str = "xla"  # cudnn: the kernel of NVIDIA GPUs, in bfloat16; splash: that of TPUs
    remat: bool = False  # recompute each layer in the backward pass: less memory, a third more work
    template: str = ""  # plain text with {prompt}; empty: the tokenizer's chat template
    max_length: int = 512  # tokens of prompt and response together
    max_prompt_length: int = 256


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """How the devices are arranged: data x fsdp x tensor is their number; one may be -1, what is left."""

    data: int = -1  # copies of the weights that share the rows of a batch
    fsdp: int = 1  # parts of weights and optimizer state, which share the rows too
    tensor: int = 1  # parts of heads, hidden units and vocabulary


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
    prompts: str | None = None  # files: JSON Lines of {"prompt"} to sample and evaluate on
    num_buckets: int = 3  # shapes of batches: more pad less and compile longer
    max_train_pairs: int | None = None  # files: pairs kept a dimension after cleaning, drawn by seed
    max_held_out_pairs: int | None = None


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """One optax run: the embedded reference, pre-alignment, score models, the final alignment."""

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
class ScoreSettings:
    """Where MoCAN has the score of one dimension from: one of the four, or none: it is trained here."""

    path: str | None = None  # folder of a score model: Safe-RLHF's layout, or one label of a classifier
    table: str | None = None  # JSON Lines of prompt, response and score, written elsewhere
    function: str = ""  # module:function of (prompts, responses) -> scores, higher is better or safer
    exact: bool = False  # an embedded world's true score


@dataclasses.dataclass(frozen=True)
class ScoreModelSettings:
    """How score models are trained, beside `score_training`."""

    regularizer: float = 0.0  # of the squared scores
    centering: float = 0.0  # of the squared sum of a pair's scores
    signs: bool = True  # costs: learn from is_response_0_safe, is_response_1_safe too, where data has them


@dataclasses.dataclass(frozen=True)
class RelabelSettings:
    """Which pairs the final alignment is trained on."""

    pairs: str = "preferences"  # preferences: those of the data; samples: drawn from the reference's samples
    pairs_per_prompt: int = 8  # of samples
    max_pairs: int | None = None  # in all, drawn by seed; None: every pair


@dataclasses.dataclass(frozen=True)
class RoundSettings:
    """Multi-shot (MoCAN): measure the policy, correct the multiplier by what it misses, align again."""

    count: int = 1  # 1: one shot
    step: float | None = (
        None  # eta of lam - eta (achieved - asked); None: by the slope of the predicted margin
    )


@dataclasses.dataclass(frozen=True)
class BaselineSettings:
    """Policies trained beside the aligned one, to compare with."""

    single: bool = False  # the reward alone, and each constraint's score alone
    lams: tuple[float, ...] = ()  # multipliers, as the published protocol fixes them


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """Who decides which policy's response is better in one dimension; neither: its calibrated scores."""

    function: str = ""  # module:function of (prompts, responses_a, responses_b) -> P(a is better)
    verdicts: str | None = None  # JSON Lines file of {"prompt", "first", "second", "winner"}


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
    align: TrainingSettings
    sampling: SamplingSettings
    evaluation: SamplingSettings
    constraints: Mapping[str, ConstraintSettings]
    beta: float
    mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
    prealign: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)  # PeCAN
    beta_pre: float = 0.5  # PeCAN: KL weight of pre-alignment
    scores: Mapping[str, ScoreSettings] = dataclasses.field(default_factory=dict)  # MoCAN, by dimension
    score_training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)  # MoCAN
    score_model: ScoreModelSettings = dataclasses.field(default_factory=ScoreModelSettings)
    relabel: RelabelSettings = dataclasses.field(default_factory=RelabelSettings)
    rounds: RoundSettings = dataclasses.field(default_factory=RoundSettings)
    baselines: BaselineSettings = dataclasses.field(default_factory=BaselineSettings)
    lam: float | None = None
    calibrate: bool = True
    calibration: str = "joint"  # joint: labels on all scores; slope: each on its own
    accept_uninformative: bool = False  # go on where held-out labels contradict a score
    hard_labels: int = 0  # 0: exact soft labels; n > 0: the mean of n Bernoulli draws (the authors: 1)
    raw_labels: bool = False  # the authors' labels: log-ratios without beta_pre
    bootstrap: int = 1000
    ref_batch_size: int = 64  # rows a batch where nothing is differentiated
    resident_models: str = "all"  # reference and score models of folders in device memory: all, or one
    shown_samples: int = 6
    judges: Mapping[str, JudgeSettings] = dataclasses.field(default_factory=dict)  # by dimension
    refusals: tuple[str, ...] = REFUSALS  # a response that opens with one of them refuses

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The reward first, then every constraint."""
        return ("reward", *self.constraints)

    def baseline_weights(self) -> dict[str, list[float]]:
        """Weights [1+m] of the scores that every baseline is aligned to, by its name."""
        size = len(self.dimensions)
        weights = {}
        if self.baselines.single:
            for i, name in enumerate(self.dimensions):
                weights[name] = [float(i == j) for j in range(size)]
        return weights | {f"lambda={lam:g}": [1.0] + [lam] * (size - 1) for lam in self.baselines.lams}


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
    check(config)
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
