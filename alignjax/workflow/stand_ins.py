"""Rows that a plan takes in place of data: each as long as it may be, or as long as rows are on average."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.config import ModelSettings, SamplingSettings
from alignjax.data.records import Prompt
from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.workflow.programs import longest_pair, longest_response

# Share of the tokens of a batch that are no padding, where rows of different lengths are put into up to eight
# shapes: of pairs of PKU-SafeRLHF 0.87, of HH-RLHF 0.84. An assumption of the hours, stated with them.
REAL_SHARE = 0.85
_MULTIPLE = 16  # rows are padded to a multiple of so many tokens, see `Batching.buckets`


class Lengths(NamedTuple):
    """Mean tokens of a prompt and of a response of the data."""

    prompt: int
    response: int


def pair(settings: ModelSettings, lengths: Lengths | None) -> TokenizedPair:
    """A pair: of the longest row that the settings allow, or of a padded row of mean lengths.

    Args:
      settings: the limits of tokens.
      lengths: of the data; None: the longest row, a prompt of one token and two responses up to the limit.
    """
    if lengths is None:
        return longest_pair(settings.max_length)
    row = min(_padded(lengths.prompt + 2 * lengths.response), 2 * settings.max_length - 1)
    first = (row - lengths.prompt) // 2
    prompt, chosen, rejected = (
        np.zeros(n, np.int32) for n in (lengths.prompt, first, row - lengths.prompt - first)
    )
    return TokenizedPair(prompt, chosen, rejected)


def corpus_row(settings: ModelSettings, lengths: Lengths | None) -> TokenizedResponse:
    """A response and its prompt as a reference is trained on them; arguments as of `pair`."""
    if lengths is None:
        return longest_response(1, settings.max_length - 1)
    row = min(_padded(lengths.prompt + lengths.response), settings.max_length)
    return longest_response(lengths.prompt, row - lengths.prompt)


def prompts(settings: ModelSettings, lengths: Lengths | None, count: int) -> list[np.ndarray]:
    """Token ids of so many prompts, no two of them equal; other arguments as of `pair`."""
    size = settings.max_prompt_length if lengths is None else lengths.prompt
    return [np.full(size, number, np.int32) for number in range(count)]


def responses(
    settings: ModelSettings,
    lengths: Lengths | None,
    asked: Sequence[Prompt],
    sampling: SamplingSettings,
) -> Responses:
    """K responses to each prompt.

    Args:
      settings: the limits of tokens.
      lengths: of the data; None: all as long as they may be.
      asked: N prompts.
      sampling: K, and the limit of a response's tokens.
    """
    size = sampling.max_new_tokens
    if lengths is not None:
        size = min(size, round(lengths.response / REAL_SHARE))
    response = np.zeros(size, np.int32)
    tokens = [
        [TokenizedResponse(ids, response)] * sampling.num_samples
        for ids in prompts(settings, lengths, len(asked))
    ]
    return Responses([*asked], [[""] * sampling.num_samples] * len(asked), tokens)


def _padded(tokens: int) -> int:
    """Tokens of the batch that go to a row of so many real ones."""
    return max(1, round(tokens / REAL_SHARE / _MULTIPLE)) * _MULTIPLE
