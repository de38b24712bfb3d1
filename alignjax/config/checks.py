"""The rules that a configuration has to keep: the range of every setting, and combinations that make sense.

Ranges are declared with the settings; here are the rules that look at more than one of them.
"""

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from alignjax.config.asking import WAYS_TO_ASK, ConstraintSettings
from alignjax.config.audit import check_audit
from alignjax.config.dial import check_dial
from alignjax.config.fields import rule_of
from alignjax.config.judging import check_judge
from alignjax.config.settings import (
    LORA_TARGETS,
    METHODS,
    Config,
    LossSettings,
    ModelSettings,
    SamplingSettings,
    check_loss,
)
from alignjax.errors import InputError, did_you_mean

_MOST_BYTES = 2**36  # of one array in a host's memory


def _require(condition: bool, where: str, value: Any, rule: str, prefix: str = "config.") -> None:
    if not condition:
        raise InputError(f"{prefix}{where}: is {value!r}, {rule}")


def check(config: Config) -> None:
    """Refuses values out of range and impossible combinations.

    Raises:
      InputError: names the field as it is written on the command line.
    """
    _require(config.method in METHODS, "method", config.method, f"must be {' or '.join(METHODS)}.")
    check_ranges(config, "config")
    _check_mesh(config)
    _check_constraints(config)
    _check_scores(config)
    _check_judges(config)
    _check_data(config)
    _check_model(config)
    _check_loss("align", config.align.loss)
    _check_loss("prealign", config.prealign.loss)
    _check_memory(config)
    check_dial(config)
    check_audit(config.audit, rank=config.lora.rank, listed=config.data.world == "enumerable")


def check_ranges(settings: Any, where: str) -> None:
    """Checks every field of a settings dataclass, and of those below it, against its declared rule.

    Args:
      settings: a dataclass.
      where: what it is called in messages, as `config.align`.

    Raises:
      InputError: names the field, its value and what is allowed.
    """
    for field in dataclasses.fields(settings):
        _check_value(getattr(settings, field.name), rule_of(field).violation, f"{where}.{field.name}")


