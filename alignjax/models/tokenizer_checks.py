"""Checks of a tokenizer that anyone may have written, before its texts become ids."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignjax.errors import InputError
from alignjax.runtime.faults import is_panic

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

_MOST_STEPS = 100  # of a normalizer or a decoder; real ones have up to ten
_MOST_GROWTH = 1000  # characters that a normalizer may make of one
_MOST_STRIPPED = 1000  # characters that a decoder may take off
_PROBES = ("", "a", "Hello there, \u00e9 \U0001f600 \u4e2d\n\t 123", "\0\u202e\ufeff x", "aaaaaaaa" * 8)


def check_tokenizer_file(path: Path) -> None:
    """Refuses a tokenizer.json whose steps could take all memory, or end the process.

    All else that can be wrong with it is found by the library that reads it.

    Args:
      path: the file; nothing is checked where it is missing.

    Raises:
      InputError: it is not JSON, or a step of its normalizer or decoder is too large.
    """
    if not path.is_file():
        return
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = f"transformers cannot load the tokenizer ({error})"
        raise InputError(f"{path}: {reason}; repair the file.") from None
    if not isinstance(fields, dict):
        return
    for name in ("normalizer", "decoder"):
        steps = _steps(fields.get(name))
        large = _growth(steps) > _MOST_GROWTH or _stripped(steps) > _MOST_STRIPPED
        if large or len(steps) > _MOST_STEPS:
            raise InputError(
                f"{path}: the {name} has too many steps, makes more than {_MOST_GROWTH} characters of one, "
                f"or takes off more than {_MOST_STRIPPED}; repair the file."
            )


def probe(tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    """Refuses a tokenizer that cannot make ids of a few texts, or texts of ids.

    Args:
      tokenizer: as it was loaded.
      where: its file or folder, for messages.

    Raises:
      InputError: it fails on one of them for another reason than a word that it does not know.
    """
    for text in _PROBES:
        try:
            encoded: Any = tokenizer(text, add_special_tokens=False, verbose=False)
            tokenizer.decode(encoded["input_ids"])
        except BaseException as error:  # a panic of tokenizers is no Exception
            if isinstance(error, Exception):
                continue  # of a tokenizer without a token for unknown words; said where a text needs it
            if not is_panic(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{where}: the tokenizer cannot be used ({reason}); repair it.") from None


def _steps(value: Any) -> list[dict[str, Any]]:
    """The steps of a sequence, at any depth."""
    found: list[dict[str, Any]] = []
    left = [value]
    while left and len(found) <= _MOST_STEPS:
        step = left.pop()
        if isinstance(step, list):
            left += step
        elif isinstance(step, dict):
            found.append(step)
            left += [step.get("normalizers"), step.get("decoders")]
    return found


def _growth(steps: list[dict[str, Any]]) -> float:
    """Characters that all steps together can make of one."""
    most = 1.0
    for step in steps:
        content, pattern = step.get("content"), step.get("pattern")
        if isinstance(step.get("prepend"), str):
            most *= 1 + len(step["prepend"])
        elif isinstance(content, str) and isinstance(pattern, dict):
            replaced = pattern.get("String")
            most *= max(1.0, len(content) / max(1, len(replaced) if isinstance(replaced, str) else 1))
    return most


def _stripped(steps: list[dict[str, Any]]) -> int:
    counts = [step.get(name) for step in steps for name in ("start", "stop")]
    return max((abs(count) for count in counts if isinstance(count, int)), default=0)
