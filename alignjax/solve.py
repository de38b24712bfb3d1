"""Solves the dual on a score table, and says what the constraints will cost before anything is trained.

    python -m alignjax.solve --scores=FILE --beta=B (--margin=NAME=X | --level=NAME=X | --fraction=NAME=X)...
        [--conservative] [--confidence=C] [--resamples=R] [--seed=S] [--calibration=FILE] [--population]
        [--json] [--plot=FILE] [--preview=FILE.jsonl [--responses=FILE.jsonl] [--preview_samples=S]]

FILE is a score table, .npz or .jsonl. Every constraint of the table is asked for exactly once:
--margin=safety=1.5 (mean utility above the reference's), --level=safety=0.2 (mean utility to reach) or
--fraction=safety=0.5 (share of the largest margin that can be met). Intervals are a bootstrap over prompts;
with --calibration, the calibration.json of the run that wrote the table, they also hold how well the scores
are calibrated. --population says that the table's prompts are all there are, so that none are resampled.
--conservative solves for the lower confidence bound of every margin. --plot draws the dual, the margins and
the trade-off; --preview writes responses of the tilted policy, drawn from those of the table. --json prints
the object that a run keeps in dual.json. Status 3: the margins cannot be met on these samples; with --json
the object is printed anyway, with "feasible" false and no prediction.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from alignjax import cli, dual
from alignjax.data.files import read_json_lines
from alignjax.dual import Asked
from alignjax.errors import InputError
from alignjax.records import encode, read_record
from alignjax.records.calibration import CalibrationRecord
from alignjax.report.answer import plot, render
from alignjax.report.preview import Texts, render_preview
from alignjax.report.style import to_png, to_svg
from alignjax.runtime.files import write_bytes, write_text
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration
from alignjax.scores.table import ScoreTable, read_table

_KINDS = ("margin", "level", "fraction")
_PLOTS = (".png", ".svg")
_CHOICE = "give each constraint one of --margin, --level and --fraction"


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
      asked: "margin", "level" and "fraction", each with texts NAME=NUMBER.
      as_json: print one JSON object in place of text.
      conservative: solve for the lower confidence bounds of the margins.
      confidence: of intervals and bounds.
      num_resamples: of the bootstrap; 0: no intervals.
      seed: of the bootstrap, the draws of the calibration and the preview.
      calibration: a run's calibration.json, whose uncertainty the intervals are to hold; None: none.
      population: the table's prompts are all there are.
      outputs: files to write.

    Raises:
      InputError: the table or an option cannot be used.
      InfeasibleError: the margins cannot be met on these samples; the message names the largest that can.
    """
    _check_options(beta, conservative, confidence, num_resamples, seed, outputs)
    parsed = parse_asked(asked)
    table = read_table(scores)
    wanted = _in_order(parsed, table.names, str(scores))
    texts = None if outputs.preview is None else read_texts(table, scores, outputs.responses)
    draws = None
    if calibration is not None:
        draws = _calibration_draws(calibration, table.names, str(scores), seed, num_resamples)
    found = dual.answer(
        table.rewards,
        table.utilities,
        names=table.names,
        asked=wanted,
        beta=beta,
        mask=table.mask,
        confidence=confidence,
        conservative=conservative,
        num_resamples=num_resamples,
        seed=seed,
        calibration_draws=draws,
        population=population,
        prompt_ids=table.prompt_ids,
    )
    if as_json:
        print(json.dumps(encode(found), allow_nan=False))
    dual.require_answer(found)
    if outputs.plot is not None:
        figure, path = plot(found), Path(outputs.plot)
        write_bytes(path, to_png(figure) if path.suffix == ".png" else to_svg(figure).encode())
    if outputs.preview is not None and texts is not None:
        rng, size = np.random.default_rng(seed), outputs.preview_samples
        lines = render_preview(table, texts, found.multipliers, beta=beta, num_samples=size, rng=rng)
        write_text(Path(outputs.preview), lines)
    if not as_json:
        print(render(found))


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


def _calibration_draws(
    path: str | Path, names: Sequence[str], scores: str, seed: int, num_resamples: int
) -> np.ndarray:
    """Draws of a run's calibration for the calibrated scores of its table."""
    record = read_record(CalibrationRecord, Path(path))
    if record.dimensions[1:] != tuple(names):
        raise InputError(
            f"--calibration={path}: is of the constraints {', '.join(record.dimensions[1:])}, {scores} has "
            f"{', '.join(names)}; give the calibration.json of the run that wrote the table."
        )
    fitted = Calibration(record.matrix, record.covariances, record.kind, record.unexplained)
    return calib.relative_draws(jax.random.key(seed), fitted, num_resamples)


def parse_asked(asked: Mapping[str, Sequence[str]]) -> dict[str, Asked]:
    """What the flags ask, by constraint.

    Args:
      asked: "margin", "level" and "fraction", each with texts NAME=NUMBER.

    Raises:
      InputError: a text that is not NAME=NUMBER, a number out of range, a constraint given twice.
    """
    parsed: dict[str, Asked] = {}
    flag_of: dict[str, str] = {}
    for kind in _KINDS:
        for text in asked.get(kind, ()):
            flag = f"--{kind}={text}"
            name, separator, number = text.rpartition("=")
            if not separator or not name:
                raise InputError(
                    f"{flag}: must be a constraint's name and a number; write --{kind}=NAME=NUMBER."
                )
            value = _number(number, flag)
            if kind == "fraction" and not 0 < value < 1:
                raise InputError(
                    f"{flag}: must lie between 0 and 1, it is a share of the largest reachable margin."
                )
            if name in parsed:
                raise InputError(f"{flag}: {name!r} is asked for already by {flag_of[name]}; {_CHOICE}.")
            parsed[name], flag_of[name] = Asked(**{kind: value}), flag
    return parsed


def _in_order(parsed: Mapping[str, Asked], names: Sequence[str], scores: str) -> list[Asked]:
    """What is asked, in the order of the table's constraints; all of them and no others."""
    for name, one in parsed.items():
        if name not in names:
            kind, value = next((k, v) for k, v in vars(one).items() if v is not None)
            raise InputError(
                f"--{kind}={name}={value:g}: {scores} has no constraint {name!r}, it has {', '.join(names)}; "
                "correct the name."
            )
    for name in names:
        if name not in parsed:
            raise InputError(f"--scores={scores}: nothing is asked of its constraint {name!r}; {_CHOICE}.")
    return [parsed[name] for name in names]


def _number(text: str, flag: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{flag}: {text!r} is not a number.") from None
    if not math.isfinite(value):
        raise InputError(f"{flag}: {text!r} is not finite.")
    return value


def _define_flags() -> None:
    flags.DEFINE_string("scores", "", "Score table, .npz or .jsonl.")
    flags.DEFINE_float("beta", None, "KL weight above 0, in the units of the rewards per nat.")
    flags.DEFINE_multi_string("margin", [], "NAME=X: mean utility NAME at least X above the reference's.")
    flags.DEFINE_multi_string("level", [], "NAME=X: mean utility NAME at least X.")
    flags.DEFINE_multi_string("fraction", [], "NAME=X: margin X, in (0, 1), of the largest reachable one.")
    flags.DEFINE_bool("conservative", False, "Solve for the lower confidence bound of every margin.")
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
    asked = {"margin": given.margin, "level": given.level, "fraction": given.fraction}
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
