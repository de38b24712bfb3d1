import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from alignjax.data.cleaning import clean
from alignjax.data.records import (
    DataSource,
    Message,
    PromptRow,
    prompt_key,
    read_pairs,
    read_prompt_rows,
)
from alignjax.errors import InputError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
SAFE_RLHF = {
    "prompt": "p",
    "response_0": "a",
    "response_1": "b",
    "better_response_id": 1,
    "safer_response_id": 0,
    "is_response_0_safe": True,
    "is_response_1_safe": False,
}
DIMENSIONS = {"reward": "better_response_id", "safety": "safer_response_id"}


def write(folder, *rows, name="pairs.jsonl"):
    path = folder / name
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def read(path, dimension: str | Mapping[str, str] = "reward", **columns):
    return read_pairs(DataSource(str(path), **columns), dimension)


def real(name):
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the real data set {name} is not in {REAL}")
    return path


def turn(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_trl_text_and_places(tmp_path, name):
    path = write(tmp_path, GOOD | {"prompt": "é"}, "\n", GOOD, name=name)
    first, second = read(path)
    assert (first.prompt, first.chosen, first.rejected, first.labels) == ("é", "a", "b", {"reward": 1.0})
    assert first.where == f"{path}:1" and second.where == f"{path}:3"
    assert len(read(path, limit=1)) == 1


CONVERSATION = [turn("system", "s"), turn("user", "u")]
REPLIES = {"chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]}
WHOLE = {side: CONVERSATION + reply for side, reply in REPLIES.items()}


@pytest.mark.parametrize(
    "row",
    [{"prompt": CONVERSATION, **REPLIES}, WHOLE, {"prompt": CONVERSATION, **WHOLE}],
    ids=["explicit", "implicit", "prompt repeated"],
)
def test_trl_message_lists(tmp_path, row):
    (pair,) = read(write(tmp_path, row))
    assert pair.prompt == (Message("system", "s"), Message("user", "u"))
    assert (pair.chosen, pair.rejected, pair.problem) == ("a", "b", "")


def test_one_user_message_is_the_same_prompt_as_its_text(tmp_path):
    as_text = {"prompt": "u", "chosen": "a", "rejected": "b"}
    as_list = {side: [turn("user", "u"), *reply] for side, reply in REPLIES.items()}
    first, second = read(write(tmp_path, as_text, as_list))
    assert first.prompt == second.prompt == "u"


def test_saferlhf_labels_of_several_dimensions(tmp_path):
    (pair,) = read_pairs(DataSource(str(write(tmp_path, SAFE_RLHF))), DIMENSIONS)
    assert (pair.chosen, pair.rejected) == ("a", "b")
    assert pair.labels == {"reward": 0.0, "safety": 1.0}
    assert pair.safe == (True, False)
    (single,) = read(write(tmp_path, SAFE_RLHF), "safety", label="safer_response_id")
    assert single.labels == {"safety": 1.0}


def test_dotted_columns(tmp_path):
    row = {"q": {"text": "p"}, "response": ["a", "b"], "a.b": "whole name first"}
    (pair,) = read(write(tmp_path, row), prompt="q.text", chosen="response.0", rejected="response.1")
    assert (pair.prompt, pair.chosen, pair.rejected) == ("p", "a", "b")
    (pair,) = read(write(tmp_path, row), prompt="a.b", chosen="response.0", rejected="response.1")
    assert pair.prompt == "whole name first"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"topic": "drugs"}, {"topic": "drugs"}),
        ({"topic": " drugs "}, {"topic": "drugs"}),
        # An object of true and false, as PKU-SafeRLHF has: the first that holds.
        ({"topic": {"a": False, "b": True, "c": True}}, {"topic": "b"}),
        ({"topic": {"a": False, "b": False}}, {"topic": "none"}),
        ({"topic": None}, {}),
        ({"topic": "  "}, {}),
        ({}, {}),
        ({"topic": "x", "meta": {"kind": "y"}}, {"topic": "x", "meta.kind": "y"}),
        ({"meta.kind": "whole name first", "meta": {"kind": "y"}}, {"meta.kind": "whole name first"}),
    ],
)
def test_categories(tmp_path, row, expected):
    (pair,) = read(write(tmp_path, GOOD | row), categories=("topic", "meta.kind"))
    assert pair.categories == expected
    assert read(write(tmp_path, GOOD | row))[0].categories == {}
    path = str(write(tmp_path, {"prompt": "p"} | row, name="prompts.jsonl"))
    assert read_prompt_rows(path, ("topic", "meta.kind")) == [PromptRow("p", expected, f"{path}:1")]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (3, "the number 3"),
        (True, "true"),
        (["a"], "a list"),
        ({"a": 1}, "an object of other values"),
        ({"a": "b"}, "an object of other values"),
    ],
)
def test_what_is_no_category_is_named(tmp_path, value, found):
    path = write(tmp_path, GOOD, GOOD | {"topic": value})
    with pytest.raises(InputError) as caught:
        read(path, categories=("topic",))
    line = (
        f'{path}:2: "topic" is {found}, must be a category: text, or an object of names with true or false;'
    )
    assert str(caught.value).startswith(line)


