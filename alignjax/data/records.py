r"""Reads preference pairs in several layouts into one type of record.

The layout of each row is recognised by its columns:
- TRL: prompt, chosen, rejected, each a text or a list of {"role", "content"}; without a prompt column, chosen
  and rejected are whole conversations that share all but their last turn;
- hh-rlhf: chosen and rejected are whole dialogues as one text, turns opened by "\n\nHuman:" and
  "\n\nAssistant:";
- SafeRLHF: prompt, response_0, response_1, one column per dimension with the id (0 or 1) of the better
  response, and optionally is_response_0_safe, is_response_1_safe.

`alignjax.data.formats` turns the other layouts into these.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.data.dialogues import dialogue, is_dialogue
from alignjax.data.files import read_rows
from alignjax.data.formats import PROMPTS, RESPONSES, Laid, lay_out
from alignjax.data.labels import read_label
from alignjax.data.rows import Message, Prompt, Row, RowError, is_parts
from alignjax.errors import InputError


class PreferencePair(NamedTuple):
    """Two responses to one prompt.

    Attributes:
      prompt: text, or the turns before the response.
      chosen: one response; the label says whether it is the better one.
      rejected: the other response.
      labels: dimension -> P(chosen preferred), in [0, 1].
      where: file:line, for messages.
      safe: whether (chosen, rejected) are safe; None if the data does not say.
      problem: why the row cannot be used, or empty. `clean` drops and counts rows with a problem.
      kind: the count under which a row with a problem is dropped, a field of `Counts`.
      format: what the row was taken for, see `alignjax.data.formats`.
      categories: column -> category of the prompt, for the columns asked for that the row has.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    labels: dict[str, float]
    where: str
    safe: tuple[bool, bool] | None = None
    problem: str = ""
    categories: Mapping[str, str] = {}
    kind: str = "unshared"
    format: str = "pairs"


class PromptRow(NamedTuple):
    """One line of a file of prompts.

    Attributes:
      prompt: text, or the turns before the response.
      categories: as in `PreferencePair`.
      where: file:line, for messages.
    """

    prompt: Prompt
    categories: Mapping[str, str]
    where: str


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A source of pairs.

    Attributes:
      path: a file, a folder or a glob, see `read_rows`; or "tfds:NAME:SPLIT" such as
        "tfds:pku_saferlhf:train[:90%]".
      data_dir: folder of the data that TFDS prepared; for "tfds:" only.
      prompt: name of the column; "response.0" is item 0 of the list in column response.
      chosen: name of the column; if `label` is given, the default means the first of `RESPONSES` there.
      rejected: name of the column; if `label` is given, the default means the second of them.
      label: name of the column that says which response is better; empty: chosen is the better one.
      label_means: see `alignjax.data.labels`.
      format: see `alignjax.data.formats`; auto: that of each row.
      limit: number of rows to read from the beginning; None: all.
      categories: names of the columns with a category of the prompt; a row need not have them.
    """

    path: str
    data_dir: str | None = None
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    label: str = ""
    label_means: str = "auto"
    format: str = "auto"
    limit: int | None = None
    categories: tuple[str, ...] = ()


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
      single_responses: dropped because the row has one labelled response and not two.
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
    both_orders: int
    kept: int


def prompt_key(prompt: Prompt) -> str:
    """A prompt as one string; different prompts give different strings."""
    return prompt if isinstance(prompt, str) else "\0".join(f"{m.role}\1{m.content}" for m in prompt)


def prompt_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """The JSON value of a prompt in files: a text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [message._asdict() for message in prompt]


