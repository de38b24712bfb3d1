import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ml_collections import ConfigDict

from alignjax.config import Config, from_mapping, to_mapping
from alignjax.config_checks import check_batches
from alignjax.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny() -> ConfigDict:
    return load("pecan").get_config("tiny")


@pytest.mark.parametrize("method", ["pecan", "mocan"])
@pytest.mark.parametrize("preset", load("pecan").PRESETS)
def test_every_preset_is_accepted_once_its_files_are_named(method, preset):
    config = load(method).get_config(preset)
    if config.data.world is None:
        config.model.path = "model"
        for source in config.data.sources.values():
            source.path = "pairs.jsonl"
    built = from_mapping(config.to_dict())
    assert isinstance(built, Config)
    assert from_mapping(to_mapping(built)) == built


@pytest.mark.parametrize("method", ["pecan", "mocan"])
def test_published_preset_has_the_published_numbers(method):
    config = load(method).get_config("alpaca-7b")
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (8, 16.0, 0.05)
    assert (config.align.learning_rate, config.align.epochs, config.align.warmup_steps) == (5e-4, 3.0, 100)
    assert config.align.batch_size * config.align.accumulate == 16
    assert config.model.template.endswith("ASSISTANT:")


@pytest.mark.parametrize("method", ["pecan", "mocan"])
def test_unknown_preset_is_refused(method):
    with pytest.raises(ValueError, match=f"configs/{method}.py: no preset 'big'"):
        load(method).get_config("big")


# A ConfigDict's attributes have no types, so these take Any.
def margin_and_level(c: Any) -> None:
    c.constraints.safety.level = 0.5


def no_margin(c: Any) -> None:
    c.constraints.safety.margin = None


def unknown_field(c: Any) -> None:
    c.betta = 1.0


def both_world_and_sources(c: Any) -> None:
    c.data.sources = {"reward": {"path": "x"}}


def fraction_of_two(c: Any) -> None:
    c.constraints.safety = {"fraction": 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(beta=0.0), "config.beta: is 0.0, must be greater than 0"),
        (lambda c: c.update(beta_pre=-1.0), "config.beta_pre"),
        (margin_and_level, "config.constraints.safety: give margin or level, not both"),
        (no_margin, "config.constraints.safety: give one of margin, level, fraction"),
        (fraction_of_two, "config.constraints.safety.fraction: is 2.0"),
        (unknown_field, "config.betta: no such field"),
        (both_world_and_sources, "give a world or sources, not both"),
        (lambda c: c.data.update(world="mars"), "config.data.world: is 'mars'"),
        (lambda c: c.data.update(labels="guess"), "config.data.labels"),
        (lambda c: c.align.update(schedule="step"), "config.align.schedule"),
        (lambda c: c.align.update(learning_rate=0.0), "config.align.learning_rate"),
        (lambda c: c.sampling.update(top_p=0.0), "config.sampling.top_p"),
        (lambda c: c.sampling.update(num_samples=1), "config.sampling.num_samples"),
        (lambda c: c.model.update(max_prompt_length=512), "config.model.max_prompt_length"),
        (lambda c: c.model.update(path="folder"), "config.model.path: an embedded world"),
        (lambda c: c.lora.update(dropout=1.0), "config.lora.dropout"),
        (lambda c: c.update(method="ppo"), "config.method"),
        (lambda c: c.update(bootstrap=5), "config.bootstrap"),
        (lambda c: c.judges.update(harm={"function": "m:f"}), "config.judges.harm: is 'harm', names no dim"),
        (lambda c: c.judges.safety.update(function="f"), "config.judges.safety.function: is 'f', must be"),
        (
            lambda c: c.judges.safety.update(function="m:f", verdicts="v.jsonl"),
            "config.judges.safety: is ['function', 'verdicts'], give a function or",
        ),
        (lambda c: c.update(refusals=("sorry", " ")), "config.refusals[1]: is ' ', is empty"),
        (lambda c: c.mesh.update(fsdp=0), "config.mesh.fsdp: is 0, must be at least 1, or -1"),
        (lambda c: c.mesh.update(fsdp=-1), "config.mesh: is ['data', 'fsdp'], -1 more than once"),
    ],
)
def test_impossible_values_are_refused_by_name(change, message):
    config = tiny()
    with config.unlocked():
        change(config)
    with pytest.raises(InputError) as caught:
        from_mapping(config.to_dict())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", 1.5, "config.seed: is 1.5 of type float, must be int"),
        ("seed", True, "config.seed: is True of type bool, must be int"),
        ("beta", "0.1", "config.beta: is '0.1' of type str, must be float"),
        ("beta", float("nan"), "config.beta: is nan, must be a finite number"),
        ("model", 3, "config.model: is 3, must be a table"),
        ("constraints", [1], "config.constraints: is [1], must be a table by name"),
    ],
)
def test_wrong_types_are_refused_by_name(field, value, message):
    values = tiny().to_dict() | {field: value}
    with pytest.raises(InputError) as caught:
        from_mapping(values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.scores.safety.update(function="f"),
            "config.scores.safety.function: is 'f', must be module",
        ),
        (
            lambda c: c.scores.safety.update(function="m:f", exact=True),
            "config.scores.safety: is ['function', 'exact'], give at most one of",
        ),
        (lambda c: c.scores.update(harm={"exact": True}), "config.scores: is ['harm'], names no dimension"),
        (
            lambda c: c.relabel.update(pairs="all"),
            "config.relabel.pairs: is 'all', must be preferences or samples",
        ),
        (lambda c: c.relabel.update(pairs_per_prompt=0), "config.relabel.pairs_per_prompt: is 0"),
        (
            lambda c: c.baselines.update(lams=(1.0, -1.0)),
            "config.baselines.lams[1]: is -1.0, must be at least 0",
        ),
        (lambda c: c.rounds.update(count=0), "config.rounds.count: is 0, must be at least 1"),
        (lambda c: c.rounds.update(step=-1.0), "config.rounds.step: is -1.0, must be greater than 0"),
        (lambda c: c.score_model.update(centering=-1.0), "config.score_model.centering: is -1.0"),
        (lambda c: c.score_training.update(epochs=0.0), "config.score_training.epochs: is 0.0"),
    ],
)
def test_impossible_values_of_mocan_are_refused_by_name(change, message):
    config = load("mocan").get_config("tiny")
    with config.unlocked():
        change(config)
    with pytest.raises(InputError) as caught:
        from_mapping(config.to_dict())
    assert message in str(caught.value)