def test_categories_of_whole_conversations(tmp_path):
    row = {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: x\n\nAssistant: b"}
    (pair,) = read(write(tmp_path, row | {"topic": "t"}), categories=("topic",))
    assert (pair.prompt, pair.chosen, pair.categories) == ("x", "a", {"topic": "t"})


def test_hh_dialogue(tmp_path):
    before = "\n\nHuman: one\n\nwith a gap\n\nAssistant: two\n\nHuman: three\n\nHuman: four"
    row = {"chosen": f"{before}\n\nAssistant: yes", "rejected": f"{before}\n\nAssistant: no"}
    (pair,) = read(write(tmp_path, row))
    assert pair.prompt == (
        Message("user", "one\n\nwith a gap"),
        Message("assistant", "two"),
        Message("user", "three\n\nfour"),
    )
    assert (pair.chosen, pair.rejected) == ("yes", "no")


def test_conversations_that_are_no_pair_are_dropped_by_name(tmp_path):
    good = {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: x\n\nAssistant: b"}
    other_prompt = good | {"rejected": "\n\nHuman: y\n\nAssistant: b"}
    two_replies = good | {"chosen": "\n\nHuman: x\n\nAssistant: a\n\nAssistant: a"}
    no_reply = good | {"chosen": "\n\nHuman: x"}
    kept, counts = clean(read(write(tmp_path, good, other_prompt, two_replies, no_reply)))
    assert len(kept) == 1 and counts.unshared == 3 and counts.read == 4


def test_clean_counts_each_kind(tmp_path):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},  # duplicate
        {"prompt": "p", "chosen": "b", "rejected": "a"},  # the other order: kept
        {"prompt": "p", "chosen": " \n", "rejected": "a"},  # empty
        {"prompt": "\t", "chosen": "b", "rejected": "a"},  # empty
        {"prompt": "p", "chosen": "a", "rejected": "a"},  # identical
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ]
    kept, counts = clean(read(write(tmp_path, *rows)))
    assert counts._asdict() == {
        "read": 7,
        "empty": 2,
        "identical": 1,
        "duplicates": 1,
        "unshared": 0,
        "malformed": 0,
        "unlabelled": 0,
        "unsupported": 0,
        "single_responses": 0,
        "templated": 0,
        "unshown": 0,
        "both_orders": 1,
        "kept": 3,
    }
    assert [pair.where.rpartition(":")[2] for pair in kept] == ["1", "3", "7"]


def test_contradictory_ids_are_one_pair_in_both_orders(tmp_path):
    source = DataSource(str(write(tmp_path, SAFE_RLHF, SAFE_RLHF | {"better_response_id": 0})))
    kept, counts = clean(read_pairs(source, {"reward": "better_response_id"}))
    assert len(kept) == 2 and counts.both_orders == 1 and counts.duplicates == 0


