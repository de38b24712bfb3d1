"""Scores that were computed elsewhere, found by the texts of prompt and response.

Each line of the file is one response:

    {"prompt": "...", "response": "...", "reward": 0.4, "utilities": {"safety": 1.3}}
"""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.data.files import read_json_lines
from alignjax.data.records import Prompt, prompt_json, prompt_key, prompt_of
from alignjax.errors import InputError
from alignjax.runtime.files import write_text

Lookup = dict[tuple[str, str], float]
"""(`prompt_key` of the prompt, response) -> score."""


def read_lookup(path: str | Path, name: str) -> Lookup:
    """Reads the scores of one dimension.

    Args:
      path: JSON Lines, plain or gzip. Lines without a score of this dimension are skipped, so that one file
        can hold several dimensions on different lines.
      name: "reward", or a key of "utilities" (higher is safer).

    Returns:
      (Prompt, response) -> score.

    Raises:
      InputError: a file that cannot be read, a line without prompt or response, a score that is not a finite
        number, a response with two different scores, or no score of this dimension at all; the message names
        file and line.
    """
    found: Lookup = {}
    places: dict[tuple[str, str], str] = {}
    for where, row in read_json_lines(path):
        score = _score(row, name, where)
        if score is None:
            continue
        if not isinstance(row.get("response"), str):
            raise InputError(
                f'{where}: "response" is missing or not a text; give the response that was scored.'
            )
        key = prompt_key(prompt_of(row, where)), row["response"]
        if found.setdefault(key, score) != score:
            raise InputError(
                f"{where}: {name} is {score}, but {found[key]} in {places[key]} for the same prompt and "
                "response; keep one of them."
            )
        places.setdefault(key, where)
    if not found:
        field = '"reward"' if name == "reward" else f'"utilities": {{"{name}": ...}}'
        raise InputError(f"{path}: no line has {field}; add it to the lines.")
    return found


def look_up(lookup: Lookup, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
    """Scores of n responses from a table.

    Args:
      lookup: from `read_lookup`.
      prompts: n prompts.
      responses: n responses.

    Returns:
      [n] float64; nan for a response that the table does not hold.
    """
    keys = zip(map(prompt_key, prompts), responses, strict=True)
    return np.array([lookup.get(key, math.nan) for key in keys], np.float64)


def write_unscored(path: Path, prompts: Iterable[Prompt], responses: Iterable[str]) -> int:
    """Writes responses that have to be scored, each once, as lines {"prompt", "response"}.

    Args:
      path: JSON Lines file.
      prompts: n prompts.
      responses: n responses.

    Returns:
      Number of lines.
    """
    lines = {}
    for prompt, response in zip(prompts, responses, strict=True):
        lines[json.dumps({"prompt": prompt_json(prompt), "response": response})] = None
    write_text(path, "".join(f"{line}\n" for line in lines))
    return len(lines)


def _score(row: dict[str, Any], name: str, where: str) -> float | None:
    """The score of this dimension in one line; None if the line has none."""
    if name == "reward":
        value, field = row.get("reward"), '"reward"'
    else:
        utilities = row.get("utilities")
        if utilities is not None and not isinstance(utilities, dict):
            raise InputError(f'{where}: "utilities" must be an object of numbers by constraint.')
        value, field = (utilities or {}).get(name), f'"{name}" of "utilities"'
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise InputError(f"{where}: {field} is {value!r}, must be a finite number; score the response again.")
    return float(value)
