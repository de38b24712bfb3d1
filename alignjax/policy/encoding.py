"""Token ids of the prompts and responses in the lines of a file, which hold text or token ids."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alignjax.config import ModelSettings, check_template
from alignjax.data.rows import Prompt, Row, is_parts
from alignjax.data.tokenize import Template, encode_prompt, encode_response, template_for
from alignjax.errors import InputError
from alignjax.models import Model, ScoreModel

if TYPE_CHECKING:  # importing it takes seconds, and lines of ids do not need it
    from transformers import PreTrainedTokenizerBase


class Encoder(NamedTuple):
    """Turns the texts of a line into ids, and checks ids that are given.

    Attributes:
      tokenizer: of the model; None: only lines with ids can be read.
      template: how prompts are shown; None without a tokenizer.
      vocab_size: every id must be below it.
      path: the model's file or folder, for messages.
    """

    tokenizer: "PreTrainedTokenizerBase | None"
    template: Template | None
    vocab_size: int
    path: str


def make_encoder(
    model: Model | ScoreModel,
    path: str,
    template: str = "",
    template_kwargs: str = "",
    *,
    template_date: str = ModelSettings().template_date,
    add_bos: bool | None = None,
) -> Encoder:
    """The encoder of a model.

    Args:
      model: read from `path`.
      path: the model's file or folder, for messages.
      template: text with {prompt}; empty: the tokenizer's chat template, or the bare prompt if it has none.
      template_kwargs: what the chat template reads, as a JSON object; empty: nothing.
      template_date: YYYY-MM-DD, what a chat template takes for today.
      add_bos: whether prompts begin with a BOS; None: as the tokenizer and the template do.

    Returns:
      The encoder.

    Raises:
      InputError: a template without {prompt}, arguments that are no JSON object, no date, or a template for
        a model without tokenizer.
    """
    if model.tokenizer is None:
        if template:
            raise InputError(f"--template: {path} holds no tokenizer, so no text can be read; leave it out.")
        return Encoder(None, None, model.config.vocab_size, path)
    settings = ModelSettings(
        template=template, template_kwargs=template_kwargs, template_date=template_date, add_bos=add_bos
    )
    check_template(settings, "--")
    return Encoder(model.tokenizer, template_for(model.tokenizer, settings), model.config.vocab_size, path)


def prompt_ids(encoder: Encoder, row: Mapping[str, Any], where: str) -> np.ndarray:
    """Ids of a line's prompt: "prompt_ids" unchanged, or else those of "prompt", a text or messages.

    Args:
      encoder: of the model.
      row: the line.
      where: file:line.

    Returns:
      [P] int32.

    Raises:
      InputError: the line has neither field, or its value cannot be used.
    """
    if "prompt_ids" in row:
        return _given_ids(encoder, row, "prompt_ids", where)
    tokenizer, template = _text_tools(encoder, row, "prompt", where)
    prompt = _prompt(row["prompt"], where)
    try:
        return np.array(encode_prompt(tokenizer, template, prompt), np.int32)
    except InputError as error:
        raise InputError(f'{where}: "prompt": {error}') from None


def response_ids(encoder: Encoder, row: Mapping[str, Any], column: str, where: str) -> np.ndarray:
    """Ids of a line's response: "COLUMN_ids" unchanged, or else those of the text in COLUMN and one EOS.

    Args:
      encoder: of the model.
      row: the line.
      column: response, chosen or rejected.
      where: file:line.

    Returns:
      [R] int32.

    Raises:
      InputError: the line has neither field, or its value cannot be used.
    """
    if f"{column}_ids" in row:
        return _given_ids(encoder, row, f"{column}_ids", where)
    tokenizer, template = _text_tools(encoder, row, column, where)
    text = _response(row[column], column, where)
    try:
        return np.array(encode_response(tokenizer, text, template), np.int32)
    except InputError as error:
        raise InputError(f'{where}: "{column}": {error}') from None


def texts_of(row: Mapping[str, Any], column: str, where: str) -> tuple[Prompt, str]:
    """The prompt of a line and its response in COLUMN, as they are written.

    Args:
      row: the line.
      column: response, chosen or rejected.
      where: file:line.

    Raises:
      InputError: the line has token ids in place of one of them, or its value cannot be used.
    """
    for name in ("prompt", column):
        if name not in row:
            raise InputError(f'{where}: "{name}" is given as token ids alone; give its text.')
    return _prompt(row["prompt"], where), _response(row[column], column, where)


def prompt_of(row: Mapping[str, Any], where: str) -> Prompt:
    """The prompt of a line as it is written.

    Args:
      row: the line.
      where: file:line.

    Raises:
      InputError: the line has token ids in its place, or its value cannot be used.
    """
    if "prompt" not in row:
        raise InputError(f'{where}: "prompt" is given as token ids alone; give its text.')
    return _prompt(row["prompt"], where)


def check_context(model: Model | ScoreModel, path: str, where: str, *, prompt: int, response: int) -> None:
    """Refuses lines that are longer than the model's context, where its predictions would be noise.

    Args:
      model: read from `path`.
      path: the model's file or folder, for messages.
      where: file:line.
      prompt: tokens of the prompt.
      response: tokens of the response, or the most that may be drawn.

    Raises:
      InputError: prompt and response together have more tokens than `max_positions`.
    """
    most = model.config.max_positions
    if prompt + response > most:
        raise InputError(
            f"{where}: a prompt of {prompt} tokens and a response of {response} do not fit the context of "
            f"{path}, {most} tokens; shorten them."
        )


def has_response(row: Mapping[str, Any], column: str) -> bool:
    """Whether a line has the column, as text or as ids."""
    return column in row or f"{column}_ids" in row


def _text_tools(
    encoder: Encoder, row: Mapping[str, Any], column: str, where: str
) -> tuple["PreTrainedTokenizerBase", Template]:
    if column not in row:
        raise InputError(
            f'{where}: column "{column}" is missing (and so is "{column}_ids"); add one of them.'
        )
    if encoder.tokenizer is None or encoder.template is None:
        raise InputError(
            f'{where}: "{column}" is text, and {encoder.path} holds no tokenizer; give "{column}_ids", or '
            "copy the tokenizer's files there."
        )
    return encoder.tokenizer, encoder.template


def _given_ids(encoder: Encoder, row: Mapping[str, Any], column: str, where: str) -> np.ndarray:
    ids = row[column]
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise InputError(f'{where}: "{column}" must be a list of whole numbers.')
    if not ids:
        raise InputError(f'{where}: "{column}" is empty; give at least one id, or remove the line.')
    wrong = [i for i in ids if not 0 <= i < encoder.vocab_size]
    if wrong:
        raise InputError(
            f'{where}: "{column}" has id {wrong[0]}; the vocabulary of {encoder.path} has '
            f"{encoder.vocab_size} ids, from 0."
        )
    return np.array(ids, np.int32)


def _response(value: Any, column: str, where: str) -> str:
    row = Row(where, {column: value})
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list) and value and not is_parts(value):
        messages = row.messages(column, value)
        if len(messages) != 1 or messages[0].role != "assistant":
            raise InputError(
                f'{where}: "{column}" must be one message of the assistant; move the others to "prompt".'
            )
        return messages[0].content
    if not isinstance(value, str) and not is_parts(value):
        raise InputError(f'{where}: "{column}" is {value!r}; must be a text or a list with one message.')
    return row.text(column, value)


def _prompt(value: Any, where: str) -> Prompt:
    row = Row(where, {"prompt": value})
    if isinstance(value, str) or is_parts(value):
        return row.text("prompt", value)
    if isinstance(value, list) and value:
        return row.messages("prompt", value)
    raise InputError(f'{where}: "prompt" is {value!r}; must be a text or a list of messages.')
