"""The product of policies that stands for the tilted policy: the record behind product.json."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Product:
    """pi proportional to pi_ref prod_k (pi_k / pi_ref)^w_k at every token.

    Attributes:
      multipliers: by constrained dimension, lam, of its calibrated score.
      weights: by dimension, w, of the policy that was aligned to this dimension alone.
      explained: by dimension whose calibration is a curve, the share of the variance of its calibrated score
        within prompts that its line on the reference's samples holds.
      strength: what the weights were multiplied with, so that the product goes no further from the reference
        than is forecast of the tilted policy; 1: with nothing.
      kl: KL of the product from the reference that was measured for this, nats; None: it was not.
    """

    FORMAT: ClassVar[int] = 3

    multipliers: Mapping[str, float]
    weights: Mapping[str, float]
    explained: Mapping[str, float]
    strength: float = 1.0
    kl: float | None = None
