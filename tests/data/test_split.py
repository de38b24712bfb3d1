import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignjax.data.records import Message, PreferencePair
from alignjax.data.split import split_by_prompt
from alignjax.errors import InputError


def pair(prompt, i):
    return PreferencePair(prompt, f"chosen {i}", f"rejected {i}", {"reward": 1.0}, f"line {i}")


def many(n):
    return [pair(f"prompt {i // 3}", i) for i in range(n)]


@given(seed=st.integers(0, 10**6), fraction=st.floats(0.2, 0.8))
def test_no_prompt_is_on_both_sides_and_no_pair_is_lost(seed, fraction):
    pairs = many(300)
    train, held_out, test = split_by_prompt(pairs, fraction=fraction, seed=seed)
    assert test == []
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    assert sorted(p.where for p in train + held_out) == sorted(p.where for p in pairs)
    assert [p.where for p in train] == [p.where for p in pairs if p in train]


def test_a_prompt_keeps_its_side_whatever_else_is_in_the_data():
    pairs = many(300)
    _, held_out, _ = split_by_prompt(pairs, fraction=0.3, seed=5)
    _, of_part, _ = split_by_prompt(pairs[::-1][:200], fraction=0.3, seed=5)
    assert {p.prompt for p in of_part} <= {p.prompt for p in held_out}


def test_fraction_is_of_the_prompts():
    # 2,000 prompts at 0.2: the held-out number is binomial, standard deviation 18; 5 of them are 90.
    pairs = [pair(f"prompt {i}", i) for i in range(2000)]
    _, held_out, _ = split_by_prompt(pairs, fraction=0.2, seed=1)
    assert abs(len(held_out) - 400) < 90
    _, other, _ = split_by_prompt(pairs, fraction=0.2, seed=2)
    assert {p.prompt for p in held_out} != {p.prompt for p in other}


def test_three_sides():
    # 2,000 prompts: 400 and 600 are expected, with standard deviations of 18 and 20; 5 of them are 100.
    pairs = [pair(f"prompt {i}", i) for i in range(2000)]
    sides = split_by_prompt(pairs, fraction=0.2, seed=1, test=0.3)
    assert abs(len(sides.held_out) - 400) < 90 and abs(len(sides.test) - 600) < 100
    assert sorted(p.where for side in sides for p in side) == sorted(p.where for p in pairs)
    # The test takes its prompts from those to train on, never from those held out.
    two = split_by_prompt(pairs, fraction=0.2, seed=1)
    assert two.held_out == sides.held_out
    assert {p.where for p in two.train} == {p.where for p in sides.train + sides.test}
    # More for the test only adds to it.
    more = split_by_prompt(pairs, fraction=0.2, seed=1, test=0.5)
    assert {p.where for p in sides.test} < {p.where for p in more.test}


@pytest.mark.parametrize("test", [-0.1, 0.8, 0.9, float("nan")])
def test_bad_share_of_the_test(test):
    with pytest.raises(InputError, match="must be at least 0 and leave prompts to train on"):
        split_by_prompt(many(300), fraction=0.2, seed=0, test=test)


def test_a_test_without_prompts_is_an_error():
    line = (
        "the test side of 30 pairs with 10 distinct prompts is empty at fraction 0.2, test 0.0001 and seed 0"
    )
    with pytest.raises(InputError, match=line):
        split_by_prompt(many(30), fraction=0.2, seed=0, test=0.0001)


def test_message_prompts():
    prompts = [
        (Message("user", "a"), Message("assistant", "b"), Message("user", str(i // 2))) for i in range(40)
    ]
    train, held_out, _ = split_by_prompt([pair(p, i) for i, p in enumerate(prompts)], fraction=0.5, seed=0)
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_bad_fraction(fraction):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        split_by_prompt(many(10), fraction=fraction, seed=0)


def test_an_empty_side_is_an_error():
    with pytest.raises(
        InputError, match="the (training|held-out) side of 3 pairs with 1 distinct prompts is empty"
    ):
        split_by_prompt(many(3), fraction=0.5, seed=0)