def test_batches_have_to_divide_over_the_devices():
    config: Any = tiny()
    config.ref_batch_size = 12
    with pytest.raises(
        InputError, match=r"config\.ref_batch_size: is 12, must be a multiple of 8, the parts"
    ):
        check_batches(from_mapping(config.to_dict()), 8)
    check_batches(from_mapping(config.to_dict()), 4)
    config.prealign.batch_size = 6
    with pytest.raises(InputError, match=r"config\.prealign\.batch_size: is 6"):
        check_batches(from_mapping(config.to_dict()), 4)
    config = load("mocan").get_config("tiny")
    config.score_training.batch_size = 6
    with pytest.raises(InputError, match=r"config\.score_training\.batch_size: is 6"):
        check_batches(from_mapping(config.to_dict()), 4)
    config.scores.reward.exact = config.scores.safety.exact = True  # nothing is trained on it
    check_batches(from_mapping(config.to_dict()), 4)


def test_an_exact_score_needs_a_world():
    config = load("mocan").get_config("smollm2-135m")
    config.model.path, config.scores.safety.exact = "model", True
    with pytest.raises(InputError, match=r"config.scores.safety.exact: is True, needs an embedded world"):
        from_mapping(config.to_dict())


def test_a_judge_of_ones_own_needs_samples():
    config = load("mocan").get_config("enumerable")
    config.judges.reward.function = "m:f"
    with pytest.raises(InputError, match=r"config.judges.reward: is \['function'\], reads sampled responses"):
        from_mapping(config.to_dict())


def test_weights_of_baselines():
    config = load("mocan").get_config("tiny")
    config.baselines.single, config.baselines.lams = True, (0.5, 2.0)
    assert from_mapping(config.to_dict()).baseline_weights() == {
        "reward": [1.0, 0.0],
        "safety": [0.0, 1.0],
        "lambda=0.5": [1.0, 0.5],
        "lambda=2": [1.0, 2.0],
    }


def test_a_source_is_needed_for_every_dimension():
    config = load("pecan").get_config("smollm2-135m")
    config.model.path = "model"
    with pytest.raises(InputError, match=r"config.data.sources.reward.path: is missing"):
        from_mapping(config.to_dict())


def test_missing_field_is_named():
    values = tiny().to_dict()
    del values["beta"]
    with pytest.raises(InputError, match=r"config.beta: is missing"):
        from_mapping(values)
