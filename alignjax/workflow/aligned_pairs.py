"""The pairs of the final alignment, and their scores."""

import dataclasses

import numpy as np

from alignjax.data import preferences
from alignjax.data.records import PreferencePair
from alignjax.data.responses import Responses
from alignjax.runtime.arrays import read_npz, write_npz
from alignjax.scores import calibration as calib
from alignjax.scores.scorers import score_pairs, table_digests
from alignjax.stages import Stage, Work
from alignjax.workflow import stand_ins, uses
from alignjax.workflow.calibrate import Calibrated
from alignjax.workflow.groundwork import Data
from alignjax.workflow.scoring import Scorers
from alignjax.workflow.setup import Setup, part

_NO_TEXT = PreferencePair("", "", "", {}, "")


def with_pairs(setup: Setup, data: Data, drawn: Responses) -> Data:
    """MoCAN: the pairs to align on: those of the data, or pairs of the reference's own samples."""
    settings, pairs = setup.config.relabel, data.pairs
    if settings.pairs == "samples" and setup.shape is not None:
        count = len(drawn.tokens) * settings.pairs_per_prompt
        row = stand_ins.pair(setup.config.model, setup.shape.lengths)
        places = np.zeros((count, 3), np.int64)
        pairs = dataclasses.replace(
            pairs, align=[row] * count, align_pairs=[_NO_TEXT] * count, sampled=places
        )
    elif settings.pairs == "samples":
        rng = np.random.default_rng(setup.seeds.seed("pairs of samples"))
        pairs = preferences.pairs_of_samples(pairs, drawn, settings.pairs_per_prompt, rng)
    pairs = preferences.at_most(pairs, settings.max_pairs, setup.seeds.seed("pairs to align on"))
    return data._replace(pairs=pairs)


def pair_scores(
    setup: Setup, data: Data, by: Scorers, calibration: Calibrated, raw: np.ndarray
) -> Stage[np.ndarray]:
    """Calibrated scores of both responses of the pairs to align on, [n, 2, 1+m] float64: pair_scores.npz.

    Pairs of the reference's samples have their scores in `raw`, as `raw_scores` gives it.
    """
    pairs = data.pairs
    tables = table_digests(by, lambda table: table.pairs(pairs.align, pairs.align_pairs))

    def compute(work: Work) -> np.ndarray:
        if pairs.sampled is None:
            scores = score_pairs(by, pairs.align, pairs.align_pairs)
        else:  # of samples, whose scores the dual was solved on
            scores = raw[pairs.sampled[:, :1], pairs.sampled[:, 1:]]
        return calib.calibrated(calibration.fit, scores)

    return Stage(
        name="pair_scores",
        settings=part(setup, "relabel") | {"tables": tables},
        inputs=("calibration",),
        outputs=("pair_scores.npz",),
        compute=compute,
        save=lambda folder, scores: write_npz(folder / "pair_scores.npz", scores=scores),
        load=lambda folder, work: read_npz(folder / "pair_scores.npz")["scores"],
        abstract=lambda: np.zeros((len(pairs.align), 2, len(by))),
        programs=lambda: (
            () if pairs.sampled is not None else uses.scoring_pairs(by.values(), pairs.align, setup.batching)
        ),
    )
