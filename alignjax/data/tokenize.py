"""Text to token ids: the one place that decides where a response begins and ends.

Prompt and response are tokenized separately, so that the boundary between them is a place in the ids and no
token crosses it. A prompt begins with exactly one BOS (where the tokenizer has one), a whole response ends
with exactly one EOS. Masks follow from the lengths of these arrays; the pad id is never asked for.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jinja2
import numpy as np

from alignjax.data.records import Message, PreferencePair, Prompt
from alignjax.errors import InputError

if TYPE_CHECKING:  # its import takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Template:
    """How a prompt is shown to the model.

    Attributes:
      kind: "chat": the tokenizer's chat template, with the header of the assistant's turn at the end;
        "plain": `text`.
      text: for "plain", a text with {prompt} exactly once, such as "USER: {prompt} ASSISTANT:".
    """

    kind: Literal["chat", "plain"]
    text: str = ""

    def __post_init__(self) -> None:
        """Refuses an unknown kind, and a plain text without its one place for the prompt."""
        if self.kind not in ("chat", "plain"):
            raise InputError(f'template: kind is "{self.kind}"; use chat or plain.')
        if self.kind == "plain" and self.text.count("{prompt}") != 1:
            raise InputError(f'template "{self.text}": must contain {{prompt}} exactly once.')


class TokenizedPair(NamedTuple):
    """One prompt and two responses.

    Attributes:
      prompt_ids: [P] int32, P >= 1.
      chosen_ids: [C] int32, with the EOS unless it was cut.
      rejected_ids: [J] int32, likewise.
    """

    prompt_ids: np.ndarray
    chosen_ids: np.ndarray
    rejected_ids: np.ndarray


class TokenizedResponse(NamedTuple):
    """One prompt and one response.

    Attributes:
      prompt_ids: [P] int32, P >= 1.
      response_ids: [C] int32, with the EOS unless it was cut.
    """

    prompt_ids: np.ndarray
    response_ids: np.ndarray


class CutCounts(NamedTuple):
    """What was too long.

    Attributes:
      prompts_cut: rows whose prompt lost tokens at its beginning.
      responses_cut: responses that lost tokens at their end, the EOS with them.
    """

    prompts_cut: int
    responses_cut: int


def template_for(tokenizer: "PreTrainedTokenizerBase") -> Template:
    """The tokenizer's chat template where it has one, else the bare prompt."""
    return Template("plain", "{prompt}") if tokenizer.chat_template is None else Template("chat")


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", template: Template, prompt: Prompt) -> list[int]:
    """Token ids of a templated prompt: one BOS where the tokenizer has one, no EOS added.

    Args:
      tokenizer: of the model.
      template: how the prompt is shown; a text is one turn of the user.
      prompt: text, or messages of which the last is not the assistant's.

    Returns:
      At least one id.

    Raises:
      InputError: the template cannot show this prompt, or nothing is left of it.
    """
    return _encode_prompts(tokenizer, template, [prompt])[0]


def tokenize_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    prompts: Sequence[Prompt],
    *,
    max_prompt_length: int,
) -> tuple[list[np.ndarray], int]:
    """Prompts to sample from: n arrays of [P] int32 cut from the left (BOS kept), and how many were cut.

    Raises:
      InputError: as `encode_prompt`; max_prompt_length below 1.
    """
    _check_lengths(max_prompt_length + 1, max_prompt_length)
    encoded = _encode_prompts(tokenizer, template, prompts)
    cut = [_cut_prompt(tokenizer, ids, max_prompt_length) for ids in encoded]
    return cut, sum(len(ids) > max_prompt_length for ids in encoded)


def encode_response(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a whole response, the last of them the one EOS.

    An EOS that the text itself ends with is not doubled; elsewhere a special token's name is ordinary text,
    so that data cannot end a response early.

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

    A prompt loses its beginning, since what the response answers stands at its end; a response loses its end.
    A cut response has no EOS: the text did not end there.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      pairs: n pairs, cleaned.
      max_length: tokens of prompt and one response together.
      max_prompt_length: tokens of a prompt, BOS included; at least 1, below max_length.

    Returns:
      n tokenized pairs in the same order, and what was cut.

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
    """Tokenizes single (prompt, response); everything as in `tokenize_pairs`."""
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
    """The common part: n prompts, and the same whole number of responses for each of them, in order."""
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
    """A prompt as the text the model sees."""
    if template.kind == "chat":
        return _render_chat(tokenizer, prompt, where)
    if isinstance(prompt, str):
        return template.text.replace("{prompt}", prompt)
    if len(prompt) == 1 and prompt[0].role == "user":
        return template.text.replace("{prompt}", prompt[0].content)
    raise InputError(
        f"{where}: the prompt has {len(prompt)} messages and a plain template shows one of the user; "
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
            f"{where}: the prompt must end with a turn that is answered; move the reply to the response."
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
    """Makes `ids` begin with exactly one BOS, in place; the template may have written it."""
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
    """Ids of texts with nothing added; `literal`: names of special tokens are ordinary text."""
    texts = list(texts)
    if not texts:
        return []
    # verbose is about model_max_length; what is too long is cut and counted here.
    encoded: Any = tokenizer(texts, add_special_tokens=False, split_special_tokens=literal, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]
