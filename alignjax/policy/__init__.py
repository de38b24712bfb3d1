"""What a policy does: log-probabilities of responses, and sampling them."""

from alignjax.policy.divergence import completion_kl, response_kl
from alignjax.policy.logps import completion_logps, pair_logps, response_logps, slot_logps, token_logps
from alignjax.policy.sampling import Samples, greedy, sample

__all__ = [
    "Samples",
    "completion_kl",
    "completion_logps",
    "greedy",
    "pair_logps",
    "response_kl",
    "sample",
    "response_logps",
    "slot_logps",
    "token_logps",
]
