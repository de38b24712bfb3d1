"""Other questions to a finished dual, and the product of policies that answers them without a training.

The policies that were aligned to one dimension each hold the whole frontier: their weighted product is the
tilted policy of any multiplier (`scores.tilting`), up to the normalisation, which the product does token by
token.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from alignjax import dual
from alignjax.config import Config, ConstraintSettings
from alignjax.errors import InputError, did_you_mean
from alignjax.models import Lora, mixture_of
from alignjax.policy.values import Policy
from alignjax.records.answer import DualAnswer, Predicted
from alignjax.records.product import Product
from alignjax.scores import units as in_units
from alignjax.scores.tilting import linear_multipliers, linear_scores, product_weights
from alignjax.stages import Run
from alignjax.workflow import aligned_pairs, answering
from alignjax.workflow.dualizing import answer_of
from alignjax.workflow.prepared import Prepared
from alignjax.workflow.setup import Setup

_NOTHING: Mapping[str, float] = MappingProxyType({})


class Wanted(NamedTuple):
    """What is asked of a dial, by constraint. A constraint that none of them names is asked as in the run.

    Attributes:
      margins: mean calibrated score above the reference's.
      rates: mean probability of a safe response.
      multipliers: of the calibrated score; nothing is solved.
    """

    margins: Mapping[str, float] = _NOTHING
    rates: Mapping[str, float] = _NOTHING
    multipliers: Mapping[str, float] = _NOTHING

    @property
    def names(self) -> tuple[str, ...]:
        """Of the constraints, as often as they are named."""
        return (*self.margins, *self.rates, *self.multipliers)


class Dialled(NamedTuple):
    """The answer to what was asked of a dial.

    Attributes:
      answer: of the dual, in which every constraint is on the calibrated score itself.
      rates: by constraint that was asked for as a rate, the forecast of draw-K.
    """

    answer: DualAnswer
    rates: Mapping[str, float]


def dialled(ready: Prepared, wanted: Wanted = Wanted()) -> Dialled:  # noqa: B008  # immutable
    """The multipliers that answer a question about the run's own table, with the run's guard.

    A rate is not linear in the scores, and the product is: there the least multipliers of the scores are
    taken whose forecast reaches the rate that the run's own way of asking has.

    Args:
      ready: of the run.
      wanted: the question.

    Raises:
      InputError: an unknown constraint, one that is asked twice or in two ways, one that the run asks by
        category or as a tail, or a rate of which no label tells.
      InfeasibleError: it cannot be met on the samples.
    """
    config = ready.setup.config
    _check_names(wanted, config)
    if wanted.multipliers or (config.lam is not None and not wanted.names):
        return _at_multipliers(ready, wanted)
    constraints = {name: _asking(name, one, wanted) for name, one in config.constraints.items()}
    answer = _answer(ready, constraints) if wanted.names else ready.answer
    dual.require_answer(answer)
    rated = [name for name, one in constraints.items() if one.rate is not None]
    if not rated:
        return Dialled(answer, {})
    lam, reached = _linear(ready, answer, answer.multipliers)
    return Dialled(_plain_answer(ready, lam), {name: reached[name] for name in rated})


def own_multipliers(ready: Prepared, lam: np.ndarray | None = None) -> dict[str, float]:
    """Multipliers of the calibrated scores at which the run's own constraints are kept.

    Args:
      ready: of the run.
      lam: [m], multipliers of its constraints; None: those of the dual.

    Returns:
      By constrained dimension: `lam` itself where every constraint is on a score.

    Raises:
      InputError: the run asks by category or as a tail, or for rates that cannot be met together.
    """
    config, answer = ready.setup.config, ready.answer
    given = answer.multipliers if lam is None else np.asarray(lam, np.float64)
    for name, one in config.constraints.items():
        if config.lam is None:
            _asking(name, one, Wanted())
    if any(unit.rate is not None for unit in answer.units.values()):
        given = np.array(_linear(ready, answer, given)[0])
    return dict(zip(config.constraints, given.tolist(), strict=True))


def product_of(ready: Prepared, multipliers: Mapping[str, float]) -> Product:
    """The weights of the product at multipliers of the calibrated scores.

    PeCAN's policies imply the raw scores, which the calibration maps. MoCAN's were aligned to the calibrated
    scores at the dual's own beta, so that their weights are 1 and the multipliers.

    Args:
      ready: of the run.
      multipliers: by constraint.
    """
    config, lam = ready.setup.config, np.array(list(multipliers.values()), np.float64)
    if config.method == "mocan":
        weights, bent = np.concatenate([[1.0], lam]), {}
    else:
        linear = linear_scores(ready.calibration.fit, ready.raw)
        weights = product_weights(linear.matrix, lam, beta=config.beta, beta_pre=config.beta_pre)
        shares = zip(config.dimensions, linear.explained.tolist(), strict=True)
        curves = ready.calibration.fit.curves or (None,) * len(weights)
        bent = {name: share for (name, share), one in zip(shares, curves, strict=True) if one is not None}
    return Product(dict(multipliers), dict(zip(config.dimensions, weights.tolist(), strict=True)), bent)


def notes_of(product: Product) -> list[str]:
    """What to know of a product: its strength, and which calibrations it holds only in part."""
    found = []
    if product.strength < 1:
        found.append(
            f"the product is taken at strength {product.strength:.2f}, where its KL is {product.kl or 0:.2f} "
            "nats; whole it would go further from the reference than is forecast"
        )
    return found + [
        f"{name}: its calibration is a curve, which a product of policies cannot follow; the line that is "
        f"used in its place holds {share:.0%} of the score's variance within prompts."
        for name, share in product.explained.items()
        if share < 0.9995
    ]


def factors(run: Run, ready: Prepared) -> dict[str, Policy]:
    """The policies of single dimensions that a product is made of, by dimension.

    Raises:
      InputError: the run has trained none; names the flag that trains them.
    """
    setup = ready.setup
    config = setup.config
    if config.lora.rank == 0:
        raise InputError(
            "config.lora.rank: is 0: this run trains all weights, and policies multiply only as adapters on "
            "one body; train with --config.lora.rank=8 in a new folder."
        )
    if config.method == "pecan":
        return dict(ready.single)
    if not config.baselines.single:
        raise InputError(
            "config.baselines.single: is False: the product needs policies aligned to single scores, which "
            "MoCAN trains as baselines; run python -m alignjax.train with this --workdir and "
            "--config.baselines.single=True, which keeps all that is done."
        )
    pair_scores = run.do(aligned_pairs.pair_scores(setup, ready.data, ready.by, ready.calibration, ready.raw))
    return single_of(setup, answering.baselines(run, setup, ready.reference, ready.data, pair_scores))


def single_of(setup: Setup, baselines: Mapping[str, Policy]) -> dict[str, Policy]:
    """MoCAN's policies of single scores among its baselines, by dimension; none where it trained none."""
    return {name: baselines[name] for name in setup.config.dimensions if setup.config.baselines.single}


