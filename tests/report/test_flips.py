"""What the label flipped, on the page: counts, the most decided pairs, and text that does not act."""

import dataclasses

import pytest

from alignjax.report.flips import Flip, Flips, flip_section
from alignjax.report.html import render


def flip(i=0, prompt="p", preferred="people like this", other="the label likes this"):
    return Flip(prompt, preferred, other, 0.99 - 0.01 * i, ((1.0, -2.0), (0.5, 1.25)))


def test_counts_and_what_is_shown_of_them():
    found = [Flips("reward", 2000, 1000, 250, [flip(i) for i in range(5)]), Flips("safety", 40, 0, 0, [])]
    section = flip_section(found, ["reward", "safety"])
    assert section is not None
    assert section.grid.rows == [
        ("reward", "", ["2,000", "1,000", "50.0%", "250"]),
        ("safety", "", ["40", "0", "0.0%", "0"]),
    ]
    (listed,) = section.lists  # nothing of safety was flipped
    assert listed.told == "reward: 1,000 flipped, the 5 most decided are shown"
    assert (len(listed.open), len(listed.folded)) == (3, 2)
    entry = listed.open[0]
    assert entry.facts == "label 99.0% for the second; second above the first: reward -0.50, safety +3.25"
    assert [side.label for side in entry.sides] == ["preferred by people in reward", "preferred by the label"]
    assert [side.start for side in entry.sides] == ["people like this", "the label likes this"]
    assert [side.facts for side in entry.sides] == ["reward 1.00, safety -2.00", "reward 0.50, safety 1.25"]


def test_all_that_there_are_need_no_remark():
    section = flip_section([Flips("reward", 9, 2, 2, [flip(), flip(1)])], ["reward", "safety"])
    assert section is not None
    assert section.lists[0].told == "reward: 2 flipped" and section.lists[0].folded == []


@pytest.mark.parametrize("found", [[], [Flips("reward", 0, 0, 0, [])]])
def test_without_labels_by_people_there_is_no_section(inputs, found):
    assert flip_section(found, ["reward", "safety"]) is None
    assert 'id="flips"' not in render(dataclasses.replace(inputs(), flips=found), [])


def test_long_texts_are_folded_and_cut():
    section = flip_section([Flips("reward", 1, 1, 1, [flip(preferred="a" * 6000)])], ["reward", "safety"])
    assert section is not None
    side = section.lists[0].open[0].sides[0]
    assert side.start == "a" * 700 and side.rest.startswith("a" * 4300 + " [1,000 more characters are in")


def test_the_page_shows_it_and_text_does_not_act(inputs, hostile):
    shown = [flip(i, hostile, hostile + "\u202e", hostile) for i in range(4)]
    page = render(dataclasses.replace(inputs(), flips=[Flips("reward", 9, 4, 1, shown)]), [])
    assert '<a href="#flips">Labels</a>' in page and "1 more of reward" in page
    section = page[page.index('id="flips"') : page.index('id="contests"')]
    assert "<script" not in section and "&lt;script&gt;" in section and r"\u202e" in section
    assert section.count('class="card sample"') == 4
