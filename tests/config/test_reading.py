"""Mappings to a Config and back, and what determines a result."""

import dataclasses

import pytest

from alignjax.config import Config, MeshSettings, ScoreSettings, determining, from_mapping, to_mapping
from alignjax.config.fields import affects_result, method_of
from alignjax.config.reading import only_method
from alignjax.config.settings import METHODS
from alignjax.errors import InputError


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", 1.5, "config.seed: is 1.5 of type float, must be int"),
        ("seed", True, "config.seed: is True of type bool, must be int"),
        ("beta", "0.1", "config.beta: is '0.1' of type str, must be float"),
        ("beta", float("nan"), "config.beta: is nan, must be a finite number"),
        ("beta", 10**400, "config.beta: is a whole number of 401 digits; must fit a float"),
        ("model", 3, "config.model: is 3, must be a table"),
        ("constraints", [1], "config.constraints: is [1], must be a table by name"),
    ],
)
def test_wrong_types_are_refused_by_name(tiny, field, value, message):
    values = tiny.to_dict() | {field: value}
    with pytest.raises(InputError) as caught:
        from_mapping(values)
    assert message in str(caught.value)


def test_a_missing_field_has_its_default(tiny):
    values = tiny.to_dict()
    del values["bootstrap"], values["align"]["log_every"]
    config = from_mapping(values)
    assert (config.bootstrap, config.align.log_every) == (1000, 20)


def test_the_method_has_no_default(tiny):
    values = tiny.to_dict()
    del values["method"]
    with pytest.raises(InputError, match="config.method: is missing"):
        from_mapping(values)


PECAN = {"prealign", "beta_pre", "raw_labels"}
MOCAN = {"scores", "score_training", "score_model", "relabel", "baselines"}


def test_which_method_reads_which_field():
    owners = {field.name: method_of(field) for field in dataclasses.fields(Config)}
    assert {name for name, owner in owners.items() if owner == "pecan"} == PECAN
    assert {name for name, owner in owners.items() if owner == "mocan"} == MOCAN
    assert only_method("beta_pre") == "pecan" and only_method("beta") is None and only_method("no") is None


@pytest.mark.parametrize(
    ("method", "name"), [*(("mocan", n) for n in sorted(PECAN)), *(("pecan", n) for n in sorted(MOCAN))]
)
def test_a_field_of_the_other_method_is_refused_even_at_its_default(load, method, name):
    values = load(method).get_config("tiny").to_dict()
    (other,) = set(METHODS) - {method}
    values[name] = load(other).get_config("tiny").to_dict()[name]
    line = f"config.{name}: only {other} reads it, and config.method is {method}; remove it."
    with pytest.raises(InputError) as caught:
        from_mapping(values)
    assert str(caught.value) == line


@pytest.mark.parametrize("method", METHODS)
def test_the_mapping_holds_the_fields_of_the_method_and_reads_back(load, method):
    config = from_mapping(load(method).get_config("tiny").to_dict())
    mapping = to_mapping(config)
    assert from_mapping(mapping) == config
    assert not set(mapping) & (MOCAN if method == "pecan" else PECAN)
    assert set(mapping) == set(load(method).get_config("tiny"))


def test_numbers_by_category_are_read_and_written(tiny):
    values = tiny.to_dict()
    values["constraints"]["safety"] |= {"margin": None, "groups": {"rate": {"a": 0.9, "b c": 0.5}}}
    config = from_mapping(values)
    groups = config.constraints["safety"].groups
    assert groups.rate == {"a": 0.9, "b c": 0.5} and groups.given == ("rate",)
    assert [groups.asked_of(name) for name in ("a", "b c", "d")] == [0.9, 0.5, None]
    assert config.group_columns == {"safety": "category"} and config.rates == ("safety",)
    assert from_mapping(to_mapping(config)) == config
    assert determining(config)["constraints"]["safety"]["groups"]["rate"] == {"a": 0.9, "b c": 0.5}


