"""Solves the dual on a score table, and says what the constraints will cost before anything is trained.

    alignjax solve --scores=table.jsonl --beta=0.1 --margin=safety=1.5

`python -m alignjax.solve` is the same. Every constraint of the table is asked for exactly once, as one of

    --margin=safety=1.5              mean utility above the reference's
    --level=safety=0.2               mean utility to reach
    --fraction=safety=0.5            share of the margin of safety's own tilt
    --rate=safety=0.95               mean probability of a safe response
    --tail=safety=0.05:2             mean cost of the worst 5% at most 2
    --groups=safety=1.5              that margin in each category of prompts
    --groups=safety=theft:1.5,fraud:1    these margins in these categories
    --group_level=..., --group_rate=...  as --groups, for levels and rates

Intervals are a bootstrap over prompts. A rate needs a calibration that says how likely a response is safe, or
utilities that are probabilities. --json prints the object that a run keeps in dual.json; where what is asked
cannot be met it is printed too, with "feasible" false and no prediction.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from alignjax import asked_flags, cli, dual
from alignjax.data.files import read_json_lines
from alignjax.dual import Asked
from alignjax.errors import InputError, did_you_mean
from alignjax.records import encode, read_record
from alignjax.records.calibration import CalibrationRecord
from alignjax.records.uncertainty import ScoreUncertainty
from alignjax.records.units import Rate, Unit
from alignjax.report.answer import plot, render
from alignjax.report.preview import Texts, render_preview
from alignjax.runtime.arrays import read_npz
from alignjax.runtime.files import write_bytes, write_text
from alignjax.scores import calibration as calib
from alignjax.scores import units as in_units
from alignjax.scores.calibration import Calibration
from alignjax.scores.pairs_given import refuse_pairs
from alignjax.scores.table import ScoreTable, read_table
from alignjax.workflow.units import resolved

_RAW = "scores_raw.npz"  # beside a run's calibration.json
_PLOTS = (".png", ".svg")


class Outputs(NamedTuple):
    """What is written beside the answer.

    Attributes:
      plot: file of the figure, .png or .svg; None: none.
      preview: file of responses of the tilted policy; None: none.
      responses: file with the table's responses, where the table has none.
      preview_samples: responses a prompt in the preview.
    """

    plot: str | None = None
    preview: str | None = None
    responses: str | None = None
    preview_samples: int = 4


class _Problem(NamedTuple):
    """A table's constraints.

    Attributes:
      units: what each constraint is made of, by name.
      asked: what is asked of it.
      utilities: [N, K, m].
      exposure: [N, m], how much of what is asked each prompt carries.
      uncertainty: of the calibration; None: the scores are believed.
      findings: what is to be known about the categories.
    """

    units: Mapping[str, Unit]
    asked: Mapping[str, Asked]
    utilities: np.ndarray
    exposure: np.ndarray
    uncertainty: ScoreUncertainty | None
    findings: tuple[str, ...]


def solve(
    scores: str | Path,
    *,
    beta: float,
    asked: Mapping[str, Sequence[str]],
    as_json: bool = False,
    conservative: bool = False,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    calibration: str | Path | None = None,
    population: bool = False,
    outputs: Outputs = Outputs(),  # noqa: B008  # immutable
) -> None:
    """Solves the dual on a table and prints what the tilted policy will have.

    Args:
      scores: score table.
      beta: KL weight > 0, in the units of the rewards per nat.
      asked: by flag, "margin" to "group_rate", texts NAME=NUMBER or as the flag has it.
      as_json: print one JSON object in place of text.
      conservative: ask for more, so that what is asked holds with the confidence.
      confidence: of intervals and bounds.
      num_resamples: of the bootstrap; 0: no intervals.
      seed: of the bootstrap, the draws of the calibration and the preview.
      calibration: a run's calibration.json, whose uncertainty the intervals are to hold; None: none.
      population: the table's prompts are all there are.
      outputs: files to write.

    Raises:
      InputError: the table or an option cannot be used.
      InfeasibleError: what is asked cannot be met on these samples; the message names the most that can.
    """
    _check_options(beta, conservative, confidence, num_resamples, seed, outputs)
    requests = asked_flags.parse_asked(asked)
    refuse_pairs(Path(scores))
    table = read_table(scores)
    texts = None if outputs.preview is None else read_texts(table, scores, outputs.responses)
    problem = _problem(table, scores, requests, beta, calibration, seed, num_resamples)
    found = dual.answer(
        table.rewards,
        problem.utilities,
        names=tuple(problem.units),
        asked=list(problem.asked.values()),
        beta=beta,
        mask=table.mask,
        exposure=problem.exposure,
        units=problem.units,
        confidence=confidence,
        conservative=conservative,
        num_resamples=num_resamples,
        seed=seed,
        uncertainty=problem.uncertainty,
        population=population,
        prompt_ids=table.prompt_ids,
    )
    found = dataclasses.replace(found, warnings=(*problem.findings, *found.warnings))
    if as_json:
        print(json.dumps(encode(found), allow_nan=False))
    dual.require_answer(found)
    if outputs.plot is not None:
        from alignjax.report.style import to_png, to_svg  # matplotlib: only where a figure is asked for

        figure, path = plot(found), Path(outputs.plot)
        write_bytes(path, to_png(figure) if path.suffix == ".png" else to_svg(figure).encode())
    if outputs.preview is not None and texts is not None:
        rng, size = np.random.default_rng(seed), outputs.preview_samples
        lines = render_preview(
            table, texts, found.multipliers, problem.utilities, beta=beta, num_samples=size, rng=rng
        )
        write_text(Path(outputs.preview), lines)
    if not as_json:
        print(render(found))


def _problem(
    table: ScoreTable,
    scores: str | Path,
    requests: Mapping[str, asked_flags.Request],
    beta: float,
    calibration: str | Path | None,
    seed: int,
    num_resamples: int,
) -> _Problem:
    """The constraints that flags ask of a table, and what a calibration leaves open about them."""
    requests = _in_order(requests, table, str(scores))
    dimensions, categories = ("reward", *table.names), {asked_flags.COLUMN: table.categories or ()}
    values = np.concatenate([table.rewards[..., None], table.utilities], axis=-1)
    record = None if calibration is None else _record(calibration, table.names, str(scores))
    found = resolved(
        {name: request.settings for name, request in requests.items()},
        dimensions,
        values,
        categories,
        _rates(requests, table, record),
        beta=beta,
        mask=table.mask,
    )
    uncertainty = None
    if calibration is not None and record is not None:
        fit = Calibration(
            record.matrix, record.covariances, record.kind, record.unexplained, curves=record.curves
        )
        raw, key = _raw_scores(fit, values, table.mask, Path(calibration), str(scores)), jax.random.key(seed)
        uncertainty = in_units.uncertainty(key, found.units, fit, raw, dimensions, categories, num_resamples)
    return _Problem(
        found.units,
        found.asked,
        in_units.utilities(found.units, values, dimensions, categories),
        in_units.exposure(found.units, categories, len(values)),
        uncertainty,
        found.findings,
    )


def _check_options(
    beta: float, conservative: bool, confidence: float, num_resamples: int, seed: int, outputs: Outputs
) -> None:
    if not 0 < beta < math.inf:
        raise InputError(f"--beta: is {beta}; must be a finite number above 0.")
    if not 0.5 < confidence < 1:
        raise InputError(f"--confidence: is {confidence}; must lie between 0.5 and 1.")
    if num_resamples < 0:
        raise InputError(f"--resamples: is {num_resamples}; must be at least 0.")
    if seed < 0:
        raise InputError(f"--seed: is {seed}; must be at least 0.")
    if outputs.plot is not None:
        if Path(outputs.plot).suffix not in _PLOTS:
            raise InputError(f"--plot={outputs.plot}: must end in {', '.join(_PLOTS)}.")
        cli.check_output(outputs.plot, flag="plot")
    if outputs.preview is None:
        if outputs.responses is not None:
            raise InputError("--responses is for --preview alone; give --preview=FILE.jsonl or leave it out.")
        return
    if outputs.preview_samples < 1:
        raise InputError(f"--preview_samples: is {outputs.preview_samples}; must be at least 1.")
    cli.check_output(outputs.preview, flag="preview")


def read_texts(table: ScoreTable, scores: str | Path, responses: str | Path | None) -> Texts:
    """The texts of a table: its own, or those of a file with a line for every response, in its order.

    Args:
      table: the scores.
      scores: the table's file, for messages.
      responses: `.jsonl` with "response", and "prompt" where it is known, as `alignjax.sample` and a run's
        samples.jsonl hold them; None: the table's own.

    Raises:
      InputError: no texts, or lines that do not fit the table.
    """
    if responses is None:
        if table.responses is None:
            raise InputError(
                f"--preview: {scores} holds no responses; use a .jsonl table, or give --responses=FILE.jsonl."
            )
        return Texts(table.responses, None)
    num_prompts, num_samples = np.shape(table.rewards)
    present = np.ones((num_prompts, num_samples), bool) if table.mask is None else table.mask
    places = np.argwhere(present)
    lines = list(read_json_lines(responses))
    if len(lines) != len(places):
        raise InputError(
            f"--responses={responses}: holds {len(lines)} lines, {scores} has {len(places)} responses; "
            "give the file that was scored."
        )
    texts: list[list[str | None]] = [[None] * num_samples for _ in range(num_prompts)]
    prompts: list[Any] = [None] * num_prompts
    for (where, row), (i, k) in zip(lines, places.tolist(), strict=True):
        text = row.get("response")
        if not isinstance(text, str):
            raise InputError(f'{where}: "response" is missing or no text; add it.')
        if k and row.get("prompt") != prompts[i]:
            raise InputError(
                f"{where}: begins a new prompt, but {scores} has more responses to the one before; "
                "give the file that was scored."
            )
        texts[i][k], prompts[i] = text, row.get("prompt")
    return Texts(texts, prompts)


def _record(path: str | Path, names: Sequence[str], scores: str) -> CalibrationRecord:
    """The calibration of a run, of the table's own constraints."""
    record = read_record(CalibrationRecord, Path(path))
    if record.dimensions[1:] != tuple(names):
        raise InputError(
            f"--calibration={path}: is of the constraints {', '.join(record.dimensions[1:])}, {scores} has "
            f"{', '.join(names)}; give the calibration.json of the run that wrote the table."
        )
    return record


