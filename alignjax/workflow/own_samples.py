"""The reference's log-probabilities of its own samples, which drawing them gave already."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from alignjax.aot.program import Use
from alignjax.config import SamplingSettings
from alignjax.data.responses import Responses
from alignjax.policy.batching import Batching
from alignjax.policy.kept_logps import agreement, to_check
from alignjax.policy.known_logps import LogpsCache
from alignjax.policy.values import Policy
from alignjax.scores.scorers import ImplicitScorer, Scorer
from alignjax.workflow import uses


class _Compared(NamedTuple):
    """The reference of log-ratios, and the policies that they compare with it."""

    reference: Policy
    policies: list[Policy]


def use_drawing(
    logps: LogpsCache, by: Iterable[Scorer], drawn: Responses, say: Callable[[str], None]
) -> None:
    """Lets scores read the reference's log-probabilities as the sampler computed them, if they may.

    A part of the responses is computed by a forward pass as well, and what differs is compared with what
    scores differ by; see `policy.kept_logps`. Says which of the two is used, and why.

    Args:
      logps: log-probabilities that are known, which scores read.
      by: scorers; those that are no log-ratios read no log-probabilities.
      drawn: responses of the reference.
      say: prints a line for the user.
    """
    found, some = _compared(by), to_check(drawn)
    if found is None or some is None or drawn.logps is None or some.logps is None:
        return
    own = [logps.of_responses(policy, some) for policy in found.policies]
    result = agreement(some.logps, logps.of_responses(found.reference, some), own)
    count = drawn.logps.size
    differs = (
        f"on {result.compared} of them a forward pass differs by {result.noise:.1e} of a score's variance at "
        f"random, {result.bias:.1e} of its deviation throughout"
    )
    if result.holds:
        logps.remember_responses(found.reference, drawn, drawn.logps)
        way = "are those of drawing"
    else:
        way = "are computed anew, because those of drawing are too far off"
    say(f"  log-probabilities of the reference's own {count} samples {way} ({differs})")


def programs_of(by: Iterable[Scorer], drawn: Responses, batching: Batching) -> list[Use]:
    """What scoring the reference's own samples runs, for a plan; arguments as of `use_drawing`."""
    by = list(by)
    found, some = _compared(by), to_check(drawn)
    if found is None or some is None:
        return list(uses.scoring_responses(by, drawn, batching))
    check = [uses.response_logps(policy, some, batching) for policy in (found.reference, *found.policies)]
    return check + list(uses.scoring_responses(by, drawn, batching, known=(found.reference.name,)))


def planned_logps(dtype: str, settings: SamplingSettings, prompts: int) -> np.ndarray | None:
    """The log-probabilities that a plan takes drawing to give; None: such that the run computes them anew.

    A plan can measure nothing. Measured with SmolLM2-135M on responses of 48 tokens (tests/models): in
    float32 noise is 7e-9 of a score's variance and bias 2e-5, far inside of what is allowed. In bfloat16,
    where a token differs by 0.04 nats, noise is 18% at a KL of 0.2 nats and 1.3% at 3.4, more than is
    allowed. So a plan counts the forward passes there, and with a cache of 8 bits: for policies that go far
    the run is faster.

    Args:
      dtype: of the model.
      settings: of sampling.
      prompts: how many there are.
    """
    if dtype != "float32" or settings.cache == "int8":
        return None
    return np.zeros((prompts, settings.num_samples), np.float32)


def _compared(by: Iterable[Scorer]) -> _Compared | None:
    implicit = [scorer for scorer in by if isinstance(scorer, ImplicitScorer)]
    if not implicit:
        return None
    return _Compared(implicit[0].reference, [scorer.policy for scorer in implicit])
