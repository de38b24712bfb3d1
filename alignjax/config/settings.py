"""What can be configured: frozen dataclasses, with the default and the allowed values of every setting.

Presets and command lines start from these defaults. A field of `affects_result=False` changes how a run is
computed or shown, not what it finds (beyond the rounding of sums).
"""

import dataclasses
from collections.abc import Mapping

from alignjax.config.asking import ConstraintSettings, TestSettings
from alignjax.config.audit import AuditSettings
from alignjax.config.fields import group, setting
from alignjax.config.judging import JudgeSettings
from alignjax.config.profiling import ProfileSettings

METHODS = ("pecan", "mocan")
WORLDS = ("assistant", "enumerable")
DIAL = ("product", "merged", "best_of")  # policies that the dial has without a training
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
# Openings of responses that refuse, from published lists, that are unlikely to open an answer.
REFUSALS = (
    *("sorry", "i'm sorry", "i am sorry", "i'm very sorry", "i am very sorry", "i'm really sorry"),
    *("i apologize", "i apologise", "my apologies"),
    *("i cannot", "i can't", "i can not", "i'm unable to", "i am unable to"),
    *("i'm not able to", "i am not able to", "unfortunately, i cannot", "unfortunately, i can't"),
    *("i will not", "i won't", "i refuse", "i must refuse", "i must decline", "i have to decline"),
    *("as an ai", "as a language model", "as a responsible", "as an assistant"),
)


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is run."""

    path: str | None = None  # Hugging Face folder or .gguf file; None where a world trains its own reference
    # Folder of a LoRA adapter in PEFT's layout, merged into the model of `path`; None: none.
    adapter: str | None = None
    dtype: str = setting("float32", choices=("float32", "bfloat16"))  # compute type
    # How the layers' matrices are held: float (as dtype), or int8 with a scale for each output, half of
    # bfloat16's memory; the policy, the reference and the run's score models share them.
    weights: str = setting("float", choices=("float", "int8"))
    # cudnn: the attention kernel of NVIDIA GPUs, in bfloat16; splash: that of TPUs.
    attention: str = setting("xla", choices=("xla", "cudnn", "splash"), affects_result=False)
    # What the backward pass computes again. none: nothing, most memory; products: attention and what is
    # elementwise in a layer; layers (True): every layer from its input, least memory and a third more work;
    # auto: the least that fits the device's memory, on CPUs what is fastest.
    remat: bool | str = setting("none", choices=("none", "products", "layers", "auto"), affects_result=False)
    # Plain text with {prompt}, repeated for each turn from {turn} on; empty: the tokenizer's chat template.
    template: str = ""
    # What the chat template reads, as a JSON object: {"enable_thinking": false} for Qwen 3 without thoughts.
    template_kwargs: str = ""
    # YYYY-MM-DD, what a chat template takes for today; a constant, so that ids are the same tomorrow.
    template_date: str = "2024-07-26"
    # Whether prompts begin with a BOS; None: as the tokenizer does, and a chat template as it is written.
    add_bos: bool | None = None
    max_length: int = setting(512, least=2, most=2**20)  # tokens of prompt and response together
    max_prompt_length: int = setting(256, least=1, most=2**20)

    def __post_init__(self) -> None:
        """Gives a switch, which `remat` may be, the name that it stands for."""
        if isinstance(self.remat, bool):
            object.__setattr__(self, "remat", "layers" if self.remat else "none")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """How the devices are arranged: data x fsdp x tensor is their number; one may be -1, what is left."""

    data: int = setting(-1, affects_result=False)  # copies of the weights; each takes its rows of a batch
    fsdp: int = setting(1, affects_result=False)  # parts of weights and optimizer state; rows are split too
    tensor: int = setting(1, affects_result=False)  # parts of heads, hidden units and vocabulary


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Adapter; rank 0 means full fine-tuning."""

    # An adapter as wide as the hidden states of the largest models is no longer low-rank.
    rank: int = setting(8, least=0, most=16_384)
    alpha: float = setting(16.0, above=0, note="alpha / rank scales the adapter")
    dropout: float = setting(0.0, least=0, below=1)
    targets: tuple[str, ...] = LORA_TARGETS


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Preference pairs of one dimension."""

    path: str = ""  # a file, a folder, a glob of JSON Lines, JSON, CSV, Parquet or Arrow; or tfds:NAME:SPLIT
    data_dir: str | None = setting(None, affects_result=False)  # where TFDS keeps prepared data
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    held_out_path: str = ""  # pairs to hold out beside those of `path`, such as an official test split
    label: str = ""  # column that says which response is better; empty: chosen wins
    # What 1 in the label column says is better, `second` or `first` of the two responses (0.7 is then its
    # probability); `strength`: above 0 the second, below 0 the first, 0 a tie; auto: what the names show.
    label_means: str = setting("auto", choices=("auto", "second", "first", "strength"))
    # The layout of rows; auto recognises it row by row.
    format: str = setting("auto", choices=("auto", "pairs", "ranked", "messages", "instruction", "singles"))
    limit: int | None = setting(None, least=1)  # rows read from the file's start; None: all


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where pairs and prompts come from: an embedded world, or files by dimension."""

    world: str | None = setting(None, choices=WORLDS)
    # Worlds: one Bernoulli draw a pair by the true Bradley-Terry probability, or that probability itself.
    labels: str = setting("draws", choices=("draws", "exact"))
    num_pairs: int = setting(1000, least=2, most=10**8)  # worlds: training pairs
    # Worlds: labelled pairs held out for calibration and early stopping.
    num_held_out: int = setting(0, least=0, most=10**8)
    # Files: share of the prompts held out; their pairs stop, calibrate and judge what is trained.
    held_out_fraction: float = setting(0.2, above=0, below=1)
    sources: Mapping[str, SourceSettings] = group(dict)
    prompts: str | None = None  # files: JSON Lines of {"prompt"} to sample and to test on
    strict: bool = False  # files: stop at the first row that cannot be used, where False drops and counts it
    # Shapes of batches, at most. Each is compiled; in training there are as many as save more work than that.
    num_buckets: int = setting(8, least=1, most=1024)
    max_train_pairs: int | None = setting(None, least=2)  # files: pairs kept a dimension, drawn by seed
    max_held_out_pairs: int | None = setting(None, least=2)


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """One optax run: the embedded reference, pre-alignment, score models, the final alignment."""

    learning_rate: float = setting(1e-3, above=0)
    batch_size: int = setting(64, least=1, most=2**20)
    epochs: float = setting(1.0, above=0, most=10**6)
    schedule: str = setting("cosine", choices=("cosine", "linear", "constant"))
    warmup_steps: int = setting(20, least=0)
    weight_decay: float = setting(0.0, least=0)
    clip_norm: float = setting(1.0, above=0)
    accumulate: int = setting(1, least=1, most=2**20)  # micro-batches a step
    evals: int = setting(10, least=1, most=10**6)  # held-out evaluations in a run
    # The best step has the lowest held-out loss: with its scale fitted (calibrated_loss), or as it is.
    judge_by: str = setting("calibrated_loss", choices=("calibrated_loss", "loss"))
    # Evaluations without a better held-out loss before a run stops; None: it never stops early.
    patience: int | None = setting(None, least=1)
    log_every: int = setting(20, least=1, affects_result=False)
    # Steps between saved states that a killed run resumes from; None: it starts again.
    checkpoint_every: int | None = setting(None, least=1, affects_result=False)


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The loss of preference pairs, see `alignment.losses`; `check_loss` has the rules for both fields."""

    name: str = "dpo"  # dpo, cdpo, robust, ipo or hinge; only dpo's optimum is the policy of the dual
    label_smoothing: float = 0.0  # cdpo, robust: share of labels taken to be wrong


def check_loss(name: str, label_smoothing: float) -> None:
    """Refuses losses that do not exist, and options that a loss does not take.

    Args:
      name: dpo, cdpo, robust, ipo or hinge.
      label_smoothing: for cdpo and robust in (0, 0.5); 0 for the others.

    Raises:
      ValueError: the message begins with the argument's name.
    """
    losses = ("dpo", "cdpo", "robust", "ipo", "hinge")
    if name not in losses:
        raise ValueError(f"name: is {name!r}, must be one of {', '.join(losses)}.")
    if name in ("cdpo", "robust"):
        if not 0.0 < label_smoothing < 0.5:
            raise ValueError(
                f"label_smoothing: is {label_smoothing}, must lie between 0 and 0.5 for {name}: it is the "
                "share of labels taken to be wrong."
            )
    elif label_smoothing != 0.0:
        raise ValueError(
            f"label_smoothing: is {label_smoothing}, but {name} does not take it; set it to 0, or choose "
            "cdpo or robust."
        )


@dataclasses.dataclass(frozen=True)
class PreferenceTrainingSettings(TrainingSettings):
    """An optax run on preference pairs."""

    loss: LossSettings = group(LossSettings)


@dataclasses.dataclass(frozen=True)
class AlignSettings(PreferenceTrainingSettings):
    """The final alignment, and what can stand before it or in its place."""

    # End before it, with the product of the policies of single dimensions as the answer. It and the preview
    # decide which stages there are, not what one of them finds.
    skip: bool = setting(False, affects_result=False)
    # Prompts on which the product is drawn from and shown before the alignment; 0: none.
    preview: int = setting(3, least=0, most=10_000, affects_result=False)


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """Responses drawn from a policy."""

    num_prompts: int = setting(64, least=1, most=10**7)
    num_samples: int = setting(16, least=2, most=10**6)
    max_new_tokens: int = setting(128, least=1, most=2**20)
    temperature: float = setting(1.0, above=0)
    top_p: float = setting(1.0, above=0, most=1)
    # Keys and values of prompts and responses: model (as config.model.dtype), or int8 with a scale for each
    # token and head: half of bfloat16's memory, so that more rows fit. It changes the draws a little.
    cache: str = setting("model", choices=("model", "int8"))
    # JSON Lines of responses that another program, such as a server, drew from the reference; None: they are
    # drawn here, as those of all other policies are.
    responses: str | None = None


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Responses that are drawn of every policy to see what it reaches; `Config.evaluation_sampling`."""

    num_prompts: int = setting(64, least=1, most=10**7)  # of the test prompts, where test.prompts is None
    num_samples: int = setting(16, least=2, most=10**6)
    max_new_tokens: int = setting(128, least=1, most=2**20)
    # None: as config.sampling. What the dual promises holds for policies that are sampled as it sampled.
    temperature: float | None = setting(None, above=0)
    top_p: float | None = setting(None, above=0, most=1)
    cache: str | None = setting(None, choices=("model", "int8"))


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """Where MoCAN takes the score of one dimension from: one of the four, or none: it is trained here."""

    path: str | None = None  # folder of a score model: Safe-RLHF's layout, or one label of a classifier
    table: str | None = None  # JSON Lines of prompt, response and score, written elsewhere
    function: str = ""  # module:function of (prompts, responses) -> scores, higher is better or safer
    exact: bool = False  # an embedded world's true score
    # Text with {prompt} for the model of `path`; empty: its chat template, or the run's plain text.
    template: str = ""

    @property
    def given(self) -> tuple[str, ...]:
        """The fields that say where the score is; empty: it is trained in the run."""
        fields = {"path": self.path, "table": self.table, "function": self.function, "exact": self.exact}
        return tuple(name for name, value in fields.items() if value)


