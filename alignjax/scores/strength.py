"""How strongly to take a product of policies, so that it goes no further from the reference than the tilt."""

import math
from collections.abc import Callable

_NEAR = 0.05  # of the KL, relative
_TRIES = 5
_STEEPEST, _FLATTEST = 4.0, 0.5  # of log KL in log strength


def strength_for(kl_at: Callable[[float], float], target: float) -> tuple[float, float]:
    """The strength t in (0, 1] at which a product of weights t w has the KL that is forecast of the tilt.

    The product is normalised at every token, and does not know what a token does to those that follow: its
    KL grows beyond that of the tilt. KL is near to a power of t, whose exponent the last two tries give.

    Args:
      kl_at: strength -> KL from the reference, nats; it may be noisy.
      target: nats, > 0.

    Returns:
      The strength that came nearest, and its KL. 1 where the whole product goes no further than `target`.
    """
    tried = [(1.0, kl_at(1.0))]
    if tried[0][1] <= target * (1 + _NEAR):
        return tried[0]
    power = 2.0
    for _ in range(_TRIES):
        t, kl = tried[-1]
        fresh = min(1.0, t * (target / kl) ** (1.0 / power))
        tried.append((fresh, kl_at(fresh)))
        if abs(tried[-1][1] - target) <= _NEAR * target:
            break
        power = _power(tried[-2], tried[-1])
    return min(tried, key=lambda one: abs(one[1] - target))


def _power(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Slope of log KL in log strength between two tries, within what noise may make of it."""
    (t, a), (u, b) = first, second
    if t == u or min(a, b) <= 0:
        return 2.0
    return min(max(math.log(b / a) / math.log(u / t), _FLATTEST), _STEEPEST)
