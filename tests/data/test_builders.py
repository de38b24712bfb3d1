import gzip
import json
from pathlib import Path

import pytest

from alignjax.data import builders
from alignjax.data.builders.reading import find_prepared, parse_address, read_prepared
from alignjax.data.records import DataSource, Message, read_pairs
from alignjax.errors import InputError

PKU = {
    "response_0": "a",
    "response_1": "b",
    "better_response_id": 1,
    "safer_response_id": 0,
    "is_response_0_safe": True,
    "is_response_1_safe": False,
}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


def plain_pairs(n, prefix="p"):
    return [{"prompt": f"{prefix}{i}", "chosen": f"é{i}", "rejected": "b"} for i in range(n)]


def read(path, data_dir, **columns):
    return read_pairs(DataSource(path, data_dir=str(data_dir), **columns), "reward")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def hundred(folder):
    source = write(folder / "hundred.jsonl", plain_pairs(100))
    return builders.prepare("preference_jsonl", folder / "data", source)


def test_slices_are_exact_and_rows_say_where_they_are_from(folder, hundred):
    train = read(f"tfds:{hundred}:train[:90%]", folder / "data")
    held_out = read(f"tfds:{hundred}:train[90%:]", folder / "data")
    assert (len(train), len(held_out)) == (90, 10)
    assert {pair.prompt for pair in train + held_out} == {f"p{i}" for i in range(100)}
    assert all(pair.chosen == "é" + str(pair.prompt)[1:] for pair in train)
    lines = {pair.prompt: pair.where for pair in train + held_out}
    assert lines["p41"].endswith(" (hundred.jsonl:42)")
    assert len(read(f"tfds:{hundred}", folder / "data", limit=7)) == 7


def test_the_digest_may_be_left_out(folder, hundred):
    assert hundred.startswith("preference_jsonl/hundred-")
    whole = find_prepared(f"tfds:{hundred}:train", folder / "data")
    assert find_prepared("tfds:preference_jsonl/hundred:train", folder / "data") == whole
    assert whole.relative_to(folder / "data").as_posix() == f"{hundred}/1.0.0"


def test_columns_of_every_type_come_back(tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": "é"}], "chosen": "a", "rejected": "b", "votes": 3,
         "score": 1, "good": True, "response": ["x", "y"], "meta": {"source": {"id": 1}}, "tags": []},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "chosen": "c",
         "rejected": "d", "votes": -2, "score": 0.5, "good": False, "response": [],
         "meta": {"source": {"id": 2}}, "tags": ["t"]},
    ]  # fmt: skip
    name = builders.prepare("preference_jsonl", tmp_path / "data", write(tmp_path / "all.jsonl", rows))
    back = sorted(
        (row for _, row in read_prepared(f"tfds:{name}", tmp_path / "data")), key=lambda r: r["chosen"]
    )
    assert back == [rows[0] | {"score": 1.0}, rows[1]]
    assert [type(back[0][key]) for key in ("votes", "score", "good")] == [int, float, bool]
    pairs = {pair.chosen: pair for pair in read(f"tfds:{name}", tmp_path / "data")}
    assert pairs["a"].prompt == "é"
    assert pairs["c"].prompt == (Message("system", "s"), Message("user", "u"))


def test_pku_saferlhf(tmp_path):
    manual = tmp_path / "manual"
    write(manual / "data" / "one" / "train.jsonl", [PKU | {"prompt": "p", "ignored": None}])
    write(manual / "data" / "two" / "train.jsonl", [PKU | {"prompt": "q", "safer_response_id": 1}])
    write(manual / "test.jsonl.gz", [PKU | {"prompt": "r"}])
    name = builders.prepare("pku_saferlhf", tmp_path / "data", manual)
    assert name == builders.prepare("pku_saferlhf", tmp_path / "data", manual)  # prepared once
    source = DataSource("tfds:pku_saferlhf:train", data_dir=str(tmp_path / "data"))
    pairs = read_pairs(source, {"reward": "better_response_id", "safety": "safer_response_id"})
    labels = {pair.prompt: pair.labels for pair in pairs}
    assert labels == {"p": {"reward": 0.0, "safety": 1.0}, "q": {"reward": 0.0, "safety": 0.0}}
    assert pairs[0].safe == (True, False)
    assert {pair.where.rpartition("(")[2] for pair in pairs} == {"one/train.jsonl:1)", "two/train.jsonl:1)"}
    (test,) = read("tfds:pku_saferlhf:test", tmp_path / "data", label="better_response_id")
    assert (test.prompt, test.chosen, test.labels) == ("r", "a", {"reward": 0.0})


