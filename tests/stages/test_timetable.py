"""How far a run is and what is left of it: by hand, and on a folder with stages of known times."""

import pytest

from alignjax.stages import folder
from alignjax.stages.timetable import Planned, in_words, seconds_left

PLANNED = (
    Planned("samples", "sampling", 100.0),
    Planned("policy", "training", 30.0),
    Planned("more samples", "sampling", 50.0),
    Planned("longer", "training", 90.0),
)


def test_the_rest_is_in_proportion_to_what_was_done_of_its_kind():
    taken, met = {"samples": 20.0, "policy": 6.0}, ["samples", "policy"]
    # 50 of 100 in 20 s, and 90 of 30 in 6 s.
    assert seconds_left(PLANNED, taken, met, kept=()) == pytest.approx(10 + 18)
    assert seconds_left(PLANNED, taken, met, kept=["longer"]) == pytest.approx(10)
    assert seconds_left(PLANNED, taken | {"more samples": 40.0}, [*met, "more samples"], ()) == 18
    # Two of a kind: 150 in 60 s are 0.4 s each.
    again = (*PLANNED, Planned("last samples", "sampling", 10.0))
    taken |= {"more samples": 40.0}
    assert seconds_left(again, taken, [*met, "more samples", "longer"], ()) == pytest.approx(4)
    assert seconds_left(PLANNED, taken, [stage.name for stage in PLANNED], ()) == 0


def test_nothing_is_said_of_what_is_not_known():
    assert seconds_left(PLANNED, {"samples": 20.0}, ["samples"], ()) is None  # no training was timed
    assert seconds_left(PLANNED, {"samples": 20.0}, ["samples"], ["policy", "longer"]) == 10
    unknown = (PLANNED[0], Planned("more samples", "sampling", None))
    assert seconds_left(unknown, {"samples": 20.0}, ["samples"], ()) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.04, "0.0 s"), (8.13, "8.1 s"), (9.96, "10 s"), (99.4, "99 s")),
        *((119, "2 min"), (5999, "100 min"), (12240, "3.4 h")),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


class Clock:
    """Time that passes by ten seconds whenever it is looked at."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 10
        return self.now


def planned(met):
    """Every stage of the small method; samples and scores are of one kind, policy and evaluation too."""
    kinds = {"samples": "a", "scores": "a", "dual": "b", "policy": "c", "evaluation": "c"}
    return [Planned(name, kind, 2.0 if name == "evaluation" else 1.0) for name, kind in kinds.items()]


def ends(said):
    """The lines that stages end with, without the memory."""
    return [
        line.partition(", peak memory")[0] + "".join(line.partition(";")[1:])
        for line in said
        if line[0] == " "
    ]


def test_a_run_numbers_its_stages_and_says_what_is_left_once_it_knows(method, monkeypatch):
    monkeypatch.setattr(folder, "time", Clock())
    one = method(planned=planned)
    one.run()
    assert [line for line in one.said if line[0] != " "] == [
        "stage 1 of 5: samples",
        "stage 2 of 5: scores",
        "stage 3 of 5: dual",
        "stage 4 of 5: policy",
        "stage 5 of 5: evaluation",
    ]
    # Each takes 10 s; after the policy the evaluation is to take twice as long.
    assert ends(one.said) == ["  10 s"] * 3 + ["  10 s; about 20 s left", "  10 s"]


def test_a_second_run_knows_it_from_the_first(method, monkeypatch):
    monkeypatch.setattr(folder, "time", Clock())
    method(planned=planned).run()
    two = method(planned=planned, margin=2.0)
    two.run()
    assert two.said[:3] == [
        "stage 1 of 5: samples, done before, kept",
        "stage 2 of 5: scores, done before, kept",
        "stage 3 of 5: dual",
    ]
    # The policies of the first answer were set aside with it: nothing is known of training.
    assert ends(two.said)[0] == "  10 s"
    again = method(planned=planned, margin=2.0, redo="evaluation", versions={"evaluation": 2})
    again.run()
    assert ends(again.said) == ["  10 s"]


def test_times_of_other_devices_are_not_believed(method, monkeypatch):
    monkeypatch.setattr(folder, "time", Clock())
    method(planned=planned, last="policy").run()
    there = folder.environment()
    monkeypatch.setattr(folder, "environment", lambda: there | {"devices": ("gpu:another",)})
    two = method(planned=planned, versions={"dual": 2})
    two.run()
    assert "left" not in ends(two.said)[0]
