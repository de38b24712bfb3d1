"""Responses that were sampled, and the files that keep them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignjax.data.files import read_json_lines
from alignjax.data.records import Prompt, prompt_json
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.runtime.files import write_text


class Responses(NamedTuple):
    """K responses to each of N prompts.

    Attributes:
      prompts: N prompts as given.
      texts: N lists of K decoded responses.
      tokens: N lists of K tokenized responses.
      policy: whose they are, as progress bars say it; empty: nobody's, as of a world's list.
      logps: [N, K] float32, nats, log-probabilities under the policy that drew them, as the sampler computed
        them token by token, at temperature 1; None: not known, as of responses from elsewhere.
    """

    prompts: list[Prompt]
    texts: list[list[str]]
    tokens: list[list[TokenizedResponse]]
    policy: str = ""
    logps: np.ndarray | None = None

    @property
    def described(self) -> str:
        """Whose responses they are, for progress bars."""
        return f"{self.policy}'s responses" if self.policy else "responses"

    @property
    def flat(self) -> list[TokenizedResponse]:
        """N K tokenized responses, prompt by prompt."""
        return [response for row in self.tokens for response in row]


def write_responses(path: Path, responses: Responses, extra: Mapping[str, str]) -> None:
    """Writes sampled responses as JSON Lines, one response a line.

    Args:
      path: the file.
      responses: of N prompts.
      extra: fields that every line carries.
    """
    lines, logps = [], responses.logps
    for i, (prompt, texts, tokens) in enumerate(zip(*responses[:3], strict=True)):
        shown = prompt_json(prompt)
        for k, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
            line = {"prompt_id": i, "sample": k, "prompt": shown, "response": text}
            line["response_ids"] = ids.response_ids.tolist()
            if logps is not None:
                line["logps"] = float(logps[i, k])
            lines.append(json.dumps({**line, **extra}))
    write_text(path, "\n".join(lines) + "\n")


def read_responses(path: Path, prompts: Sequence[Prompt], ids: Sequence[np.ndarray]) -> Responses:
    """Reads what `write_responses` wrote for these prompts.

    Args:
      path: the file.
      prompts: N prompts.
      ids: their tokens.

    Raises:
      InputError: the file holds responses to another number of prompts.
    """
    rows: list[list[tuple[str, list[int]]]] = [[] for _ in prompts]
    logps: list[list[float | None]] = [[] for _ in prompts]
    for where, row in read_json_lines(path):
        if not 0 <= row["prompt_id"] < len(rows):
            raise InputError(f"{where}: answers prompt {row['prompt_id']} of {len(rows)}.")
        rows[row["prompt_id"]].append((row["response"], row["response_ids"]))
        logps[row["prompt_id"]].append(row.get("logps"))
    tokens = [
        [TokenizedResponse(prompt, np.array(found, np.int32)) for _, found in row]
        for prompt, row in zip(ids, rows, strict=True)
    ]
    texts = [[text for text, _ in row] for row in rows]
    return Responses(list(prompts), texts, tokens, logps=logps_if_all_known(logps))


def logps_if_all_known(logps: Sequence[Sequence[float | None] | None]) -> np.ndarray | None:
    """Log-probabilities [N, K] of N prompts' responses; None where any is not known, as in older files."""
    rows = [[] if row is None else list(row) for row in logps]
    if not rows or any(len(row) != len(rows[0]) or None in row for row in rows) or not rows[0]:
        return None
    return np.array(rows, np.float32)
