"""The rules that a configuration has to keep: ranges, and combinations that make sense."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from alignjax.errors import InputError
from alignjax.models.lora import TARGETS

if TYPE_CHECKING:  # config.py calls this module
    from alignjax.config import Config, ModelSettings, SamplingSettings, ScoreSettings, TrainingSettings

METHODS = ("pecan", "mocan")
WORLDS = ("assistant", "enumerable")
_GIVEN = ("path", "table", "function", "exact")  # a score that is not trained in the run


def _require(condition: bool, where: str, value: Any, rule: str) -> None:
    if not condition:
        raise InputError(f"config.{where}: is {value!r}, {rule}")


def check(config: "Config") -> None:
    """Refuses values out of range and impossible combinations.

    Raises:
      InputError: names the field as it is written on the command line.
    """
    _require(config.method in METHODS, "method", config.method, f"must be one of {', '.join(METHODS)}.")
    for name in ("beta", "beta_pre"):
        value = getattr(config, name)
        _require(value > 0, name, value, "must be greater than 0: it is a KL weight.")
    _require(config.seed >= 0, "seed", config.seed, "must be at least 0.")
    _require(config.bootstrap >= 100, "bootstrap", config.bootstrap, "must be at least 100 resamples.")
    _require(config.ref_batch_size > 0, "ref_batch_size", config.ref_batch_size, "must be at least 1.")
    _require(
        config.resident_models in ("all", "one"),
        "resident_models",
        config.resident_models,
        "must be all, or one: one model in device memory at a time.",
    )
    _require(config.shown_samples >= 0, "shown_samples", config.shown_samples, "must be at least 0.")
    _require(
        config.hard_labels >= 0, "hard_labels", config.hard_labels, "must be 0 (soft) or a number of draws."
    )
    _require(
        config.calibration in ("joint", "slope"), "calibration", config.calibration, "must be joint or slope."
    )
    _check_mesh(config)
    _check_constraints(config)
    _check_scores(config)
    _check_judges(config)
    _check_data(config)
    _check_model(config)
    for name in ("reference", "prealign", "align", "score_training"):
        _check_training(name, getattr(config, name))
    for name in ("sampling", "evaluation"):
        _check_sampling(name, getattr(config, name))


def _check_mesh(config: "Config") -> None:
    sizes = {"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor}
    for name, size in sizes.items():
        _require(size >= 1 or size == -1, f"mesh.{name}", size, "must be at least 1, or -1 for what is left.")
    left = [name for name, size in sizes.items() if size == -1]
    _require(len(left) <= 1, "mesh", left, "-1 more than once; only one can be what the others leave.")


def check_batches(config: "Config", parts: int) -> None:
    """Refuses batch sizes whose rows do not divide over the devices; needs to know how many there are.

    Args:
      config: checked by `check`.
      parts: data x fsdp of the mesh.

    Raises:
      InputError: names the field.
    """
    sizes = {"ref_batch_size": config.ref_batch_size, "align.batch_size": config.align.batch_size}
    if config.data.world is not None:
        sizes["reference.batch_size"] = config.reference.batch_size
    if config.method == "pecan":
        sizes["prealign.batch_size"] = config.prealign.batch_size
    elif not all(name in config.scores and given(config.scores[name]) for name in config.dimensions):
        sizes["score_training.batch_size"] = config.score_training.batch_size
    for name, size in sizes.items():
        _require(size % parts == 0, name, size,
                 f"must be a multiple of {parts}, the parts that rows are divided into (config.mesh, data x "
                 "fsdp).")  # fmt: skip


def check_kernel(
    model: "ModelSettings", platforms: Collection[str], head_dim: int, sliding_window: int | None
) -> None:
    """Refuses a kernel of attention that is not for these devices or this model.

    Args:
      model: settings.
      platforms: of the devices.
      head_dim: width of the model's heads.
      sliding_window: of the model, in positions.

    Raises:
      InputError: says for what the kernel is, and what is there.
    """
    runs = [f"it runs on {', '.join(sorted(platforms))}"]
    longest = -(-2 * model.max_length // 16) * 16  # tokens of a row, which holds both responses of a pair
    narrow = sliding_window is not None and sliding_window < longest
    if model.attention == "cudnn":
        what = "NVIDIA GPUs, bfloat16 and heads of at most 128, a multiple of 8"
        wrong = [
            *(runs if set(platforms) != {"gpu"} else []),
            *([f"config.model.dtype is {model.dtype}"] if model.dtype != "bfloat16" else []),
            *([f"heads are {head_dim} wide"] if head_dim % 8 or head_dim > 128 else []),
        ]
    elif model.attention == "splash":
        what = f"TPUs and models whose window, if they have one, is at least {longest} tokens (a pair's row)"
        wrong = [
            *(runs if set(platforms) != {"tpu"} else []),
            *([f"the model's is {sliding_window}"] if narrow else []),
        ]
    else:
        return
    if wrong:
        found = " and ".join(wrong)
        raise InputError(
            f"config.model.attention: {model.attention} is for {what}, but {found}; leave it at xla."
        )


def given(source: "ScoreSettings") -> bool:
    """Whether a score is not trained in the run."""
    return any(getattr(source, field) for field in _GIVEN)


def _check_constraints(config: "Config") -> None:
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


def _check_scores(config: "Config") -> None:
    extra = set(config.scores) - set(config.dimensions)
    _require(
        not extra, "scores", sorted(extra), "names no dimension: reward and the constraints are dimensions."
    )
    for name, source in config.scores.items():
        found = [field for field in _GIVEN if getattr(source, field)]
        _require(len(found) <= 1, f"scores.{name}", found, f"give at most one of {', '.join(_GIVEN)}.")
        _require(
            not source.exact or config.data.world is not None,
            f"scores.{name}.exact",
            source.exact,
            "needs an embedded world, whose truth is known; set config.data.world.",
        )
        _require(
            not source.function or source.function.count(":") == 1,
            f"scores.{name}.function",
            source.function,
            "must be module:function.",
        )
    for field in ("regularizer", "centering"):
        value = getattr(config.score_model, field)
        _require(value >= 0, f"score_model.{field}", value, "must be at least 0.")
    pairs = config.relabel
    _require(
        pairs.pairs in ("preferences", "samples"),
        "relabel.pairs",
        pairs.pairs,
        "must be preferences or samples.",
    )
    _require(
        pairs.pairs_per_prompt >= 1, "relabel.pairs_per_prompt", pairs.pairs_per_prompt, "must be at least 1."
    )
    most = pairs.max_pairs
    _require(most is None or most >= 2, "relabel.max_pairs", most, "must be at least 2, or None for all.")
    _require(
        config.rounds.count >= 1,
        "rounds.count",
        config.rounds.count,
        "must be at least 1, which is one shot.",
    )
    step = config.rounds.step
    _require(step is None or step > 0, "rounds.step", step, "must be greater than 0, or None.")
    without = [name for name, c in config.constraints.items() if c.margin == c.level == c.fraction]
    _require(
        config.rounds.count == 1 or not without,
        "rounds.count",
        config.rounds.count,
        f"needs to know what is asked of {', '.join(without)}; give a margin, level or fraction.",
    )
    for i, lam in enumerate(config.baselines.lams):
        _require(lam >= 0, f"baselines.lams[{i}]", lam, "must be at least 0: it multiplies a utility.")


def _check_judges(config: "Config") -> None:
    for name, judge in config.judges.items():
        given = [field for field in ("function", "verdicts") if getattr(judge, field)]
        if not given:
            continue
        _require(name in config.dimensions, f"judges.{name}", name,
                 f"names no dimension; judge one of {', '.join(config.dimensions)}.")  # fmt: skip
        _require(len(given) == 1, f"judges.{name}", given, "give a function or a file of verdicts, not both.")
        _require(not judge.function or judge.function.count(":") == 1, f"judges.{name}.function",
                 judge.function, "must be module:function.")  # fmt: skip
        _require(config.data.world != "enumerable", f"judges.{name}", given,
                 "reads sampled responses; in enumerable every response is summed over.")  # fmt: skip
    for i, phrase in enumerate(config.refusals):
        _require(bool(phrase.strip()), f"refusals[{i}]", phrase, "is empty; every response opens with it.")


def _check_data(config: "Config") -> None:
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
        _require(not data.prompts, "data.prompts", data.prompts, "an embedded world has its own prompts.")
        return
    for field in ("max_train_pairs", "max_held_out_pairs"):
        value = getattr(data, field)
        _require(value is None or value >= 2, f"data.{field}", value, "must be at least 2, or None for all.")
    _check_sources(config)
    extra = set(data.sources) - set(config.dimensions)
    _require(
        not extra,
        "data.sources",
        sorted(extra),
        "names no dimension: reward and the constraints are dimensions.",
    )


def _check_sources(config: "Config") -> None:
    """Who needs preference pairs: PeCAN, a score that is trained, a calibration, the final alignment."""
    sources, scores = config.data.sources, config.scores
    there = [name for name in config.dimensions if name in sources and sources[name].path]
    for name in config.dimensions:
        external = name in scores and given(scores[name])
        if name in there or (config.method == "mocan" and external and not config.calibrate):
            continue
        where = f"config.data.sources.{name}.path: is missing; name a JSON Lines file of preference pairs"
        if config.method == "mocan" and external:
            raise InputError(
                f"{where}, whose held-out labels say what a score is worth; config.calibrate=False believes "
                "the score as it is."
            )
        raise InputError(f"{where}.")
    if there:
        return
    prompts, pairs = config.data.prompts, config.relabel.pairs
    _require(bool(prompts), "data.prompts", prompts, "name a JSON Lines file of prompts: no pairs bring any.")
    _require(pairs == "samples", "relabel.pairs", pairs, "must be samples: no pairs are there to align on.")


def _check_model(config: "Config") -> None:
    model = config.model
    _require(
        model.dtype in ("float32", "bfloat16"), "model.dtype", model.dtype, "must be float32 or bfloat16."
    )
    kernels = ("xla", "cudnn", "splash")
    _require(model.attention in kernels, "model.attention", model.attention, "must be xla, cudnn or splash.")
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


def _check_training(name: str, settings: "TrainingSettings") -> None:
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


def _check_sampling(name: str, settings: "SamplingSettings") -> None:
    for field in ("num_prompts", "num_samples", "max_new_tokens", "temperature"):
        value = getattr(settings, field)
        _require(value > 0, f"{name}.{field}", value, "must be greater than 0.")
    _require(settings.num_samples >= 2, f"{name}.num_samples", settings.num_samples, "must be at least 2.")
    _require(0 < settings.top_p <= 1, f"{name}.top_p", settings.top_p, "must lie in (0, 1].")
