import json

import pytest

from alignjax.data.cleaning import canonical, clean
from alignjax.data.records import DataSource, Message, read_pairs
from alignjax.errors import InputError

REPLIES = [
    {"response": "best", "overall_score": 9.0},
    {"response": "worst", "overall_score": 1},
    {"response": "middle", "overall_score": 5.0},
    {"response": "also middle", "overall_score": 5.0},
    {"response": "unscored", "overall_score": None},
]


def read(tmp_path, *rows, labels: str | dict[str, str] = "reward", strict=True, **columns):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(DataSource(str(path), **columns), labels, strict=strict)


def texts(pairs):
    return {(pair.chosen, pair.rejected) for pair in pairs}


def test_ranked_lists_give_every_pair_of_different_score(tmp_path):
    pairs = read(tmp_path, {"instruction": "p", "completions": REPLIES})
    assert {pair.prompt for pair in pairs} == {"p"} and {pair.format for pair in pairs} == {"ranked"}
    # Five scored pairs differ: best over three, and two middles over worst.
    assert texts(pairs) == {
        ("best", "worst"),
        ("best", "middle"),
        ("best", "also middle"),
        ("middle", "worst"),
        ("also middle", "worst"),
    }


def test_nectar_has_ranks_whose_first_is_the_best(tmp_path):
    answers = [{"answer": "second", "rank": 2.0}, {"answer": "first", "rank": 1.0}]
    (pair,) = read(tmp_path, {"prompt": "\n\nHuman: hi\n\nAssistant: ", "answers": answers})
    assert (pair.prompt, pair.chosen, pair.rejected) == ("hi", "first", "second")


TURNS = [{"from": "system", "value": "s"}, {"from": "human", "value": "u"}]


@pytest.mark.parametrize(
    "row",
    [
        {
            "conversations": TURNS,
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "u"}]},
                {"role": "assistant", "content": "a"},
            ],
            "rejected_response": "b",
        },
        {
            "prompt": TURNS,
            "chosen": {"role": "assistant", "content": "a"},
            "rejected": [{"type": "text", "text": "b"}],
        },
        {
            "chosen": [*TURNS, {"from": "gpt", "value": "a"}],
            "rejected": [*TURNS, {"from": "gpt", "value": "b"}],
        },
    ],
    ids=["llama-factory", "rejected_response", "reply objects and parts", "implicit"],
)
def test_conversations(tmp_path, row):
    (pair,) = read(tmp_path, row)
    assert pair.prompt == (Message("system", "s"), Message("user", "u"))
    assert (pair.chosen, pair.rejected) == ("a", "b")


def test_instruction_and_input(tmp_path):
    (pair,) = read(tmp_path, {"instruction": "Translate.", "input": "x", "chosen": "a", "rejected": "b"})
    assert pair.prompt == "Translate.\nx" and pair.format == "instruction"


@pytest.mark.parametrize(
    ("row", "kind", "part"),
    [
        ({"prompt": "p", "completion": "a", "label": True}, "single_responses", "is a single good response"),
        ({"prompt": "p", "response": "a", "is_safe": 0}, "single_responses", "is a single bad response"),
        ({"prompt": "p", "completion": "a", "label": None}, "unlabelled", '"label" is null'),
        ({"prompt": "p", "completion": "a", "label": 0.5}, "malformed", "must be true or false"),
        (
            {"prompt": '["p", "q"]', "response_a": '["a", "b"]', "response_b": '["c", "d"]'},
            "unshared",
            "differ before their last turn",
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tools": [1]}, "unsupported", '"tools" cannot be'),
        (
            {
                "prompt": "p",
                "chosen": [{"role": "assistant", "content": "", "tool_calls": [1]}],
                "rejected": "b",
            },
            "unsupported",
            '"chosen.0.tool_calls" cannot be handed',
        ),
        (
            {
                "prompt": [{"role": "user", "content": "x", "reasoning_content": "r"}],
                "chosen": "a",
                "rejected": "b",
            },
            "unsupported",
            '"prompt.0.reasoning_content" cannot be handed',
        ),
        ({"prompt": "p", "completions": REPLIES[2:4]}, "unlabelled", "no two replies of different score"),
        ({"prompt": "p", "completions": [{"response": "a"}]}, "malformed", "has neither a score"),
        (
            {"prompt": "p", "completions": [{"response": "a", "score": 10**400}]},
            "malformed",
            "must be a finite number",
        ),
        (
            {"messages": [], "rejected_response": "b"},
            "malformed",
            "must end with the assistant's better reply",
        ),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "malformed", '"chosen" is null'),
    ],
)
def test_odd_rows_stop_a_strict_reader_and_are_counted_by_another(tmp_path, row, kind, part):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(InputError) as caught:
        read(tmp_path, good, row)
    assert str(caught.value).startswith(f"{tmp_path / 'pairs.jsonl'}:2: ") and part in str(caught.value)
    pairs = read(tmp_path, good, row, strict=False)
    kept, counts = clean(pairs)
    assert len(kept) == 1 and getattr(counts, kind) == 1 and counts.read == 2
    assert pairs[1].problem == str(caught.value)


def test_empty_fields_of_parquet_rows_lose_nothing(tmp_path):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "tools": None, "chat_template_kwargs": {}}
    assert read(tmp_path, row)[0].chosen == "a"


