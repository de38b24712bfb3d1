"""Overrides of a configuration: what can be written, what it replaces, and how what cannot be is refused."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict

import alignjax
from alignjax import cli
from alignjax.config import Config, ConstraintSettings, GroupSettings, TailSettings, from_mapping, to_mapping
from alignjax.config.command_line import make_room, refuse_unknown
from alignjax.errors import InputError

CONFIGS = Path(alignjax.__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("arguments", "left", "unset"),
    [
        (["--config.seed=None"], [], ["seed"]),
        (["-config.align.patience=None"], [], ["align.patience"]),
        (["--config.seed=None", "--config.seed=5"], ["--config.seed=5"], []),
        (["--config.seed=None", "--config.seed", "5"], ["--config.seed", "5"], []),
        (["--config.seed=None", "--config.model.path=a\nb"], ["--config.model.path=a\nb"], ["seed"]),
        (
            ["--config.model.template=None", "--config.model.template=a\nb"],
            ["--config.model.template=a\nb"],
            [],
        ),
        (["--config.model.remat=None", "--noconfig.model.remat"], ["--noconfig.model.remat"], []),
        (["--config.seed=5", "--config.seed=None"], ["--config.seed=5"], ["seed"]),
        (["--config.seed=None", "--config.seed=5", "--config.seed=None"], ["--config.seed=5"], ["seed"]),
        (["--config.seed=None", "--config.seeds=5"], ["--config.seeds=5"], ["seed"]),
        (["--config.lam=None", "--config.align.lam=5"], ["--config.align.lam=5"], ["lam"]),
    ],
)
def test_none_is_taken_out_unless_a_later_flag_gives_a_value(arguments, left, unset):
    argv = ["train", *arguments]
    assert cli.take_unset(argv) == unset
    assert argv == ["train", *left]


def test_unset_fields_are_none_and_others_are_refused(tiny):
    cli.unset(tiny, ["lora", "align.epochs"])
    assert tiny.lora is None and tiny.align.epochs is None
    for field in ("nothing", "align.nothing", "seed.below"):
        with pytest.raises(InputError, match=f"config.{field}: no such field"):
            cli.unset(tiny, [field])


@pytest.mark.parametrize(
    ("load", "line"),
    [
        (
            lambda config: config.align.lerning_rate,
            "config: no such field or table, 'lerning_rate' (did you mean learning_rate?); see the "
            "configuration file.",
        ),
        (lambda config: config["xyz"], "config: no such field or table, 'xyz'; see the configuration file."),
        (
            lambda config: config.scores,
            "config.scores: only mocan reads it, and this configuration does not have it; remove it.",
        ),
        (lambda config: 1 / 0, "config: division by zero"),
        (lambda config: config.lam.x, "config: 'NoneType' object has no attribute 'x'"),
    ],
)
def test_a_failure_of_a_configuration_is_one_line(tiny, load, line):
    with pytest.raises(InputError) as caught:
        cli.load_config(lambda: load(tiny))
    assert str(caught.value) == line


@pytest.fixture
def read(monkeypatch, capsys) -> Iterator[Callable[..., Config]]:
    """read(FILE[:PRESET], *overrides) is the configuration of a command line.

    A command line that is refused raises an InputError of its line.
    """

    def read(file: str, *overrides: str) -> Config:
        name, _, preset = file.partition(":")
        argv = ["train", f"--config={CONFIGS / name}.py:{preset or 'tiny'}"]
        argv += [f"--config.{override}" for override in overrides]
        monkeypatch.setattr(sys, "argv", argv)
        found: list[Config] = []

        def main() -> None:
            values: Any = flags.FLAGS.config
            cli.unset(values, unset)
            found.append(from_mapping(values.to_dict()))

        _forget()
        unset = cli.take_unset(argv)
        cli.define_config()
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        if ended.value.code != 0:
            raise InputError(capsys.readouterr().err.strip())
        return found[0]

    yield read
    _forget()


def _forget() -> None:
    """Takes the flag and its overrides out of the one table of flags that a process has."""
    for name in [name for name in flags.FLAGS if name.split(".")[0] == "config"]:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ConstraintSettings(margin=1.0)),
        (["margin=0.5"], ConstraintSettings(margin=0.5)),
        # In place of the preset's margin.
        (["rate=0.95"], ConstraintSettings(rate=0.95)),
        (["level=0"], ConstraintSettings(level=0.0)),
        (["tail.share=0.1", "tail.cost=0.0"], ConstraintSettings(tail=TailSettings(0.1, 0.0))),
        (["groups.margin=0.5"], ConstraintSettings(groups=GroupSettings(margin=0.5))),
        (["groups.rate=0.9", "groups.column=category"], ConstraintSettings(groups=GroupSettings(rate=0.9))),
        (
            ["groups.rate.benign=0.9", 'groups.rate["drugs,arms"]=0.5'],
            ConstraintSettings(groups=GroupSettings(rate={"benign": 0.9, "drugs,arms": 0.5})),
        ),
        (
            ["groups.level={'with a space': 0.5}"],
            ConstraintSettings(groups=GroupSettings(level={"with a space": 0.5})),
        ),
        # No way to ask: the preset's stays.
        (["groups.column=category"], ConstraintSettings(margin=1.0)),
        (["margin=None", "fraction=0.5"], ConstraintSettings(fraction=0.5)),
    ],
)
def test_what_the_command_line_asks_replaces_what_the_file_asks(read, overrides, expected):
    config = read("pecan", *(f"constraints.safety.{override}" for override in overrides))
    assert config.constraints == {"safety": expected}


def test_a_switch_with_names_takes_both(read, tiny):
    kinds = {"True": "layers", "0": "none", "products": "products", "auto": "auto"}
    for text, name in kinds.items():
        config = read("pecan", f"model.remat={text}")
        assert config.model.remat == name and from_mapping(to_mapping(config)) == config
    with pytest.raises(
        InputError, match="config.model.remat: is 'yes', must be none, products, layers or auto"
    ):
        read("pecan", "model.remat=yes")
    for given, name in ((True, "layers"), (False, "none"), ("products", "products")):
        tiny.model.remat = given  # a file, which may be of an earlier version
        assert from_mapping(tiny.to_dict()).model.remat == name


FILES = ("model.path=m", "data.sources.reward.path=a", "data.sources.safety.path=b")


def test_a_second_constraint_is_asked_for_with_its_data(read):
    config = read(
        "mocan:smollm2-135m",
        *FILES,
        "constraints.honesty.rate=0.9",
        "data.sources.honesty.path=c",
        "data.sources.honesty.limit=5",
        "scores.honesty.function=m:f",
        "judges.honesty.verdicts=v.jsonl",
    )
    assert config.dimensions == ("reward", "honesty", "safety")
    assert config.constraints["honesty"] == ConstraintSettings(rate=0.9)
    assert config.constraints["safety"] == ConstraintSettings(fraction=0.3)  # what the preset asks
    assert (config.data.sources["honesty"].path, config.data.sources["honesty"].limit) == ("c", 5)
    assert config.scores["honesty"].function == "m:f" and config.judges["honesty"].verdicts == "v.jsonl"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["constraints.safety.rate=0.9", "constraints.safety.margin=0.5"],
            "config.constraints.safety: give margin or rate, not both; set all but one to None.",
        ),
        (
            ["constraints.safety.groups.margin=0.5", "constraints.safety.groups.rate=0.5"],
            "config.constraints.safety.groups: give margin or rate, not both; set all but one to None.",
        ),
        (
            ["constraints.honesty.margn=0.5"],
            "config.constraints.honesty.margn: no such field; did you mean margin? see the configuration "
            "file.",
        ),
        (
            ["data.sources.honesty.pth=c"],
            "config.data.sources.honesty.pth: no such field; did you mean path? see the configuration file.",
        ),
        (
            ["constrants.honesty.margin=0.5"],
            "config.constrants: no such field; did you mean constraints? see the configuration file.",
        ),
        (
            ["scores.honesty.function=m:f"],
            "config.scores: only mocan reads it, and this configuration does not have it; remove it.",
        ),
        (
            ["constraints.honesty.margin=0.5"],
            "config.data.sources.honesty.path: is missing; name a JSON Lines file of preference pairs.",
        ),
        (
            ["data.sources.honesty.path=c"],
            "config.data.sources: is ['honesty'], names no dimension: reward and the constraints are "
            "dimensions.",
        ),
        (
            ["constraints.safety.groups.margin={}"],
            "config.constraints.safety.groups.margin: is {}, is empty; give one number, or one for a "
            "category.",
        ),
        (["constraints.honesty.margin=None"], "config.constraints.honesty.margin: no such field; see the"),
        (["constraints.safety.rate=often"], "--config.constraints.safety.rate=often: must be a number"),
    ],
)
def test_what_cannot_be_is_one_line(read, overrides, line):
    with pytest.raises(InputError) as caught:
        read("pecan:smollm2-135m", *FILES, *overrides)
    assert str(caught.value).startswith(line)


def test_the_way_of_a_file_is_replaced_field_by_field_where_it_has_several(tiny):
    def asked(*overrides: str) -> Any:
        given = tiny.copy_and_resolve_references()
        given.constraints.safety.update({"margin": None, "tail": {"share": 0.1, "cost": 0.5}})
        given.constraints.safety.groups.rate = 0.9
        make_room(given, [f"--config.constraints.safety.{override}" for override in overrides])
        return given.constraints.safety

    # Half of a tail changes that half; one number of groups stands in for another.
    assert asked("tail.share=0.2").tail.to_dict() == {"share": 0.1, "cost": 0.5}
    assert asked("tail.share=0.2").groups.rate is None
    other = asked("groups.margin=0.2")
    assert other.groups.rate is None and other.tail.to_dict() == {"share": None, "cost": None}
    assert asked("groups.column=topic").groups.rate == 0.9


def test_fields_that_a_file_leaves_out_can_be_set(tiny):
    del tiny.confidence
    safety: Any = ConfigDict({"margin": 1.0})
    tiny.constraints.safety = safety
    tiny.lock()
    make_room(tiny, ["--config.confidence=0.9", "--config.constraints.safety.tail.share=0.1", "--config.x=1"])
    assert tiny.confidence == 0.95 and safety.tail.share is None
    assert safety.margin is None and "x" not in tiny
    assert tiny.is_locked


def test_a_field_that_the_file_leaves_out_can_be_set_to_none():
    config: Any = ConfigDict({"method": "pecan", "constraints": {"safety": {"margin": 1.0}}})
    cli.unset(config, ["confidence", "test.kl"])
    assert config.confidence is None and config.test.kl is None
    assert config.constraints.safety.margin == 1.0


def test_a_field_that_no_setting_has_cannot_be_set_to_none():
    with pytest.raises(InputError, match=r"^config\.confidenc: no such field"):
        cli.unset(ConfigDict({"method": "pecan"}), ["confidenc"])


def test_what_the_command_line_takes_the_place_of_is_said(tiny):
    said = make_room(tiny, ["--config.constraints.safety.rate=0.9", "--config.seed=3"])
    assert said == [
        "constraints.safety: the command line's rate takes the place of margin 1.0 in the configuration file"
    ]
    assert make_room(tiny, ["--config.constraints.safety.rate=0.9"]) == []  # nothing was asked any more
    assert tiny.constraints.safety.margin is None


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("aling.steps=3", "config.aling: no such field; did you mean align? see"),
        ("align.batch_sise=3", "config.align.batch_sise: no such field; did you mean batch_size? see"),
        ("mesh.xyz=3", "config.mesh.xyz: no such field; config.mesh has data, fsdp, tensor; see"),
    ],
)
def test_a_field_that_is_not_there_is_named_with_the_nearest(tiny, override, line):
    with pytest.raises(InputError) as refused:
        refuse_unknown(tiny, ["train", f"--config.{override}"])
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize(
    "override", ["align.batch_size=3", "constraints.safety.margin=1", "refusals[0]=no", "scores.x.path=y"]
)
def test_other_fields_are_left_to_the_flag(tiny, override):
    refuse_unknown(tiny, ["train", f"--config.{override}", "--workdir=x"])