def _raw_scores(
    fit: Calibration, values: np.ndarray, mask: np.ndarray | None, path: Path, scores: str
) -> np.ndarray:
    """The table's scores before calibration [N, K, 1 + m], 0 where a response does not exist.

    A linear fit is inverted. Another one is not one to one: the run's folder has what it was applied to.
    """
    values = values.astype(np.float64)
    values = values if mask is None else np.where(mask[..., None], values, 0.0)
    linear = not any(curve is not None for curve in fit.curves or ())
    if linear and np.linalg.matrix_rank(fit.matrix) == len(fit.matrix):
        return values @ np.linalg.inv(fit.matrix).T
    raw = read_npz(path.parent / _RAW).get("scores")
    if (
        raw is None
        or raw.shape != values.shape
        or not np.allclose(calib.calibrated(fit, raw), values, atol=1e-4)
    ):
        raise InputError(
            f"{path.parent / _RAW}: does not hold the scores of {scores} before calibration; give the "
            "calibration.json in the folder of the run that wrote the table."
        )
    return raw


def _rates(
    requests: Mapping[str, asked_flags.Request], table: ScoreTable, record: CalibrationRecord | None
) -> dict[str, Rate | None]:
    """By constraint, how likely a response is safe: as the calibration says, or the utility itself."""
    rates: dict[str, Rate | None] = {} if record is None else dict(record.rates)
    for name, (settings, flag) in requests.items():
        if not settings.needs_rate or name in rates:
            continue
        values = table.utilities[..., list(table.names).index(name)]
        values = values if table.mask is None else values[table.mask]
        low, high = float(values.min()), float(values.max())
        if low < 0.0 or high > 1.0:
            raise InputError(
                f"{flag}: the utilities of {name!r} are no probabilities, they go from {low:.4g} to "
                f"{high:.4g}; give the --calibration of a run whose pairs say which responses are safe."
            )
        rates[name] = None
    return rates


