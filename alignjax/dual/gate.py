"""Whether a table has enough samples to say anything of the tilted policy, and what would give it enough.

The weights of K samples cannot show a KL above log K, and about exp(KL) samples a prompt are necessary and
sufficient for means under the tilt (Chatterjee and Diaconis, arXiv 1511.01437). Where the tilt rests on one
response, halves of the samples agree with the whole and show no bias: only the KL, near log K, tells.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alignjax.records.answer import Gate

SHARE = 0.1  # of the prompts, by weight, that may be too near to log K
ROOM = 1.0  # nats that a prompt's KL must stay below log K

_FACTOR, _FACTORS = 4.0, 6  # of beta, tried before a bisection: up to 4,096 times as large
_BISECTIONS = 7  # in log beta: to 1% of it


class Crowding(NamedTuple):
    """What the gate looks at: KL of each prompt [N], its number of samples [N], weights [N] or None."""

    kl: np.ndarray
    counts: np.ndarray
    weights: np.ndarray | None

    @property
    def share(self) -> float:
        """Share of the prompts, by weight, whose KL is above log K - 1."""
        return float(np.average(self.kl > np.log(self.counts) - ROOM, weights=self.weights))

    @property
    def passes(self) -> bool:
        """True where so few prompts are too near to log K that the gate is open."""
        return self.share <= SHARE

    @property
    def samples(self) -> int:
        """The K from which the KL that is seen would pass: exp(KL + 1) at the 90% quantile of the prompts."""
        weights = np.ones(len(self.kl)) if self.weights is None else self.weights
        high = np.quantile(self.kl, 1 - SHARE, weights=weights, method="inverted_cdf")
        return max(math.ceil(math.exp(float(high) + ROOM)), int(self.counts.max()) + 1)


def gate(found: Crowding, smallest_beta: Callable[[], float | None]) -> Gate:
    """Opens or closes the forecast of the tilted policy.

    Open iff at most 10% of the prompts, by weight, have KL_i > log K_i - 1.

    Args:
      found: KL and number of samples of every prompt.
      smallest_beta: finds the smallest beta at which the same table passes; called where the gate is closed.

    Returns:
      The gate, with reasons and remedies where it is closed.

    Reference: Chatterjee and Diaconis 2018, arXiv 1511.01437.
    """
    share = found.share
    if found.passes:
        return Gate(True, share)
    most, least = int(found.counts.max()), int(found.counts.min())
    drawn = f"{most}" if most == least else f"{least} to {most}"
    kl = float(np.average(found.kl, weights=found.weights))
    reason = (
        f"{share:.1%} of the prompts have a KL above log K - {ROOM:g} nats (mean KL {kl:.3g}, K {drawn}), "
        f"at most {SHARE:.0%} may: K samples cannot show a KL above log K"
    )
    beta = smallest_beta()
    draw = f"draw at least {found.samples:,} responses a prompt"
    draw += " (the KL that is seen grows with K, so it may take more)"
    raised = "ask for less: no larger beta at which this table passes was found"
    if beta is not None:
        raised = f"raise beta to {beta:.4g}, where this table passes"
    return Gate(False, share, (reason,), (draw, raised), found.samples, beta)


def smallest_beta(passes: Callable[[float], bool], beta: float) -> float | None:
    """The smallest beta above a given one that passes, to about 1%: factors of 4, then bisection in log beta.

    Args:
      passes: whether the gate is open at a beta, the problem solved anew.
      beta: one that does not pass.

    Returns:
      One that passes, such that one 1% smaller does not; None where none up to 4,096 times as large does.
    """
    low, high = beta, beta
    for _ in range(_FACTORS):
        low, high = high, high * _FACTOR
        if passes(high):
            break
    else:
        return None
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if passes(middle) else (middle, high)
    rounded = math.ceil(high * 10 ** (places := 3 - math.floor(math.log10(high)))) / 10**places
    return rounded if passes(rounded) else high
