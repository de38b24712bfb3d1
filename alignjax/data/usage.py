"""How much of what was given a run uses, and why the rest was left out: a line for every dimension."""

from collections.abc import Mapping, Sequence

from alignjax.data.cleaning import Counts

# Kinds of rows that are dropped, with the words for them.
_DROPPED = {
    kind: kind.replace("_", " ") for kind in Counts._fields if kind not in ("read", "both_orders", "kept")
}


def usage_lines(counts: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> list[str]:
    """What is used of the pairs of every dimension, and what else the data hold.

    Args:
      counts: as `Preferences.counts`.
      names: of the dimensions, in order.

    Returns:
      As `reward: 11,890 of 12,000 pairs used (9,500 to train on, 1,190 held out, 1,200 on prompts of the
      test); left out: 98 identical, 12 duplicates`.
    """
    lines = [_of_pairs(counts, name) for name in names if f"{name} train" in counts]
    shown = {
        part
        for name in names
        for part in (name, f"{name} train", f"{name} held out", f"{name} held-out file")
    }
    lines += [_of_part(part, numbers) for part, numbers in counts.items() if part not in shown]
    return lines + _cut(counts)


def _of_pairs(counts: Mapping[str, Mapping[str, int]], name: str) -> str:
    train, held = counts[f"{name} train"]["pairs"], counts[f"{name} held out"]["pairs"]
    if name not in counts:  # a world's pairs are made, and all used
        return f"{name}: {train:,} pairs to train on, {held:,} held out"
    own, apart = counts[name], counts.get(f"{name} held-out file", {})

    def both(kind: str) -> int:
        return own.get(kind, 0) + apart.get(kind, 0)

    test, leaks = own["on_test_prompts"], own.get("leaks", 0)
    left_out = {words: both(kind) for kind, words in _DROPPED.items()}
    left_out["on prompts of a held-out file"] = leaks
    left_out["above max_train_pairs or max_held_out_pairs"] = both("kept") - leaks - test - train - held
    why = ", ".join(f"{count:,} {words}" for words, count in left_out.items() if count)
    used = f"{train:,} to train on, {held:,} held out, {test:,} on prompts of the test"
    orders = f"; {both('both_orders'):,} occur with either response preferred" if both("both_orders") else ""
    return (
        f"{name}: {train + held + test:,} of {both('read'):,} pairs used ({used})"
        + (f"; left out: {why}" if why else "")
        + orders
    )


def _of_part(part: str, numbers: Mapping[str, int]) -> str:
    """Sets of prompts and pairs, and categories: their counts."""
    told = {key: count for key, count in numbers.items() if key not in ("prompts_cut", "responses_cut")}
    if list(told) in (["pairs"], ["prompts"]):
        (count,) = told.values()
        return f"{part}: {count:,}" if "prompts" in part or "pairs" in part else f"{part}: {count:,} pairs"
    return f"{part}: " + ", ".join(f"{key.replace('_', ' ')} {count:,}" for key, count in told.items())


def _cut(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What does not fit the largest lengths, by set."""
    found = []
    for part, numbers in counts.items():
        prompts, responses = numbers.get("prompts_cut", 0), numbers.get("responses_cut", 0)
        told = [f"{prompts:,} prompts"] * bool(prompts) + [f"{responses:,} responses"] * bool(responses)
        if told:
            found.append(f"{part}: {' and '.join(told)} are cut to the largest lengths")
    return found
