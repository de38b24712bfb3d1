"""Whether a policy moved far enough from the reference for what it is said to have gained."""

import math
from collections.abc import Mapping

import numpy as np

from alignjax.records.evaluation import Evaluation


def unexplained(evaluation: Evaluation, scores: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """Margins that are larger than a policy so near to the reference can have.

        |E_policy g - E_ref g| <= (max g - min g) sqrt(KL(policy || reference) / 2)

    The bound is taken at the upper end of KL's interval, and a margin counts by the end of its interval that
    is nearer to 0. A larger one says that scores or log-probabilities are wrong.

    Args:
      evaluation: of the policies, the reference first.
      scores: policy -> dimension -> calibrated scores of its responses, any shape.

    Returns:
      A sentence for each such margin.

    Reference: Pinsker's inequality, with Jensen's over prompts.
    """
    reference, *others = evaluation.policies
    found = []
    for policy in others:
        result = evaluation.policies[policy]
        for name, margin in {"reward": result.reward_gain, **result.margins}.items():
            if name not in scores.get(policy, {}) or name not in scores.get(reference, {}):
                continue  # of a category: its range is not that of all responses
            both = np.concatenate([scores[one][name].ravel() for one in (reference, policy)])
            size = float(both.max() - both.min())
            most = size * math.sqrt(max(result.kl.high, 0.0) / 2.0)
            least = min(abs(margin.low), abs(margin.high)) if margin.low * margin.high > 0 else 0.0
            if least > most:
                found.append(
                    f"{policy}: {name} differs from the reference's by {margin.mean:.3g}, more than a policy "
                    f"at a KL of {result.kl.mean:.3g} nats can reach on scores in a range of {size:.3g} (at "
                    f"most {most:.3g}): its scores or its log-probabilities are wrong."
                )
    return found
