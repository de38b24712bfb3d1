"""Responses of the reference that another program drew: a server, or an earlier run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alignjax.data.files import read_json_lines
from alignjax.data.records import Prompt, prompt_json, prompt_of
from alignjax.data.responses import Responses
from alignjax.data.tokenize import Template, TokenizedResponse, encode_response
from alignjax.errors import InputError
from alignjax.runtime.files import remove, write_text

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase


class GivenCounts(NamedTuple):
    """What became of the lines of a file.

    Attributes:
      used: responses.
      cut: how many of them were longer than allowed.
      spare: responses to prompts that had enough already.
      elsewhere: responses to prompts that the run does not sample.
    """

    used: int
    cut: int
    spare: int
    elsewhere: int


class Expected(NamedTuple):
    """What a file of responses is read for.

    Attributes:
      prompts: N prompts.
      ids: their tokens.
      num_samples: K responses to each.
      max_new_tokens: of a response, its end included; longer ones are cut.
      temperature: that responses are to be drawn at.
      top_p: mass of the nucleus that they are to be drawn from.
    """

    prompts: Sequence[Prompt]
    ids: Sequence[np.ndarray]
    num_samples: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


def require_enough(path: str, expected: Expected, *, lacking: Path | None) -> None:
    """Refuses a file with too few responses, without reading the responses themselves.

    Args:
      path: as of `read_given`; there may be no such file yet.
      expected: what is wanted.
      lacking: file that then lists the prompts with too few responses, each with its tokens and how to draw;
        None: none is written.

    Raises:
      InputError: a line without a prompt, or too few responses to some prompts.
    """
    places = {_key(prompt): i for i, prompt in enumerate(expected.prompts)}
    counts = [0] * len(places)
    for where, row in read_json_lines(path) if Path(path).exists() else ():
        place = places.get(_key(prompt_of(row, where)))
        if place is not None:
            counts[place] += 1
    _require_all(path, counts, expected, lacking)


def read_given(
    path: str,
    expected: Expected,
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    *,
    lacking: Path | None,
) -> tuple[Responses, GivenCounts]:
    """Reads K responses to each of N prompts.

    Args:
      path: JSON Lines. A line has "prompt", as the run's prompts have it, and "response_ids", tokens that are
        taken as they are, the end token included; or "response", a text that is given the end token unless
        "finish_reason" is "length", as servers say of a response that was cut.
      expected: what is wanted; the first K responses of each prompt are used.
      tokenizer: of the reference.
      template: how prompts are shown.
      lacking: as of `require_enough`.

    Returns:
      The responses, in the order of the prompts, and what became of the lines.

    Raises:
      InputError: a line that cannot be used, or too few responses to some prompts.
    """
    places = {_key(prompt): i for i, prompt in enumerate(expected.prompts)}
    found: list[list[tuple[str, list[int]]]] = [[] for _ in expected.prompts]
    cut = spare = elsewhere = 0
    for where, row in read_json_lines(path):
        place = places.get(_key(prompt_of(row, where)))
        if place is None:
            elsewhere += 1
        elif len(found[place]) == expected.num_samples:
            spare += 1
        else:
            text, ids = _response(row, where, tokenizer, template)
            cut += len(ids) > expected.max_new_tokens
            found[place].append((text, ids[: expected.max_new_tokens]))
    _require_all(path, [len(row) for row in found], expected, lacking)
    tokens = [
        [TokenizedResponse(prompt, np.array(ids, np.int32)) for _, ids in row]
        for prompt, row in zip(expected.ids, found, strict=True)
    ]
    texts = [[text for text, _ in row] for row in found]
    used = expected.num_samples * len(found)
    return Responses([*expected.prompts], texts, tokens, "reference"), GivenCounts(
        used, cut, spare, elsewhere
    )


def _key(prompt: Prompt) -> str:
    return json.dumps(prompt_json(prompt), ensure_ascii=False)


def _response(
    row: Mapping[str, Any], where: str, tokenizer: "PreTrainedTokenizerBase", template: Template
) -> tuple[str, list[int]]:
    """Text and tokens of one line."""
    ids = row.get("response_ids")
    if ids is not None:
        size = len(tokenizer)
        whole = isinstance(ids, list) and all(type(i) is int and 0 <= i < size for i in ids)
        if not whole or not ids:
            raise InputError(
                f'{where}: "response_ids" must be a list of at least one id below {size}; correct the line.'
            )
        return str(tokenizer.decode(ids, skip_special_tokens=True)), ids
    text = row.get("response")
    if not isinstance(text, str):
        raise InputError(f'{where}: "response" must be a text, or "response_ids" a list of ids; add one.')
    tokens = encode_response(tokenizer, text, template)
    if row.get("finish_reason") != "length":
        return text, tokens
    if len(tokens) == 1:
        raise InputError(f'{where}: "response" was cut before its first token; remove the line.')
    return text, tokens[:-1]


def _require_all(path: str, counts: Sequence[int], expected: Expected, lacking: Path | None) -> None:
    """Refuses a file with too few responses, and lists the prompts that need more."""
    wanted = expected.num_samples
    short = [i for i, count in enumerate(counts) if count < wanted]
    if not short:
        if lacking is not None:
            remove(lacking)
        return
    listed = ""
    if lacking is not None:
        lines = [
            {
                "prompt": prompt_json(expected.prompts[i]),
                "prompt_ids": expected.ids[i].tolist(),
                "num_samples": wanted - counts[i],
                "num_given": counts[i],
                "max_new_tokens": expected.max_new_tokens,
                "temperature": expected.temperature,
                "top_p": expected.top_p,
            }
            for i in short
        ]
        write_text(lacking, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        how = "launch/samples_by_server.py asks a server for them"
        listed = f" Draw those that {lacking} lists ({how}), add them, and run again."
    there = "has" if Path(path).exists() else "does not exist, and so has"
    raise InputError(
        f"config.sampling.responses: {path} {there} fewer than {wanted} responses to {len(short)} "
        f"of {len(counts)} prompts (config.sampling.num_samples, num_prompts).{listed}"
    )
