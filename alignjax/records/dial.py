"""Policies of one multiplier beside each other: the record behind dial.json."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from alignjax.records.codec import optional
from alignjax.records.evaluation import PolicyResult
from alignjax.records.figure import Figure


@dataclasses.dataclass(frozen=True)
class DialPolicy:
    """One way to have a policy of the multiplier, on the test prompts.

    Attributes:
      result: what it reaches. Of draw-K the KL is an upper bound, and length and refusals are those of the
        reference.
      passes: forward passes of the model for every token of a response that is used.
      draws: responses drawn for each that is used; they are scored too where there are several.
      trainings: of a final policy; those of single dimensions are not counted, the scores or the baselines
        need them anyway.
      tested: whether the run's test was made of it; else its numbers are estimates that nothing verifies.
      distance: KL(policy || pi_lam) in nats, with the normaliser of pi_lam from the reference's responses;
        None of draw-K.
    """

    result: PolicyResult
    passes: int
    draws: int
    trainings: int
    tested: bool
    distance: Figure | None = optional()


@dataclasses.dataclass(frozen=True)
class DialRecord:
    """Several ways to have a policy of one multiplier.

    Attributes:
      lam: multipliers by constraint.
      asked: margins by constraint; None where nothing was asked.
      exact: whether all responses are listed, so that the numbers are sums.
      policies: by name: aligned, product, merged, best_of.
    """

    FORMAT: ClassVar[int] = 3

    lam: Mapping[str, float]
    asked: Mapping[str, float | None]
    exact: bool
    policies: Mapping[str, DialPolicy]
