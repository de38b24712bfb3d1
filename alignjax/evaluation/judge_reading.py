"""How a judge that is a language model is shown its questions, as token ids."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from alignjax.data.prompts import adds_bos, ids_of
from alignjax.data.records import Message, Prompt
from alignjax.data.templates import Template, render
from alignjax.errors import InputError
from alignjax.evaluation.judge_prompts import comparison_question, guard_question, transcript

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

_ASKED, _SAID = "alignjax asks", "alignjax says"
Way = Literal["guard", "guard parts", "chat", "plain", "own"]
"""How a question is shown.

guard: prompt and response as turns, of which the folder's chat template makes the guard's whole question;
guard parts: the same with contents as lists of parts; chat: our question as one turn of the user; plain: our
question without a template; own: the text that the configuration gives.
"""


def way_of(tokenizer: "PreTrainedTokenizerBase", preset: str, own: str) -> Way:
    """How questions are shown to a judge.

    The chat template of Llama Guard writes the published question around the turns of a conversation. Such a
    template is known by what it makes of a conversation: both texts, and the word unsafe.

    Args:
      tokenizer: of the judge.
      preset: llama-guard, wildguard or general.
      own: the configuration's text; empty: none.
    """
    if own:
        return "own"
    if tokenizer.chat_template is None:
        return "plain"
    if preset == "llama-guard":
        turns = [[Message("user", _ASKED), Message("assistant", _SAID)]]
        ways: tuple[Way, Way] = ("guard", "guard parts")
        for way in ways:
            try:
                shown = _rendered(tokenizer, turns, ["a probe"], way)[0]
            except InputError:  # a template that reads contents of the other kind only
                continue
            if _ASKED in shown and _SAID in shown and "unsafe" in shown.lower():
                return way
    return "chat"


def guard_ids(
    tokenizer: "PreTrainedTokenizerBase",
    preset: str,
    texts: Sequence[tuple[Prompt, str]],
    *,
    own: str,
    where: str,
) -> list[np.ndarray]:
    """Questions about single responses.

    Args:
      tokenizer: of the guard model.
      preset: llama-guard or wildguard.
      texts: n prompts, each with a response.
      own: text with {prompt} and {response}; empty: the folder's or our question.
      where: the judge, for messages.

    Returns:
      n arrays [T] int32.

    Raises:
      InputError: the chat template refuses the turns, or the tokenizer cannot encode a text.
    """
    way, names = way_of(tokenizer, preset, own), _special(tokenizer)
    if way in ("guard", "guard parts"):
        turns = [
            [*_turns(prompt, names), Message("assistant", _harmless(text, names))] for prompt, text in texts
        ]
        wheres = [f"{where}, question {i}" for i in range(len(texts))]
        return _ids(tokenizer, _rendered(tokenizer, turns, wheres, way), bos=False)
    shown = [(_harmless(transcript(prompt), names), _harmless(text, names)) for prompt, text in texts]
    if way == "own":
        given = [_filled(own, {"prompt": a, "response": b}) for a, b in shown]
        return _ids(tokenizer, given, bos=adds_bos(tokenizer))
    return _question_ids(tokenizer, [guard_question(preset, a, b) for a, b in shown], way, where)


def comparison_ids(
    tokenizer: "PreTrainedTokenizerBase",
    dimension: str,
    texts: Sequence[tuple[Prompt, str, str]],
    *,
    own: str,
    where: str,
) -> list[np.ndarray]:
    """Questions about two responses.

    Args:
      tokenizer: of the chat model.
      dimension: that is judged.
      texts: n prompts, each with the response shown first and the other.
      own: text with {prompt}, {first} and {second}; empty: our question.
      where: the judge, for messages.

    Returns:
      n arrays [T] int32.

    Raises:
      InputError: the chat template refuses the turn, or the tokenizer cannot encode a text.
    """
    way, names = way_of(tokenizer, "general", own), _special(tokenizer)
    shown = [
        (_harmless(transcript(prompt), names), _harmless(a, names), _harmless(b, names))
        for prompt, a, b in texts
    ]
    if way == "own":
        given = [_filled(own, {"prompt": p, "first": a, "second": b}) for p, a, b in shown]
        return _ids(tokenizer, given, bos=adds_bos(tokenizer))
    return _question_ids(tokenizer, [comparison_question(dimension, *one) for one in shown], way, where)


def _question_ids(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], way: Way, where: str
) -> list[np.ndarray]:
    if way == "plain":
        return _ids(tokenizer, [f"{question}\n\n" for question in questions], bos=adds_bos(tokenizer))
    wheres = [f"{where}, question {i}" for i in range(len(questions))]
    turns = [[Message("user", question)] for question in questions]
    return _ids(tokenizer, _rendered(tokenizer, turns, wheres, way), bos=False)


def _rendered(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[Sequence[Message]],
    wheres: Sequence[str],
    way: Way,
) -> list[str]:
    parts = way == "guard parts"
    return render(tokenizer, Template("chat"), turns, wheres, generation=True, parts=parts)


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, bos: bool) -> list[np.ndarray]:
    """Token ids of texts whose control tokens count; with a BOS where the text has none, if `bos`."""
    begin = tokenizer.bos_token_id
    found = ids_of(tokenizer, texts)
    return [
        np.array([begin, *ids] if bos and isinstance(begin, int) and ids[:1] != [begin] else ids, np.int32)
        for ids in found
    ]


def _turns(prompt: Prompt, names: Sequence[str]) -> list[Message]:
    """The turns of user and assistant; a guard's template shows no turn of the system."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [
        Message(one.role, _harmless(one.content, names)) for one in turns if one.role in ("user", "assistant")
    ]


def _filled(text: str, values: Mapping[str, str]) -> str:
    """A text with its places filled at once: what fills one may hold the name of another."""
    pieces, start = list[str](), 0
    for place, name in sorted((text.index("{" + name + "}"), name) for name in values):
        pieces += [text[start:place], values[name]]
        start = place + len(name) + 2
    return "".join([*pieces, text[start:]])


def _special(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Texts of control tokens, the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted({str(one) for one in added if one.special and len(str(one)) > 1}, key=len, reverse=True)


def _harmless(text: str, names: Sequence[str]) -> str:
    """A text that is judged, in which no control token ends its turn: a space follows the first character."""
    for name in names:
        text = text.replace(name, f"{name[0]} {name[1:]}")
    return text
