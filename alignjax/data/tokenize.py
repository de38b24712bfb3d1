"""Text to token ids. This is the only module that decides where a response begins and ends.

Prompt and response are tokenized separately, so that no token crosses the boundary between them. A prompt
begins with a BOS where the tokenizer or its chat template writes one, a whole response ends with exactly one
end token, that of the chat template's turns or the EOS. Masks follow from the lengths of these arrays; the
pad id is not used.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alignjax.config import ModelSettings
from alignjax.data.prompts import encode_prompts, ids_of
from alignjax.data.records import PreferencePair, Prompt
from alignjax.data.templates import Template
from alignjax.data.turns import assistant_turn, control_tokens
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


class TokenizedPair(NamedTuple):
    """One prompt and two responses.

    Attributes:
      prompt_ids: [P] int32, P >= 1.
      chosen_ids: [C] int32, EOS included unless it was cut off.
      rejected_ids: [J] int32, EOS included unless it was cut off.
    """

    prompt_ids: np.ndarray
    chosen_ids: np.ndarray
    rejected_ids: np.ndarray


class TokenizedResponse(NamedTuple):
    """One prompt and one response.

    Attributes:
      prompt_ids: [P] int32, P >= 1.
      response_ids: [C] int32, EOS included unless it was cut off.
    """

    prompt_ids: np.ndarray
    response_ids: np.ndarray


class CutCounts(NamedTuple):
    """Numbers of prompts and responses that were too long.

    Attributes:
      prompts_cut: rows whose prompt was cut at its beginning.
      responses_cut: responses that were cut at their end and so lost their EOS.
    """

    prompts_cut: int
    responses_cut: int


def template_for(tokenizer: "PreTrainedTokenizerBase", settings: ModelSettings | None = None) -> Template:
    """The plain text that is set, else the tokenizer's chat template, else the bare prompt.

    Args:
      tokenizer: of the model.
      settings: of the model; None: their defaults.

    Raises:
      InputError: arguments for a chat template, where none is used.
    """
    given = settings or ModelSettings()
    if given.template or tokenizer.chat_template is None:
        if given.template_kwargs:
            raise InputError(
                f"config.model.template_kwargs: is {given.template_kwargs!r}, but only a chat template reads "
                "it, and prompts are shown by a plain text; leave it (or --template_kwargs) out."
            )
        return Template("plain", given.template or "{prompt}", add_bos=given.add_bos)
    kwargs = json.loads(given.template_kwargs or "{}")
    return Template("chat", kwargs=kwargs, date=given.template_date, add_bos=given.add_bos)


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", template: Template, prompt: Prompt) -> list[int]:
    """Token ids of a templated prompt, with one BOS if the tokenizer has one, and without EOS.

    Args:
      tokenizer: of the model.
      template: how the prompt is shown.
      prompt: a text, which is one turn of the user, or messages of which the last is not the assistant's.

    Returns:
      At least one id.

    Raises:
      InputError: the template cannot show this prompt, or the prompt has no tokens.
    """
    return encode_prompts(tokenizer, template, [prompt]).ids[0]


def tokenize_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    prompts: Sequence[Prompt],
    *,
    max_prompt_length: int,
) -> tuple[list[np.ndarray], int]:
    """Token ids of prompts to sample from, cut at their beginning if they are too long.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      prompts: n prompts.
      max_prompt_length: tokens of a prompt, BOS included; >= 1. The BOS is kept.

    Returns:
      n arrays [P] int32, and the number of prompts that were cut.

    Raises:
      InputError: as in `encode_prompt`, or max_prompt_length < 1.
    """
    _check_lengths(max_prompt_length + 1, max_prompt_length)
    encoded = encode_prompts(tokenizer, template, prompts, most=max_prompt_length)
    return [np.array(ids, np.int32) for ids in encoded.ids], encoded.num_cut


def encode_response(
    tokenizer: "PreTrainedTokenizerBase", text: str, template: Template | None = None
) -> list[int]:
    """Token ids of a whole response, which ends with exactly one end token.

    That is the token by which the chat template ends a turn, or with a plain template the EOS. If the text
    itself ends with it, it is not added again. Elsewhere the names of special tokens are
    ordinary text, so that data cannot end a response early.

    Args:
      tokenizer: of the model.
      text: the response.
      template: how prompts are shown; None: the bare prompt.

    Returns:
      At least one id, the end token.

    Raises:
      InputError: the tokenizer has no EOS, or the chat template's end of a turn is no token.
    """
    return _encode_responses(tokenizer, template or Template("plain", "{prompt}"), [text])[0]


def tokenize_pairs(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    pairs: Sequence[PreferencePair],
    *,
    max_length: int,
    max_prompt_length: int,
) -> tuple[list[TokenizedPair], CutCounts]:
    """Tokenizes preference pairs; each response with its prompt has at most `max_length` tokens.

    A prompt that is too long is cut at its beginning, since the response answers its end. A response is cut
    at its end and then has no EOS, since the text does not end there.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      pairs: n pairs, cleaned.
      max_length: largest number of tokens of prompt and one response together.
      max_prompt_length: largest number of tokens of a prompt, BOS included; >= 1 and below max_length.

    Returns:
      n tokenized pairs in the same order, and how many texts were cut.

    Raises:
      InputError: a prompt that the template cannot show, a pair that `clean` would drop, or impossible
        lengths.
    """
    for pair in pairs:
        if pair.problem:
            raise InputError(f"{pair.where}: {pair.problem}; drop it, as `cleaning.clean` does.")
    wheres = [pair.where for pair in pairs]
    responses = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    prompts, encoded, counts = _tokenize(
        tokenizer,
        template,
        [pair.prompt for pair in pairs],
        responses,
        wheres,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
    )
    return [TokenizedPair(*row) for row in zip(prompts, encoded[0::2], encoded[1::2], strict=True)], counts


def tokenize_responses(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    responses: Sequence[tuple[Prompt, str]],
    *,
    max_length: int,
    max_prompt_length: int,
) -> tuple[list[TokenizedResponse], CutCounts]:
    """Tokenizes prompts with one response each; see `tokenize_pairs`.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      responses: n (prompt, response).
      max_length: largest number of tokens of prompt and response together.
      max_prompt_length: largest number of tokens of a prompt, BOS included; >= 1 and below max_length.

    Returns:
      n tokenized responses in the same order, and how many texts were cut.

    Raises:
      InputError: a prompt that the template cannot show, or impossible lengths.
    """
    prompts, encoded, counts = _tokenize(
        tokenizer,
        template,
        [prompt for prompt, _ in responses],
        [text for _, text in responses],
        None,
        max_length=max_length,
        max_prompt_length=max_prompt_length,
    )
    return [TokenizedResponse(*row) for row in zip(prompts, encoded, strict=True)], counts


def _tokenize(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    wheres: Sequence[str] | None,
    *,
    max_length: int,
    max_prompt_length: int,
) -> tuple[list[np.ndarray], list[np.ndarray], CutCounts]:
    """Tokenizes n prompts and the responses to them, the same number for each prompt, in order."""
    _check_lengths(max_length, max_prompt_length)
    encoded = encode_prompts(tokenizer, template, prompts, wheres, most=max_prompt_length)
    cut_prompts = [np.array(ids, np.int32) for ids in encoded.ids]
    each = len(responses) // max(len(prompts), 1)
    whole = _encode_responses(tokenizer, template, responses) if responses else []
    rooms = [max_length - len(cut_prompts[i // each]) for i in range(len(whole))]
    cut = [np.array(ids[:room], np.int32) for ids, room in zip(whole, rooms, strict=True)]
    counts = CutCounts(
        prompts_cut=encoded.num_cut,
        responses_cut=sum(len(ids) > room for ids, room in zip(whole, rooms, strict=True)),
    )
    return cut_prompts, cut, counts


def _check_lengths(max_length: int, max_prompt_length: int) -> None:
    if not 0 < max_prompt_length < max_length:
        raise InputError(
            f"max_prompt_length is {max_prompt_length}; it must be at least 1 and below max_length "
            f"({max_length}), which counts prompt and response together."
        )


def _encode_responses(
    tokenizer: "PreTrainedTokenizerBase", template: Template, texts: Sequence[str]
) -> list[list[int]]:
    turn = assistant_turn(tokenizer, template)
    opening = ids_of(tokenizer, [turn.opening])[0] if turn.opening else []
    thoughts = [name for name in control_tokens(tokenizer) if name in turn.opening]
    space = _space(tokenizer, template)
    bodies, openings = [], []
    for text in texts:
        while text.rstrip().endswith(turn.end):
            text = text.rstrip().removesuffix(turn.end)
        text = text.strip() if turn.trims else text
        # A reply that brings its own thoughts is not given empty ones.
        own = any(text.lstrip().startswith(name) for name in thoughts)
        openings.append([] if own else opening)
        before = "" if own else turn.before
        bodies.append((space if text and not text[0].isspace() else "") + before + text + turn.after)
    encoded = ids_of(tokenizer, bodies, literal=True)
    return [[*head, *ids, turn.end_id] for head, ids in zip(openings, encoded, strict=True)]


def _space(tokenizer: "PreTrainedTokenizerBase", template: Template) -> str:
    """The space between a plain template that ends in a word and the reply.

    SentencePiece tokenizers write it themselves, before every text.
    """
    end = template.text.partition("{prompt}")[2]
    if template.kind == "chat" or not end or end[-1].isspace():
        return ""
    first = tokenizer.tokenize("a")[:1]
    return "" if first and first[0].startswith(("\u2581", "\u0120")) else " "
