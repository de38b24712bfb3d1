"""The flags of solve that say what is asked of each constraint."""

import pytest

from alignjax.asked_flags import parse_asked
from alignjax.config import ConstraintSettings, GroupSettings, TailSettings
from alignjax.errors import InputError

GOOD = {
    ("margin", "a=1"): ("a", ConstraintSettings(margin=1.0)),
    ("margin", "b=c=-2e1"): ("b=c", ConstraintSettings(margin=-20.0)),
    ("level", "a=0"): ("a", ConstraintSettings(level=0.0)),
    ("fraction", "d=0.5"): ("d", ConstraintSettings(fraction=0.5)),
    ("rate", "a=0.95"): ("a", ConstraintSettings(rate=0.95)),
    ("tail", "a=0.05:-2"): ("a", ConstraintSettings(tail=TailSettings(0.05, -2.0))),
    ("groups", "a=1.5"): ("a", ConstraintSettings(groups=GroupSettings(margin=1.5))),
    ("groups", "a=theft:1,data: x:-2"): (
        "a",
        ConstraintSettings(groups=GroupSettings(margin={"theft": 1.0, "data: x": -2.0})),
    ),
    ("group_level", "a=-1"): ("a", ConstraintSettings(groups=GroupSettings(level=-1.0))),
    ("group_rate", "a=theft:0.9"): ("a", ConstraintSettings(groups=GroupSettings(rate={"theft": 0.9}))),
}


@pytest.mark.parametrize(("flag", "asked"), GOOD.items())
def test_what_is_asked(flag, asked):
    kind, text = flag
    name, settings = asked
    assert parse_asked({kind: [text]}) == {name: (settings, f"--{kind}={text}")}


def test_several_constraints():
    found = parse_asked({"rate": ["b=0.5"], "margin": ["a=1", "c=2"], "tail": []})
    assert {name: request.settings.given for name, request in found.items()} == {
        "a": ("margin",),
        "c": ("margin",),
        "b": ("rate",),
    }


BAD = {
    ("level", "x"): "--level=x: must be a constraint's name and what is asked; write --level=NAME=NUMBER.",
    ("tail", "=1"): "--tail==1: must be a constraint's name and what is asked; write --tail=NAME=SHARE:COST.",
    ("tail", "a=0.1"): "--tail=a=0.1: must be a share and a cost; write --tail=NAME=SHARE:COST.",
    ("tail", "a=1:2"): "--tail=a=1:2: must lie between 0 and 1, it is a share of the responses.",
    ("tail", "a=0.1:inf"): "--tail=a=0.1:inf: 'inf' is not finite.",
    ("rate", "a=95"): "--rate=a=95: must lie between 0 and 1, it is a probability.",
    ("group_rate", "a=b:1"): "--group_rate=a=b:1: must lie between 0 and 1, it is a probability.",
    ("group_rate", "a=0"): "--group_rate=a=0: must lie between 0 and 1, it is a probability.",
    ("groups", "a=x"): "--groups=a=x: 'x' is not a number.",
    ("groups", "a=b:x"): "--groups=a=b:x: 'x' is not a number.",
    ("groups", "a=b:1,c"): "--groups=a=b:1,c: 'c' is no category with its number, or the category was there",
    ("groups", "a=b:1,b:2"): "--groups=a=b:1,b:2: 'b:2' is no category with its number, or the category was",
    ("groups", "a=:1"): "--groups=a=:1: ':1' is no category with its number",
}


@pytest.mark.parametrize(("flag", "message"), BAD.items())
def test_what_cannot_be_asked(flag, message):
    kind, text = flag
    with pytest.raises(InputError) as caught:
        parse_asked({kind: [text]})
    assert str(caught.value).startswith(message)


def test_a_constraint_is_asked_for_once():
    with pytest.raises(
        InputError, match=r"--rate=a=0.5: 'a' is asked for already by --margin=a=1; give each"
    ):
        parse_asked({"margin": ["a=1"], "rate": ["a=0.5"]})