@pytest.mark.parametrize(
    ("line", "columns", "expected"),
    [
        ("{'prompt': 1}\n", {}, ":2: is not JSON"),
        ("[1]\n", {}, ":2: is a list, must be a JSON object"),
        (
            {"prompt": "p", "chosen": "a"},
            {},
            ':2: "rejected" is missing; the row\'s columns are prompt, chosen',
        ),
        ({"chosen": "a", "rejected": "b"}, {}, ':2: "prompt" is missing'),
        (GOOD | {"chosen": None}, {}, ':2: "chosen" is null, must be text'),
        (GOOD | {"chosen": 3}, {}, ':2: "chosen" is the number 3, must be text'),
        (GOOD | {"rejected": {}}, {}, ':2: "rejected.0" must be a message'),
        (GOOD | {"prompt": []}, {}, ':2: "prompt" is an empty list'),
        (GOOD | {"prompt": ["x"]}, {}, ':2: "prompt.0" must be a message'),
        (GOOD | {"prompt": [{"role": "user", "content": None}]}, {}, ':2: "prompt.0.content" is null'),
        (GOOD | {"chosen": [turn("user", "x")]}, {}, ':2: "chosen" must hold the assistant\'s one reply'),
        (
            '{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}\n',
            {},
            ':2: "prompt" holds half of a surrogate',
        ),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path, line, columns, expected):
    path = write(tmp_path, GOOD, line)
    with pytest.raises(InputError) as caught:
        read(path, **columns)
    assert str(caught.value).startswith(f"{path}{expected}")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"better_response_id": 2}, ':1: "better_response_id" is 2, must be 0 or 1'),
        ({"better_response_id": -1}, ':1: "better_response_id" is -1, must be 0 or 1'),
        ({"better_response_id": "x"}, ':1: "better_response_id" is a text, must be 0 or 1'),
        ({"better_response_id": [0]}, ':1: "better_response_id" is a list, must be 0 or 1'),
        ({"better_response_id": None}, ':1: "better_response_id" is null'),
        ({"is_response_1_safe": 2}, ':1: "is_response_1_safe" is the number 2, must be true or false'),
    ],
)
def test_bad_labels(tmp_path, change, expected):
    path = write(tmp_path, SAFE_RLHF | change)
    with pytest.raises(InputError) as caught:
        read(path, label="better_response_id")
    assert str(caught.value).startswith(f"{path}{expected}")


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.jsonl: cannot be read \(No such file"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(InputError, match="pairs.jsonl: has no rows"):
        read(write(tmp_path, "\n\n"))
    with pytest.raises(InputError, match="limit is 0"):
        read(write(tmp_path, GOOD), limit=0)
    with pytest.raises(InputError, match="no dimension"):
        read(write(tmp_path, GOOD), {})
    (tmp_path / "bad.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(InputError, match=r"bad.jsonl:2: is not UTF-8 \(byte 12"):
        read(tmp_path / "bad.jsonl")
    (tmp_path / "text.jsonl.gz").write_bytes(b"plain")
    with pytest.raises(InputError, match="text.jsonl.gz: is a damaged gzip file"):
        read(tmp_path / "text.jsonl.gz")
    whole = gzip.compress(json.dumps(GOOD).encode() * 100)
    for cut in (whole[:-12], whole[:40] + b"\0\0\0\0\0\0" + whole[46:]):
        (tmp_path / "cut.gz").write_bytes(cut)
        with pytest.raises(InputError, match="cut.gz"):
            read(tmp_path / "cut.gz")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "w.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert read(tmp_path / "w.jsonl")[0].prompt == "p"


def test_real_pandalm():
    _, counts = clean(read(real("pandalm-helpfulness/pairs.jsonl")))
    assert counts.read == 888 and counts.empty == 52 and counts.identical == 0


def test_real_safety_pairs():
    path = real("pku-saferlhf-5k-safety-pairs/pairs.jsonl")
    kept, counts = clean(read(path, "safety", chosen="response.0", rejected="response.1"))
    assert counts.read == 4635 and counts.duplicates == 1318 and counts.both_orders == 112
    assert counts.kept == len(kept) == 3317
    assert len({prompt_key(pair.prompt) for pair in kept}) == 924


def test_real_both_dimensions():
    pairs, counts = clean(
        read_pairs(DataSource(str(real("pku-saferlhf-500-both-dims/rows.jsonl"))), DIMENSIONS)
    )
    assert counts.kept == 500
    assert sum(pair.labels["reward"] != pair.labels["safety"] for pair in pairs) == 117
    # One response safe: it always wins on safety.
    one_safe = [pair for pair in pairs if pair.safe is not None and pair.safe[0] != pair.safe[1]]
    assert len(one_safe) == 48
    assert all(pair.labels["safety"] == float(pair.safe[0]) for pair in one_safe if pair.safe is not None)


def test_categories_of_real_rows():
    path = real("pku-saferlhf-500-both-dims/rows.jsonl")
    pairs = read(path, "safety", label="safer_response_id", categories=("response_0_harm_category",))
    found = [pair.categories["response_0_harm_category"] for pair in pairs]
    rows = [json.loads(line)["response_0_harm_category"] for line in path.read_text().splitlines()]
    assert found.count("none") == sum(not any(row.values()) for row in rows) == 222
    assert all(found[i] == "none" or rows[i][found[i]] for i in range(len(rows)))


def test_real_hh_rlhf():
    pairs = read(real("hh-rlhf-harmless-test/test.jsonl.gz"), "safety")
    kept, counts = clean(pairs)
    assert counts.read == 2012 and counts.empty == 4 and counts.unshared == 4 and counts.kept == 2004
    lines = [int(pair.where.rpartition(":")[2]) - 1 for pair in pairs if pair.problem]
    assert lines == [1254, 1688, 1950, 1952]
    assert len({prompt_key(pair.prompt) for pair in kept}) == 2002
