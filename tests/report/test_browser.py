"""All responses for a reader: the data of the page's script, and the first page."""

import json

import pytest

from alignjax.report.browser import FOLD, Response, Sample, browser

DIMENSIONS = ("reward", "safety")


def two_draws() -> Sample:
    """Means of the reference 1 and -2, of the aligned policy 0.5 and 1."""
    return Sample(
        "how ?",
        {
            "aligned": [Response("sorry", (1.0, 3.0), True, 3), Response("so", (0.0, -1.0), False, 5)],
            "reference": [Response("well", (2.0, -3.0), False, 1_234), Response("", (0.0, -1.0), False, 1)],
        },
        "crime",
    )


@pytest.fixture
def shown():
    """Makes the section and reads its data."""

    def make(*samples, first=20, **given):
        found = browser(samples, ["reference", "aligned"], DIMENSIONS, first=first, **given)
        assert found is not None
        return found, json.loads(found.data)

    return make


def test_policies_stand_in_the_order_of_the_table_with_all_draws_and_scores(shown):
    found, data = shown(two_draws())
    assert [policy["label"] for policy in data["policies"]] == ["reference", "aligned"]
    assert data["judged"] == 1 and data["scores"] == ["reward", "safety"] and data["page"] == 20
    (prompt,) = data["prompts"]
    assert (prompt["p"], prompt["c"], prompt["d"]) == ("how ?", "crime", [-0.5, 3.0])
    assert prompt["r"] == [
        [["well", 0, 1234, [2.0, -3.0]], ["", 0, 1, [0.0, -1.0]]],
        [["sorry", 1, 3, [1.0, 3.0]], ["so", 0, 5, [0.0, -1.0]]],
    ]
    assert found.prompts == 1
    assert found.notes[0] == "1 prompts of the evaluation, 2 of 2 responses of each policy."


def test_the_first_page_has_the_first_draw_of_every_policy(shown):
    found, _ = shown(two_draws(), two_draws()._replace(prompt="why ?", category=None), first=1)
    (entry,) = found.first
    assert entry.prompt == "how ?"
    assert entry.facts == "crime; aligned against reference, mean of all draws: reward -0.50, safety +3.00"
    assert [(a.label, a.start, a.rest, a.facts) for a in entry.answers] == [
        ("reference", "well", "", "reward 2.00, safety -3.00, 1,234 tokens"),
        ("aligned", "sorry", "", "reward 1.00, safety 3.00, 3 tokens, refusal"),
    ]


def test_a_policy_without_a_response_to_a_prompt_has_none_there(shown):
    alone = Sample("why ?", {"reference": [Response("well", (0.0, float("nan")), False, 2)]})
    found, data = shown(two_draws(), alone)
    assert data["prompts"][1]["r"] == [[["well", 0, 2, [0.0, None]]], []]
    assert data["prompts"][1]["d"] == [None, None] and found.first[1].facts == ""
    assert found.first[1].answers[0].facts == "reward 0.00, safety -, 2 tokens"


def test_no_text_can_end_the_element_or_act_on_the_page(shown):
    text = "</script><!-- \u202e & \ud800"
    found, data = shown(Sample(text, {"reference": [Response(text, (0.0, 0.0), False, 1)]}, text))
    assert not set("<>&") & set(found.data)
    safe = "</script><!-- \\u202e & \\ud800"
    assert data["prompts"][0]["p"] == data["prompts"][0]["c"] == data["prompts"][0]["r"][0][0][0] == safe
    assert found.first[0].prompt == safe


def long(length: int, draws: int) -> Sample:
    return Sample("p", {"aligned": [Response("x" * length, (0.0, 0.0), False, 9)] * draws})


def test_a_long_response_is_folded_and_a_very_long_one_cut_and_counted(shown):
    found, data = shown(long(20_010, 1))
    (answer,) = found.first[0].answers
    assert answer.start == "x" * FOLD and answer.rest.endswith("x [10 more characters are not on this page]")
    assert data["prompts"][0]["r"][0][0][0].count("x") == 20_000
    assert "1 responses are cut after 20,000 characters; evaluation_samples/ has them whole." in found.notes


def test_a_page_that_would_be_too_large_shows_fewer_draws_then_shorter_texts(shown):
    # A draw takes 60 characters and 40 for its scores; three fit into 350, and no more.
    found, data = shown(long(60, 8), most=350)
    assert len(data["prompts"][0]["r"][0]) == 3
    assert found.notes[:2] == [
        "1 prompts of the evaluation, 3 of 8 responses of each policy.",
        "The others are in evaluation_samples/.",
    ]
    # Not one whole text of 6,000 fits, nor 5,000 of it; 2,000 of it do.
    found, data = shown(long(6_000, 2), most=4_500)
    assert len(data["prompts"][0]["r"][0]) == 2
    assert data["prompts"][0]["r"][0][0][0].startswith("x" * 2_000 + " [4,000 more")


def test_every_prompt_is_there_whatever_the_room(shown):
    found, data = shown(*[long(900, 3)] * 50, most=1)
    assert len(data["prompts"]) == 50 and all(len(prompt["r"][0]) == 1 for prompt in data["prompts"])


def test_nothing_is_shown_of_nothing_or_where_that_is_asked():
    assert browser([], ["aligned"], DIMENSIONS, first=20) is None
    assert browser([two_draws()], ["aligned"], DIMENSIONS, first=0) is None