def adapters_of(single: Mapping[str, Policy]) -> list[Lora]:
    """The adapters of policies.

    Raises:
      InputError: a policy is no adapter.
    """
    found = []
    for name, policy in single.items():
        if not isinstance(policy.lora, Lora):
            raise InputError(f"{name}: its policy is no single adapter, and only these can be multiplied.")
        found.append(policy.lora)
    return found


def product_policy(
    reference: Policy,
    single: Mapping[str, Policy],
    product: Product,
    *,
    name: str = "product",
    stage: str = "product",
    fingerprint: str = "",
) -> Policy:
    """The product as a policy, which costs a forward pass for the reference and for every factor.

    Args:
      reference: pi_ref.
      single: by dimension, policies that are adapters on the reference.
      product: their weights.
      name: of the policy.
      stage: that made it.
      fingerprint: of that stage.

    Raises:
      InputError: a policy is no adapter, or adapters of different bodies.
    """
    mixture = mixture_of(adapters_of(single), [product.weights[one] for one in single])
    return Policy(name, reference.load, mixture, stage, fingerprint)


def said(found: Dialled) -> list[str]:
    """The multipliers and their forecast, in two lines."""
    answer = found.answer
    assert answer.lam is not None and answer.forecast is not None
    opened = answer.gate is not None and answer.gate.open
    forecast = answer.forecast.tilt if opened else answer.forecast.draw_k
    lam = ", ".join(f"{name} {value:.4f}" for name, value in answer.lam.items())
    state = "open" if opened else "closed, so it is that of draw-K"
    lines = [f"lambda: {lam}", f"forecast ({state}): {_told(forecast)}"]
    if found.rates:
        rates = ", ".join(f"{name} {value:.3f}" for name, value in found.rates.items())
        lines[1] += f"; rate of draw-K: {rates}"
    return lines


