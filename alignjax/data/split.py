"""Splits pairs into training, held-out and test pairs by prompt, so that no prompt is on two sides."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from alignjax.data.records import PreferencePair, prompt_key
from alignjax.errors import InputError


class Sides(NamedTuple):
    """Pairs by the side of their prompt, each in the order given.

    Attributes:
      train: to learn from.
      held_out: to stop training, to calibrate scores and to judge them.
      test: whose prompts are kept for the test alone; empty where no share is asked for.
    """

    train: list[PreferencePair]
    held_out: list[PreferencePair]
    test: list[PreferencePair]


def split_by_prompt(
    pairs: Sequence[PreferencePair], *, fraction: float, seed: int, test: float = 0.0
) -> Sides:
    """Splits pairs so that no prompt is on two sides.

    With u a hash of (seed, prompt), uniform in [0, 1), a prompt is held out if u < fraction, and kept for the
    test if u >= 1 - test. So its side depends on nothing else: data sets of several dimensions that share
    prompts agree on it, and adding rows later does not move other rows.

    Args:
      pairs: n pairs.
      fraction: expected share of the PROMPTS to hold out, in (0, 1).
      seed: any int.
      test: expected share of the prompts to keep for the test, in [0, 1 - fraction).

    Returns:
      The pairs of each side.

    Raises:
      InputError: `fraction` or `test` is out of its range, or a side that is asked for is empty.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"split_by_prompt: fraction is {fraction}; it must lie between 0 and 1.")
    if not 0.0 <= test < 1.0 - fraction:
        raise InputError(
            f"split_by_prompt: test is {test}; it must be at least 0 and leave prompts to train on, "
            f"beside the held-out fraction {fraction}."
        )
    sides = Sides([], [], [])
    for pair in pairs:
        u = _uniform(seed, prompt_key(pair.prompt))
        (sides.held_out if u < fraction else sides.train if u < 1.0 - test else sides.test).append(pair)
    names = {"training": sides.train, "held-out": sides.held_out, **({"test": sides.test} if test else {})}
    for name, side in names.items():
        if not side:
            prompts = len({prompt_key(pair.prompt) for pair in pairs})
            shares = (
                f"fraction {fraction}, test {test} and seed {seed}"
                if test
                else f"fraction {fraction} and seed {seed}"
            )
            raise InputError(
                f"split_by_prompt: the {name} side of {len(pairs)} pairs with {prompts} distinct prompts is "
                f"empty at {shares}; give more prompts, another fraction or another seed."
            )
    return sides


def _uniform(seed: int, key: str) -> float:
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53  # 53 bits: below 1 as a float too
