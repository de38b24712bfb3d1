"""What a run's values are made into for its report."""

import numpy as np

from alignjax.data.records import Prompt
from alignjax.data.refusals import is_refusal
from alignjax.data.tokenize import TokenizedResponse
from alignjax.report import Response, Sample
from alignjax.scores import calibration as calib
from alignjax.scores.functions import prompt_text
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.setup import Setup


def samples_of(setup: Setup, outcome: Outcome) -> list[Sample]:
    """All responses of all policies to the evaluation prompts, with calibrated scores.

    Args:
      setup: of the run; `config.shown_samples` 0 means that none are shown.
      outcome: of the run. A world whose every response is listed has drawn none.
    """
    drawn, config = outcome.measured.responses, setup.config
    if not drawn or not config.shown_samples:
        return []
    fit = outcome.calibration.fit
    scores = {name: calib.calibrated(fit, outcome.measured.scores[name].raw) for name in drawn}
    refused = {
        name: [[is_refusal(text, config.refusals) for text in row] for row in found.texts]
        for name, found in drawn.items()
    }
    prompts: list[Prompt] = next(iter(drawn.values())).prompts
    categories = _categories(setup, outcome, prompts)
    return [
        Sample(
            prompt_text(prompt),
            {
                name: _responses(found.texts[i], scores[name][i], refused[name][i], found.tokens[i])
                for name, found in drawn.items()
            },
            categories[i],
        )
        for i, prompt in enumerate(prompts)
    ]


def _responses(
    texts: list[str], scores: np.ndarray, refused: list[bool], tokens: list[TokenizedResponse]
) -> list[Response]:
    return [
        Response(text, tuple(row), refusal, len(ids.response_ids))
        for text, row, refusal, ids in zip(texts, scores.tolist(), refused, tokens, strict=True)
    ]


def _categories(setup: Setup, outcome: Outcome, prompts: list[Prompt]) -> list[str | None]:
    """The category of every prompt, in the columns that constraints are asked by; None: there is no such."""
    columns = dict.fromkeys(setup.config.group_columns.values())
    found = [outcome.data.pairs.category_of(column, prompts) for column in columns]
    joined = [[name for name in row if name is not None] for row in zip(*found, strict=True)]
    return [", ".join(names) or None for names in joined] if found else [None] * len(prompts)


def product_findings(setup: Setup) -> list[str]:
    """Where no policy was trained, what the aligned one is."""
    if not setup.config.align.skip:
        return []
    factors = len(setup.config.dimensions)
    return [
        f"The final alignment was skipped (config.align.skip): `aligned` is the product of {factors} "
        f"policies, {factors + 1} forward passes for each token. alignjax sample --workdir draws from it; "
        "alignjax export writes their merge, which is another policy and was not tested."
    ]


def accuracies(outcome: Outcome) -> dict[str, float]:
    """By score, the share of held-out pairs that its calibrated values order as the label does.

    Args:
      outcome: of the run; a dimension without held-out pairs is left out.
    """
    calibration, found = outcome.calibration, {}
    for j, name in enumerate(calibration.record.dimensions):
        if name in calibration.held_out:
            scores = calib.calibrated(calibration.fit, calibration.held_out[name])[..., j]
            found[name] = agreement(scores[:, 0] - scores[:, 1], calibration.labels[name].labels)
    return found


def agreement(differences: np.ndarray, labels: np.ndarray) -> float:
    """How often differences of scores have the sign that the labels ask for; a tie of either counts half.

        mean (1 + sign(difference) sign(label - 1/2)) / 2

    Args:
      differences: [n], score of the chosen response minus that of the other.
      labels: [n] in [0, 1], probability that the chosen one is preferred.
    """
    return float(np.mean(0.5 + 0.5 * np.sign(differences) * np.sign(labels - 0.5)))
