"""Who decides a contest between policies: calibrated scores, a function, or verdicts in a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.files import read_json_lines
from alignjax.data.records import Prompt
from alignjax.errors import InputError
from alignjax.runtime.metrics import progress
from alignjax.scores.functions import load_function, prompt_text
from alignjax.scores.win_rates import win_shares

Judge = Callable[[list[str], list[str], list[str]], Any]
"""(prompts, responses a, responses b), lists of equal length -> P(a is better), as many floats in [0, 1]."""

# One response in two batches has float32 scores that differ by rounding; in logits far less than this.
SCORE_TIE = 1e-5


class Judged(NamedTuple):
    """What a judge found of P policies on N prompts.

    Attributes:
      judge: what it is called in evaluation.json.
      shares: [P, P, N] in [0, 1], how often the row's policy wins against the column's; nan: no verdict.
      comparisons: of a pair of policies on one prompt.
      lead: [N], how much more often than half the response that is shown first wins; nan where the judge was
        not asked in both orders. None where there is no order.
    """

    judge: str
    shares: np.ndarray
    comparisons: int
    lead: np.ndarray | None


def by_scores(scores: np.ndarray, weights: np.ndarray | None) -> Judged:
    """All pairs of responses to one prompt, the higher score wins: [P, N, K], and their weights."""
    return Judged("scores", win_shares(scores, weights, tie=SCORE_TIE), scores.shape[2], None)


def by_function(
    path: str, field: str, prompts: Sequence[Prompt], responses: Mapping[str, Sequence[str]]
) -> Judged:
    """A function asked about the first response of every policy, in both orders, whose mean decides.

    Args:
      path: module:function, a `Judge`; it is called with all comparisons of one prompt at a time.
      field: of the configuration, for messages.
      prompts: N prompts.
      responses: by policy, N responses.

    Raises:
      InputError: it cannot be imported, raises, or gives what is no list of probabilities.
    """
    function = load_function(path, field)
    texts = list(responses.values())
    first, second = np.nonzero(~np.eye(len(texts), dtype=bool))  # every pair in both orders
    shares, lead = np.full((len(texts), len(texts), len(prompts)), 0.5), np.zeros(len(prompts))
    with progress(len(prompts), f"judge {path}", unit="prompt") as bar:
        for i, prompt in enumerate(prompts):
            a, b = ([texts[p][i] for p in places] for places in (first, second))
            verdicts = _ask(function, f"{field}: {path}, prompt {i}", prompt_text(prompt), a, b)
            won = np.full((len(texts), len(texts)), 0.5)
            won[first, second] = verdicts
            shares[:, :, i] = (won + 1.0 - won.T) / 2
            lead[i] = verdicts.mean() - 0.5 if verdicts.size else 0.0
            bar.update(1)
    return Judged(path, shares, 1, lead)


def by_verdicts(path: str, prompts: Sequence[Prompt], policies: Sequence[str]) -> Judged:
    """Verdicts of a file; several of one pair on one prompt are averaged.

    Args:
      path: JSON Lines, {"prompt", "first", "second", "winner"}: 1 the first wins, 0 the second, 0.5 neither.
      prompts: N prompts of the evaluation.
      policies: P names.

    Raises:
      InputError: names file and line of what cannot be read or is not in the evaluation.
    """
    shape = len(policies), len(policies), len(prompts)
    won, asked = np.zeros(shape), np.zeros(shape)  # by order: the row's policy was shown first
    for first, second, prompt, winner in _verdicts(path, prompts, policies):
        won[first, second, prompt] += winner
        asked[first, second, prompt] += 1
    count = asked + np.swapaxes(asked, 0, 1)
    against = np.swapaxes(asked - won, 0, 1)  # what the second one won
    shares = np.divide(won + against, count, out=np.full(shape, np.nan), where=count > 0)
    both = (asked > 0) & (np.swapaxes(asked, 0, 1) > 0)
    rate = np.divide(won, asked, out=np.zeros(shape), where=asked > 0)
    pairs = both.sum(axis=(0, 1))
    sums = np.where(both, rate - 0.5, 0.0).sum(axis=(0, 1))
    return Judged(
        "verdicts", shares, 1, np.divide(sums, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    )


def _ask(function: Judge, where: str, prompt: str, a: list[str], b: list[str]) -> np.ndarray:
    """The function's answer, checked: [len(a)] float64."""
    named = f"{where} ({prompt[:60]!r})"
    try:
        verdicts = np.asarray(function([prompt] * len(a), a, b), np.float64)
    except Exception as error:  # the user's own code: whatever it raises is about the verdicts
        raise InputError(f"{named}: raised {type(error).__name__}: {error}; correct the function.") from error
    if verdicts.shape != (len(a),):
        raise InputError(f"{named}: gave {verdicts.shape} verdicts for {len(a)} comparisons; give one each.")
    fine = np.isfinite(verdicts) & (verdicts >= 0) & (verdicts <= 1)
    if not fine.all():
        bad = int(np.argmin(fine))
        raise InputError(
            f"{named}: gave {verdicts[bad]} for comparison {bad}; give the probability in [0, 1] that the "
            "first response is better."
        )
    return verdicts


def _verdicts(
    path: str, prompts: Sequence[Prompt], policies: Sequence[str]
) -> Iterator[tuple[int, int, int, float]]:
    """Places of first, second and prompt, and who won, of every line."""
    places: dict[str, int] = {}
    for i, prompt in enumerate(prompts):
        places.setdefault(prompt_text(prompt), i)
    for where, row in read_json_lines(path):
        for name in ("first", "second"):
            if row.get(name) not in policies:
                raise InputError(
                    f'{where}: "{name}" is {row.get(name)!r}, must be a policy of the evaluation: '
                    f"{', '.join(policies)}; correct or remove the line."
                )
        if row["first"] == row["second"]:
            raise InputError(f'{where}: "first" and "second" are both {row["first"]!r}; remove the line.')
        place = places.get(_text(row.get("prompt")))
        if place is None:
            raise InputError(
                f'{where}: "prompt" is {str(row.get("prompt"))[:60]!r}, none of the evaluation; take prompts '
                "from evaluation_samples/ or remove the line."
            )
        winner = row.get("winner")
        if isinstance(winner, bool) or winner not in (0, 1, 0.5):
            raise InputError(
                f'{where}: "winner" is {winner!r}, must be 1 (first), 0 (second) or 0.5 (tie); correct it.'
            )
        yield policies.index(row["first"]), policies.index(row["second"]), place, float(winner)


def _text(prompt: Any) -> str:
    """A prompt as evaluation_samples/ hold it, a text or a list of messages, as `prompt_text` has it."""
    if isinstance(prompt, list):
        return "\n".join(str(m.get("content")) if isinstance(m, dict) else str(m) for m in prompt)
    return str(prompt)