def _check_value(value: Any, violation: Callable[[Any], str], where: str) -> None:
    if dataclasses.is_dataclass(value):
        check_ranges(value, where)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check_value(item, violation, f"{where}.{name}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_value(item, violation, f"{where}[{i}]")
    elif value is not None and (problem := violation(value)):
        raise InputError(f"{where}: is {value!r}, {problem}")


def _check_mesh(config: Config) -> None:
    sizes = {"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor}
    for name, size in sizes.items():
        _require(size >= 1 or size == -1, f"mesh.{name}", size, "must be at least 1, or -1 for what is left.")
    left = [name for name, size in sizes.items() if size == -1]
    _require(len(left) <= 1, "mesh", left, "-1 more than once; only one can be what the others leave.")


def _check_constraints(config: Config) -> None:
    if not config.constraints:
        raise InputError('config.constraints: is empty; ask for one, as {"safety": {"margin": 1.0}}.')
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
        _check_asked(f"constraints.{name}", constraint, fixed=config.lam is not None)


def _check_asked(where: str, constraint: ConstraintSettings, *, fixed: bool) -> None:
    """Whether one constraint says in exactly one way what it asks; with a fixed multiplier it need not."""
    given, tail, groups = constraint.given, constraint.tail, constraint.groups
    if tail.given and len(tail.given) < 2:
        missing = "cost" if tail.cost is None else "share"
        raise InputError(f"config.{where}.tail: give share and cost; {missing} is missing.")
    if len(groups.given) > 1:
        raise InputError(f"config.{where}.groups: {_not_both(groups.given)}")
    for name in groups.given:
        asked = getattr(groups, name)
        _require(
            asked != {}, f"{where}.groups.{name}", asked, "is empty; give one number, or one for a category."
        )
    _require(
        bool(groups.column), f"{where}.groups.column", groups.column, "name the column of the categories."
    )
    if len(given) != 1 and not fixed:
        problem = _not_both(given) if given else f"give one of {', '.join(WAYS_TO_ASK)}."
        raise InputError(f"config.{where}: {problem}")


def _not_both(given: Sequence[str]) -> str:
    return f"give {' or '.join(given)}, not both; set all but one to None."


def _check_scores(config: Config) -> None:
    extra = set(config.scores) - set(config.dimensions)
    _require(
        not extra, "scores", sorted(extra), "names no dimension: reward and the constraints are dimensions."
    )
    for name, source in config.scores.items():
        only_one = "give at most one of path, table, function, exact."
        _require(len(source.given) <= 1, f"scores.{name}", list(source.given), only_one)
        _require(
            not source.exact or config.data.world is not None,
            f"scores.{name}.exact",
            source.exact,
            "needs an embedded world, whose truth is known; set config.data.world.",
        )
        _check_function(f"scores.{name}.function", source.function)
        _require(
            not source.template or (bool(source.path) and source.template.count("{prompt}") == 1),
            f"scores.{name}.template",
            source.template,
            f"must contain {{prompt}} once, and scores.{name}.path the model that reads it.",
        )
    without = [name for name, constraint in config.constraints.items() if not constraint.given]
    _require(
        config.rounds.count == 1 or not without,
        "rounds.count",
        config.rounds.count,
        f"needs to know what is asked of {', '.join(without)}; give one of {', '.join(WAYS_TO_ASK)}.",
    )


def _check_function(where: str, function: str) -> None:
    _require(not function or function.count(":") == 1, where, function, "must be module:function.")


def _check_judges(config: Config) -> None:
    for name, judge in config.judges.items():
        given = list(judge.given)
        check_judge(name, judge)
        if not given:
            continue
        _require(name in config.dimensions, f"judges.{name}", name,
                 f"names no dimension; judge one of {', '.join(config.dimensions)}.")  # fmt: skip
        _check_function(f"judges.{name}.function", judge.function)
        _require(config.data.world != "enumerable", f"judges.{name}", given,
                 "reads sampled responses; in enumerable every response is summed over.")  # fmt: skip
    for i, phrase in enumerate(config.refusals):
        _require(bool(phrase.strip()), f"refusals[{i}]", phrase, "is empty; every response opens with it.")


def _check_data(config: Config) -> None:
    data = config.data
    for name, column in config.group_columns.items():
        _require(data.world is None or column == "category", f"constraints.{name}.groups.column", column,
                 "must be category, the one column of an embedded world.")  # fmt: skip
    if data.world is not None:
        least = config.reference.batch_size
        _require(config.reference_examples >= least, "reference_examples", config.reference_examples,
                 f"must fill a batch ({least}): a world's reference is trained on them.")  # fmt: skip
        _require(data.num_held_out >= 2, "data.num_held_out", data.num_held_out, "must be at least 2.")
        _require(set(config.constraints) == {"safety"}, "constraints", sorted(config.constraints),
                 "an embedded world knows one constraint, safety.")  # fmt: skip
        _require(not data.sources, "data.sources", sorted(data.sources), "give a world or sources, not both.")
        _require(not data.prompts, "data.prompts", data.prompts, "an embedded world has its own prompts.")
        return
    held_out, share = data.held_out_fraction, config.test.share
    _require(held_out + share < 1, "test.share", share,
             f"leaves no prompts to train on beside data.held_out_fraction, {held_out}.")  # fmt: skip
    _check_sources(config)
    extra = set(data.sources) - set(config.dimensions)
    _require(
        not extra,
        "data.sources",
        sorted(extra),
        "names no dimension: reward and the constraints are dimensions.",
    )


def _check_sources(config: Config) -> None:
    """Who needs preference pairs: PeCAN, a score that is trained, a calibration, the final alignment."""
    sources, scores = config.data.sources, config.scores
    there = [name for name in config.dimensions if name in sources and sources[name].path]
    for name in config.dimensions:
        external = name in scores and bool(scores[name].given)
        if name in there or (config.method == "mocan" and external and not config.calibrate):
            continue
        near = did_you_mean(name, set(there) - {name})
        missing = f"is missing; {near}name a JSON Lines file of preference pairs"
        where = f"config.data.sources.{name}.path: {missing}"
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


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_model(config: Config) -> None:
    model = config.model
    _require(
        model.max_prompt_length < model.max_length,
        "model.max_prompt_length",
        model.max_prompt_length,
        f"must be less than model.max_length ({model.max_length}).",
    )
    check_template(model, "config.model.")
    if config.data.world is None and not model.path:
        raise InputError("config.model.path: is missing; name a Hugging Face folder or a .gguf file.")
    if model.weights == "int8" and config.lora.rank == 0:
        raise InputError(
            "config.model.weights: int8 weights cannot be trained; give lora.rank, or use float."
        )
    if config.data.world is not None and model.adapter:
        raise InputError("config.model.adapter: an embedded world has no adapter; set it to None.")
    if config.data.world is not None and model.path:
        raise InputError("config.model.path: an embedded world trains its own reference; set it to None.")
    targets = config.lora.targets
    known = bool(targets) and set(targets) <= set(LORA_TARGETS)
    _require(known, "lora.targets", targets, f"must be some of {', '.join(LORA_TARGETS)}.")


def check_template(model: ModelSettings, prefix: str) -> None:
    """Checks how prompts are shown.

    Args:
      model: its template, template_kwargs and template_date.
      prefix: what these are called by in messages: "config.model.", or "--" for flags.

    Raises:
      InputError: names the field.
    """
    _require(
        not model.template or "{prompt}" in model.template,
        "template",
        model.template,
        "must contain {prompt}, or be empty for the tokenizer's chat template.",
        prefix,
    )
    try:
        kwargs = json.loads(model.template_kwargs or "{}")
    except (ValueError, RecursionError):
        kwargs = None
    _require(
        isinstance(kwargs, dict),
        "template_kwargs",
        model.template_kwargs,
        'must be a JSON object, such as {"enable_thinking": false}.',
        prefix,
    )
    date = re.fullmatch(r"\d{4}-\d\d-\d\d", model.template_date)
    _require(
        date is not None and _is_date(model.template_date),
        "template_date",
        model.template_date,
        "must be a date, YYYY-MM-DD.",
        prefix,
    )


def _check_loss(run: str, loss: LossSettings) -> None:
    try:
        check_loss(loss.name, loss.label_smoothing)
    except ValueError as error:
        raise InputError(f"config.{run}.loss.{error}") from None


def _check_memory(config: Config) -> None:
    """Refuses sizes that are allowed one by one, but whose product no host holds."""
    for name, sampling in (("sampling", config.sampling), ("evaluation", config.evaluation_sampling)):
        tokens = sampling.num_prompts * sampling.num_samples * sampling.max_new_tokens
        if 4 * tokens > _MOST_BYTES:
            raise InputError(
                f"config.{name}: num_prompts x num_samples x max_new_tokens is {tokens:.2g} tokens, "
                f"{4 * tokens / 2**30:.0f} GiB of memory; lower {_largest(sampling)}."
            )
    # Each resample weights all prompts, in float64.
    prompts = max(config.sampling.num_prompts, config.num_test_prompts)
    if 8 * config.bootstrap * prompts > _MOST_BYTES:
        raise InputError(
            f"config.bootstrap: is {config.bootstrap}, {8 * config.bootstrap * prompts / 2**30:.0f} GiB of "
            f"weights for {prompts} prompts; lower it."
        )


def _largest(sampling: SamplingSettings) -> str:
    """The size that is furthest above its default."""
    default = SamplingSettings()
    excess = {
        "num_prompts": sampling.num_prompts / default.num_prompts,
        "num_samples": sampling.num_samples / default.num_samples,
        "max_new_tokens": sampling.max_new_tokens / default.max_new_tokens,
    }
    return max(excess, key=lambda name: excess[name])


def check_batches(config: Config, parts: int) -> None:
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
    elif not all(name in config.scores and config.scores[name].given for name in config.dimensions):
        sizes["score_training.batch_size"] = config.score_training.batch_size
    for name, size in sizes.items():
        _require(size % parts == 0, name, size,
                 f"must be a multiple of {parts}, the parts that rows are divided into (config.mesh, data x "
                 "fsdp).")  # fmt: skip


def check_kernel(
    model: ModelSettings, platforms: Collection[str], head_dim: int, sliding_window: int | None
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
