"""Prompts as text and as token ids: shown by a template, begun as the tokenizer does, cut by whole turns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from alignjax.data.rows import Message, Prompt
from alignjax.data.templated import template_found
from alignjax.data.templates import Template, render
from alignjax.errors import InputError
from alignjax.runtime.faults import is_panic

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

Cut = Literal["", "turns", "text", "header"]
"""How a prompt was shortened: not at all; by its oldest turns; by the beginning of one turn; by all but its
end, so that the system turn and what the template writes around the turns are lost as well."""


class EncodedPrompts(NamedTuple):
    """Token ids of prompts.

    Attributes:
      ids: n lists, none empty.
      how: how each was shortened.
    """

    ids: list[list[int]]
    how: list[Cut]

    @property
    def num_cut(self) -> int:
        """How many were too long and were shortened."""
        return sum(how != "" for how in self.how)


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    prompts: Sequence[Prompt],
    wheres: Sequence[str] | None = None,
    *,
    most: int | None = None,
) -> EncodedPrompts:
    """Token ids of prompts; equal prompts are computed once.

    A conversation that is too long loses its oldest turns, whole, except those of the system. Where one turn
    alone is too long, its text is cut at the beginning; what the template writes around it is kept.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      prompts: n prompts.
      wheres: where each comes from, for messages; None: their numbers.
      most: the largest number of ids of a prompt; None: any.

    Returns:
      The ids, in order.

    Raises:
      InputError: the template cannot show a prompt, a prompt is already templated, or has no tokens.
    """
    places = wheres or [f"prompt {i}" for i in range(len(prompts))]
    first = {prompt: place for prompt, place in reversed(list(zip(prompts, places, strict=True)))}
    for prompt, place in first.items():
        if told := template_found(tokenizer, template, prompt):
            raise InputError(f"{place}: {told}")
    texts = shown_texts(tokenizer, template, list(first), list(first.values()))
    known: dict[Prompt, list[int]] = {}
    how = dict[Prompt, Cut]()
    for prompt, text, found in zip(first, texts, ids_of(tokenizer, texts), strict=True):
        known[prompt] = _begun(tokenizer, template, found)
        if not known[prompt]:
            raise InputError(f"{first[prompt]}: the prompt has no tokens; drop it or use a template.")
        if most is not None and len(known[prompt]) > most:
            known[prompt], how[prompt] = _shortened(tokenizer, template, prompt, text, first[prompt], most)
    return EncodedPrompts([known[prompt] for prompt in prompts], [how.get(prompt, "") for prompt in prompts])


def ids_of(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, literal: bool = False
) -> list[list[int]]:
    """Ids of texts without special tokens added.

    Args:
      tokenizer: of the model.
      texts: n texts.
      literal: names of special tokens are ordinary text.

    Raises:
      InputError: a text has a word that the tokenizer does not know, and it has no token for such.
    """
    if not texts:
        return []
    try:
        # `verbose` would warn about model_max_length; texts that are too long are cut and counted here.
        encoded: Any = tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=literal, verbose=False
        )
    except BaseException as error:  # tokenizers raises the bare class Exception, or panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"the tokenizer cannot encode a text ({reason}), such as {texts[0][:40]!r}; use only words of "
            "its vocabulary, or give it an unknown token."
        ) from None
    return [list(ids) for ids in encoded["input_ids"]]


def _turns(prompt: Prompt) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def shown_texts(
    tokenizer: "PreTrainedTokenizerBase", template: Template, prompts: Sequence[Prompt], wheres: Sequence[str]
) -> list[str]:
    """What the model sees of each prompt.

    Args:
      tokenizer: of the model.
      template: how prompts are shown.
      prompts: n prompts.
      wheres: where each comes from, for messages.

    Raises:
      InputError: the template cannot show a prompt.
    """
    if template.kind == "plain":
        return [_plain(tokenizer, template, p, w) for p, w in zip(prompts, wheres, strict=True)]
    for prompt, where in zip(prompts, wheres, strict=True):
        if tokenizer.chat_template is None:
            raise InputError(
                f"{where}: the tokenizer has no chat template; give a plain template with {{prompt}}, such "
                'as "USER: {prompt} ASSISTANT:".'
            )
        if not _turns(prompt) or _turns(prompt)[-1].role == "assistant":
            raise InputError(
                f"{where}: the prompt must not end with the assistant's turn; move that turn to the response."
            )
    return render(tokenizer, template, [_turns(prompt) for prompt in prompts], wheres, generation=True)


def _plain(tokenizer: "PreTrainedTokenizerBase", template: Template, prompt: Prompt, where: str) -> str:
    """A plain template with one turn, or repeated for every turn of the user."""
    before, _, after = template.text.partition("{prompt}")
    intro, marked, turn = before.partition("{turn}")
    if not marked:
        intro, turn = "", before
    turns = _turns(prompt)
    roles = [message.role for message in turns]
    alternate = ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]
    several = len(roles) == 1 or bool(turn.strip() and after.strip())
    if roles != alternate or len(roles) % 2 == 0 or not several:
        raise InputError(
            f"{where}: the prompt has {len(prompt)} messages, but a plain template shows one of the user, or "
            "turns of user and assistant where it names both; "
            'use the "chat" template of a chat model, or write the turns into one text.'
        )
    # Safe-RLHF ends earlier replies by the EOS; a template whose turns begin with white space needs no such.
    apart = "" if turn[:1].isspace() else str(tokenizer.eos_token or "\n")
    text = intro
    for message in turns:
        if message.role == "user":
            text += turn + message.content + after
        else:
            space = "" if after[-1:].isspace() or message.content[:1].isspace() else " "
            text += space + message.content + apart
    return text


def _begun(tokenizer: "PreTrainedTokenizerBase", template: Template, ids: list[int]) -> list[int]:
    """The ids with or without a BOS, as the template asks or the tokenizer does; never with two."""
    bos = tokenizer.bos_token_id
    if not isinstance(bos, int):
        if template.add_bos:
            raise InputError(
                "config.model.add_bos (or --add_bos): is True, but the tokenizer has no BOS; leave it out."
            )
        return ids
    count = 0
    while ids[count : count + 1] == [bos]:
        count += 1
    if template.add_bos is None:
        # What Hugging Face does: special tokens are added to a text, not to what a chat template wrote.
        adds = count > 0 or (template.kind == "plain" and adds_bos(tokenizer))
    else:
        adds = template.add_bos
    return ([bos] if adds else []) + ids[count:]


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer itself begins a text with its BOS.

    Args:
      tokenizer: of the model.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    empty: Any = tokenizer("")["input_ids"]
    # [BOS] or [BOS, EOS]; where both are one token, an EOS alone cannot be told from it.
    return list(empty[:1]) == [bos] and (len(empty) > 1 or bos != tokenizer.eos_token_id or _opens(tokenizer))


def _opens(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the one special token that the tokenizer adds stands before the text."""
    masks: Any = tokenizer("a", return_special_tokens_mask=True, verbose=False)["special_tokens_mask"]
    return bool(masks[0])


