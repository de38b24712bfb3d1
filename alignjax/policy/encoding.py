"""Token ids of the prompts and responses in the lines of a file, which hold text or token ids."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alignjax.data.records import Message, Prompt
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


def make_encoder(model: Model | ScoreModel, path: str, template: str = "") -> Encoder:
    """The encoder of a model.

    Args:
      model: read from `path`.
      path: the model's file or folder, for messages.
      template: text with {prompt}; empty: the tokenizer's chat template, or the bare prompt if it has none.

    Returns:
      The encoder.

    Raises:
      InputError: a template without {prompt}, or a template for a model without tokenizer.
    """
    if model.tokenizer is None:
        if template:
            raise InputError(f"--template: {path} holds no tokenizer, so no text can be read; leave it out.")
        return Encoder(None, None, model.config.vocab_size, path)
    shown = Template("plain", template) if template else template_for(model.tokenizer)
    return Encoder(model.tokenizer, shown, model.config.vocab_size, path)


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
    tokenizer, _ = _text_tools(encoder, row, column, where)
    text = row[column]
    if isinstance(text, list):
        messages = _messages(text, column, where)
        if len(messages) != 1 or messages[0].role != "assistant":
            raise InputError(
                f'{where}: "{column}" must be one message of the assistant; move the others to "prompt".'
            )
        text = messages[0].content
    if not isinstance(text, str):
        raise InputError(f'{where}: "{column}" is {text!r}; must be a text or a list with one message.')
    try:
        return np.array(encode_response(tokenizer, text), np.int32)
    except InputError as error:
        raise InputError(f'{where}: "{column}": {error}') from None


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


def _prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return _messages(value, "prompt", where)
    raise InputError(f'{where}: "prompt" is {value!r}; must be a text or a list of messages.')


def _messages(value: list[Any], column: str, where: str) -> tuple[Message, ...]:
    messages = []
    for item in value:
        if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in ("role", "content")):
            raise InputError(f'{where}: "{column}": each message must be {{"role": text, "content": text}}.')
        messages.append(Message(item["role"], item["content"]))
    return tuple(messages)
