"""Text to token ids. This is the only module that decides where a response begins and ends.

Prompt and response are tokenized separately, so that no token crosses the boundary between them. A prompt
begins with exactly one BOS (if the tokenizer has one), a whole response ends with exactly one EOS. Masks
follow from the lengths of these arrays; the pad id is not used.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jinja2
import numpy as np

from alignjax.data.records import Message, PreferencePair, Prompt
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Template:
    """How a prompt is shown to the model.

    Attributes:
      kind: "chat": the tokenizer's chat template, followed by the header of the assistant's turn; "plain":
        `text`.
      text: for "plain", a text that contains {prompt} exactly once, such as "USER: {prompt} ASSISTANT:".
    """

    kind: Literal["chat", "plain"]
    text: str = ""

    def __post_init__(self) -> None:
        """Refuses an unknown kind, and a plain text that does not contain {prompt} exactly once."""
        if self.kind not in ("chat", "plain"):
            raise InputError(f'template: kind is "{self.kind}"; use chat or plain.')
        if self.kind == "plain" and self.text.count("{prompt}") != 1:
            raise InputError(f'template "{self.text}": must contain {{prompt}} exactly once.')


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


def template_for(tokenizer: "PreTrainedTokenizerBase") -> Template:
    """The tokenizer's chat template, or the bare prompt if it has none."""
    return Template("plain", "{prompt}") if tokenizer.chat_template is None else Template("chat")


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
    return _encode_prompts(tokenizer, template, [prompt])[0]


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
    encoded = _encode_prompts(tokenizer, template, prompts)
    cut = [_cut_prompt(tokenizer, ids, max_prompt_length) for ids in encoded]
    return cut, sum(len(ids) > max_prompt_length for ids in encoded)


def encode_response(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a whole response, which ends with exactly one EOS.

    If the text itself ends with the EOS, it is not added again. Elsewhere the names of special tokens are
    ordinary text, so that data cannot end a response early.

    Args:
      tokenizer: of the model.
      text: the response.

    Returns:
      At least one id, the EOS.

    Raises:
      InputError: the tokenizer has no EOS.
    """
    return _encode_responses(tokenizer, [text])[0]


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
            raise InputError(f"{pair.where}: {pair.problem}; drop it, as `records.clean` does.")
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
    whole_prompts = _encode_prompts(tokenizer, template, prompts, wheres)
    cut_prompts = [_cut_prompt(tokenizer, ids, max_prompt_length) for ids in whole_prompts]
    each = len(responses) // max(len(prompts), 1)
    whole = _encode_responses(tokenizer, responses)
    rooms = [max_length - len(cut_prompts[i // each]) for i in range(len(whole))]
    cut = [np.array(ids[:room], np.int32) for ids, room in zip(whole, rooms, strict=True)]
    counts = CutCounts(
        prompts_cut=sum(len(ids) > max_prompt_length for ids in whole_prompts),
        responses_cut=sum(len(ids) > room for ids, room in zip(whole, rooms, strict=True)),
    )
    return cut_prompts, cut, counts


def _check_lengths(max_length: int, max_prompt_length: int) -> None:
    if not 0 < max_prompt_length < max_length:
        raise InputError(
            f"max_prompt_length is {max_prompt_length}; it must be at least 1 and below max_length "
            f"({max_length}), which counts prompt and response together."
        )


def _encode_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    prompts: Sequence[Prompt],
    wheres: Sequence[str] | None = None,
) -> list[list[int]]:
    places = wheres or [f"prompt {i}" for i in range(len(prompts))]
    first_place = {prompt: place for prompt, place in reversed(list(zip(prompts, places, strict=True)))}
    texts = [_render(tokenizer, template, prompt, place) for prompt, place in first_place.items()]
    known = dict(zip(first_place, _ids(tokenizer, texts, literal=False), strict=True))
    for prompt, ids in known.items():
        _one_bos(tokenizer, ids)
        if not ids:
            raise InputError(f"{first_place[prompt]}: the prompt has no tokens; drop it or use a template.")
    return [known[prompt] for prompt in prompts]


def _render(tokenizer: "PreTrainedTokenizerBase", template: Template, prompt: Prompt, where: str) -> str:
    """The text that the model sees for a prompt."""
    if template.kind == "chat":
        return _render_chat(tokenizer, prompt, where)
    if isinstance(prompt, str):
        return template.text.replace("{prompt}", prompt)
    if len(prompt) == 1 and prompt[0].role == "user":
        return template.text.replace("{prompt}", prompt[0].content)
    raise InputError(
        f"{where}: the prompt has {len(prompt)} messages, but a plain template shows one of the user; "
        'use the "chat" template of a chat model, or write the turns into one text.'
    )


def _render_chat(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, where: str) -> str:
    if tokenizer.chat_template is None:
        raise InputError(
            f"{where}: the tokenizer has no chat template; give a plain template with {{prompt}}, such as "
            '"USER: {prompt} ASSISTANT:".'
        )
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not messages or messages[-1].role == "assistant":
        raise InputError(
            f"{where}: the prompt must not end with the assistant's turn; move that turn to the response."
        )
    try:
        text = tokenizer.apply_chat_template(
            [message._asdict() for message in messages], tokenize=False, add_generation_prompt=True
        )
    except (jinja2.TemplateError, TypeError) as error:
        roles = ", ".join(message.role for message in messages)
        raise InputError(
            f"{where}: the chat template refuses the turns ({roles}): {error}; change the turns or "
            "the template."
        ) from error
    return str(text)


def _one_bos(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> None:
    """Makes `ids` begin with exactly one BOS, in place; the template may have written one or more."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    while ids[:2] == [bos, bos]:
        del ids[0]
    if ids[:1] != [bos]:
        ids.insert(0, bos)  # pyright: ignore[reportArgumentType]  # bos_token is one token


def _cut_prompt(tokenizer: "PreTrainedTokenizerBase", ids: list[int], most: int) -> np.ndarray:
    if len(ids) > most:
        head = ids[:1] if tokenizer.bos_token_id is not None else []
        tail = most - len(head)
        ids = head + (ids[-tail:] if tail else [])
    return np.array(ids, np.int32)


def _encode_responses(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    eos_id, eos = tokenizer.eos_token_id, tokenizer.eos_token
    if not isinstance(eos_id, int) or not isinstance(eos, str):
        raise InputError(
            "the tokenizer has no EOS, so no response can end; set eos_token in tokenizer_config.json."
        )
    bodies = []
    for text in texts:
        while text.rstrip().endswith(eos):
            text = text.rstrip().removesuffix(eos)
        bodies.append(text)
    return [[*ids, eos_id] for ids in _ids(tokenizer, bodies, literal=True)]


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str], *, literal: bool) -> list[list[int]]:
    """Ids of texts without special tokens added; `literal`: names of special tokens are ordinary text."""
    texts = list(texts)
    if not texts:
        return []
    # `verbose` would warn about model_max_length; texts that are too long are cut and counted here.
    encoded: Any = tokenizer(texts, add_special_tokens=False, split_special_tokens=literal, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]
