"""The last stage: every policy compared with what was promised, and with each other."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignjax.dual.statistics import resampling_weights
from alignjax.evaluation.audit import Resampling, audit, distances_from_optimum
from alignjax.evaluation.comparison import Comparison, contest
from alignjax.evaluation.means import Scored, on_these_prompts, uncertain_means
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_record
from alignjax.records.evaluation import Contest, Evaluation, Headline
from alignjax.records.verdict import TestRecord
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.runtime.files import write_record
from alignjax.scores import calibration as calib
from alignjax.stages import Stage, Work
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.judge_sources import settings_of
from alignjax.workflow.judging import Judging
from alignjax.workflow.measuring import Measurement, basis_of, prompts_of_test
from alignjax.workflow.setup import Setup, part
from alignjax.workflow.testing import Tested

_SCORES = "evaluation_scores.npz"
_SHOWN = 256  # responses of a prompt that a histogram shows where all are listed


class Evaluated(NamedTuple):
    """What every policy reaches.

    Attributes:
      record: as evaluation.json holds it.
      scores: by policy, [N, K, 1+m] raw scores of single responses, for histograms.
    """

    record: Evaluation
    scores: Mapping[str, np.ndarray]


def evaluated(
    setup: Setup,
    data: Data,
    measured: Measurement,
    calibration: Calibrated,
    answer: DualAnswer,
    tested: Tested,
    judging: Judging,
) -> Stage[Evaluated]:
    """What every policy reaches beside what was promised, and against each other: evaluation.json.

    Args:
      setup: of the run.
      data: with the test prompts.
      measured: all policies on them, the reference first.
      calibration: of the scores.
      answer: of the dual.
      tested: the aligned policy's test.
      judging: what judges found that were asked in stages of their own.
    """
    config = setup.config
    judges = {name: settings_of(setup, judge) for name, judge in config.judges.items()}

    def compute(work: Work) -> Evaluated:
        record = _audit(setup, data, measured, calibration, answer, tested.test, judging)
        rng = np.random.default_rng(setup.seeds.seed("histogram"))
        return Evaluated(record, {name: _scatter(one, rng) for name, one in measured.scores.items()})

    def save(folder: Path, found: Evaluated) -> None:
        write_npz(folder / _SCORES, **found.scores)
        write_record(folder / "evaluation.json", found.record)

    return Stage(
        name="evaluation",
        settings=part(setup, "bootstrap") | {"judges": judges},
        inputs=("dual", tested.tested_by, *dict.fromkeys((*measured.stages, *judging.stages))),
        outputs=("evaluation.json", _SCORES),
        compute=compute,
        save=save,
        load=lambda folder, work: Evaluated(
            read_record(Evaluation, folder / "evaluation.json"), read_npz(folder / _SCORES)
        ),
        abstract=lambda: Evaluated(Evaluation({}, {}, {}, {}, {}, 1, 0.0, {}, Headline("", "")), {}),
    )


def _audit(
    setup: Setup,
    data: Data,
    measured: Measurement,
    calibration: Calibrated,
    answer: DualAnswer,
    test: TestRecord,
    judging: Judging,
) -> Evaluation:
    config, scores, prompts = setup.config, measured.scores, prompts_of_test(setup, data)
    count = len(next(iter(scores.values())).kl)
    basis = on_these_prompts(basis_of(data, calibration, answer, config.dimensions, prompts), count)
    rng = np.random.default_rng(setup.seeds.seed("evaluate"))
    weights = resampling_weights(rng, count, config.bootstrap, population=setup.population)
    uncertain = uncertain_means(scores, basis, setup.seeds.key("calibration"), config.bootstrap)
    calibrated = {name: calib.calibrated(calibration.fit, one.raw) for name, one in scores.items()}
    exact = all(one.weights is not None for one in scores.values())
    comparison = Comparison(
        calibrated,
        {name: one.weights for name, one in scores.items() if one.weights is not None} if exact else None,
        prompts,
        None if exact else {name: [t[0] for t in some.texts] for name, some in measured.responses.items()},
        _decided(setup, judging),
    )
    resampling = Resampling(weights, uncertain)
    record = audit(
        scores, basis, comparison, answer, test, resampling, config.judges, _optima(setup, scores, answer)
    )
    return dataclasses.replace(record, judges=judging.records or None)


def _decided(setup: Setup, judging: Judging) -> dict[str, Contest]:
    """Contests of judges that were asked before, with intervals over the prompts that each was asked on."""
    found = {}
    for name, ruling in judging.rulings.items():
        rng = np.random.default_rng(setup.seeds.seed(f"judge of {name}"))
        count = ruling.judged.shares.shape[2]
        weights = resampling_weights(rng, count, setup.config.bootstrap, population=False)
        found[name] = contest(ruling.policies, ruling.judged, weights)
    return found


def _optima(setup: Setup, scores: Mapping[str, Scored], answer: DualAnswer) -> dict[str, float]:
    """Distances from the true optimum, where the world lists all responses and only margins are asked."""
    world, asked = setup.world, [one.margin for one in setup.config.constraints.values()]
    margins = [margin for margin in asked if margin is not None]
    if world is None or world.enumeration is None or len(margins) != len(asked):
        return {}
    return distances_from_optimum(scores, world.enumeration, beta=answer.beta, margins=margins)


def _scatter(scored: Scored, rng: np.random.Generator) -> np.ndarray:
    """Raw scores of single responses: all that were sampled, or a sample of all that are listed."""
    if scored.weights is None:
        return scored.raw
    shown = np.stack([rng.choice(len(w), size=_SHOWN, p=w / w.sum()) for w in scored.weights])
    return np.take_along_axis(scored.raw, shown[..., None], axis=1)
