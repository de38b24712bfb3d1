"""What the aligned policy would say, before anything is trained: the table's own responses, drawn anew."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import dual
from alignjax.data.files import read_json_lines
from alignjax.errors import InputError
from alignjax.scores.table import ScoreTable


class Texts(NamedTuple):
    """The table's responses as text.

    Attributes:
      responses: [N][K], None where a response does not exist.
      prompts: N prompts as they are shown to a model; None: not known.
    """

    responses: Sequence[Sequence[str | None]]
    prompts: Sequence[Any] | None


def read_texts(table: ScoreTable, scores: str | Path, responses: str | Path | None) -> Texts:
    """The texts of a table: its own, or those of a file with a line for every response, in its order.

    Args:
      table: the scores.
      scores: the table's file, for messages.
      responses: `.jsonl` with "response", and "prompt" where it is known, as `alignjax.sample` and a run's
        samples.jsonl hold them; None: the table's own.

    Raises:
      InputError: no texts, or lines that do not fit the table.
    """
    if responses is None:
        if table.responses is None:
            raise InputError(
                f"--preview: {scores} holds no responses; use a .jsonl table, or give --responses=FILE.jsonl."
            )
        return Texts(table.responses, None)
    num_prompts, num_samples = np.shape(table.rewards)
    present = np.ones((num_prompts, num_samples), bool) if table.mask is None else table.mask
    places = np.argwhere(present)
    lines = list(read_json_lines(responses))
    if len(lines) != len(places):
        raise InputError(
            f"--responses={responses}: holds {len(lines)} lines, {scores} has {len(places)} responses; "
            "give the file that was scored."
        )
    texts: list[list[str | None]] = [[None] * num_samples for _ in range(num_prompts)]
    prompts: list[Any] = [None] * num_prompts
    for (where, row), (i, k) in zip(lines, places.tolist(), strict=True):
        text = row.get("response")
        if not isinstance(text, str):
            raise InputError(f'{where}: "response" is missing or no text; add it.')
        if k and row.get("prompt") != prompts[i]:
            raise InputError(
                f"{where}: begins a new prompt, but {scores} has more responses to the one before; "
                "give the file that was scored."
            )
        texts[i][k], prompts[i] = text, row.get("prompt")
    return Texts(texts, prompts)


def render_preview(
    table: ScoreTable,
    texts: Texts,
    lam: np.ndarray,
    *,
    beta: float,
    num_samples: int,
    rng: np.random.Generator,
) -> str:
    """Responses of pi_lam as JSON lines: each prompt's own, drawn with the tilted weights.

    A response that has much weight is drawn often; with few effective samples a prompt shows little variety,
    and no draw can say anything that the reference did not.

    Args:
      table: the scores.
      texts: its responses.
      lam: [m] float64.
      beta: KL weight > 0.
      num_samples: responses to draw for each prompt.
      rng: source of the draws.

    Returns:
      Lines {"prompt_id", "prompt", "response", "reward", "utilities", "weight", "sample"}; "prompt" where
      known.
    """
    rewards, utilities = (np.asarray(a, np.float64) for a in (table.rewards, table.utilities))
    with jax.enable_x64(True):
        weights = np.asarray(dual.tilt(lam, rewards, utilities, beta=beta, mask=table.mask))
    lines = []
    for i, row in enumerate(weights):
        known = {"prompt_id": i if table.prompt_ids is None else table.prompt_ids[i]}
        if texts.prompts is not None and texts.prompts[i] is not None:
            known["prompt"] = texts.prompts[i]
        for s, k in enumerate(rng.choice(len(row), size=num_samples, p=row / row.sum())):
            line = {
                **known,
                "response": texts.responses[i][k],
                "reward": float(table.rewards[i, k]),
                "utilities": dict(zip(table.names, table.utilities[i, k].tolist(), strict=True)),
                "weight": float(row[k]),
                "sample": s,
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)