@dataclasses.dataclass(frozen=True)
class ScoreModelSettings:
    """How score models are trained, beside `score_training`."""

    regularizer: float = setting(0.0, least=0)  # of the squared scores
    centering: float = setting(0.0, least=0)  # of the squared sum of a pair's scores
    signs: bool = True  # costs: learn from is_response_0_safe, is_response_1_safe too, where data has them


@dataclasses.dataclass(frozen=True)
class RelabelSettings:
    """Which pairs the final alignment is trained on."""

    # preferences: those of the data; samples: pairs of the reference's own samples.
    pairs: str = setting("preferences", choices=("preferences", "samples"))
    pairs_per_prompt: int = setting(8, least=1, most=10**6)  # of samples
    max_pairs: int | None = setting(None, least=2)  # in all, drawn by seed; None: every pair


@dataclasses.dataclass(frozen=True)
class RoundSettings:
    """Multi-shot: measure the policy, correct the multiplier by what it misses, align again."""

    count: int = setting(1, least=1, most=1000)  # at most so many; the test ends them. 1: one shot
    # eta of lam - eta (achieved - asked); None: the inverse slope of the predicted margin.
    step: float | None = setting(None, above=0)


@dataclasses.dataclass(frozen=True)
class BaselineSettings:
    """Policies trained beside the aligned one, to compare with."""

    single: bool = False  # the reward alone, and each constraint's score alone
    lams: tuple[float, ...] = setting((), least=0, note="it multiplies a utility")  # fixed multipliers


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    method: str  # pecan or mocan
    seed: int = setting(0, least=0, most=2**32 - 1)  # JAX's keys take 32 bits of it
    model: ModelSettings = group(ModelSettings)
    mesh: MeshSettings = group(MeshSettings, affects_result=False)
    lora: LoraSettings = group(LoraSettings)
    data: DataSettings = group(DataSettings)
    reference: TrainingSettings = group(TrainingSettings)  # of a world
    reference_examples: int = setting(0, least=0, most=10**8)  # responses a world's reference is trained on
    prealign: PreferenceTrainingSettings = group(PreferenceTrainingSettings, method="pecan")
    beta_pre: float = setting(
        0.5, above=0, most=1e9, note="it is a KL weight", method="pecan"
    )  # of pre-alignment
    raw_labels: bool = setting(False, method="pecan")  # the authors' labels: log-ratios without beta_pre
    scores: Mapping[str, ScoreSettings] = group(dict, method="mocan")  # by dimension
    score_training: TrainingSettings = group(TrainingSettings, method="mocan")
    score_model: ScoreModelSettings = group(ScoreModelSettings, method="mocan")
    align: AlignSettings = group(AlignSettings)
    relabel: RelabelSettings = group(RelabelSettings, method="mocan")
    rounds: RoundSettings = group(RoundSettings)
    baselines: BaselineSettings = group(BaselineSettings, method="mocan")
    sampling: SamplingSettings = group(SamplingSettings)
    evaluation: EvaluationSettings = group(EvaluationSettings)
    constraints: Mapping[str, ConstraintSettings] = group(dict)
    lam: float | None = setting(None, least=0, note="it multiplies a utility")  # given: no dual is solved
    # Of the dual and of the final alignment.
    beta: float = setting(0.5, above=0, most=1e9, note="it is a KL weight")
    # Of the guard that the multiplier is solved with, of the test and of every interval. None: the published
    # way, without a guard; tests and intervals then have 0.95.
    confidence: float | None = setting(0.95, above=0.5, below=1)
    test: TestSettings = group(TestSettings)
    # Exit status 5 where the test does not show what was asked. It decides how a run ends, not what it finds.
    require_verified: bool = setting(True, affects_result=False)
    calibrate: bool = True  # fit the scores to held-out labels before they are believed
    # joint: each dimension's labels on all scores; slope: on its own score alone.
    calibration: str = setting("joint", choices=("joint", "slope"))
    # Continue where held-out labels contradict a score, or where they or the test prompts are too few. It
    # decides whether a run stops, not what it finds.
    accept_uninformative: bool = setting(False, affects_result=False)
    # 0: exact soft labels; n > 0: the mean of n Bernoulli draws (the authors: 1).
    hard_labels: int = setting(0, least=0, most=10**6)
    bootstrap: int = setting(1000, least=100, most=10**6)  # resamples behind every interval
    ref_batch_size: int = setting(128, least=1, most=2**20, affects_result=False)  # rows where nothing learns
    # Reference and score models read from folders that are in device memory: all, or one at a time.
    resident_models: str = setting("all", choices=("all", "one"), affects_result=False)
    # Prompts of a page of the report's browser of responses; 0: the report shows no response.
    shown_samples: int = setting(20, least=0, most=10_000, affects_result=False)
    judges: Mapping[str, JudgeSettings] = group(dict)  # by dimension
    audit: AuditSettings = group(AuditSettings)  # of the aligned policy, under attack; off by default
    # Policies of the same multiplier without a training of their own, evaluated beside the aligned one.
    dial: tuple[str, ...] = setting((), choices=DIAL, affects_result=False)
    profile: ProfileSettings = group(ProfileSettings)
    # Where metrics are drawn beside metrics.jsonl: tensorboard, wandb, trackio, or several as wandb,trackio.
    log_to: str = setting(
        "tensorboard",
        choices=("tensorboard", "wandb", "trackio", "none"),
        several=True,
        affects_result=False,
    )
    refusals: tuple[str, ...] = REFUSALS  # a response that opens with one of them refuses

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The reward first, then every constraint."""
        return ("reward", *self.constraints)

    @property
    def evaluation_sampling(self) -> SamplingSettings:
        """How policies are sampled when they are evaluated, on as many prompts as are tested."""
        drawn, evaluated = self.sampling, self.evaluation
        return SamplingSettings(
            num_prompts=self.num_test_prompts,
            num_samples=evaluated.num_samples,
            max_new_tokens=evaluated.max_new_tokens,
            temperature=drawn.temperature if evaluated.temperature is None else evaluated.temperature,
            top_p=drawn.top_p if evaluated.top_p is None else evaluated.top_p,
            cache=drawn.cache if evaluated.cache is None else evaluated.cache,
        )

    @property
    def num_test_prompts(self) -> int:
        """How many of the test prompts are used, where the data have so many."""
        return self.evaluation.num_prompts if self.test.prompts is None else self.test.prompts

    @property
    def group_columns(self) -> dict[str, str]:
        """The column of categories of every constraint that is asked by category."""
        asked = {name: item.groups for name, item in self.constraints.items() if item.groups.given}
        return {name: groups.column for name, groups in asked.items()}

    @property
    def rates(self) -> tuple[str, ...]:
        """The constraints that ask for a probability of a safe response."""
        return tuple(name for name, constraint in self.constraints.items() if constraint.needs_rate)

    def baseline_weights(self) -> dict[str, list[float]]:
        """Weights [1+m] of the scores that every baseline is aligned to, by its name."""
        size = len(self.dimensions)
        weights = {}
        if self.baselines.single:
            for i, name in enumerate(self.dimensions):
                weights[name] = [float(i == j) for j in range(size)]
        return weights | {f"lambda={lam:g}": [1.0] + [lam] * (size - 1) for lam in self.baselines.lams}
