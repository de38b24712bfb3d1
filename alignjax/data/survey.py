"""What a file of preference pairs holds: what it was taken for, counts, balance, repeats, leaks.

The pairs are those that a run reads: the same readers, the same cleaning.
"""

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from alignjax.data.cleaning import clean, problem_of, reasons
from alignjax.data.formats import lay_out
from alignjax.data.labels import meaning_of
from alignjax.data.records import (
    DataSource,
    PreferencePair,
    columns_of,
    pairs_of,
    prompt_key,
    rows_of,
    single_of,
)
from alignjax.data.rows import Row, RowError
from alignjax.data.singles import columns_of_single
from alignjax.errors import InputError

DIMENSION = "reward"  # under which the one label is read
_LOOKED_AT = 1000  # rows whose columns are listed
_MOST_COLUMNS = 50
# From how many pairs on, and from which share of them, length alone is said to decide.
_LEAST_PAIRS, _DECIDES = 20, 0.95


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What the rows were taken for.

    Attributes:
      columns: names in the order in which the first rows have them.
      first: column of the first response of the first row that can be used.
      second: column of its second response.
      label: the label's column; empty: none is read, the first response is the better one.
      label_means: what it was taken to mean.
    """

    columns: tuple[str, ...]
    first: str
    second: str
    label: str
    label_means: str


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Rows that are dropped for one reason: how many, and where the first is and what is wrong with it."""

    rows: int
    first: str


@dataclasses.dataclass(frozen=True)
class Balance:
    """Numbers of pairs in which the first response is preferred, the second, or neither.

    Attributes:
      first: the first is preferred.
      second: the second is preferred.
      ties: the label is 0.5.
      soft: of the first two, those whose label is neither 0 nor 1.
    """

    first: int
    second: int
    ties: int
    soft: int


@dataclasses.dataclass(frozen=True)
class Repeats:
    """What occurs more than once.

    Attributes:
      rows: dropped repeats of a row.
      turned: of these, those whose responses stand in the other order.
      both_orders: pairs that occur with either response preferred.
      prompts: distinct prompts.
      prompts_repeated: prompts of several pairs.
      most: pairs of the prompt that has most.
    """

    rows: int
    turned: int
    both_orders: int
    prompts: int
    prompts_repeated: int
    most: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How the preferred responses differ in length from the others, over pairs without ties.

    Attributes:
      unit: tokens or characters.
      pairs: number of pairs.
      preferred: mean length of the preferred responses; None without pairs.
      other: mean length of the others.
      longer: share of the pairs whose preferred response is the longer one, an equal length counting half.
    """

    unit: str
    pairs: int
    preferred: float | None
    other: float | None
    longer: float | None


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A file of held-out pairs.

    Attributes:
      path: as it was given.
      pairs: usable pairs in it.
      leaks: pairs of the surveyed file on prompts of this one.
      first: place of the first of these; empty: there is none.
    """

    path: str
    pairs: int
    leaks: int
    first: str


@dataclasses.dataclass(frozen=True)
class Survey:
    """All that is known of a file without a tokenizer.

    Attributes:
      path: as it was given.
      read: rows read, or pairs of rows that hold several.
      used: pairs that a run would use.
      formats: used pairs by what their row was taken for.
      recognised: columns and the label's meaning.
      dropped: by kind, see `cleaning.Counts`.
      balance: of the labels.
      repeats: of rows and prompts.
      sizes: of the responses.
      held_out: None: no such file was given.
    """

    path: str
    read: int
    used: int
    formats: Mapping[str, int]
    recognised: Recognised
    dropped: Mapping[str, Dropped]
    balance: Balance
    repeats: Repeats
    sizes: Sizes
    held_out: HeldOut | None


def survey(
    source: DataSource,
    pairs: Sequence[PreferencePair],
    held_out: tuple[str, Sequence[PreferencePair]] | None = None,
) -> tuple[Survey, list[PreferencePair]]:
    """Counts what a source holds.

    Args:
      source: where the pairs come from.
      pairs: as `read_pairs` returns them for the one dimension `DIMENSION`, not strict.
      held_out: path and pairs of a file of held-out pairs; None: there is none.

    Returns:
      The survey and the pairs that a run would use.

    Raises:
      InputError: no pair of one of the files can be used; the message is about the first.
    """
    found = reasons(pairs)
    dropped: dict[str, Dropped] = {}
    for pair, reason in zip(pairs, found, strict=True):
        if reason:
            told = problem_of(pair) if pair.problem else pair.where
            before = dropped.get(reason, Dropped(0, told))
            dropped[reason] = Dropped(before.rows + 1, before.first)
    used, counts = clean(pairs)
    if not used:
        raise InputError(_nothing(source.path, pairs))
    counted = Survey(
        path=source.path,
        read=len(pairs),
        used=len(used),
        formats=Counter(pair.format for pair in used),
        recognised=recognised(source),
        dropped=dropped,
        balance=_balance(used),
        repeats=_repeats(pairs, found, used, counts.both_orders),
        sizes=sizes(used, [(len(pair.chosen), len(pair.rejected)) for pair in used], "characters"),
        held_out=None if held_out is None else _leaks(used, *held_out),
    )
    return counted, used


def _nothing(path: str, pairs: Sequence[PreferencePair]) -> str:
    told = next((problem_of(pair) for pair in pairs if pair.problem), "")
    kinds = ", ".join(f"{rows} {kind}" for kind, rows in Counter(reasons(pairs)).items())
    return told or f"{path}: no row can be used ({kinds}; first: {pairs[0].where})."


