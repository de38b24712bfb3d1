"""What a policy does: log-probabilities of responses, their KL divergence from a reference, and sampling.

The names below are public. The modules `batch_sizing`, `encoding` and `nucleus` are internal.
"""

from alignjax.policy.divergence import completion_kl, response_kl
from alignjax.policy.logps import (
    completion_logps,
    pair_logps,
    preference_logps,
    response_logps,
    slot_logps,
    token_logps,
)
from alignjax.policy.sampling import Samples, greedy, sample, sampled_responses

__all__ = [
    "Samples",
    "completion_kl",
    "completion_logps",
    "greedy",
    "pair_logps",
    "preference_logps",
    "response_kl",
    "response_logps",
    "sample",
    "sampled_responses",
    "slot_logps",
    "token_logps",
]
