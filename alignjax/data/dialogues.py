r"""Dialogues as one text, as hh-rlhf writes them: turns opened by "\n\nHuman:" and "\n\nAssistant:"."""

import re
from typing import Any

from alignjax.data.rows import Message

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_dialogue(value: Any) -> bool:
    """Whether a value is a dialogue as one text."""
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def dialogue(text: str) -> tuple[Message, ...]:
    """Turns of an hh-rlhf dialogue; consecutive turns of one speaker are joined, as chat templates require.

    The last turn is the response and is never joined to others.
    """
    _, *parts = _TURN.split(text)
    turns = zip(parts[0::2], parts[1::2], strict=True)
    *before, last = [Message(_ROLES[speaker], content.strip()) for speaker, content in turns]
    messages: list[Message] = []
    for message in before:
        if messages and messages[-1].role == message.role:
            message = Message(message.role, f"{messages.pop().content}\n\n{message.content}")
        messages.append(message)
    return (*messages, last)