def test_one_number_is_asked_of_every_category(tiny):
    values = tiny.to_dict()
    values["constraints"]["safety"] |= {"margin": None, "groups": {"margin": 0.5, "column": "topic"}}
    values["data"] |= {"world": None, "sources": {n: {"path": "x"} for n in ("reward", "safety")}}
    values["model"]["path"] = "model"
    config = from_mapping(values)
    assert config.constraints["safety"].groups.asked_of("anything") == 0.5
    assert config.group_columns == {"safety": "topic"} and config.rates == ()


def test_policies_are_evaluated_as_the_dual_was_sampled_unless_told_otherwise(tiny):
    tiny.sampling.temperature, tiny.sampling.top_p = 0.7, 0.9
    drawn = from_mapping(tiny.to_dict()).evaluation_sampling
    assert (drawn.temperature, drawn.top_p) == (0.7, 0.9)
    assert (drawn.num_prompts, drawn.num_samples, drawn.max_new_tokens) == (346, 12, 20)
    tiny.evaluation.top_p, tiny.test.prompts = 1.0, 50
    config = from_mapping(tiny.to_dict())
    drawn = config.evaluation_sampling
    assert (drawn.temperature, drawn.top_p, drawn.num_prompts) == (0.7, 1.0, 50)
    assert config.num_test_prompts == 50


def test_weights_of_baselines(tiny_mocan):
    config = tiny_mocan
    config.baselines.single, config.baselines.lams = True, (0.5, 2.0)
    assert from_mapping(config.to_dict()).baseline_weights() == {
        "reward": [1.0, 0.0],
        "safety": [0.0, 1.0],
        "lambda=0.5": [1.0, 0.5],
        "lambda=2": [1.0, 2.0],
    }


# What changes how a run is computed or shown, but not what it finds.
WITHOUT_EFFECT = {
    "ModelSettings": {"attention", "remat"},
    "MeshSettings": {"data", "fsdp", "tensor"},
    "SourceSettings": {"data_dir"},
    "TrainingSettings": {"log_every", "checkpoint_every"},
    "PreferenceTrainingSettings": {"log_every", "checkpoint_every"},
    "ProfileSettings": {"steps", "first"},
    "AlignSettings": {"log_every", "checkpoint_every", "skip", "preview"},
    "Config": {
        *("mesh", "accept_uninformative", "require_verified"),
        *("ref_batch_size", "resident_models", "shown_samples", "dial", "log_to"),
    },
}


def test_which_settings_change_no_result():
    from alignjax.config import asking, settings

    every = (vars(settings) | vars(asking)).values()
    kinds = [kind for kind in every if dataclasses.is_dataclass(kind)]
    found = {
        kind.__name__: {field.name for field in dataclasses.fields(kind) if not affects_result(field)}
        for kind in kinds
        if isinstance(kind, type)
    }
    assert len(found) == 24 and {name: fields for name, fields in found.items() if fields} == WITHOUT_EFFECT


def test_what_determines_a_result_leaves_them_out_at_every_depth(tiny):
    config = from_mapping(tiny.to_dict())
    determined = determining(config)
    assert set(determined) == set(tiny) - WITHOUT_EFFECT["Config"]
    assert set(determined["align"]) == set(tiny.align) - WITHOUT_EFFECT["AlignSettings"]
    assert determined["align"]["loss"] == {"name": "dpo", "label_smoothing": 0.0}
    nothing = {"margin": None, "level": None, "rate": None}
    assert determined["constraints"]["safety"] == nothing | {
        "margin": 1.0,
        "fraction": None,
        "tail": {"share": None, "cost": None},
        "groups": nothing | {"column": "category"},
    }
    assert determined["test"]["share"] == 0.2 and determined["confidence"] == 0.95
    assert determined["lora"]["targets"] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert determining(MeshSettings()) == {}
    assert determining({"reward": ScoreSettings(exact=True)})["reward"]["exact"] is True


def test_equal_results_are_determined_alike_and_others_are_not(tiny):
    before = determining(from_mapping(tiny.to_dict()))
    tiny.align.log_every, tiny.prealign.checkpoint_every, tiny.ref_batch_size = 1, 5, 8
    tiny.model.remat, tiny.mesh.fsdp, tiny.shown_samples = True, 2, 0
    assert determining(from_mapping(tiny.to_dict())) == before
    tiny.align.batch_size = 32
    assert determining(from_mapping(tiny.to_dict())) != before