def read_pairs(
    source: DataSource | str, labels: str | Mapping[str, str] = "reward", *, strict: bool = True
) -> list[PreferencePair]:
    """Reads every pair of a source, including those that cannot be used; pass the result to `clean`.

    Args:
      source: the files or TFDS data set and its columns, or the path alone.
      labels: the dimension that `source` labels; or dimension -> name of its label column, to read several
        labels of one row. An empty column name means that chosen is the better response.
      strict: stop at the first row with a problem of its own; else it is in the result with its problem.

    Returns:
      Pairs in the order of the source. With a label column, "chosen" is the first response and the label
      P(first preferred), see `alignjax.data.labels`. Without one the label is 1.0.

    Raises:
      InputError: a file that cannot be read, a label whose meaning nothing shows, no row at all, or, if
        strict, a row whose columns are missing or of the wrong type (named with file, line and column).
    """
    source = DataSource(source) if isinstance(source, str) else source
    columns = {labels: source.label} if isinstance(labels, str) else dict(labels)
    if not columns:
        raise InputError(f"{source.path}: no dimension to read; name at least one.")
    if source.limit is not None and source.limit < 1:
        raise InputError(f"{source.path}: limit is {source.limit}; it must be at least 1, or None for all.")
    pairs: list[PreferencePair] = []
    for where, values in _rows(source):
        row = Row(where, values)
        try:
            pairs += _pairs_of(row, source, columns)
        except RowError as error:
            if strict:
                raise
            pairs.append(PreferencePair("", "", "", {}, where, problem=str(error), kind=error.kind))
    if not pairs:
        raise InputError(f"{source.path}: has no rows; give a file with one JSON object per line.")
    return pairs


def read_unlabelled(where: str, values: Mapping[str, Any]) -> tuple[tuple[str, str], list[PreferencePair]]:
    """The pairs of one row of any layout, whichever of two responses is better.

    Args:
      where: file:line, for messages.
      values: the row.

    Returns:
      The names of the columns of the two responses, and the pairs.

    Raises:
      InputError: the row is no pair, or cannot be used.
    """
    names = next(
        (names for names in RESPONSES if all(name in values for name in names)), ("chosen", "rejected")
    )
    pairs = _pairs_of(Row(where, values), DataSource("", chosen=names[0], rejected=names[1]), {"": ""})
    for pair in pairs:
        if pair.problem:
            raise InputError(f"{where}: {pair.problem}; fix it or remove the line.")
    return names, pairs


def _pairs_of(row: Row, source: DataSource, columns: Mapping[str, str]) -> list[PreferencePair]:
    row.refuse_what_is_not_kept()
    named = source.format == "auto" and _names_columns(source)
    laid = Laid("pairs", [row]) if named else lay_out(row, source.format)
    found = [_pair(one, _columns_of(one, source, columns), columns) for one in laid.rows]
    return [pair._replace(format=laid.format) for pair in found]


def _names_columns(source: DataSource) -> bool:
    return (source.chosen, source.rejected) != ("chosen", "rejected")


def _columns_of(row: Row, source: DataSource, columns: Mapping[str, str]) -> DataSource:
    """The source with the names of this row's columns in place of the defaults."""
    chosen, rejected, prompt = source.chosen, source.rejected, source.prompt
    if any(columns.values()) and not _names_columns(source):
        names = (names for names in RESPONSES if all(row.has(name) for name in names))
        chosen, rejected = next(names, RESPONSES[0])
        if prompt == "prompt" and not row.has(prompt):
            prompt = next((name for name in PROMPTS if row.has(name)), prompt)
    return dataclasses.replace(source, prompt=prompt, chosen=chosen, rejected=rejected)


def read_prompt_rows(path: str, categories: Sequence[str] = ()) -> list[PromptRow]:
    """Reads every row of a file of prompts, column "prompt", with the categories it has.

    Args:
      path: the file.
      categories: names of the columns with a category of the prompt; a row need not have them.

    Raises:
      InputError: a file that cannot be read, a line without a prompt or with an empty one, a category that is
        neither text nor an object of true and false, or no line at all.
    """
    rows: list[PromptRow] = []
    for where, values in read_rows(path):
        prompt = prompt_of(values, where)
        if not prompt_key(prompt).strip():
            raise InputError(f'{where}: "prompt" is empty; fill it or remove the line.')
        rows.append(PromptRow(prompt, Row(where, values).categories(categories), where))
    if not rows:
        raise InputError(f'{path}: has no lines; give one {{"prompt": ...}} per line.')
    return rows


def prompt_of(row: Mapping[str, Any], where: str) -> Prompt:
    """The prompt of one row; `where` (file:line) is for messages.

    Raises:
      InputError: the column "prompt" is missing, or is neither a text nor a list of messages.
    """
    return _simplest(_prompt(Row(where, row), "prompt"))


