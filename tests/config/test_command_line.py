"""Overrides of a configuration: None for any field, the last flag wins, unknown fields are named."""

import pytest

from alignjax import cli
from alignjax.errors import InputError


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