KTO = [
    {"prompt": "p", "completion": "good 1", "label": True},
    {"prompt": "q", "completion": "bad 3", "label": False},
    {"prompt": "p", "completion": "bad 1", "label": False},
    {"prompt": "p", "completion": "good 2", "label": "true"},
    {"prompt": "p", "completion": "bad 2", "label": 0},
    {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "good 3"}]}
    | {"label": 1},
    {"prompt": "r", "completion": "good 4", "label": True},
    {"prompt": "p", "completion": "good 5", "label": True},
]


def test_single_responses_of_one_prompt_are_matched_good_with_bad(tmp_path):
    pairs = read(tmp_path, *KTO, strict=False)
    matched = [pair for pair in pairs if not pair.problem]
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in matched] == [
        ("p", "good 1", "bad 1"),
        ("p", "good 2", "bad 2"),
        ("q", "good 3", "bad 3"),
    ]
    assert all(pair.labels == {"reward": 1.0} and pair.format == "singles" for pair in matched)
    assert matched[0].where.endswith("pairs.jsonl:1") and matched[0].safe is None
    _, counts = clean(pairs)
    assert (counts.read, counts.kept, counts.single_responses) == (5, 3, 2)
    left = [pair.where.rpartition(":")[2] for pair in pairs if pair.problem]
    assert left == ["8", "7"]
    assert len(read(tmp_path, *KTO[:6], label="label", format="singles")) == 3
    with pytest.raises(InputError, match=r"pairs.jsonl:1: is of the format singles, not pairs"):
        read(tmp_path, *KTO, format="pairs")


def test_beaver_tails_says_which_response_is_safe(tmp_path):
    safe = {"prompt": "p", "response": "no", "is_safe": True, "category": {"theft": False}}
    unsafe = {"prompt": "p", "response": "do", "is_safe": False, "category": {"theft": True}}
    (pair,) = read(tmp_path, unsafe, safe, labels="safety", categories=("category",))
    assert (pair.chosen, pair.rejected, pair.safe) == ("no", "do", (True, False))
    assert pair.labels == {"safety": 1.0} and pair.categories == {"category": "theft"}


def test_turns_as_json_texts(tmp_path):
    row = {
        "prompt": '["p", "q"]',
        "response_a": '["x", "a"]',
        "response_b": '["x", "b"]',
        "winner_model_a": 0,
    }
    (pair,) = read(tmp_path, row, label="winner_model_a")
    assert pair.prompt == (Message("user", "p"), Message("assistant", "x"), Message("user", "q"))
    assert (pair.chosen, pair.rejected, pair.labels) == ("a", "b", {"reward": 0.0})
    one = {"prompt": '["p"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_a": 1}
    (pair,) = read(tmp_path, one, label="winner_model_a")
    assert (pair.prompt, pair.chosen, pair.rejected) == ("p", "a", "b")
    # A prompt that is a list in brackets is a text, where the responses are none.
    (pair,) = read(tmp_path, {"prompt": "[1]", "chosen": "a", "rejected": "b"})
    assert pair.prompt == "[1]" and pair.format == "pairs"


def test_whole_conversations_of_two_models(tmp_path):
    a, b = ([{"role": "user", "content": "p"}, {"role": "assistant", "content": x}] for x in "ab")
    (pair,) = read(tmp_path, {"conversation_a": a, "conversation_b": b, "winner": "model_b"}, label="winner")
    assert (pair.prompt, pair.chosen, pair.rejected, pair.labels) == ("p", "a", "b", {"reward": 0.0})


def test_a_format_by_name_refuses_another(tmp_path):
    row = {"instruction": "p", "completions": REPLIES}
    assert len(read(tmp_path, row, format="ranked")) == 5
    with pytest.raises(InputError, match="is of the format ranked, not pairs"):
        read(tmp_path, row, format="pairs")


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ({"prompt": "Q", "chosen": "a", "rejected": "b", "label": 1}, "label", 1.0),
        ({"prompt": "Q", "chosen": "a", "rejected": "b", "label": 0}, "label", 0.0),
        ({"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "labels", 1.0),
        ({"prompt": "Q", "response_a": "a", "response_b": "b", "winner_model_a": 1}, "winner_model_a", 1.0),
        (
            {"context": "Q", "response1": "a", "response2": "b", "overall_preference": 2},
            "overall_preference",
            0.0,
        ),
    ],
)
def test_responses_of_a_label_by_their_usual_names(tmp_path, row, column, expected):
    (pair,) = read(tmp_path, row, label=column)
    assert pair[:4] == ("Q", "a", "b", {"reward": expected})


def test_the_label_between_two_responses_has_to_be_named(tmp_path):
    row = {
        "prompt": "Q",
        "response_0": "a",
        "response_1": "b",
        "safer_response_id": 0,
        "better_response_id": 1,
    }
    with pytest.raises(InputError, match="give label=; this row has safer_response_id, better_response_id"):
        read(tmp_path, row)
    assert len(read(tmp_path, row, label="better_response_id")) == 1


def test_swapped_repeats_are_repeats(tmp_path):
    row = {"prompt": "p", "response_0": "x", "response_1": "a", "better_response_id": 0}
    turned = {"prompt": "p", "response_0": "a", "response_1": "x", "better_response_id": 1}
    pairs = read(tmp_path, row, turned, labels={"reward": "better_response_id"})
    kept, counts = clean(pairs)
    assert len(kept) == 1 and counts.duplicates == 1 and counts.both_orders == 0
    first, second = map(canonical, pairs)
    assert first[:4] == second[:4] == ("p", "a", "x", {"reward": 0.0})
    assert canonical(pairs[0]._replace(safe=(True, False))).safe == (False, True)
