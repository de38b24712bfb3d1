"""The stage that solves for the multiplier, and says what it promises."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from alignjax import dual
from alignjax.config import Config, ConstraintSettings
from alignjax.data.records import Prompt
from alignjax.dual import Asked
from alignjax.errors import InputError
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.units import Unit
from alignjax.runtime.files import write_record
from alignjax.scores import units as in_units
from alignjax.stages import Stage, Work
from alignjax.workflow.calibrate import Calibrated, tilt_findings
from alignjax.workflow.dial import dial_of
from alignjax.workflow.groundwork import Data
from alignjax.workflow.measuring import prompts_of_test
from alignjax.workflow.setup import Setup, part
from alignjax.workflow.units import resolved


def dualized(setup: Setup, data: Data, raw: np.ndarray, calibration: Calibrated) -> Stage[DualAnswer]:
    """The multiplier and what it promises: dual.json.

    Computing raises InfeasibleError where no policy on the samples meets the constraints; the message names
    the most that can be met.
    """
    config = setup.config

    def compute(work: Work) -> DualAnswer:
        answer = answer_of(setup, data, raw, calibration)
        dual.require_answer(answer)
        lam = ", ".join(f"{name} {value:.4f}" for name, value in (answer.lam or {}).items())
        assert answer.predicted is not None and answer.gate is not None
        median = answer.predicted.ess.median
        gate = "open" if answer.gate.open else "closed"
        setup.log.say(
            f"  lambda: {lam}; effective samples per prompt: {median:.1f} (median); forecast {gate}"
        )
        for warning in answer.warnings:
            setup.log.say(f"  {warning}")

        def solve(constraints: Mapping[str, ConstraintSettings], lam: float | None) -> DualAnswer:
            changed = dataclasses.replace(config, constraints=constraints, lam=lam)
            asking = dataclasses.replace(setup, config=changed)
            return answer_of(asking, data, raw, calibration)

        return dataclasses.replace(answer, dial=dial_of(answer, config.constraints, solve, config.lam))

    return Stage(
        name="dual",
        settings=part(setup, "constraints", "lam", "beta", "bootstrap", "confidence")
        | {"test prompts": _test_categories(setup, data), "top_p": config.sampling.top_p},
        inputs=("calibration",),
        version=2,
        outputs=("dual.json",),
        compute=compute,
        save=lambda folder, answer: write_record(folder / "dual.json", answer),
        load=lambda folder, work: read_record(DualAnswer, folder / "dual.json"),
        abstract=lambda: _abstract_answer(config),
    )


def answer_of(
    setup: Setup,
    data: Data,
    raw: np.ndarray,
    calibration: Calibrated,
    *,
    lam: Sequence[float] | None = None,
) -> DualAnswer:
    """What the dual says of a run's calibrated scores.

    Args:
      setup: with what is asked, beta, and the number of resamples.
      data: with the categories of the prompts.
      raw: [N, K, 1+m] scores before calibration.
      calibration: the table, and the fit whose uncertainty the intervals hold.
      lam: fixed multipliers of the constraints; None: `config.lam`, and without it they are solved for.
    """
    fixed = setup.config.lam if lam is None else lam
    config, table, key = setup.config, calibration.table, jax.random.key(setup.config.seed)
    dimensions = config.dimensions
    scores = np.concatenate([table.rewards[..., None], table.utilities], axis=-1)
    prompts = sample_prompts(setup, data)
    categories = _categories(config, data, prompts)
    units, asked, findings = resolved(
        config.constraints, dimensions, scores, categories, calibration.record.rates, beta=config.beta
    )
    _require_test_prompts(setup, data, units)
    count = len(prompts)
    utilities = in_units.utilities(units, scores, dimensions, categories)
    answer = dual.answer(
        table.rewards,
        utilities,
        names=tuple(units),
        asked=[asked[name] for name in units],
        beta=config.beta,
        lam=fixed,
        exposure=in_units.exposure(units, categories, count),
        units=units,
        confidence=config.confidence or 0.95,
        conservative=config.confidence is not None and fixed is None,
        num_resamples=config.bootstrap,
        seed=config.seed,
        uncertainty=in_units.uncertainty(
            key, units, calibration.fit, raw, dimensions, categories, config.bootstrap
        ),
        population=setup.population,
    )
    if answer.lam is None:
        return answer
    said = [*findings, *answer.warnings, *_truncated(config)]
    exponent = table.rewards + utilities @ answer.multipliers
    by_dimension = _by_dimension(answer, dimensions)
    said += tilt_findings(calibration, by_dimension, config.beta, dimensions, exponent=exponent)
    return dataclasses.replace(answer, warnings=tuple(said))


def sample_prompts(setup: Setup, data: Data) -> list[Prompt]:
    """The prompts on which the reference is sampled for the dual."""
    return data.pairs.train_prompts[: setup.config.sampling.num_prompts]


def _categories(config: Config, data: Data, prompts: Sequence[Prompt]) -> dict[str, list[str | None]]:
    """By column that some constraint groups by, the category of every prompt."""
    columns = dict.fromkeys(config.group_columns.values())
    return {column: data.pairs.category_of(column, prompts) for column in columns}


def _test_categories(setup: Setup, data: Data) -> dict[str, dict[str, int]]:
    """How many test prompts each category has: whether a question can be tested is part of it."""
    if setup.shape is not None:
        return {}
    prompts = prompts_of_test(setup, data)
    found = _categories(setup.config, data, prompts)
    return {
        column: dict(sorted(Counter(one for one in values if one is not None).items()))
        for column, values in found.items()
    }


def _require_test_prompts(setup: Setup, data: Data, units: Mapping[str, Unit]) -> None:
    """Refuses a category that no test could say anything about, before anything is trained for it."""
    prompts = prompts_of_test(setup, data)
    categories = _categories(setup.config, data, prompts)
    least = 1 if setup.population else 2
    for name, unit in units.items():
        if unit.category is None:
            continue
        count = int(in_units.belongs(unit, categories, len(prompts)).sum())
        if count < least:
            raise InputError(
                f"config.constraints.{unit.dimension}.groups: {count} of {len(prompts)} test prompts are of "
                f"{name}, a test needs {least}; raise config.test.prompts or config.test.share, or leave the "
                "category out."
            )


def _by_dimension(answer: DualAnswer, dimensions: Sequence[str]) -> np.ndarray:
    """The multiplier of every constrained dimension, [m]; of a group's, by its share of the prompts."""
    lam = answer.lam or {}
    return np.array(
        [sum(lam[n] for n, u in answer.units.items() if u.dimension == d) for d in dimensions[1:]]
    )


def _truncated(config: Config) -> list[str]:
    """What sampling from less than the whole distribution means for the forecast."""
    if config.sampling.top_p == 1.0:
        return []
    return [
        f"The reference was sampled with top_p {config.sampling.top_p:g}: the forecast is about that "
        "nucleus. The policy that is aligned starts from the whole distribution, whose tail these samples "
        "do not show; set config.sampling.top_p=1 for a forecast of the policy itself."
    ]


def _abstract_answer(config: Config) -> DualAnswer:
    """An answer with multiplier 0 on a table of zeros: a plan reads only its names."""
    size = len(config.constraints)
    answer = dual.answer(
        np.zeros((1, 2)),
        np.zeros((1, 2, size)),
        names=tuple(config.constraints),
        asked=[Asked(margin=0.0)] * size,
        beta=config.beta,
        lam=0.0,
        num_resamples=0,
    )
    return dataclasses.replace(answer, units={name: Unit(name) for name in config.constraints})