def _shortened(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    prompt: Prompt,
    text: str,
    where: str,
    most: int,
) -> tuple[list[int], Cut]:
    """At most `most` ids of a prompt: oldest turns dropped, then one turn's text cut; and which it was."""
    turns = _turns(prompt)
    system = turns[: next((i for i, message in enumerate(turns) if message.role != "system"), len(turns))]
    rest = turns[len(system) :]
    for start in (i for i, message in enumerate(rest) if i and message.role == "user"):
        turns = (*system, *rest[start:])
        text = shown_texts(tokenizer, template, [turns], [where])[0]
        ids = _begun(tokenizer, template, ids_of(tokenizer, [text])[0])
        if len(ids) <= most:
            return ids, "turns"
    whole = _begun(tokenizer, template, ids_of(tokenizer, [text])[0])
    content = max((message.content for message in turns if message.role != "system"), key=len, default="")
    place = text.rfind(content)
    if place < 0:  # the template removes the white space around it
        content = content.strip()
        place = text.rfind(content)
    outside = [text[:place], text[place + len(content) :]] if place >= 0 else ["", ""]
    head, tail = ids_of(tokenizer, outside)
    head = _begun(tokenizer, template, head)
    room = most - len(head) - len(tail)
    if place < 0 or room < 1:  # not even what the template writes has room: what answers come after is kept
        bos = [i for i in whole[:1] if i == tokenizer.bos_token_id]
        return bos + (whole[-(most - len(bos)) :] if most > len(bos) else []), "header"
    # Where tokens cross the edges of the text, its parts are encoded each for itself.
    inside = ids_of(tokenizer, [content])[0]
    if whole[: len(head)] == head and whole[len(whole) - len(tail) :] == tail:
        inside = whole[len(head) : len(whole) - len(tail)]
    return head + inside[-room:] + tail, "text"
