"""Splits pairs into training and held-out pairs by prompt, so that no prompt is on both sides."""

import hashlib
from collections.abc import Sequence

from alignjax.data.records import PreferencePair, prompt_key
from alignjax.errors import InputError


def split_by_prompt(
    pairs: Sequence[PreferencePair], *, fraction: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Splits pairs so that no prompt is on both sides.

    A prompt is held out if a hash of (seed, prompt), uniform in [0, 1), is below `fraction`. So its side
    depends on nothing else: data sets of several dimensions that share prompts agree on it, and adding rows
    later does not move other rows.

    Args:
      pairs: n pairs.
      fraction: expected share of the PROMPTS to hold out, in (0, 1).
      seed: any int.

    Returns:
      Training and held-out pairs, each in the order given.

    Raises:
      InputError: `fraction` is not in (0, 1), or one side is empty.
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"split_by_prompt: fraction is {fraction}; it must lie between 0 and 1.")
    train: list[PreferencePair] = []
    held_out: list[PreferencePair] = []
    for pair in pairs:
        (held_out if _uniform(seed, prompt_key(pair.prompt)) < fraction else train).append(pair)
    if not train or not held_out:
        empty = "training" if not train else "held-out"
        prompts = len({prompt_key(pair.prompt) for pair in pairs})
        raise InputError(
            f"split_by_prompt: the {empty} side of {len(pairs)} pairs with {prompts} distinct prompts is "
            f"empty at fraction {fraction} and seed {seed}; give more prompts, another "
            "fraction or another seed."
        )
    return train, held_out


def _uniform(seed: int, key: str) -> float:
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53  # 53 bits: below 1 as a float too
