"""Functions of the user's own, named as module:function: scores and judges."""

import importlib
from collections.abc import Callable
from typing import Any

from alignjax.data.records import Prompt
from alignjax.errors import InputError


def load_function(path: str, field: str) -> Callable[..., Any]:
    """Imports a function.

    Args:
      path: module:function.
      field: of the configuration, for messages.

    Raises:
      InputError: it cannot be imported, or is no function.
    """
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's own module: whatever it raises is about the configuration
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{field}: {path} cannot be imported ({reason}); is it on PYTHONPATH?") from error
    if not callable(function):
        raise InputError(f"{field}: {path} is not a function.")
    return function


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text: that of its messages, one below the other."""
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
