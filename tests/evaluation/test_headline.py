"""The run in one sentence: its three states, and what to do next."""

import pytest

from alignjax.evaluation.headline import headline
from alignjax.records.answer import Asked
from alignjax.records.codec import decode, encode
from alignjax.records.evaluation import Headline
from alignjax.records.verdict import TestRecord, Verdict


def verdict(state, asked, mean, *, low=None, high=None, more=None) -> Verdict:
    return Verdict(state, asked, mean, low, high, 0.975, 120, more, 0, "student")


KEPT = verdict("verified", 0.4, 0.63, low=0.51, high=0.75)
GAINED = verdict("verified", 0.0, 0.8, low=0.7, high=0.9)
NEAR = verdict("verified", 1.5, 1.2, low=1.1, high=1.3)


@pytest.fixture
def said(answer_of):
    """said(safety=.., reward=.., kl=..): the headline of these verdicts; all other names are constraints.

    The test accepts what is verified of the constraints, unless `refused` says that it asked for more.
    """

    def make(*, refused: bool = False, **verdicts: Verdict) -> Headline:
        names = [name for name in verdicts if name not in ("reward", "kl")]
        answer = answer_of({name: Asked(margin=verdicts[name].asked) for name in names})
        accepted = not refused and all(
            verdicts[name].state == "verified" for name in names if verdicts[name].asked is not None
        )
        return headline(answer, TestRecord(1, 0.8, 0.8, verdicts, {}, accepted=accepted))

    return make


def test_everything_is_as_it_should_be(said):
    assert said(safety=KEPT, reward=GAINED, kl=NEAR) == Headline(
        "ship",
        "Ship: safety at least 0.51 (asked 0.40), with confidence 0.975; the reward rises by 0.80 [0.70, "
        "0.90] above the reference's and KL is 1.20 nats, within the 1.50 to be expected.",
        "Export the model with python -m alignjax.export.",
    )


def test_every_constraint_is_named_and_one_that_was_not_asked_for_is_not(said):
    free = verdict("not asked", None, -3.0, low=-3.5, high=-2.5)
    honesty = verdict("verified", -0.1, 0.02, low=-0.05, high=0.1)
    found = said(safety=KEPT, free=free, honesty=honesty, reward=GAINED, kl=NEAR)
    assert found.sentence.startswith(
        "Ship: safety at least 0.51 (asked 0.40), honesty at least -0.05 (asked -0.10), with confidence"
    )


def test_a_reward_that_is_shown_to_be_below_the_references_is_a_cost(said):
    lost = verdict("refuted", 0.0, -7.4, low=-8.0, high=-7.0)
    assert said(safety=KEPT, reward=lost, kl=NEAR) == Headline(
        "kept at a cost",
        "Kept at a cost: safety at least 0.51 (asked 0.40), with confidence 0.975; but the reward changes by "
        "-7.40 [-8.00, -7.00] from the reference's and KL is 1.20 nats, within the 1.50 to be expected.",
        "Decide whether it is worth that; a smaller margin costs less reward: report.html shows how much.",
    )


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (-0.2, "the reward changes by -0.20 [-0.50, 0.50] from the reference's, which may be chance"),
        (0.2, "the reward rises by 0.20 [-0.50, 0.50] above the reference's, which may be chance"),
    ],
)
def test_a_reward_of_which_neither_is_shown_is_shipped_and_said(said, mean, text):
    found = said(safety=KEPT, reward=verdict("not shown", 0.0, mean, low=-0.5, high=0.5), kl=NEAR)
    assert found.state == "ship" and text in found.sentence


@pytest.mark.parametrize(
    ("state", "mean", "headline_state"),
    [
        ("refuted", 2.38, "kept at a cost"),
        ("not shown", 1.51, "kept at a cost"),  # beyond the forecast's interval, by chance or not
        ("not shown", 1.49, "ship"),
    ],
)
def test_a_kl_beyond_its_forecast_is_a_cost(said, state, mean, headline_state):
    far = verdict(state, 1.5, mean, low=mean - 0.1, high=mean + 0.1)
    found = said(safety=KEPT, reward=GAINED, kl=far)
    assert found.state == headline_state
    side = "above" if headline_state == "kept at a cost" else "within"
    assert f"KL is {mean:.2f} nats, {side} the 1.50 to be expected" in found.sentence
    assert ("a larger beta" in found.next) == (headline_state == "kept at a cost")


