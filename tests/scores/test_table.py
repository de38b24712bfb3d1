"""The score table: both formats, what is kept, and one line for everything that cannot be used."""

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignjax.errors import InputError
from alignjax.scores.table import ScoreTable, read_table, write_table

NAMES = ("safety", "honesty")
MASK = np.array([[True, True, True], [True, False, False]])
R, G = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(2, 3, 2) / 8
ARRAYS = {"rewards": R, "utilities": G, "names": np.array(NAMES)}
LINE = {"prompt_id": "p", "response": "a", "reward": -1.5, "utilities": {"safety": 1.25, "honesty": 0}}


def put(array: np.ndarray, at: Any, value: float) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


def save(folder: Path, **changes: Any) -> Path:
    """An .npz of the good arrays with changes; None takes an array away."""
    path = folder / "scores.npz"
    np.savez(path, **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
    return path


def lines(folder: Path, *rows: Any, name: str = "scores.jsonl") -> Path:
    path = folder / name
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def assert_equal(a: ScoreTable, b: ScoreTable) -> None:
    assert a.names == b.names and (a.mask is None) == (b.mask is None)
    for x, y in ((a.rewards, b.rewards), (a.utilities, b.utilities), (a.mask, b.mask)):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_npz_there_and_back(tmp_path, mask, kind):
    path = tmp_path / "new" / "scores.npz"
    table = ScoreTable(R.astype(kind), G.astype(kind), NAMES, mask)
    write_table(path, table)
    found = read_table(path)
    assert_equal(found, table)
    assert found.rewards.dtype == found.utilities.dtype == kind and found.prompt_ids is None
    assert [p.name for p in path.parent.iterdir()] == ["scores.npz"]


def test_equal_tables_give_equal_bytes(tmp_path):
    """Whatever the arrays' order in memory and the time of day."""
    tables = [
        ScoreTable(R, G, NAMES, MASK),
        ScoreTable(np.asfortranarray(R), np.asfortranarray(G), NAMES, np.asfortranarray(MASK)),
        ScoreTable(R.astype(">f8"), G.astype(">f8"), NAMES, MASK),
    ]
    for name in ("a.npz", "a.jsonl", "a.jsonl.gz"):
        found = []
        for i, table in enumerate(tables):
            path = tmp_path / str(i) / name
            write_table(path, table)
            found.append(path.read_bytes())
        assert found[0] == found[1] == found[2]


def test_integers_are_numbers_and_other_arrays_are_left_alone(tmp_path):
    table = read_table(save(tmp_path, rewards=R.astype(int), comment=np.array("mine")))
    assert table.rewards.dtype == np.float64
    np.testing.assert_array_equal(table.rewards, R)


def test_nan_where_the_mask_is_false_passes(tmp_path):
    table = read_table(
        save(tmp_path, rewards=put(R, (1, 2), np.nan), utilities=put(G, (1, 1), np.inf), mask=MASK)
    )
    assert np.isnan(table.rewards[1, 2]) and table.mask is not None


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.jsonl.gz"])
def test_json_lines_by_hand(tmp_path, name):
    """Prompts in order of appearance, their lines anywhere; constraints in the order of the first line."""
    rows = [
        LINE,
        {"prompt_id": 7, "reward": 2, "utilities": {"honesty": 4.0, "safety": 3}, "extra": []},
        "\n",
        LINE | {"response": "é", "reward": 0.5},
    ]
    table = read_table(lines(tmp_path, *rows, name=name))
    assert table.names == NAMES and table.prompt_ids == ("p", 7)
    assert table.responses == (("a", "é"), (None, None))
    np.testing.assert_array_equal(table.rewards, [[-1.5, 0.5], [2.0, np.nan]])
    np.testing.assert_array_equal(table.utilities[:, 0], [[1.25, 0.0], [3.0, 4.0]])
    np.testing.assert_array_equal(table.mask, [[True, True], [True, False]])


def test_json_lines_without_texts_or_gaps(tmp_path):
    row = {name: LINE[name] for name in ("prompt_id", "reward", "utilities")}
    table = read_table(lines(tmp_path, row, row))
    assert table.responses is None and table.mask is None and table.rewards.shape == (1, 2)


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.jsonl.gz"])
def test_json_lines_there_and_back(tmp_path, name):
    texts = (("a", "b", None), ("\u2028 é", None, None))
    table = ScoreTable(np.where(MASK, R / 3, np.nan), G / 7, NAMES, MASK, ("x", 2), texts)
    path = tmp_path / name
    write_table(path, table)
    found = read_table(path)
    assert_equal(found, table._replace(utilities=np.where(MASK[..., None], G / 7, np.nan)))
    assert found.prompt_ids == ("x", 2) and found.responses == texts


@pytest.mark.parametrize("name", ["scores.npz", "scores.jsonl", "scores.jsonl.gz"])
def test_categories_there_and_back(tmp_path, name):
    path = tmp_path / name
    write_table(path, ScoreTable(R, G, NAMES, categories=("theft", None)))
    assert read_table(path).categories == ("theft", None)
    write_table(path, ScoreTable(R, G, NAMES, categories=(None, None)))
    assert read_table(path).categories is None
    with pytest.raises(InputError, match="has 1 categories for 2 prompts; give one each"):
        write_table(path, ScoreTable(R, G, NAMES, categories=("theft",)))


def test_a_category_belongs_to_all_lines_of_its_prompt(tmp_path):
    theft = LINE | {"category": "theft"}
    found = read_table(lines(tmp_path, theft, LINE | {"prompt_id": 7, "category": None}, theft))
    assert found.categories == ("theft", None)
    for other, shown in (({}, "null"), ({"category": "fraud"}, '"fraud"')):
        path = lines(tmp_path, theft, LINE | other)
        with pytest.raises(InputError) as caught:
            read_table(path)
        assert str(caught.value) == (
            f'{path}:2: "category" is {shown}, but "theft" in an earlier line of the same prompt; give all '
            "its lines the same."
        )


def test_json_lines_number_the_prompts_of_a_table_without_ids(tmp_path):
    path = tmp_path / "scores.jsonl"
    write_table(path, ScoreTable(R, G, NAMES))
    assert path.read_text().splitlines()[3] == (
        '{"prompt_id": 1, "reward": 3.0, "utilities": {"safety": 0.75, "honesty": 0.875}}'
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_both_formats_say_the_same(tmp_path, data):
    n, k, m = (data.draw(st.integers(1, 4)) for _ in range(3))
    number = st.floats(-1e15, 1e15, allow_subnormal=True)
    name = st.text(min_size=1, max_size=8).filter(lambda t: t.strip() and "\0" not in t)
    names = data.draw(st.lists(name.filter(lambda t: t.isprintable()), min_size=m, max_size=m, unique=True))
    counts = data.draw(st.lists(st.integers(1, k), min_size=n, max_size=n))
    counts[0] = k
    rewards = np.array(data.draw(st.lists(number, min_size=n * k, max_size=n * k))).reshape(n, k)
    utilities = np.array(data.draw(st.lists(number, min_size=n * k * m, max_size=n * k * m))).reshape(n, k, m)
    mask = np.arange(k) < np.array(counts)[:, None]
    rewards, utilities = np.where(mask, rewards, np.nan), np.where(mask[..., None], utilities, np.nan)
    table = ScoreTable(rewards, utilities, tuple(names), None if mask.all() else mask)
    for suffix in ("npz", "jsonl"):
        write_table(tmp_path / f"t.{suffix}", table)
        assert_equal(read_table(tmp_path / f"t.{suffix}"), table)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (
        {"utilities": None},
        'has no array "utilities", only names, rewards; save rewards [N, K]',
    ),
    "names kind": ({"names": np.array([1, 2])}, "names is int64 of shape (2,), must be a list of texts"),
    "names shape": ({"names": np.array("safety")}, "names is <U6 of shape (), must be a list of texts"),
    "complex": ({"rewards": R + 0j}, "rewards is complex128, must be numbers; save it as float32"),
    "bool": ({"utilities": G > 0}, "utilities is bool, must be numbers"),
    "text": ({"rewards": R.astype(str)}, "rewards is <U32, must be numbers"),
    "objects": (
        {"rewards": R.astype(object)},
        'array "rewards" holds Python objects, which are never loaded',
    ),
    "rewards flat": (
        {"rewards": R[0]},
        "rewards has shape (3,), must be [prompts, responses], both at least 1",
    ),
    "empty": ({"rewards": R[:0], "utilities": G[:0]}, "rewards has shape (0, 3)"),
    "utilities flat": (
        {"utilities": R},
        "utilities has shape (2, 3), must be rewards' shape (2, 3) and one column",
    ),
    "utilities cut": ({"utilities": G[:1]}, "utilities has shape (1, 3, 2), must be"),
    "no constraint": ({"utilities": G[..., :0]}, "utilities has shape (2, 3, 0), must be"),
    "count": ({"names": np.array(["safety"])}, "has 1 names for 2 columns of utilities"),
    "twice": (
        {"names": np.array(["a", "a"])},
        "name 'a' is empty or given twice; give each constraint its own name",
    ),
    "no name": ({"names": np.array(["a", " "])}, "name ' ' is empty or given twice"),
    "mask kind": (
        {"mask": MASK.astype(int)},
        "mask is int64 of shape (2, 3), must be bool of rewards' shape (2, 3)",
    ),
    "mask shape": ({"mask": MASK[:1]}, "mask is bool of shape (1, 3), must be bool"),
    "categories kind": (
        {"categories": np.array([1, 2])},
        "categories is int64 of shape (2,), must be a text for each prompt; save categories=np.array([",
    ),
    "categories shape": ({"categories": np.array("a")}, "categories is <U1 of shape (), must be a text for"),
    "categories count": ({"categories": np.array(["a"])}, "has 1 categories for 2 prompts; give one each"),
    "masked": (
        {"mask": MASK & [[True], [False]]},
        "prompt 1 has no response, because its mask is all False",
    ),
    "nan": (
        {"rewards": put(R, (1, 2), np.nan)},
        "rewards is nan at prompt 1, sample 2 (1 such values in all); repair",
    ),
    "inf": (
        {"utilities": put(G, (slice(None), 1, 1), -np.inf)},
        "utilities of 'honesty' is -inf at prompt 0, sample 1 (2 such values in all); repair",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays(tmp_path, changes, message):
    path = save(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


BAD_LINES: dict[str, tuple[tuple[Any, ...], str]] = {
    "empty": ((), ": holds no lines; write one response per line"),
    "blank": (("\n\n",), ": holds no lines"),
    "json": ((LINE, "{,}\n"), ":2: is not JSON"),
    "list": (("[]\n",), ":1: is a list, must be a JSON object"),
    "no reward": (({"prompt_id": 1, "utilities": {"s": 1}},), ':1: has no "reward"; add it'),
    "no id": ((LINE, {k: v for k, v in LINE.items() if k != "prompt_id"}), ':2: has no "prompt_id"; add it'),
    "no utilities": (({"prompt_id": 1, "reward": 1},), ':1: has no "utilities"; add it'),
    "utilities kind": ((LINE | {"utilities": [1]},), ':1: "utilities" is [1], must be an object of numbers'),
    "utilities none": ((LINE | {"utilities": {}},), ':1: "utilities" is {}, must be an object'),
    "text": ((LINE | {"reward": "1"},), ':1: "reward" is "1", must be a number'),
    "bool": ((LINE | {"reward": True},), ':1: "reward" is true, must be a number'),
    "null": (
        (LINE, LINE | {"utilities": {"safety": None, "honesty": 1}}),
        ':2: "safety" is null, must be a number',
    ),
    "nan": (
        (LINE, "\n", LINE | {"reward": np.nan}),
        ':3: "reward" is nan, must be finite; repair the score or remove',
    ),
    "inf": ((LINE | {"utilities": {"safety": -np.inf}},), ':1: "safety" is -inf, must be finite'),
    "huge": ((LINE | {"reward": 10**400},), ':1: "reward" is inf, must be finite'),
    "id kind": ((LINE | {"prompt_id": 1.5},), ':1: "prompt_id" is 1.5, must be a text or an integer'),
    "id bool": ((LINE | {"prompt_id": False},), ':1: "prompt_id" is false'),
    "response": (
        (LINE | {"response": ["a" * 99]},),
        ':1: "response" is ["' + "a" * 35 + "..., must be a text",
    ),
    "category": ((LINE | {"category": 3},), ':1: "category" is 3, must be a text'),
    "no name": ((LINE | {"utilities": {"": 1}},), ": name '' is empty or given twice"),
}


@pytest.mark.parametrize(("rows", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_lines(tmp_path, rows, message):
    path = lines(tmp_path, *rows)
    with pytest.raises(InputError) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path) + message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "other", [{"safety": 1}, {"safety": 1, "honesty": 1, "tact": 1}, {"safety": 1, "Honesty": 1}]
)
def test_constraints_that_differ_between_lines(tmp_path, other):
    path = lines(tmp_path, LINE, LINE | {"utilities": other})
    with pytest.raises(InputError) as caught:
        read_table(path)
    here = ", ".join(other)
    assert str(caught.value) == (
        f"{path}:2: has constraints {here}, but {path}:1 has safety, honesty; give every line the same."
    )


@pytest.mark.parametrize("name", ["scores.csv", "scores", "scores.json", "scores.npz.gz"])
def test_unknown_suffix(tmp_path, name):
    for act in (read_table, lambda path: write_table(path, ScoreTable(R, G, NAMES))):
        with pytest.raises(InputError, match=r"must end in .npz, .jsonl or .jsonl.gz"):
            act(tmp_path / name)


@pytest.mark.parametrize("name", ["scores.npz", "scores.jsonl"])
def test_missing_file_and_a_folder_in_its_place(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=r"cannot be read \(No such file or directory\); check the path"):
        read_table(str(path))
    path.mkdir()
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); check the path"):
        read_table(path)
    with pytest.raises(InputError, match=r"cannot be written \(.*\); check the path"):
        write_table(path, ScoreTable(R, G, NAMES))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_no_archive(tmp_path):
    path = tmp_path / "scores.npz"
    array = io.BytesIO()
    np.save(array, R)
    for content in (b"", b"rewards", array.getvalue(), save(tmp_path).read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not an .npz archive; save it with np.savez"):
            read_table(path)


def test_an_entry_that_is_no_array(tmp_path):
    path = save(tmp_path, rewards=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards", b"1 2 3")
    with pytest.raises(InputError, match='"rewards" is not an array; save it with np.savez'):
        read_table(path)


# A damaged header may look like one of Python 2 to numpy, which then warns.
@pytest.mark.filterwarnings(
    "ignore:Reading `.npy` or `.npz` file required additional header parsing:UserWarning"
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_an_input_error_or_a_table(tmp_path, data):
    content = bytearray(save(tmp_path, mask=MASK).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    try:
        read_table(path)
    except InputError as error:
        assert str(error).startswith(str(path))


def test_writing_refuses_what_reading_would_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "scores.npz"
    write_table(path, ScoreTable(R, G, NAMES))
    before = path.read_bytes()
    with pytest.raises(InputError, match="rewards is nan at prompt 0, sample 0"):
        write_table(path, ScoreTable(R * np.nan, G, NAMES))
    assert path.read_bytes() == before


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "scores.npz"
    write_table(path, ScoreTable(R, G, NAMES))
    before = path.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, ScoreTable(2 * R, G, NAMES))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