def test_real_pku_saferlhf(tmp_path):
    manual = Path(__file__).resolve().parents[3] / "shared" / "data" / "pku-saferlhf-500-both-dims"
    if not manual.exists():
        pytest.skip(f"the real data set is not in {manual}")
    name = builders.prepare("pku_saferlhf", tmp_path, manual)
    source = DataSource(f"tfds:{name}:train", data_dir=str(tmp_path))
    pairs = read_pairs(source, {"reward": "better_response_id", "safety": "safer_response_id"})
    assert len(pairs) == 500 and sum(p.labels["reward"] != p.labels["safety"] for p in pairs) == 117
    assert len(read(f"tfds:{name}:train[:90%]", tmp_path, label="safer_response_id")) == 450


def test_hh_rlhf(tmp_path):
    row = {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: x\n\nAssistant: b"}
    write(tmp_path / "manual" / "test.jsonl.gz", [row])
    name = builders.prepare("hh_rlhf", tmp_path / "data", tmp_path / "manual")
    (pair,) = read(f"tfds:{name}:test", tmp_path / "data")
    assert (pair.prompt, pair.chosen, pair.rejected) == ("x", "a", "b")


def test_a_changed_file_is_never_read_stale(tmp_path):
    data, source = tmp_path / "data", tmp_path / "pairs.jsonl"
    first = builders.prepare("preference_jsonl", data, write(source, plain_pairs(3)))
    # Same size, another content.
    write(source, plain_pairs(3, prefix="q"))
    with pytest.raises(
        InputError, match="pairs.jsonl has changed since the data was prepared; prepare it again"
    ):
        read("tfds:preference_jsonl:train", data)
    second = builders.prepare("preference_jsonl", data, source)
    assert first != second
    for name in ("preference_jsonl", "preference_jsonl/pairs", second):
        assert {pair.prompt for pair in read(f"tfds:{name}:train", data)} == {"q0", "q1", "q2"}
    with pytest.raises(InputError, match="has changed"):
        read(f"tfds:{first}:train", data)
    # Without the file nothing tells the two apart, so one has to be named.
    source.unlink()
    with pytest.raises(InputError, match=f"several prepared data sets .*; give one of tfds:.*{second}"):
        read("tfds:preference_jsonl/pairs:train", data)
    assert {pair.prompt for pair in read(f"tfds:{first}:train", data)} == {"p0", "p1", "p2"}


def test_addresses():
    assert parse_address("tfds:a/b:train[:90%]") == ("a/b", "train[:90%]")
    assert parse_address("tfds:a") == ("a", "train")
    with pytest.raises(InputError, match="names no data set"):
        parse_address("tfds::train")


def test_reading_errors(folder, hundred):
    with pytest.raises(InputError, match="nothing: .* holds no prepared data of that name"):
        read("tfds:nothing", folder / "data")
    with pytest.raises(InputError, match='there is no split "tarin"; write one of train'):
        read(f"tfds:{hundred}:tarin", folder / "data")
    with pytest.raises(InputError, match='"prompt_text" is missing'):
        read(f"tfds:{hundred}", folder / "data", prompt="prompt_text")


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("pku_saferlhf", [PKU], 'train.jsonl:1: "prompt" is missing'),
        ("preference_jsonl", [], "the files have no rows"),
        ("preference_jsonl", [{"a": "x"}, {"a": "x", "b": 1}], 'train.jsonl:2: "b" is not in every row'),
        ("preference_jsonl", [{"a": "x"}, {"a": 1}], '"a" is a whole number, in earlier rows a text'),
        ("preference_jsonl", [{"a": ["x"]}, {"a": [1]}], '"a" is a whole number, in earlier rows a text'),
        (
            "preference_jsonl",
            [{"a": {"b": 1}}, {"a": {"c": 1}}],
            "is an object of c, in earlier rows an object of b",
        ),
        ("preference_jsonl", [{"a": None}], 'train.jsonl:1: "a" is null'),
        ("preference_jsonl", [{"a": [[1]]}], 'train.jsonl:1: "a.0" is a list within a list'),
        ("preference_jsonl", [{"a": 2**63}], '"a" is 9223372036854775808, which no type can store'),
    ],
)
def test_preparing_errors_name_the_row(tmp_path, name, rows, expected):
    write(tmp_path / "manual" / "train.jsonl", rows)
    with pytest.raises(InputError) as caught:
        builders.prepare(name, tmp_path / "data", tmp_path / "manual")
    assert expected in str(caught.value)


def test_folder_errors(tmp_path):
    with pytest.raises(InputError, match="nowhere: is not a folder"):
        builders.prepare("hh_rlhf", tmp_path / "data", tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no .jsonl or"):
        builders.prepare("hh_rlhf", tmp_path / "data", tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        builders.prepare("preference_jsonl", tmp_path / "data", tmp_path / "nothing.jsonl")
    write(tmp_path / "train.jsonl", plain_pairs(1))
    write(tmp_path / "other.jsonl", plain_pairs(1))
    with pytest.raises(InputError, match="other.jsonl: its name begins with none of train"):
        builders.prepare("hh_rlhf", tmp_path / "data", tmp_path)
    with pytest.raises(InputError, match='"hh": no such TFDS builder; choose from preference_jsonl'):
        builders.prepare("hh", tmp_path / "data", tmp_path)
