"""Takes a product of policies as strongly as the forecast goes, measured on its own responses."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from alignjax.aot.program import Use
from alignjax.config import SamplingSettings
from alignjax.data.records import Prompt
from alignjax.policy import drawing
from alignjax.policy.known_logps import kl_of_responses
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer
from alignjax.records.product import Product
from alignjax.scores.strength import strength_for
from alignjax.workflow import stand_ins, uses
from alignjax.workflow.dialling import product_policy
from alignjax.workflow.dualizing import sample_prompts
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.scoring import abstract_responses

PROMPTS = 64  # whose responses the KL is measured on; it is a sum of exact divergences, so that few suffice


def tempered(
    ready: Prepared,
    single: Mapping[str, Policy],
    product: Product,
    answer: DualAnswer,
    *,
    most: int = PROMPTS,
) -> Product:
    """The product with its weights times the strength at which its KL is that of the forecast.

    Args:
      ready: of the run.
      single: by dimension, the policies that are multiplied.
      product: at strength 1.
      answer: of the dual at the product's multipliers, with the forecast.
      most: prompts of the run's own samples that are drawn from, several times in all.
    """
    target = _forecast_kl(answer)
    if target <= 0:
        return product
    prompts, settings = _drawn_on(ready, most)
    setup = ready.setup
    limit = setup.config.model.max_prompt_length
    ids = drawing.prompt_ids(ready.reference, ready.data.template, prompts, limit)
    key = setup.seeds.key("strength")

    def kl_at(strength: float) -> float:
        policy = product_policy(ready.reference, single, scaled(product, strength))
        return _kl(key, policy, ready.reference, prompts, ids, settings, ready)

    strength, kl = strength_for(kl_at, target)
    return dataclasses.replace(scaled(product, strength), strength=strength, kl=kl)


def scaled(product: Product, strength: float) -> Product:
    """The same product with its weights times a number."""
    weights = {name: strength * weight for name, weight in product.weights.items()}
    return dataclasses.replace(product, weights=weights)


def programs_of(ready: Prepared, product: Policy, *, most: int = PROMPTS) -> list[Use]:
    """What `tempered` runs on devices, for a plan; `product` has shapes."""
    prompts, settings = _drawn_on(ready, most)
    setup = ready.setup
    assert setup.shape is not None, "only a plan asks for programs"
    ids = stand_ins.prompts(setup.config.model, setup.shape.lengths, len(prompts))
    drawn = abstract_responses(setup, prompts, settings)
    return [
        *uses.draws(product, ids, settings, setup.batching),
        uses.divergence(product, ready.reference, drawn, setup.batching),
    ]


def _drawn_on(ready: Prepared, most: int) -> tuple[list[Prompt], SamplingSettings]:
    """The prompts, and how often each is answered: where there are few prompts, several times."""
    prompts = sample_prompts(ready.setup, ready.data)[:most]
    count = max(1, most // max(len(prompts), 1))
    return prompts, dataclasses.replace(ready.setup.config.sampling, num_samples=count)


def _kl(
    key: jax.Array,
    policy: Policy,
    reference: Policy,
    prompts: Sequence[Prompt],
    ids: Sequence[np.ndarray],
    settings: SamplingSettings,
    ready: Prepared,
) -> float:
    batching = ready.setup.batching
    drawn = drawing.draw(key, policy, prompts, ids, settings, batching)
    return float(kl_of_responses(policy, reference, drawn, batching).mean())


def _forecast_kl(answer: DualAnswer) -> float:
    """KL of the tilted policy where the gate is open, else the bound of draw-K."""
    assert answer.forecast is not None
    opened = answer.gate is not None and answer.gate.open
    return (answer.forecast.tilt if opened else answer.forecast.draw_k).kl.mean
