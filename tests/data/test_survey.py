"""What a file of pairs holds, counted by hand."""

import json

import pytest

from alignjax.data.records import DataSource, read_pairs
from alignjax.data.survey import Balance, Dropped, Repeats, survey, survey_findings
from alignjax.errors import InputError

ROWS = [
    {"prompt": "p", "response_0": "a", "response_1": "bbb", "better_response_id": 1},
    {"prompt": "p", "response_0": "bbb", "response_1": "a", "better_response_id": 0},  # the first, turned
    {"prompt": "p", "response_0": "a", "response_1": "bbb", "better_response_id": 1},  # the first
    {"prompt": "p", "response_0": "a", "response_1": "bbb", "better_response_id": 0},  # the other label
    {"prompt": "q", "response_0": "cc", "response_1": "dd", "better_response_id": "tie"},
    {"prompt": "r", "response_0": "e", "response_1": "e", "better_response_id": 0},
    {"prompt": "s", "response_0": "f", "better_response_id": 0},
    {"prompt": "t", "response_0": "gggg", "response_1": "h", "better_response_id": 0.25, "more": 1},
]


@pytest.fixture
def look(tmp_path):
    """Surveys rows that are written to a file."""

    def make(rows, held_out=None, **columns):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = DataSource(str(path), **columns)
        labels = {"reward": source.label}
        other = None
        if held_out is not None:
            held = tmp_path / "held.jsonl"
            held.write_text("".join(json.dumps(row) + "\n" for row in held_out))
            other = ("held.jsonl", read_pairs(DataSource(str(held), **columns), labels, strict=False))
        return survey(source, read_pairs(source, labels, strict=False), other)

    return make


def test_counts_by_hand(look):
    found, used = look(ROWS, [ROWS[0], ROWS[4] | {"prompt": "z"}], label="better_response_id")
    assert (found.read, found.used, found.formats) == (8, 4, {"pairs": 4})
    assert [pair.prompt for pair in used] == ["p", "p", "q", "t"]
    assert found.recognised.columns == ("prompt", "response_0", "response_1", "better_response_id", "more")
    assert (found.recognised.first, found.recognised.second) == ("response_0", "response_1")
    assert found.recognised.label_means == "1 means the second response, response_1"
    places = {kind: (one.rows, one.first.split("pairs.jsonl:")[1][:1]) for kind, one in found.dropped.items()}
    assert places == {"duplicates": (2, "2"), "identical": (1, "6"), "malformed": (1, "7")}
    assert isinstance(found.dropped["malformed"], Dropped)
    assert '"response_1" is missing' in found.dropped["malformed"].first
    # 0.25 that the second is better.
    assert found.balance == Balance(first=2, second=1, ties=1, soft=1)
    assert found.repeats == Repeats(rows=2, turned=1, both_orders=1, prompts=3, prompts_repeated=1, most=2)
    # Preferred "bbb", "a", "gggg" against "a", "bbb", "h": longer, shorter, longer.
    assert (found.sizes.unit, found.sizes.pairs) == ("characters", 3)
    shares = (found.sizes.preferred, found.sizes.other, found.sizes.longer)
    assert shares == pytest.approx((8 / 3, 5 / 3, 2 / 3))
    held = found.held_out
    assert held is not None and (held.pairs, held.leaks) == (2, 2) and held.first.endswith("pairs.jsonl:1")


def test_what_labels_mean_is_told(look):
    shp = {"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}
    found, _ = look([shp], label="labels")
    assert found.recognised.label_means == "1 means the first response, human_ref_A"
    helpsteer = {"context": "Q", "response1": "a", "response2": "b", "overall_preference": -2}
    found, _ = look([helpsteer], label="overall_preference")
    assert found.recognised.label_means.startswith("above 0 means the second response, response2")
    arena = {"prompt": "Q", "response_a": "a", "response_b": "b", "winner": "model_b"}
    found, _ = look([arena], label="winner")
    assert found.recognised.label_means == "names the better response"
    kto = [{"prompt": "Q", "completion": c, "label": c == "a"} for c in "ab"]
    found, _ = look(kto)
    assert (found.recognised.first, found.recognised.second) == ("good", "bad")
    assert found.recognised.label == "label" and found.recognised.label_means.startswith("true means a good")
    found, _ = look([{"prompt": "Q", "chosen": "a", "rejected": "b"}])
    assert found.recognised.label_means == "" and found.balance == Balance(1, 0, 0, 0)


def test_findings(look):
    rows = [
        {"prompt": f"question {i}", "chosen": f"good answer {i}", "rejected": f"bad {i}", "label": 1}
        for i in range(20)
    ]
    found, _ = look(rows, [rows[0]])
    by_length, leaks = survey_findings(found, found.sizes)
    assert "the longer one in 100% of the pairs: length alone decides" in by_length
    assert leaks == "1 pairs are on prompts of held.jsonl; a run drops them."
    found, _ = look(rows[:19])  # too few to say it
    assert survey_findings(found, found.sizes) == []
    found, _ = look([*rows[:10], *({"prompt": "x"},) * 3], label="label")
    dropped, one_sided = survey_findings(found, found.sizes)
    assert dropped.startswith("23% of the rows are dropped")
    assert one_sided.startswith(
        "chosen is preferred in every pair that is no tie; check what 1 means in label"
    )
    singles, _ = look([{"prompt": "Q", "completion": c, "label": c == "a"} for c in "ab"])
    assert singles.used == 1 and survey_findings(singles, singles.sizes) == []
    mixed, _ = look(ROWS, label="better_response_id")
    assert len(survey_findings(mixed, mixed.sizes)) == 1  # half of the rows are dropped


def test_a_file_without_a_usable_row_is_refused_with_the_first_problem(look):
    with pytest.raises(InputError, match=r'pairs.jsonl:1: "chosen" is missing'):
        look([{"prompt": "p"}])
    with pytest.raises(InputError, match=r"no row can be used \(1 identical; first: .*pairs.jsonl:1\)"):
        look([{"prompt": "p", "chosen": "a", "rejected": "a"}])
    with pytest.raises(InputError, match=r'held.jsonl:1: "chosen" is missing'):
        look([{"prompt": "p", "chosen": "a", "rejected": "b"}], [{"prompt": "p"}])
