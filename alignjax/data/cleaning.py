"""Drops and counts pairs that cannot or should not be learned from."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignjax.data.records import PreferencePair, Prompt


class Counts(NamedTuple):
    """Numbers of rows, as counted by `clean`.

    Attributes:
      read: rows given.
      empty: dropped because a prompt or a response has no visible character.
      identical: dropped because both responses are equal.
      duplicates: dropped because an earlier row has the same prompt, responses and labels.
      unshared: dropped because the conversations differ before their last turn, or do not end with a reply to
        the user.
      malformed: dropped because a column is missing or holds something else than it should.
      unlabelled: dropped because the label is null, or no two replies differ in score.
      unsupported: dropped because tools, tool calls or reasoning would be lost.
      single_responses: dropped because the row has one labelled response, and no other row its counterpart.
      templated: dropped because a template was already applied to the text.
      unshown: dropped because the template refuses the order of the prompt's turns.
      both_orders: pairs, not rows, that occur with either response preferred. They are kept: label noise is
        part of the data.
      kept: rows kept.
    """

    read: int
    empty: int
    identical: int
    duplicates: int
    unshared: int
    malformed: int
    unlabelled: int
    unsupported: int
    single_responses: int
    templated: int
    unshown: int
    both_orders: int
    kept: int


def clean(pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], Counts]:
    """Drops and counts pairs that cannot or should not be learned from; see `Counts`.

    Returns:
      The pairs kept, in the same order, and the counts.
    """
    found = reasons(pairs)
    dropped = Counter(found)
    kept = [pair for pair, reason in zip(pairs, found, strict=True) if not reason]
    orders = {_key(pair) for pair in map(_better_first, kept)}
    both = sum((prompt, rejected, chosen) in orders for prompt, chosen, rejected in orders)
    names = Counts._fields[1:-2]
    return kept, Counts(len(pairs), *(dropped[name] for name in names), both_orders=both // 2, kept=len(kept))


def reasons(pairs: Sequence[PreferencePair]) -> list[str]:
    """The count under which each pair is dropped, a field of `Counts`; empty where it is kept."""
    found: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for pair in pairs:
        reason = _reason(pair)
        ordered = canonical(pair)
        key = (*_key(ordered), tuple(sorted(ordered.labels.items())))
        if not reason and key in seen:
            reason = "duplicates"
        if not reason:
            seen.add(key)
        found.append(reason)
    return found


def canonical(pair: PreferencePair) -> PreferencePair:
    """The same pair in the one order that its two texts have, with the labels turned if the order is."""
    if pair.chosen <= pair.rejected:
        return pair
    return pair._replace(
        chosen=pair.rejected,
        rejected=pair.chosen,
        labels={name: 1.0 - label for name, label in pair.labels.items()},
        safe=None if pair.safe is None else (pair.safe[1], pair.safe[0]),
    )


def problem_of(pair: PreferencePair) -> str:
    """Why a pair cannot be used, with its file and line."""
    return pair.problem if pair.problem.startswith(pair.where) else f"{pair.where}: {pair.problem}"


def _key(pair: PreferencePair) -> tuple[Prompt, str, str]:
    return pair.prompt, pair.chosen, pair.rejected


def _better_first(pair: PreferencePair) -> PreferencePair:
    """The pair with the preferred response as chosen, by its first label."""
    if all(label >= 0.5 for label in list(pair.labels.values())[:1]):
        return pair
    return pair._replace(chosen=pair.rejected, rejected=pair.chosen)


def _reason(pair: PreferencePair) -> str:
    """Name of the count under which a row is dropped, regardless of other rows; empty: it is kept."""
    if pair.problem:
        return pair.kind
    texts = [pair.prompt] if isinstance(pair.prompt, str) else [m.content for m in pair.prompt]
    if not any(text.strip() for text in texts) or not pair.chosen.strip() or not pair.rejected.strip():
        return "empty"
    return "identical" if pair.chosen == pair.rejected else ""
