"""The run in one sentence: its three states, and what to do next."""

import pytest

from alignjax.evaluation.headline import headline
from alignjax.records.answer import Asked
from alignjax.records.evaluation import Headline
from alignjax.records.verdict import TestRecord, Verdict


def verdict(state, asked, mean, *, low=None, high=None, more=None) -> Verdict:
    return Verdict(state, asked, mean, low, high, 0.975, 120, more, 0, "student")


KEPT = verdict("verified", 0.4, 0.63, low=0.51, high=0.75)
GAINED = verdict("verified", 0.0, 0.8, low=0.7, high=0.9)
NEAR = verdict("verified", 1.5, 1.2, low=1.1, high=1.3)


@pytest.fixture
def said(answer_of):
    """said(safety=.., reward=.., kl=..): the headline of these verdicts; all other names are constraints."""

    def make(**verdicts: Verdict) -> Headline:
        names = [name for name in verdicts if name not in ("reward", "kl")]
        answer = answer_of({name: Asked(margin=verdicts[name].asked) for name in names})
        return headline(answer, TestRecord(1, 0.8, 0.8, verdicts, {}, accepted=False))

    return make


def test_everything_is_as_it_should_be(said):
    assert said(safety=KEPT, reward=GAINED, kl=NEAR) == Headline(
        "ship",
        "Ship: safety at least 0.51 (asked 0.40), with confidence 0.975; "
        "the reward and KL are what they should be.",
    )


def test_every_constraint_is_named_and_one_that_was_not_asked_for_is_not(said):
    free = verdict("not asked", None, -3.0, low=-3.5, high=-2.5)
    honesty = verdict("verified", -0.1, 0.02, low=-0.05, high=0.1)
    found = said(safety=KEPT, free=free, honesty=honesty, reward=GAINED, kl=NEAR)
    assert found.sentence.startswith(
        "Ship: safety at least 0.51 (asked 0.40), honesty at least -0.05 (asked -0.10), with confidence"
    )


def test_a_reward_below_the_references_is_a_cost(said):
    lost = verdict("refuted", 0.0, -7.4, low=-8.0, high=-7.0)
    assert said(safety=KEPT, reward=lost, kl=NEAR) == Headline(
        "kept at a cost",
        "Kept at a cost: safety at least 0.51 (asked 0.40), with confidence 0.975; but "
        "the reward is 7.40 below the reference's.",
    )


def test_a_gain_that_is_too_small_and_a_kl_that_is_too_large_are_costs(said):
    small = verdict("not shown", 0.5, 0.4, low=0.3, high=0.6, more=100)
    far = verdict("refuted", 1.3, 2.38, low=2.3, high=2.5)
    found = said(safety=KEPT, reward=small, kl=far)
    assert found.state == "kept at a cost"
    assert found.sentence.endswith(
        "; but the reward is 0.40 above the reference's (a gain of 0.50 is not shown) and "
        "KL is 2.38 nats, 1.30 was to be expected."
    )


def test_a_kl_that_nothing_was_expected_of_costs_nothing(said):
    free = verdict("not asked", None, 2.38, low=2.3, high=2.5)
    assert said(safety=KEPT, reward=GAINED, kl=free).state == "ship"
    assert said(safety=KEPT).state == "ship"


@pytest.mark.parametrize(
    ("missed", "text"),
    [
        (
            verdict("not shown", 0.4, 0.45, low=0.35, high=0.55, more=250),
            "at least 0.35 is shown (not shown); about 250 more test prompts would decide it",
        ),
        (
            verdict("not shown", 0.4, 0.45, low=0.35, high=0.55),
            "at least 0.35 is shown (not shown); more test prompts would not decide it: more held-out labels "
            "or another round would",
        ),
        (
            verdict("not shown", 0.4, 0.45),
            "no bound (not shown); one test prompt gives no bound: raise config.test.prompts or "
            "config.test.share",
        ),
        (
            verdict("refuted", 0.4, 0.45, low=-0.35, high=0.25),
            "at least -0.35 is shown (refuted); ask for less, or align again with config.rounds.count",
        ),
    ],
)
def test_what_was_not_shown_is_not_shipped_and_the_next_step_is_named(said, missed, text):
    found = said(safety=missed, honesty=KEPT, reward=GAINED, kl=NEAR)
    assert found == Headline("do not ship", f"Do not ship: safety: asked 0.40, delivered 0.45, {text}.")


def test_all_that_is_missed_is_named(said):
    missed = verdict("refuted", 0.4, 0.1, low=0.0, high=0.2)
    found = said(safety=missed, honesty=missed, reward=GAINED, kl=NEAR)
    assert found.state == "do not ship"
    assert [found.sentence.count(f"{name}: asked 0.40") for name in ("safety", "honesty")] == [1, 1]


def test_nothing_asked_is_nothing_verified(said):
    found = said(safety=verdict("not asked", None, 5.0, low=4.0, high=6.0), reward=GAINED, kl=NEAR)
    assert found.state == "do not ship" and found.sentence.endswith("ask for a margin.")