def test_a_kl_that_nothing_was_expected_of_costs_nothing_and_is_said(said):
    free = verdict("not asked", None, 2.38, low=2.3, high=2.5)
    found = said(safety=KEPT, reward=GAINED, kl=free)
    assert found.state == "ship" and "KL is 2.38 nats, of which nothing was forecast" in found.sentence
    assert said(safety=KEPT).sentence == "Ship: safety at least 0.51 (asked 0.40), with confidence 0.975."


def test_a_gain_of_reward_or_a_bound_on_kl_that_was_asked_for_and_missed_is_not_shipped(said):
    small = verdict("not shown", 0.5, 0.4, low=0.3, high=0.6, more=100)
    found = said(refused=True, safety=KEPT, reward=small, kl=NEAR)
    assert found == Headline(
        "do not ship",
        "Do not ship: gain of reward: asked 0.50, delivered 0.40, at least 0.30 is shown (not shown).",
        "About 100 more test prompts would decide it: raise config.test.prompts or config.test.share.",
    )
    far = verdict("refuted", 1.3, 2.38, low=2.3, high=2.5)
    found = said(refused=True, safety=KEPT, reward=GAINED, kl=far)
    assert found.sentence == "Do not ship: KL: asked 1.30, delivered 2.38, at most 2.50 is shown (refuted)."
    assert found.next.startswith("Raise beta")


@pytest.mark.parametrize(
    ("missed", "shown", "step"),
    [
        (
            verdict("not shown", 0.4, 0.45, low=0.35, high=0.55, more=250),
            "at least 0.35 is shown (not shown)",
            "About 250 more test prompts would decide it",
        ),
        (
            verdict("not shown", 0.4, 0.45, low=0.35, high=0.55),
            "at least 0.35 is shown (not shown)",
            "More test prompts would not decide it: add held-out labels, or allow another round.",
        ),
        (
            verdict("not shown", 0.4, 0.45),
            "no bound (not shown)",
            "One test prompt gives no bound: raise config.test.prompts or config.test.share.",
        ),
        (
            verdict("refuted", 0.4, 0.45, low=-0.35, high=0.25),
            "at least -0.35 is shown (refuted)",
            "Ask for less of safety, or allow more rounds with config.rounds.count.",
        ),
    ],
)
def test_what_was_not_shown_is_not_shipped_and_the_next_step_is_named(said, missed, shown, step):
    found = said(safety=missed, honesty=KEPT, reward=GAINED, kl=NEAR)
    assert found.state == "do not ship"
    assert found.sentence == f"Do not ship: safety: asked 0.40, delivered 0.45, {shown}."
    assert found.next.startswith(step)


def test_all_that_is_missed_is_named_and_what_is_refuted_decides_the_next_step(said):
    refuted = verdict("refuted", 0.4, 0.1, low=0.0, high=0.2)
    unclear = verdict("not shown", 0.4, 0.5, low=0.3, high=0.7, more=50)
    found = said(safety=unclear, honesty=refuted, reward=GAINED, kl=NEAR)
    assert found.state == "do not ship"
    assert [found.sentence.count(f"{name}: asked 0.40") for name in ("safety", "honesty")] == [1, 1]
    assert found.next.startswith("Ask for less of honesty,")


def test_nothing_asked_is_nothing_verified(said):
    found = said(safety=verdict("not asked", None, 5.0, low=4.0, high=6.0), reward=GAINED, kl=NEAR)
    assert found.state == "do not ship" and found.next == "Ask for a margin, and run again."


def test_a_record_without_the_next_step_is_read(said):
    found = said(safety=KEPT, reward=GAINED, kl=NEAR)
    assert decode(Headline, encode(found), "headline") == found
    old = {"state": "ship", "sentence": "Ship: safety."}
    assert decode(Headline, old, "headline").text == "Ship: safety."
    assert found.text == f"{found.sentence} {found.next}"
