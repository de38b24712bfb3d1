"""Which labels by people the new labels turned over, for the report."""

import numpy as np

from alignjax.data.records import PreferencePair
from alignjax.report.flips import DECIDED, Flip, Flips
from alignjax.scores.functions import prompt_text
from alignjax.workflow.answering import labels_at
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.setup import Setup

_SHOWN = 30  # pairs of a dimension


def flips_of(setup: Setup, outcome: Outcome) -> list[Flips]:
    """The pairs whose label was turned over, by dimension, at the multipliers of the last policy.

    Args:
      setup: of the run; `config.shown_samples` 0 means that no text is shown.
      outcome: of the run. Where no pair was relabelled there are none.
    """
    pairs, scores = outcome.data.pairs, outcome.pair_scores
    if not len(scores) or not setup.config.shown_samples:
        return []
    lam, refused = outcome.answer.multipliers, outcome.tested.rounds
    if refused:
        lam = np.array([refused[-1].next_lam[name] for name in outcome.answer.names])
    labels = labels_at(setup, outcome.data, scores, outcome.answer, lam)
    return [
        flips(name, pairs.align_pairs, human, labels, scores, most=_SHOWN)
        for name, human in pairs.human.items()
    ]


def flips(
    dimension: str,
    pairs: list[PreferencePair],
    human: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    *,
    most: int,
) -> Flips:
    """The pairs of one dimension whose label was turned over: (label - 1/2) (human - 1/2) < 0.

    Args:
      dimension: whose labels by people are given.
      pairs: n pairs.
      human: [n] in [0, 1], people's P(chosen preferred); nan where there is none.
      labels: [n] in [0, 1], the new P(chosen preferred).
      scores: [n, 2, 1+m] calibrated scores of chosen and rejected.
      most: pairs to show.
    """
    human, labels = np.asarray(human, np.float64), np.asarray(labels, np.float64)
    sides = np.where(np.isnan(human), 0.0, np.sign(human - 0.5)) * np.sign(labels - 0.5)
    places = np.flatnonzero(sides < 0)
    decided = np.maximum(labels, 1.0 - labels)
    order = places[np.argsort(-decided[places], kind="stable")]
    shown = []
    for i in order[:most]:
        pair, rows = pairs[i], [tuple(row) for row in scores[i].tolist()]
        first = int(human[i] < 0.5)  # which of (chosen, rejected) people prefer
        texts = (pair.chosen, pair.rejected)
        both = (rows[first], rows[1 - first])
        shown.append(Flip(prompt_text(pair.prompt), texts[first], texts[1 - first], float(decided[i]), both))
    strong = int((decided[places] >= DECIDED).sum())
    return Flips(dimension, int((sides != 0).sum()), len(places), strong, shown)
