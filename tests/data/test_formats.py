import json

import pytest

from alignjax.data.records import DataSource, Message, canonical, clean, read_pairs
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
        ({"prompt": "p", "completion": "a", "label": True}, "single_responses", "(KTO), not a pair"),
        ({"prompt": "p", "response": "a", "is_safe": True}, "single_responses", "(BeaverTails), not a pair"),
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


def test_swapped_repeats_are_repeats(tmp_path):
    row = {"prompt": "p", "response_0": "x", "response_1": "a", "better_response_id": 0}
    turned = {"prompt": "p", "response_0": "a", "response_1": "x", "better_response_id": 1}
    pairs = read(tmp_path, row, turned, labels={"reward": "better_response_id"})
    kept, counts = clean(pairs)
    assert len(kept) == 1 and counts.duplicates == 1 and counts.both_orders == 0
    first, second = map(canonical, pairs)
    assert first[:4] == second[:4] == ("p", "a", "x", {"reward": 0.0})
    assert canonical(pairs[0]._replace(safe=(True, False))).safe == (False, True)
