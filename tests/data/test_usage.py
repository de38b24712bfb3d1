"""What is used of the pairs that are given, by hand; a run's own counts add up."""

from alignjax.data.cleaning import Counts
from alignjax.data.usage import usage_lines

NOTHING = Counts(*[0] * len(Counts._fields))._asdict()


def counts(**changes):
    own = {
        **NOTHING,
        "read": 12_000,
        "identical": 98,
        "duplicates": 12,
        "kept": 11_890,
        "on_test_prompts": 1200,
    }
    return {
        "reward": own | changes,
        "reward train": {"pairs": 9500, "prompts_cut": 0, "responses_cut": 0},
        "reward held out": {"pairs": 1190, "prompts_cut": 0, "responses_cut": 0},
    }


def test_every_pair_is_used_or_left_out_for_a_reason():
    (line,) = usage_lines(counts(), ["reward", "safety"])
    assert line == (
        "reward: 11,890 of 12,000 pairs used (9,500 to train on, 1,190 held out, 1,200 on prompts of the "
        "test); left out: 98 identical, 12 duplicates"
    )
    (line,) = usage_lines(counts(leaks=30, kept=12_000, both_orders=4, read=12_110), ["reward"])
    # 12,000 kept are 11,890 used, 30 leaks and 80 more.
    assert line.endswith(
        "12 duplicates, 30 on prompts of a held-out file, 80 above max_train_pairs or max_held_out_pairs; "
        "4 occur with either response preferred"
    )


def test_a_held_out_file_counts_too_and_a_worlds_pairs_are_all_used():
    apart = {"reward held-out file": {**NOTHING, "read": 110, "kept": 100, "duplicates": 10}}
    given = counts() | apart
    given["reward held out"] = {"pairs": 1290}
    (line,) = usage_lines(given, ["reward"])
    assert line.startswith("reward: 11,990 of 12,110 pairs used") and line.endswith(
        "98 identical, 22 duplicates"
    )
    world = {"reward train": {"pairs": 4000}, "reward held out": {"pairs": 2000}}
    assert usage_lines(world, ["reward"]) == ["reward: 4,000 pairs to train on, 2,000 held out"]


def test_other_sets_and_what_is_cut():
    given = counts() | {
        "align": {"pairs": 9600, "prompts_cut": 2, "responses_cut": 3},
        "prompts to test": {"prompts": 700, "prompts_cut": 0},
        "categories in topic": {"theft": 30, "none": 1},
    }
    assert usage_lines(given, ["reward"])[1:] == [
        "align: 9,600 pairs",
        "prompts to test: 700",
        "categories in topic: theft 30, none 1",
        "align: 2 prompts and 3 responses are cut to the largest lengths",
    ]
