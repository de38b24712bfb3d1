"""What sampled responses look like."""

from collections.abc import Collection, Sequence

import numpy as np

from alignjax.data.refusals import is_refusal
from alignjax.data.responses import Responses

RESPONSE_STATS = ("length", "cut", "empty", "refusals")


def response_stats(responses: Responses, end_ids: Collection[int], refusals: Sequence[str]) -> np.ndarray:
    """The statistics of every response, [N, K, 4] float64, in the order of `RESPONSE_STATS`.

    Args:
      responses: K of each of N prompts.
      end_ids: tokens that end a response.
      refusals: openings of responses that refuse.

    Returns:
      Tokens with the end token; 1 where a response was cut (it has no end), is empty (no visible character),
      opens with one of the refusals, else 0.
    """
    return np.array(
        [
            [
                [
                    len(ids.response_ids),
                    ids.response_ids[-1] not in end_ids,
                    not text.strip(),
                    is_refusal(text, refusals),
                ]
                for text, ids in zip(texts, tokens, strict=True)
            ]
            for texts, tokens in zip(responses.texts, responses.tokens, strict=True)
        ],
        np.float64,
    )
