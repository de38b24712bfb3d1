"""The codec: what is written comes back, and what does not fit is refused by its field, whatever it is."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.errors import InputError
from alignjax.records import Figure, decode, encode, read_record
from alignjax.records.answer import (
    Asked,
    PromptMargin,
)
from alignjax.records.calibration import CalibrationRecord, Reliability, Slope
from alignjax.records.codec import read_json
from alignjax.records.evaluation import Evaluation, PolicyResult
from alignjax.runtime.files import write_record


@dataclasses.dataclass(frozen=True)
class Inner:
    number: float
    text: str = "default"


@dataclasses.dataclass(frozen=True)
class Outer:
    """One field of every kind."""

    FORMAT: ClassVar[int] = 7

    count: int
    flag: bool
    inner: Inner
    rows: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "a")
    by_name: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    nested: Mapping[str, Mapping[str, Inner]] = dataclasses.field(default_factory=dict)
    either: str | int = 0
    maybe: Inner | None = None
    anything: Any = None


@dataclasses.dataclass(frozen=True)
class Held:
    array: np.ndarray
    maybe: np.ndarray | None = None


BARE: dict[str, Any] = {"format": 7, "count": 3, "flag": True, "inner": {"number": 0.5}}

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(max_size=8)  # any characters: surrogates are left out by default


def by_name(values):
    return st.dictionaries(NAMES, values, max_size=3)


def tuples(values):
    return st.lists(values, max_size=4).map(tuple)


INNERS = st.builds(Inner, FINITE, NAMES)
OUTERS = st.builds(
    Outer,
    st.integers(),
    st.booleans(),
    INNERS,
    tuples(INNERS),
    st.tuples(st.integers(), NAMES),
    by_name(FINITE | st.none()),
    by_name(by_name(INNERS)),
    NAMES | st.integers(),
    INNERS | st.none(),
    st.recursive(
        st.none() | FINITE | NAMES | st.booleans(), lambda x: st.lists(x) | by_name(x), max_leaves=5
    ),
)


@settings(max_examples=60, deadline=None)
@given(OUTERS)
def test_a_record_comes_back_through_json(record):
    text = json.dumps(encode(record), allow_nan=False)
    assert decode(type(record), json.loads(text), "it") == record


def test_arrays_come_back_as_float64(tmp_path):
    record = CalibrationRecord(
        kind="joint",
        dimensions=("reward", "safety"),
        matrix=np.array([[1.0, 0.1], [1 / 3, np.pi]]),
        covariances=np.arange(8, dtype=np.float32).reshape(2, 2, 2),
        unexplained=None,
        slopes={"reward": Slope(1.0, 0.5, 1.5)},
        num_held_out={"reward": 12},
        findings=("a", "b"),
        stops=(),
        reliability={"reward": Reliability((0.25,), (0.5,), (12,))},
    )
    write_record(tmp_path / "calibration.json", record)
    found = read_record(CalibrationRecord, tmp_path / "calibration.json")
    np.testing.assert_array_equal(found.matrix, record.matrix)
    np.testing.assert_array_equal(found.covariances, record.covariances)
    assert found.matrix.dtype == found.covariances.dtype == np.float64 and found.unexplained is None
    assert dataclasses.replace(found, matrix=0, covariances=0) == dataclasses.replace(
        record, matrix=0, covariances=0
    )


def test_numpy_numbers_and_other_sequences_are_written_as_json():
    value = encode({1: np.float64(0.5), "b": (np.int64(3), np.bool_(True)), "c": [np.arange(2)]})
    assert value == {"1": 0.5, "b": [3, True], "c": [[0, 1]]}
    assert [type(x) for x in value["b"]] == [int, bool]


def test_missing_fields_take_their_defaults_and_whole_numbers_are_floats():
    found = decode(Outer, BARE | {"inner": {"number": 2}}, "it")
    assert found == Outer(3, True, Inner(2.0)) and type(found.inner.number) is float


def test_fields_that_a_record_may_lack_are_left_out_where_they_are_none():
    zero = Figure(0.0, 0.0, 0.0)
    given = PolicyResult(zero, zero, zero, {}, {}, zero, zero, zero, zero, kl_from_optimum=zero)
    value = encode(given)
    assert "true_reward" not in value and "true_margins" not in value
    assert value["kl_from_optimum"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert decode(PolicyResult, value, "it") == given
    assert decode(PolicyResult, value | {"true_reward": None}, "it") == given
    assert encode(Asked(1.0)) == {"margin": 1.0, "level": None, "fraction": None, "rate": None}  # they stay


def test_the_first_alternative_that_takes_a_value_is_used():
    assert decode(PromptMargin, {"prompt": 3, "margin": 0}, "it") == PromptMargin(3, 0.0)
    assert decode(PromptMargin, {"prompt": "3", "margin": 0}, "it") == PromptMargin("3", 0.0)
    one = {"mean": 0, "low": 0, "high": 0}
    value = {
        "format": 3,
        "asked": {},
        "policies": {},
        "contests": {},
        "predicted": {"a": one, "b": {"mean": one}},
        "verdicts": {},
        "look": 1,
        "spent": 0,
        "power": {},
        "headline": {"state": "", "sentence": ""},
    }
    zero = Figure(0.0, 0.0, 0.0)
    assert decode(Evaluation, value, "it").predicted == {"a": zero, "b": {"mean": zero}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1.5}, "it.count: is 1.5 of type float, must be int."),
        ({"count": "3"}, "it.count: is '3' of type str, must be int."),
        ({"count": True}, "it.count: is True of type bool, must be int."),
        ({"count": None}, "it.count: is None of type NoneType, must be int."),
        ({"flag": 1}, "it.flag: is 1 of type int, must be bool."),
        ({"flag": "true"}, "it.flag: is 'true' of type str, must be bool."),
        ({"inner": 3}, "it.inner: is 3, must be a table of fields."),
        ({"inner": [["number", 1]]}, "it.inner: is [['number', 1]], must be a table of fields."),
        ({"inner": {}}, "it.inner.number: is missing; set it."),
        ({"inner": {"number": 1, "nubmer": 2}}, "it.inner.nubmer: no such field; it.inner has number, text."),
        ({"inner": {"number": True}}, "it.inner.number: is True of type bool, must be float."),
        ({"inner": {"number": "1"}}, "it.inner.number: is '1' of type str, must be float."),
        ({"inner": {"number": math.nan}}, "it.inner.number: is nan, must be a finite number."),
        ({"inner": {"number": -math.inf}}, "it.inner.number: is -inf, must be a finite number."),
        ({"inner": {"number": 10**400}},
         "it.inner.number: is a whole number of 401 digits; must fit a float."),
        ({"inner": {"number": 1, "text": None}}, "it.inner.text: is None of type NoneType, must be str."),
        ({"rows": {"number": 1}}, "it.rows: is {'number': 1}, must be a list."),
        ({"rows": "ab"}, "it.rows: is 'ab', must be a list."),
        ({"rows": [{"number": 1}, {"number": "x"}]},
         "it.rows[1].number: is 'x' of type str, must be float."),
        ({"pair": [1]}, "it.pair: has 1 entries, must have 2."),
        ({"pair": [1, "a", "b"]}, "it.pair: has 3 entries, must have 2."),
        ({"pair": ["a", 1]}, "it.pair[0]: is 'a' of type str, must be int."),
        ({"by_name": [1]}, "it.by_name: is [1], must be a table by name."),
        ({"by_name": {"a": 1, "b": "x"}}, "it.by_name.b: is 'x' of type str, must be float."),
        ({"nested": {"a": {"b": {"number": []}}}},
         "it.nested.a.b.number: is [] of type list, must be float."),
        ({"either": 1.5}, "it.either: is 1.5 of type float, must be int."),
        ({"maybe": 1}, "it.maybe: is 1, must be a table of fields."),
        ({"extra": 1},
         "it.extra: no such field; it has anything, by_name, count, either, flag, inner, maybe, nested, "
         "pair, rows."),
        ({"format": 6},
         "it: has format 6, this version of alignjax reads format 7; use the version that wrote it, or run "
         "again in a new folder."),
        ({"format": "7"},
         "it: has format '7', this version of alignjax reads format 7; use the version that wrote it, or run "
         "again in a new folder."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(InputError) as caught:
        decode(Outer, BARE | change, "it")
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["count", "flag", "inner"])
def test_a_missing_field_is_named(name):
    with pytest.raises(InputError, match=f"^it.{name}: is missing; set it.$"):
        decode(Outer, {k: v for k, v in BARE.items() if k != name}, "it")


def test_a_record_without_a_format_number_is_another_format():
    with pytest.raises(InputError, match="^it: has format None, this version of alignjax reads format 7"):
        decode(Outer, {k: v for k, v in BARE.items() if k != "format"}, "it")
    with pytest.raises(InputError, match=r"^it\.format: no such field"):  # one that has no format
        decode(Inner, {"format": 1, "number": 1}, "it")


@pytest.mark.parametrize("value", [None, [], "text", 3, True])
def test_what_is_no_table_is_refused(value):
    with pytest.raises(InputError, match="^it: is .*, must be a table of fields"):
        decode(Outer, value, "it")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], [3]], "must be a list of numbers, nested evenly"),
        ({"a": 1}, "must be a list of numbers"),
        ("1.5", "must be a list of numbers"),
        (["1.5"], "must be a list of numbers"),
        ([1, "x"], "must be a list of numbers"),
        ([True, False], "must be a list of numbers"),
        ([1.0, None], "must be a list of numbers"),
        (1.0, "must be a list of numbers"),
        (None, "must be a list of numbers"),
        ([1.0, math.nan], "holds a number that is not finite"),
        ([math.inf], "holds a number that is not finite"),
        ([10**400], "must be a list of numbers"),
        ([1, [2, [3]]], "must be a list of numbers"),
    ],
)
def test_what_is_no_array_is_refused(value, message):
    with pytest.raises(InputError, match=rf"^it\.array: {message}"):
        decode(Held, {"array": value}, "it")


def test_arrays_of_any_even_nesting_are_read():
    assert decode(Held, {"array": []}, "it").array.shape == (0,)
    found = decode(Held, {"array": [[[1], [2]]], "maybe": [3]}, "it")
    assert found.array.shape == (1, 2, 1) and found.maybe is not None and found.maybe.tolist() == [3.0]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64(np.nan), np.array([np.inf])])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, number):
    with pytest.raises(ValueError, match="Out of range"):
        write_record(tmp_path / "x.json", Outer(1, True, Inner(0.0), anything={"a": [number]}))
    assert not list(tmp_path.iterdir())


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("field", ["count", "inner", "rows", "pair", "by_name", "either", "maybe"])
@pytest.mark.parametrize("levels", [70, 100_000])
def test_values_of_any_depth_are_refused_in_one_short_line(field, levels):
    with pytest.raises(InputError) as caught:
        decode(Outer, BARE | {field: deep(levels)}, "it")
    assert str(caught.value).startswith(f"it.{field}") and len(str(caught.value)) < 300


def test_an_array_of_any_depth_is_refused():
    with pytest.raises(InputError, match=r"^it\.array: must be a list of numbers"):
        decode(Held, {"array": deep(200)}, "it")


@pytest.mark.parametrize("value", ["x" * 100_000, list(range(100_000)), {str(i): i for i in range(9999)}])
def test_large_values_are_shown_in_part(value):
    with pytest.raises(InputError) as caught:
        decode(Outer, BARE | {"flag": value}, "it")
    assert str(caught.value).startswith("it.flag: is ") and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"format": 7,', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"9" * 10_000, "is not valid JSON"),
        (b"{} {}", "is not valid JSON"),
        (b"NaN", "is nan, must be a table of fields"),
        (b"[1]", r"is \[1\], must be a table of fields"),
    ],
)
def test_files_that_hold_no_record_are_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"^\S*/x\.json: {message}") as caught:
        read_record(Outer, tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.json: is missing\.$"):
        read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match=r"none/x\.json: is missing\.$"):
        read_json(tmp_path / "none" / "x.json")


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(list(Outer.__annotations__)), x),
        max_leaves=12,
    )
)
def test_any_json_is_a_record_or_refused(value):
    given_value = BARE | value if isinstance(value, dict) else value
    try:
        found = decode(Outer, given_value, "it")
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith("it")
    else:
        assert decode(Outer, encode(found), "it") == found or given_value != given_value


def test_reading_a_record_starts_no_backend():
    # `alignjax --help` and messages about files must not wait for devices.
    import subprocess
    import sys

    code = "import sys, alignjax.records.codec; print('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    assert Path(encode.__code__.co_filename).name == "codec.py"
