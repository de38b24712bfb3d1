"""Finds texts that a template was already applied to, before a second is put around them."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from alignjax.data.rows import Message, Prompt
from alignjax.data.templates import Template, render
from alignjax.data.turns import TemplateKey, assistant_header, assistant_turn, control_tokens
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

_BARE = 'to use texts as they are, set config.model.template (or --template) to "{prompt}"'
# How the prompts of published templates end. No turn of a user ends so.
_ENDS = (
    *("\n\nAssistant:", "\nASSISTANT:", " ASSISTANT:", "### Response:", "### Assistant:", "[/INST]"),
    *("<|im_start|>assistant", "<|im_start|>assistant<|im_sep|>", "<|assistant|>", "<start_of_turn>model"),
    *("<|start_header_id|>assistant<|end_header_id|>", "<|start_of_role|>assistant<|end_of_role|>"),
    "<\uff5cAssistant\uff5c>",
)


class _Marks(NamedTuple):
    """What a chat template writes before a turn, without white space around it.

    Empty where that has no control token: a mark of words, as "User:", may be part of what people write.

    Attributes:
      user: before a later turn of the user.
      assistant: before the reply.
    """

    user: str
    assistant: str


def template_found(
    tokenizer: "PreTrainedTokenizerBase", template: Template, prompt: Prompt, replies: Sequence[str] = ()
) -> str:
    """What shows that a template was already applied to a prompt or its replies.

    Args:
      tokenizer: of the model.
      template: by which prompts will be shown.
      prompt: text or messages.
      replies: the responses to it.

    Returns:
      A sentence that names the setting; empty: nothing shows it. Where the template is the bare prompt,
      texts are taken as they are.
    """
    texts = [prompt] if isinstance(prompt, str) else [m.content for m in prompt if m.role == "user"]
    last = prompt if isinstance(prompt, str) else (prompt[-1].content if prompt else "")
    end = next((end for end in _ENDS if last.rstrip().endswith(end)), "")
    if template.kind == "plain":
        own = template.text.partition("{prompt}")[2].strip()
        if own and (end or last.rstrip().endswith(own)):
            return f"the prompt already ends with the assistant's header; {_BARE}."
        return ""
    if end:
        return f"the prompt already ends with the assistant's header {end.strip()!r}; {_BARE}."
    if tokenizer.chat_template is None:
        return ""
    marks = _marks(TemplateKey(tokenizer, template))
    for what, mark, within in (
        ("prompt", marks.assistant, texts),
        ("prompt", marks.user, texts),
        ("reply", marks.assistant, replies),
    ):
        if mark and any(mark in text for text in within):
            return f"the {what} already has the chat template's {mark[:40]!r} in it; {_BARE}."
    return ""


@functools.lru_cache(maxsize=16)  # asked for every prompt
def _marks(key: TemplateKey) -> _Marks:
    tokenizer, template = key.tokenizer, key.template
    asked, said = "alignjax asks", "alignjax says"
    turns = [Message("user", asked), Message("assistant", said), Message("user", asked)]
    try:
        header = assistant_header(tokenizer, template)
        end = assistant_turn(tokenizer, template).end
        text = render(tokenizer, template, [turns], ["a probe of two turns"], generation=False)[0]
    except InputError:  # what the template cannot show is told where a prompt is rendered
        return _Marks("", "")
    between = text[text.find(said) + len(said) : text.rfind(asked)]
    opening = between.partition(end)[2] if end in between else between
    opening = opening.strip().removeprefix(str(tokenizer.bos_token or "")).strip()
    control = list(control_tokens(tokenizer))
    return _Marks(*(mark if any(name in mark for name in control) else "" for mark in (opening, header)))