def _told(forecast: Predicted) -> str:
    margins = [
        f"margin of {name} {one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"
        for name, one in forecast.margins.items()
    ]
    gain, kl = forecast.reward_gain, forecast.kl
    return ", ".join(
        [
            *margins,
            f"reward gain {gain.mean:.3f} [{gain.low:.3f}, {gain.high:.3f}]",
            f"KL {kl.mean:.2f} nats",
        ]
    )


def _check_names(wanted: Wanted, config: Config) -> None:
    known, seen = list(config.constraints), set[str]()
    for name in wanted.names:
        if name not in known:
            raise InputError(
                f"{name!r} is no constraint of this run; {did_you_mean(name, known)}it has "
                f"{', '.join(known)}."
            )
        if name in seen:
            raise InputError(f"{name}: is asked for twice; give one of --margin, --rate and --multiplier.")
        seen.add(name)
    if wanted.multipliers and (wanted.margins or wanted.rates):
        raise InputError(
            "--multiplier: nothing is solved where multipliers are given; give no --margin or --rate, or no "
            "--multiplier."
        )
    for name, value in wanted.multipliers.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"--multiplier={name}={value:g}: must be a finite number of at least 0.")


def _asking(name: str, own: ConstraintSettings, wanted: Wanted) -> ConstraintSettings:
    """What is asked of one constraint."""
    if name in wanted.margins:
        return ConstraintSettings(margin=wanted.margins[name])
    if name in wanted.rates:
        return ConstraintSettings(rate=wanted.rates[name])
    if own.tail.given or own.groups.given:
        what = "by category" if own.groups.given else "of the worst responses"
        raise InputError(
            f"{name}: the run asks for it {what}, which no product of policies is; give --margin={name}=X, "
            f"--rate={name}=X or --multiplier={name}=X."
        )
    if not own.given:
        raise InputError(
            f"{name}: the run asked nothing of it, its multiplier was given; give --margin={name}=X."
        )
    return own


def _at_multipliers(ready: Prepared, wanted: Wanted) -> Dialled:
    """The forecast at given multipliers; a constraint without one keeps the run's."""
    config = ready.setup.config
    given = dict(wanted.multipliers)
    if missing := [name for name in config.constraints if name not in given]:
        if config.lam is not None:
            given |= dict.fromkeys(missing, config.lam)
        else:
            own = dialled(ready).answer.lam or {}
            given |= {name: own[name] for name in missing}
    return Dialled(_plain_answer(ready, [given[name] for name in config.constraints]), {})


def _answer(
    ready: Prepared, constraints: Mapping[str, ConstraintSettings], lam: Sequence[float] | None = None
) -> DualAnswer:
    config = dataclasses.replace(ready.setup.config, constraints=constraints, lam=None)
    setup = dataclasses.replace(ready.setup, config=config)
    return answer_of(setup, ready.data, ready.raw, ready.calibration, lam=lam)


def _plain_answer(ready: Prepared, lam: Sequence[float]) -> DualAnswer:
    """The forecast where every constraint is on the calibrated score itself."""
    names = ready.setup.config.constraints
    return _answer(ready, {name: ConstraintSettings(margin=0.0) for name in names}, lam)


def _linear(ready: Prepared, answer: DualAnswer, given: np.ndarray) -> tuple[list[float], dict[str, float]]:
    """Multipliers of the scores with which all utilities have the means that they have at given ones.

    Args:
      ready: of the run.
      answer: with the units.
      given: [m], multipliers of the utilities.

    Returns:
      The multipliers, and by constraint the mean of its utility.
    """
    config, table = ready.setup.config, ready.calibration.table
    scores = np.concatenate([table.rewards[..., None], table.utilities], axis=-1)
    values = in_units.utilities(answer.units, scores, config.dimensions)
    weights = softmax((table.rewards + values @ given) / config.beta, axis=1)
    targets = np.einsum("nk,nkm->nm", weights, values).mean(axis=0)
    lam = linear_multipliers(table.rewards, table.utilities, values, targets.tolist(), beta=config.beta)
    return lam.tolist(), dict(zip(answer.names, targets.tolist(), strict=True))
