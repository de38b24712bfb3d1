"""Responses of the tilted policy before anything is trained: the table's own, drawn with its weights."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax import dual
from alignjax.scores.table import ScoreTable


class Texts(NamedTuple):
    """The table's responses as text.

    Attributes:
      responses: [N][K], None where a response does not exist.
      prompts: N prompts as they are shown to a model; None: not known.
    """

    responses: Sequence[Sequence[str | None]]
    prompts: Sequence[Any] | None


def render_preview(
    table: ScoreTable,
    texts: Texts,
    lam: np.ndarray,
    constrained: np.ndarray,
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
      constrained: [N, K, m], the utilities that lam weighs: the table's own, or made of them.
      beta: KL weight > 0.
      num_samples: responses to draw for each prompt.
      rng: source of the draws.

    Returns:
      Lines {"prompt_id", "prompt", "response", "reward", "utilities", "weight", "sample"}; "prompt" where
      known.
    """
    rewards, utilities = (np.asarray(a, np.float64) for a in (table.rewards, constrained))
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
