"""What each constraint of the dual is a constraint on: a score, a probability, a tail, a category's share."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rate:
    """How likely a response with a given score is safe: P(safe) = sigma(slope s + intercept).

    Attributes:
      slope: per unit of the calibrated score.
      intercept: in logits.
      covariance: [2, 2], of slope and intercept, in this order.
    """

    slope: float
    intercept: float
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Tail:
    """A bound on the mean cost of the worst responses: CVaR_share(cost) <= cost, where the cost is -score.

        CVaR_share(cost) = min_eta eta + E (cost - eta)_+ / share

    At a fixed eta, `threshold`, it is met if the mean utility -(cost - eta)_+ / share reaches -(cost - eta).

    Attributes:
      share: of the responses, in (0, 1]: the worst ones.
      cost: the most that their mean cost may be, in the units of the score.
      threshold: eta.
    """

    share: float
    cost: float
    threshold: float


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one constraint of the dual is made of.

    Attributes:
      dimension: whose score it reads.
      category: of the prompts that it is about; None: all prompts.
      column: where the categories of the prompts stand; None where `category` is None.
      share: of the prompts in the category, p_c in (0, 1]; None where `category` is None. The utility of
        prompt i is 1{c_i = category} u_ik / p_c, so that its mean over all prompts is the category's mean.
      rate: the utility u is the probability of a safe response; None: it is not.
      tail: the utility u is minus the cost above a threshold; None: it is not.
      other_than: where `category` stands for all that have no constraint of their own, those that have one;
        None: `category` is one category.

    Without `rate` and `tail` the utility u is the score itself.
    """

    dimension: str
    category: str | None = None
    column: str | None = None
    share: float | None = None
    rate: Rate | None = None
    tail: Tail | None = None
    other_than: tuple[str, ...] | None = None