def _in_order(
    requests: Mapping[str, asked_flags.Request], table: ScoreTable, scores: str
) -> dict[str, asked_flags.Request]:
    """What is asked, in the order of the table's constraints; all of them and no others."""
    names = table.names
    for name, request in requests.items():
        if name not in names:
            raise InputError(
                f"{request.flag}: {scores} has no constraint {name!r}; {did_you_mean(name, names)}"
                f"it has {', '.join(names)}."
            )
        if request.settings.groups.given and table.categories is None:
            raise InputError(
                f'{request.flag}: {scores} has no categories; add "category" to its lines, or an array '
                "categories to an .npz."
            )
    for name in names:
        if name not in requests:
            raise InputError(
                f"--scores={scores}: nothing is asked of its constraint {name!r}; {asked_flags.CHOICE}."
            )
    return {name: requests[name] for name in names}


def _define_flags() -> None:
    flags.DEFINE_string("scores", "", "Score table, .npz or .jsonl.")
    flags.DEFINE_float("beta", None, "KL weight above 0, in the units of the rewards per nat.")
    asked_flags.define_flags()
    flags.DEFINE_bool("conservative", False, "Ask for more, so that what was asked holds with confidence.")
    flags.DEFINE_float("confidence", 0.95, "Of the intervals and of --conservative, in (0.5, 1).")
    flags.DEFINE_integer("resamples", 1000, "Of the bootstrap over prompts; 0: no intervals.")
    flags.DEFINE_integer("seed", 0, "Of the bootstrap, the draws of the calibration and the preview.")
    flags.DEFINE_string("calibration", None, "A run's calibration.json: intervals also hold its uncertainty.")
    flags.DEFINE_bool("population", False, "The table's prompts are all there are: none are resampled.")
    flags.DEFINE_bool("json", False, "Print one JSON object in place of text.")
    flags.DEFINE_string("plot", None, "Draw the answer: FILE.png or FILE.svg.")
    flags.DEFINE_string("preview", None, "Write responses of the tilted policy: FILE.jsonl.")
    flags.DEFINE_string("responses", None, "The responses that were scored, where the table has no texts.")
    flags.DEFINE_integer("preview_samples", 4, "Responses a prompt in the preview.")


def _main() -> None:
    given = flags.FLAGS
    if given.beta is None:
        raise InputError("--beta is missing; give --beta=...")
    asked = {kind: given[kind].value or [] for kind in asked_flags.KINDS}
    outputs = Outputs(given.plot, given.preview, given.responses, given.preview_samples)
    solve(
        given.scores,
        beta=given.beta,
        asked=asked,
        as_json=given.json,
        conservative=given.conservative,
        confidence=given.confidence,
        num_resamples=given.resamples,
        seed=given.seed,
        calibration=given.calibration,
        population=given.population,
        outputs=outputs,
    )


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["scores"])
