import pytest

from alignjax.data.labels import read_label
from alignjax.data.rows import Row, RowError
from alignjax.errors import InputError

NUMBERED, NAMED, ARENA = ("response_0", "response_1"), ("chosen", "rejected"), ("response_a", "response_b")
SHP = ("human_ref_A", "human_ref_B")


def label(value, column="label", means="auto", responses=NUMBERED, **others):
    return read_label(Row("f:1", {column: value, **others}), column, means, responses)


@pytest.mark.parametrize(
    ("value", "column", "responses", "expected"),
    [
        # The id of the better response.
        *((value, "better_response_id", NUMBERED, 1.0) for value in (0, 0.0, "0", False, "false")),
        *((value, "label", NUMBERED, 0.0) for value in (1, 1.0, "1", True, "True")),
        # The share that chose "chosen", as labels.jsonl has it.
        *((value, "label", NAMED, float(value)) for value in (1, 0, 0.7, True, "1")),
        # SHP: 1 means A.
        *((value, "labels", SHP, float(value)) for value in (0, 1)),
        # HelpSteer3: -3 the first is much better, 3 the second.
        *((v, "overall_preference", ("response1", "response2"), float(v < 0)) for v in (-3, -1, 1, 2, 3)),
        (0, "overall_preference", ("response1", "response2"), 0.5),
        # Names say it themselves.
        *((v, "winner", ARENA, 1.0) for v in ("model_a", "A", "a", "response_a", "first")),
        *((v, "winner", ARENA, 0.0) for v in ("model_b", "B", "b", "response_b", "second")),
        *((v, "winner", ARENA, 0.5) for v in ("tie", "tie (bothbad)")),
        ("chosen", "better", NAMED, 1.0),
    ],
)
def test_what_names_and_values_show(value, column, responses, expected):
    assert label(value, column, responses=responses) == expected


@pytest.mark.parametrize(("a", "b", "tie", "expected"), [(1, 0, 0, 1.0), (0, 1, 0, 0.0), (0, 0, 1, 0.5)])
def test_arena(a, b, tie, expected):
    row = {"winner_model_a": a, "winner_model_b": b, "winner_tie": tie}
    for column in ("winner_model_a", "winner_model_b"):
        assert read_label(Row("f:1", row), column, "auto", ARENA) == expected


@pytest.mark.parametrize(
    ("means", "value", "expected"),
    [
        ("first", 0.7, 0.7),
        ("second", 0.75, 0.25),
        ("second", 1, 0.0),
        ("strength", -2, 1.0),
        ("strength", 0, 0.5),
    ],
)
def test_a_given_meaning(means, value, expected):
    assert label(value, "x", means, ARENA) == expected


@pytest.mark.parametrize("value", [1, 0, 0.7, -2, 3])
def test_what_nothing_shows_is_asked_for_and_not_dropped(value):
    with pytest.raises(InputError, match="label_means=first, second or strength") as caught:
        label(value, "better", responses=ARENA)
    assert not isinstance(caught.value, RowError)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "unlabelled"),
        (" ", "unlabelled"),
        ("x", "malformed"),
        ([], "malformed"),
        (2, "malformed"),
        (float("nan"), "malformed"),
    ],
)
def test_rows_without_a_usable_label(value, kind):
    with pytest.raises(RowError) as caught:
        label(value, "better_response_id")
    assert caught.value.kind == kind and str(caught.value).startswith('f:1: "better_response_id" is ')
