"""Whether the log-probabilities that the sampler computed may stand for those of a forward pass.

The sampler computes them token by token on keys and values that it keeps, a forward pass all at once. In
exact arithmetic both are equal; how far rounding takes them apart depends on the model, its number format and
the device, so that it is measured.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.data.responses import Responses

CHECKED = 256  # responses that are also computed by a forward pass
_PER_PROMPT = 8  # of them, to one prompt
_MOST_NOISE = 0.01
_MOST_BIAS = 0.02


class Agreement(NamedTuple):
    """How much of a score is the difference e of the sampler's log-probabilities from a forward pass.

    Shares are of a policy's log-ratio d to the reference, of which scores are multiples; of several policies
    the largest.

    Attributes:
      compared: responses that were computed both ways.
      noise: mean of e^2, as a share of the variance of d among responses to one prompt.
      bias: what no number of samples averages out: |mean of e| as a share of the standard deviation of d, or
        |slope of e on d| among responses to one prompt, whichever is larger.
    """

    compared: int
    noise: float
    bias: float

    @property
    def holds(self) -> bool:
        """Whether the sampler's values may be used."""
        return self.noise <= _MOST_NOISE and self.bias <= _MOST_BIAS


def to_check(drawn: Responses) -> Responses | None:
    """The responses that are computed both ways, of prompts at equal distances.

    Args:
      drawn: K responses to each of N prompts.

    Returns:
      At most `CHECKED` of them; None: a check is of no use, because the log-probabilities are not known,
      because there are no more responses than it takes, or because one response a prompt shows no variance.
    """
    if drawn.logps is None or drawn.logps.size <= CHECKED or drawn.logps.shape[1] < 2:
        return None
    prompts, samples = drawn.logps.shape
    each = min(samples, max(_PER_PROMPT, CHECKED // prompts))
    places = np.linspace(0, prompts - 1, min(prompts, CHECKED // each)).round().astype(int).tolist()
    return Responses(
        [drawn.prompts[i] for i in places],
        [drawn.texts[i][:each] for i in places],
        [drawn.tokens[i][:each] for i in places],
        drawn.policy,
        drawn.logps[places, :each],
    )


def agreement(drawn: np.ndarray, forward: np.ndarray, policies: Sequence[np.ndarray]) -> Agreement:
    """Compares the two ways on P prompts with k responses each, k at least 2.

        e = drawn - forward,  d = log pi - forward
        noise = mean e^2 / var d,  bias = max(|mean e| / sd d, |cov(e, d)| / var d)

    with var and cov among responses to one prompt, over the whole of them.

    Args:
      drawn: [P, k] log-probabilities under the reference by the sampler.
      forward: [P, k] the same by a forward pass.
      policies: of every policy that is compared with the reference, [P, k] log pi by a forward pass.
    """
    error = np.asarray(drawn, np.float64) - forward
    noise = bias = 0.0
    for own in policies:
        variance = _covariance(own - forward, own - forward)
        if variance <= 0.0:  # a policy that is the reference: its scores are nothing but rounding
            return Agreement(error.size, float("inf"), float("inf"))
        slope = _covariance(error, own - forward) / variance
        noise = max(noise, float(np.mean(error**2)) / variance)
        bias = max(bias, abs(float(np.mean(error))) / variance**0.5, abs(slope))
    return Agreement(error.size, noise, bias)


def _covariance(x: np.ndarray, y: np.ndarray) -> float:
    """Covariance within rows."""
    x, y = (one - one.mean(axis=1, keepdims=True) for one in (x, y))
    return float(np.sum(x * y)) / (x.size - len(x))
