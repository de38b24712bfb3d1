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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.data.dialogues import dialogue, is_dialogue
from alignjax.data.files import read_rows
from alignjax.data.formats import PROMPTS, RESPONSES, Laid, lay_out, other_format, refuse_unnamed_label
from alignjax.data.labels import read_label
from alignjax.data.rows import Message, Prompt, Row, RowError, is_parts
from alignjax.data.singles import Matched, Single, columns_of_single, match, read_good
from alignjax.errors import InputError

_MOST_UNUSABLE = 100_000  # rows at the beginning of a source of which none can be used, before it is refused


class PreferencePair(NamedTuple):
    """Two responses to one prompt.

    Attributes:
      prompt: text, or the turns before the response.
      chosen: one response; the label says whether it is the better one.
      rejected: the other response.
      labels: dimension -> P(chosen preferred), in [0, 1].
      where: file:line, for messages.
      safe: whether (chosen, rejected) are safe; None if the data does not say.
      problem: why the row cannot be used, or empty. `cleaning.clean` drops and counts rows with a problem.
      kind: the count under which a row with a problem is dropped, a field of `cleaning.Counts`.
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
      problem: why the line cannot be used, or empty.
      kind: the count under which a line with a problem is dropped, a field of `cleaning.Counts`.
    """

    prompt: Prompt
    categories: Mapping[str, str]
    where: str
    problem: str = ""
    kind: str = ""


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

    @property
    def names_columns(self) -> bool:
        """Whether the responses' columns are named, so that rows are taken for pairs and nothing else."""
        return (self.chosen, self.rejected) != ("chosen", "rejected")


def prompt_key(prompt: Prompt) -> str:
    """A prompt as one string; different prompts give different strings."""
    return prompt if isinstance(prompt, str) else "\0".join(f"{m.role}\1{m.content}" for m in prompt)


def prompt_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """The JSON value of a prompt in files: a text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [message._asdict() for message in prompt]


def read_pairs(
    source: DataSource | str, labels: str | Mapping[str, str] = "reward", *, strict: bool = True
) -> list[PreferencePair]:
    """Reads every pair of a source, including those that cannot be used; pass the result to `cleaning.clean`.

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
    singles: list[Single] = []
    unusable = 0
    for where, values in rows_of(source):
        row = Row(where, values)
        try:
            if single := single_of(row, source):
                singles.append(single)
            else:
                pairs += pairs_of(row, source, columns)
        except RowError as error:
            if strict:
                raise
            pairs.append(_unusable(where, error))
            unusable += 1
            if unusable == len(pairs) == _MOST_UNUSABLE:
                raise InputError(
                    f"{source.path}: none of the first {unusable:,} rows can be used; the first: "
                    f"{pairs[0].problem}"
                ) from None
    matched, left = match(singles)
    if left and strict:
        raise left[0][1]
    pairs += [_of_singles(one, source, columns) for one in matched]
    pairs += [_unusable(single.row.where, error) for single, error in left]
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
    pairs = pairs_of(Row(where, values), DataSource("", chosen=names[0], rejected=names[1]), {"": ""})
    for pair in pairs:
        if pair.problem:
            raise InputError(f"{where}: {pair.problem}; fix it or remove the line.")
    return names, pairs


def _unusable(where: str, error: RowError) -> PreferencePair:
    return PreferencePair("", "", "", {}, where, problem=str(error), kind=error.kind)


def single_of(row: Row, source: DataSource) -> Single | None:
    """The single labelled response of a row; None: the row is no such row.

    Args:
      row: as it was read.
      source: its columns.

    Raises:
      RowError: the row is such a row and cannot be used, or another format is asked for.
    """
    names = None if source.names_columns else columns_of_single(row, source.label)
    if names is None:
        return None
    if source.format not in ("auto", "singles"):
        raise other_format(row, "singles", source.format)
    row.refuse_what_is_not_kept()
    reply, label = names
    prompt = _prompt(row, source.prompt)
    response = _reply(row, reply, row.get(reply), prompt)
    return Single(row, _simplest(prompt), response, read_good(row, label))


def _of_singles(both: Matched, source: DataSource, columns: Mapping[str, str]) -> PreferencePair:
    good, bad = both
    return PreferencePair(
        good.prompt,
        good.response,
        bad.response,
        dict.fromkeys(columns, 1.0),
        good.row.where,
        safe=(True, False) if good.row.has("is_safe") else None,
        categories=bad.row.categories(source.categories),  # of what is harmful, which a good reply is not
        format="singles",
    )


def pairs_of(row: Row, source: DataSource, columns: Mapping[str, str]) -> list[PreferencePair]:
    """The pairs of one row.

    Args:
      row: as it was read.
      source: its columns.
      columns: dimension -> name of its label column.

    Raises:
      RowError: the row cannot be used.
    """
    row.refuse_what_is_not_kept()
    named = source.format == "auto" and source.names_columns
    laid = Laid("pairs", [row]) if named else lay_out(row, source.format)
    found = [_pair(one, columns_of(one, source, columns), columns) for one in laid.rows]
    return [pair._replace(format=laid.format) for pair in found]


def columns_of(row: Row, source: DataSource, columns: Mapping[str, str]) -> DataSource:
    """The source with the names of this row's columns in place of the defaults.

    Args:
      row: with a prompt and two responses.
      source: as it was asked for.
      columns: dimension -> name of its label column.
    """
    chosen, rejected, prompt = source.chosen, source.rejected, source.prompt
    if not any(columns.values()) and not source.names_columns:
        refuse_unnamed_label(row)
    if any(columns.values()) and not source.names_columns:
        names = (names for names in RESPONSES if all(row.has(name) for name in names))
        chosen, rejected = next(names, RESPONSES[0])
        if prompt == "prompt" and not row.has(prompt):
            prompt = next((name for name in PROMPTS if row.has(name)), prompt)
    return dataclasses.replace(source, prompt=prompt, chosen=chosen, rejected=rejected)


def read_prompt_rows(path: str, categories: Sequence[str] = (), *, strict: bool = True) -> list[PromptRow]:
    """Reads every row of a file of prompts, column "prompt", with the categories it has.

    Args:
      path: the file.
      categories: names of the columns with a category of the prompt; a row need not have them.
      strict: stop at the first line that cannot be used; else it is in the result with its problem.

    Raises:
      InputError: a file that cannot be read, no line at all, or, if strict, a line without a prompt or with
        an empty one, or with a category that is neither text nor an object of true and false.
    """
    rows: list[PromptRow] = []
    for where, values in read_rows(path):
        row = Row(where, values)
        try:
            prompt = _simplest(_prompt(row, "prompt"))
            if not prompt_key(prompt).strip():
                raise row.error("prompt", "is empty; fill it or remove the line.", "empty")
            rows.append(PromptRow(prompt, row.categories(categories), where))
        except RowError as error:
            if strict:
                raise
            rows.append(PromptRow("", {}, where, str(error), error.kind))
    if not rows:
        raise InputError(f'{path}: has no lines; give one {{"prompt": ...}} per line.')
    return rows


def prompt_of(row: Mapping[str, Any], where: str) -> Prompt:
    """The prompt of one row; `where` (file:line) is for messages.

    Raises:
      InputError: the column "prompt" is missing, or is neither a text nor a list of messages.
    """
    return _simplest(_prompt(Row(where, row), "prompt"))


def rows_of(source: DataSource) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The rows of a source as they are read, each with its place."""
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