def clean(pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], Counts]:
    """Drops and counts pairs that cannot or should not be learned from; see `Counts`.

    Returns:
      The pairs kept, in the same order, and the counts.
    """
    dropped: Counter[str] = Counter()
    kept: list[PreferencePair] = []
    seen: set[tuple[Any, ...]] = set()
    for pair in pairs:
        reason = _reason(pair)
        ordered = canonical(pair)
        key = (*_key(ordered), tuple(sorted(ordered.labels.items())))
        if not reason and key in seen:
            reason = "duplicates"
        if reason:
            dropped[reason] += 1
        else:
            seen.add(key)
            kept.append(pair)
    orders = {_key(pair) for pair in map(_better_first, kept)}
    both = sum((prompt, rejected, chosen) in orders for prompt, chosen, rejected in orders)
    names = Counts._fields[1:-2]
    return kept, Counts(len(pairs), *(dropped[name] for name in names), both_orders=both // 2, kept=len(kept))


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


def _rows(source: DataSource) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if source.path.startswith("tfds:"):
        # Importing TFDS takes seconds; most runs read plain files.
        from alignjax.data.builders.reading import read_prepared

        return read_prepared(source.path, source.data_dir, source.limit)
    return read_rows(source.path, source.limit)


def _pair(row: Row, source: DataSource, columns: Mapping[str, str]) -> PreferencePair:
    responses = (source.chosen, source.rejected)
    labels = {
        name: read_label(row, column, source.label_means, responses) if column else 1.0
        for name, column in columns.items()
    }
    safe = row.safe() if any(columns.values()) else None
    chosen, rejected = row.get(source.chosen), row.get(source.rejected)
    categories = row.categories(source.categories)
    made = functools.partial(PreferencePair, labels=labels, where=row.where, safe=safe, categories=categories)
    if row.has(source.prompt):
        prompt = _prompt(row, source.prompt)
        replies = [
            _reply(row, column, value, prompt)
            for column, value in ((source.chosen, chosen), (source.rejected, rejected))
        ]
        return made(_simplest(prompt), *replies)
    if isinstance(chosen, list) and isinstance(rejected, list):
        first, second = row.messages(source.chosen, chosen), row.messages(source.rejected, rejected)
    elif is_dialogue(chosen) and is_dialogue(rejected):
        first, second = (
            dialogue(row.text(column, value))
            for column, value in ((source.chosen, chosen), (source.rejected, rejected))
        )
    else:
        raise row.missing(source.prompt)
    prompt = _simplest(first[:-1])
    problem = _conversation_problem(first, second)
    return made(prompt, first[-1].content, second[-1].content, problem=problem)


def _conversation_problem(first: tuple[Message, ...], second: tuple[Message, ...]) -> str:
    """Why two whole conversations do not form a pair; empty if they do."""
    for conversation in (first, second):
        roles = [message.role for message in conversation[-2:]]
        if len(roles) < 2 or roles[0] == "assistant" or roles[1] != "assistant":
            return "a conversation does not end with a turn of the user and one reply of the assistant"
    return "" if first[:-1] == second[:-1] else "the two conversations differ before their last turn"


def _prompt(row: Row, column: str) -> tuple[Message, ...]:
    value = row.get(column)
    if isinstance(value, list):
        return (
            row.messages(column, value)
            if not is_parts(value)
            else (Message("user", row.text(column, value)),)
        )
    text = row.text(column, value)
    if is_dialogue(text) and text.rstrip().endswith("\n\nAssistant:"):
        return dialogue(text)[:-1]  # a whole conversation up to the reply, as Nectar writes it
    return (Message("user", text),)


def _simplest(prompt: tuple[Message, ...]) -> Prompt:
    """A prompt of one turn of the user as a text, any other prompt unchanged."""
    return prompt[0].content if len(prompt) == 1 and prompt[0].role == "user" else prompt


def _reply(row: Row, column: str, value: Any, prompt: tuple[Message, ...]) -> str:
    """The response; a list may hold the assistant's reply alone, or the prompt's turns and the reply."""
    if isinstance(value, Mapping):
        value = [value]  # one message, as LLaMA-Factory and axolotl write a reply
    if not isinstance(value, list) or is_parts(value):
        return row.text(column, value)
    messages = row.messages(column, value)
    if messages[:-1] not in ((), prompt) or messages[-1].role != "assistant":
        raise row.error(
            column,
            "must hold the assistant's one reply, or the prompt's turns and that reply; fix it.",
            "unshared",
        )
    return messages[-1].content