def recognised(source: DataSource) -> Recognised:
    """What the first rows of a source were taken for.

    Args:
      source: has at least one row that can be used.

    Raises:
      InputError: a file cannot be read.
    """
    names: dict[str, None] = {}
    known: Recognised | None = None
    for where, values in itertools.islice(rows_of(source), _LOOKED_AT):
        names |= dict.fromkeys(values)
        if known is None:
            with contextlib.suppress(RowError):  # a row that is dropped says nothing
                known = _recognised(Row(where, values), source)
    known = known or Recognised((), source.chosen, source.rejected, source.label, "")
    return dataclasses.replace(known, columns=tuple(map(str, names))[:_MOST_COLUMNS])


def _recognised(row: Row, source: DataSource) -> Recognised:
    if single_of(row, source):
        _, label = columns_of_single(row, source.label) or ("", "")
        means = "true means a good response; a good and a bad one to the same prompt are a pair"
        return Recognised((), "good", "bad", label, means)
    labels = {DIMENSION: source.label}
    pairs_of(row, source, labels)
    laid = row if source.format == "auto" and source.names_columns else lay_out(row, source.format).rows[0]
    asked = columns_of(laid, source, labels)
    responses = (asked.chosen, asked.rejected)
    means = meaning_of(laid, source.label, source.label_means, responses) if source.label else ""
    return Recognised((), *responses, source.label, means)


def _balance(pairs: Sequence[PreferencePair]) -> Balance:
    labels = np.array([pair.labels[DIMENSION] for pair in pairs])
    soft = (labels != 0.0) & (labels != 1.0) & (labels != 0.5)
    first, second = int((labels > 0.5).sum()), int((labels < 0.5).sum())
    return Balance(first, second, len(labels) - first - second, int(soft.sum()))


def _repeats(
    pairs: Sequence[PreferencePair], found: Sequence[str], used: Sequence[PreferencePair], both_orders: int
) -> Repeats:
    kept = {_texts(pair) for pair in used}
    repeated = [pair for pair, reason in zip(pairs, found, strict=True) if reason == "duplicates"]
    by_prompt = Counter(prompt_key(pair.prompt) for pair in used)
    return Repeats(
        rows=len(repeated),
        turned=sum(_texts(pair) not in kept for pair in repeated),
        both_orders=both_orders,
        prompts=len(by_prompt),
        prompts_repeated=sum(count > 1 for count in by_prompt.values()),
        most=max(by_prompt.values()),
    )


def _texts(pair: PreferencePair) -> tuple[str, str, str]:
    return prompt_key(pair.prompt), pair.chosen, pair.rejected


def sizes(pairs: Sequence[PreferencePair], lengths: Sequence[tuple[int, int]], unit: str) -> Sizes:
    """How the preferred responses differ in length from the others.

    Args:
      pairs: n pairs.
      lengths: of the first and the second response of each.
      unit: tokens or characters.
    """
    ordered = np.array(
        [
            both if pair.labels[DIMENSION] > 0.5 else both[::-1]
            for pair, both in zip(pairs, lengths, strict=True)
            if pair.labels[DIMENSION] != 0.5
        ],
        np.float64,
    ).reshape(-1, 2)
    if not len(ordered):
        return Sizes(unit, 0, None, None, None)
    preferred, other = ordered.mean(axis=0)
    longer = (np.sign(ordered[:, 0] - ordered[:, 1]).mean() + 1) / 2
    return Sizes(unit, len(ordered), float(preferred), float(other), float(longer))


def _leaks(used: Sequence[PreferencePair], path: str, held_out: Sequence[PreferencePair]) -> HeldOut:
    there, _ = clean(held_out)
    if not there:
        raise InputError(_nothing(path, held_out))
    known = {prompt_key(pair.prompt) for pair in there}
    leaked = [pair.where for pair in used if prompt_key(pair.prompt) in known]
    return HeldOut(path, len(there), len(leaked), leaked[0] if leaked else "")


def survey_findings(found: Survey, by_length: Sizes) -> list[str]:
    """What a reader should not miss, in sentences.

    Args:
      found: the survey.
      by_length: sizes in tokens where they are known, else those of the survey.
    """
    sentences = []
    if found.used < 0.95 * found.read:
        share = 1 - found.used / found.read
        sentences.append(
            f"{share:.0%} of the rows are dropped; see what is wrong with the first of each kind."
        )
    balance = found.balance
    singles = found.formats.get("singles", 0)  # of these the good one is the first
    one_sided = balance.ties < found.used and 0 in (balance.first, balance.second)
    if found.recognised.label and not singles and one_sided:
        always = found.recognised.second if balance.first == 0 else found.recognised.first
        sentences.append(
            f"{always} is preferred in every pair that is no tie; check what 1 means in "
            f"{found.recognised.label} "
            "(label_means)."
        )
    share = by_length.longer
    if share is not None and by_length.pairs >= _LEAST_PAIRS and not 1 - _DECIDES < share < _DECIDES:
        which, part = ("longer", share) if share >= _DECIDES else ("shorter", 1 - share)
        sentences.append(
            f"the preferred response is the {which} one in {part:.0%} of the pairs: length alone decides, so "
            "a score can learn nothing else, and labels that can be told apart have no finite scale."
        )
    if found.held_out is not None and found.held_out.leaks:
        sentences.append(
            f"{found.held_out.leaks:,} pairs are on prompts of {found.held_out.path}; a run drops them."
        )
    return sentences
