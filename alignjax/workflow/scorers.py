"""Where the score of a dimension comes from: a pre-aligned policy, a score model, a function, the truth."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from alignjax.data.records import PreferencePair
from alignjax.data.tokenize import TokenizedPair
from alignjax.scores.implicit import implicit_scores
from alignjax.workflow.context import Context
from alignjax.workflow.scoring import Policy, ResponseLogps, Responses, pair_logps


class Scorer(Protocol):
    """Scores of one dimension: higher is better, higher is safer."""

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> np.ndarray:
        """Scores of both responses of n pairs, [n, 2] float64: chosen, rejected."""
        ...

    def responses(self, drawn: Responses) -> np.ndarray:
        """Scores of sampled responses, [N, K] float64."""
        ...


@dataclasses.dataclass(frozen=True)
class ImplicitScorer:
    """beta_pre log(pi / pi_ref) of a pre-aligned policy.

    Attributes:
      context: the run.
      reference: pi_ref.
      policy: pi.
      logps: of responses; shared, so that the reference's are computed once for all dimensions.
    """

    context: Context
    reference: Policy
    policy: Policy
    logps: ResponseLogps

    def pairs(self, tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]) -> np.ndarray:
        """As `Scorer.pairs`; the texts are not read."""
        own, ref = (pair_logps(self.context, p, tokens) for p in (self.policy, self.reference))
        return np.asarray(implicit_scores(own, ref, beta_pre=self.context.config.beta_pre), np.float64)

    def responses(self, drawn: Responses) -> np.ndarray:
        """As `Scorer.responses`."""
        own, ref = (self.logps.of(p, drawn) for p in (self.policy, self.reference))
        return np.asarray(implicit_scores(own, ref, beta_pre=self.context.config.beta_pre), np.float64)


def score_pairs(
    scorers: Mapping[str, Scorer], tokens: Sequence[TokenizedPair], texts: Sequence[PreferencePair]
) -> np.ndarray:
    """Scores of both responses of every pair by every dimension, in the order given: [n, 2, 1+m] float64."""
    return np.stack([scorer.pairs(tokens, texts) for scorer in scorers.values()], axis=-1)


def score_responses(scorers: Mapping[str, Scorer], drawn: Responses) -> np.ndarray:
    """Scores of sampled responses by every dimension, in the order given: [N, K, 1+m] float64."""
    return np.stack([scorer.responses(drawn) for scorer in scorers.values()], axis=-1)
