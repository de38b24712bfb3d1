"""Where a chat template lets the assistant's turn begin and end.

The template is asked: one short conversation is rendered with and without the assistant's turn, and what
stands before and after the turn's text is read from the difference. Ids are then those that TRL 1.16
trains on, but for three of its ways: what a template writes after the token that ends a turn (the line end of
ChatML) is not part of a response, since sampling has stopped there; where a template ends a turn with
nothing, the EOS ends it; and today's date is the one that is set.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alignjax.data.rows import Message
from alignjax.data.templates import Template, render
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

_ASKED, _SAID = "alignjax asks", "alignjax says"


class Turn(NamedTuple):
    """The assistant's turn, from the end of the prompt to the token that ends it.

    Attributes:
      opening: text between the header that ends a prompt and the reply, with control tokens, such as Qwen 3's
        empty block of thoughts.
      before: text without control tokens that follows it, such as Mistral's space.
      after: text between the reply and the end token.
      end_id: the token that ends the turn.
      end: its text.
      trims: the template removes white space around the reply.
    """

    opening: str
    before: str
    after: str
    end_id: int
    end: str
    trims: bool


def assistant_turn(tokenizer: "PreTrainedTokenizerBase", template: Template) -> Turn:
    """How the assistant's turn is written; with a plain template the reply alone, ended by the EOS.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.

    Returns:
      The turn. Where the chat template writes nothing after a reply, the EOS ends it.

    Raises:
      InputError: the tokenizer has no EOS where it is needed, the template cannot show a turn of the
        assistant, or it ends the turn with text that is no single token.
    """
    if template.kind == "plain":
        return Turn("", "", "", *_eos(tokenizer), trims=False)
    if tokenizer.chat_template is None:
        raise InputError(
            "the tokenizer has no chat template; give a plain template with {prompt}, such as "
            '"USER: {prompt} ASSISTANT:".'
        )
    return _of_chat(TemplateKey(tokenizer, template))


@functools.lru_cache(maxsize=16)  # lines of a file are encoded one by one, and sampling asks again and again
def _of_chat(key: "TemplateKey") -> Turn:
    tokenizer, template = key.tokenizer, key.template
    asked = Message("user", _ASKED)
    where = ["a probe of one turn"]
    prompt = render(tokenizer, template, [[asked]], where, generation=True)[0]
    padded = f" {_SAID} \n"
    whole, spaced = (
        render(tokenizer, template, [[asked, Message("assistant", said)]], where, generation=False)[0]
        for said in (_SAID, padded)
    )
    start = whole.rfind(_SAID)
    if start < 0:  # such a template says nothing of a reply's end
        return Turn("", "", "", *_eos(tokenizer), trims=False)
    # Where the prompt's header is not how the whole conversation goes on, the reply follows the header.
    lead = whole[len(prompt) : start] if whole.startswith(prompt) else ""
    opening, before = _after_control(tokenizer, lead)
    after, end_id, end = _end(tokenizer, whole[start + len(_SAID) :])
    return Turn(opening, before, after, end_id, end, trims=padded not in spaced)


def assistant_header(tokenizer: "PreTrainedTokenizerBase", template: Template) -> str:
    """The text by which the chat template opens the assistant's turn at the end of a prompt.

    Args:
      tokenizer: has a chat template.
      template: of kind "chat".

    Returns:
      Without white space around it; empty: the template writes no header.

    Raises:
      InputError: the template cannot show one turn of the user.
    """
    turns, where = [[Message("user", _ASKED)]], ["a probe of one turn"]
    prompt, bare = (render(tokenizer, template, turns, where, generation=g)[0] for g in (True, False))
    return prompt[len(bare) :].strip() if prompt.startswith(bare) else ""


def end_id_of_chat(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token by which the tokenizer's chat template ends a turn of the assistant.

    Args:
      tokenizer: of the model.

    Returns:
      The id; None without a chat template, or where its end is no token. Such a template is refused where
      responses are encoded, and a plain template may be used instead of it.
    """
    if tokenizer.chat_template is None:
        return None
    try:
        return assistant_turn(tokenizer, Template("chat")).end_id
    except InputError:
        return None


class TemplateKey:
    """A tokenizer and a template, to remember what they say by."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: Template):
        self.tokenizer, self.template = tokenizer, template
        self._said = f"{template} {tokenizer.chat_template} {tokenizer.eos_token}"

    def __hash__(self) -> int:
        """Of the tokenizer itself, and of what is said by it."""
        return hash((id(self.tokenizer), self._said))

    def __eq__(self, other: object) -> bool:
        """Whether both give the same texts."""
        return (
            isinstance(other, TemplateKey) and self.tokenizer is other.tokenizer and self._said == other._said
        )


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The tokens that are recognised whole in text, by their text.

    Args:
      tokenizer: of the model.
    """
    added: Any = tokenizer.added_tokens_decoder
    return {str(token): i for i, token in added.items()}


def _eos(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, str]:
    eos_id, eos = tokenizer.eos_token_id, tokenizer.eos_token
    if not isinstance(eos_id, int) or not isinstance(eos, str):
        raise InputError(
            "the tokenizer has no EOS, so no response can end; set eos_token in tokenizer_config.json."
        )
    return eos_id, eos


def _first(names: Sequence[str], text: str) -> tuple[int, str] | None:
    """Place and name of the first control token in a text; of two at one place the longer."""
    found = [(text.find(name), -len(name), name) for name in names if name in text]
    return (min(found)[0], min(found)[2]) if found else None


def _after_control(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[str, str]:
    """A text divided behind its last control token and the line ends that follow it."""
    ends = [text.rfind(name) + len(name) for name in control_tokens(tokenizer) if name in text]
    if not ends:
        return "", text
    rest = text[max(ends) :]
    kept = rest.lstrip("\n")
    return text[: len(text) - len(kept)], kept


def _end(tokenizer: "PreTrainedTokenizerBase", tail: str) -> tuple[str, int, str]:
    """What stands before the token that ends a turn, the token and its text."""
    known = control_tokens(tokenizer)
    found = _first(list(known), tail)
    if found is not None:
        place, name = found
        return tail[:place], known[name], name
    if tail.strip():
        raise InputError(
            f"the chat template ends the assistant's turn with {tail.strip()[:60]!r}, which is no token of "
            "the tokenizer, so no response can end there; add the token to the tokenizer, or set "
            "config.model.template."
        )
    return "", *_eos(tokenizer)
