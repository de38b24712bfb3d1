"""Solves the dual on a score table, and says what the constraints will cost before anything is trained.

    python -m alignjax.solve --scores=FILE --beta=B (--margin=NAME=X | --level=NAME=X | --fraction=NAME=X)...
        [--conservative] [--confidence=C] [--resamples=R] [--seed=S]
        [--json] [--plot=FILE] [--preview=FILE.jsonl [--responses=FILE.jsonl] [--preview_samples=S]]

FILE is a score table, .npz or .jsonl. Every constraint of the table is asked for exactly once:
--margin=safety=1.5 (mean utility above the reference's), --level=safety=0.2 (mean utility to reach) or
--fraction=safety=0.5 (share of the largest margin that can be met). Intervals are a bootstrap over prompts;
--conservative solves for the lower confidence bound of every margin. --plot draws the dual, the margins and
the trade-off; --preview writes responses of the tilted policy, drawn from those of the table. Status 3: the
margins cannot be met on these samples; with --json the object is printed all the same, "feasible" false and
nothing predicted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from alignjax import cli
from alignjax.dual import Asked
from alignjax.errors import InputError
from alignjax.report.answer import plot, render
from alignjax.report.style import to_png, to_svg
from alignjax.runtime.files import write_bytes, write_text
from alignjax.scores.table import read_table
from alignjax.workflow.answer import answer, curve, record, require_answer
from alignjax.workflow.preview import read_texts, render_preview

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
      seed: of the bootstrap and of the preview.
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
    found = answer(
        table,
        wanted,
        beta=beta,
        confidence=confidence,
        conservative=conservative,
        num_resamples=num_resamples,
        seed=seed,
    )
    shown = record(found)
    if as_json:
        print(json.dumps(shown, allow_nan=False))
    require_answer(found)
    if outputs.plot is not None:
        figure = plot(shown, *curve(found))
        path = Path(outputs.plot)
        write_bytes(path, to_png(figure) if path.suffix == ".png" else to_svg(figure).encode())
    if outputs.preview is not None and texts is not None:
        lam = np.asarray(found.solution.lam)
        draws = {"num_samples": outputs.preview_samples, "rng": np.random.default_rng(seed)}
        write_text(Path(outputs.preview), render_preview(table, texts, lam, beta=beta, **draws))
    if not as_json:
        print(render(shown))


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
            kind, value = next((k, v) for k, v in one._asdict().items() if v is not None)
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
    flags.DEFINE_integer("seed", 0, "Of the bootstrap and of the preview.")
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
        outputs=outputs,
    )


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["scores"])
