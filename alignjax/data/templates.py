"""How a prompt is shown to the model, and the rendering of chat templates within bounds.

A chat template is a program that came with a model. It runs in a process of its own (`template_worker`), with
a limit of time and of memory, so that no template can hold up or end a run.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignjax.data.rows import Message
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

# Llama 3.1's own constant: with it, its template is the same with and without a clock.
DATE = "2024-07-26"
_SECONDS = 3.0  # for a chunk of conversations; a real template takes less than a millisecond for each
_START_SECONDS = 60.0  # until a new process is ready, on a machine that is busy
_TOGETHER = 32  # conversations of one request


@dataclasses.dataclass(frozen=True)
class Template:
    """How a prompt is shown to the model.

    Attributes:
      kind: "chat": the tokenizer's chat template, followed by the header of the assistant's turn; "plain":
        `text`.
      text: for "plain", a text that contains {prompt} exactly once, such as "USER: {prompt} ASSISTANT:". It
        is repeated for every turn of the user, from {turn} on if it contains that.
      kwargs: for "chat", names that the template reads, such as {"enable_thinking": False}.
      date: for "chat", YYYY-MM-DD, what the template takes for today.
      add_bos: whether prompts begin with one BOS; None: a plain text as the tokenizer adds it, a chat as its
        template writes it.
    """

    kind: Literal["chat", "plain"]
    text: str = ""
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = DATE
    add_bos: bool | None = None

    def __post_init__(self) -> None:
        """Refuses an unknown kind, and a plain text that does not contain {prompt} exactly once."""
        if self.kind not in ("chat", "plain"):
            raise InputError(f'template: kind is "{self.kind}"; use chat or plain.')
        if self.kind == "plain" and self.text.count("{prompt}") != 1:
            raise InputError(f'template "{self.text}": must contain {{prompt}} exactly once.')
        if self.kind == "plain" and self.text.count("{turn}") > 1:
            raise InputError(f'template "{self.text}": must contain {{turn}} at most once.')


class _Worker:
    """The process that renders; it is started when it is first needed, and again after it was ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._read = b""

    def ask(self, request: str, count: int) -> list[dict[str, str]]:
        """The `count` answers to a request; the last says what went wrong if the process had to be ended."""
        with self._lock:
            process = self._started()
            found: list[dict[str, str]] = []
            assert process.stdin is not None
            try:
                process.stdin.write(request.encode() + b"\n")
                process.stdin.flush()
                deadline = time.monotonic() + _SECONDS
                while len(found) < count:
                    found.append(json.loads(self._line(process, deadline)))
            except TimeoutError:
                self._end()
                found.append({"error": f"it takes more than {_SECONDS:.0f} seconds"})
            except (EOFError, BrokenPipeError):
                self._end()
                found.append({"error": "it ended the process that renders it"})
            except BaseException:  # an interrupted answer must not be taken for that of the next request
                self._end()
                raise
            return found

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        script = Path(__file__).with_name("template_worker.py")
        pipe = subprocess.PIPE
        try:
            # -P: the script's folder holds modules with the names of others.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
            )
            self._line(self._process, time.monotonic() + _START_SECONDS)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            self._end()
            reason = str(error) or "it ended at once"
            raise InputError(
                f"the process that renders chat templates cannot be started ({reason}); "
                'free some memory, or use a plain template such as "USER: {prompt} ASSISTANT:".'
            ) from None
        return self._process

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise TimeoutError("no answer in time")
            more = os.read(process.stdout.fileno(), 2**20)
            if not more:
                raise EOFError
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _end(self) -> None:
        process, self._process, self._read = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not yet sent to an ended process
                    stream.close()

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()


_WORKER = _Worker()
_SLOW_SECONDS = 1.0  # a template that fails after more than this is not tried again
_STOPPED: dict[str, str] = {}  # such templates, and why they fail
atexit.register(_WORKER.close)


def render(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    conversations: Sequence[Sequence[Message]],
    wheres: Sequence[str],
    *,
    generation: bool,
    parts: bool = False,
) -> list[str]:
    """The texts of conversations by the tokenizer's chat template, as Hugging Face's `apply_chat_template`.

    Args:
      tokenizer: has a chat template.
      template: of kind "chat".
      conversations: n lists of turns.
      wheres: where each comes from, for messages.
      generation: end with the header of the assistant's turn.
      parts: give each turn's content as a list with one part of text, as templates of some models read it.

    Returns:
      n texts.

    Raises:
      InputError: the template refuses a conversation, or needs too much time or memory.
    """
    source = _source(tokenizer)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    variables = {**special, "tools": None, "documents": None, **template.kwargs}
    texts: list[str] = []
    if source in _STOPPED:  # every further try would take as long
        raise InputError(f"{wheres[0]}: the chat template cannot be used: {_STOPPED[source]}; change it.")
    for start in range(0, len(conversations), _TOGETHER):
        some = conversations[start : start + _TOGETHER]
        request = json.dumps(
            {
                "template": source,
                "date": template.date,
                "variables": variables | {"add_generation_prompt": generation},
                "conversations": [[_as_json(message, parts) for message in turns] for turns in some],
            }
        )
        began = time.monotonic()
        for i, answer in enumerate(_WORKER.ask(request, len(some))):
            if "error" in answer:
                if time.monotonic() - began > _SLOW_SECONDS:
                    _STOPPED[source] = answer["error"]
                roles = ", ".join(message.role for message in some[i])
                raise InputError(
                    f"{wheres[start + i]}: the chat template refuses the turns ({roles}): "
                    f"{answer['error']}; change the turns or the template."
                )
            texts.append(answer["text"])
    return texts


def _as_json(message: Message, parts: bool) -> dict[str, Any]:
    content = [{"type": "text", "text": message.content}] if parts else message.content
    return {"role": message.role, "content": content}


def _source(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The template's text; where a tokenizer has several, the one named default."""
    found: Any = tokenizer.chat_template
    if isinstance(found, dict):
        if not isinstance(found.get("default"), str):
            raise InputError(
                f"the tokenizer has chat templates named {', '.join(map(str, found))}, and none is named "
                "default; rename one in tokenizer_config.json, or set config.model.template."
            )
        return found["default"]
    if not isinstance(found, str):
        raise InputError("the tokenizer's chat_template is not a text; repair tokenizer_config.json.")
    return found
