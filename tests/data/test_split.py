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
    train, held_out = split_by_prompt(pairs, fraction=fraction, seed=seed)
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    assert sorted(p.where for p in train + held_out) == sorted(p.where for p in pairs)
    assert [p.where for p in train] == [p.where for p in pairs if p in train]


def test_a_prompt_keeps_its_side_whatever_else_is_in_the_data():
    pairs = many(300)
    _, held_out = split_by_prompt(pairs, fraction=0.3, seed=5)
    _, of_part = split_by_prompt(pairs[::-1][:200], fraction=0.3, seed=5)
    assert {p.prompt for p in of_part} <= {p.prompt for p in held_out}


def test_fraction_is_of_the_prompts():
    # 2,000 prompts at 0.2: the held-out number is binomial, standard deviation 18; 5 of them are 90.
    pairs = [pair(f"prompt {i}", i) for i in range(2000)]
    _, held_out = split_by_prompt(pairs, fraction=0.2, seed=1)
    assert abs(len(held_out) - 400) < 90
    _, other = split_by_prompt(pairs, fraction=0.2, seed=2)
    assert {p.prompt for p in held_out} != {p.prompt for p in other}


def test_message_prompts():
    prompts = [
        (Message("user", "a"), Message("assistant", "b"), Message("user", str(i // 2))) for i in range(40)
    ]
    train, held_out = split_by_prompt([pair(p, i) for i, p in enumerate(prompts)], fraction=0.5, seed=0)
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
