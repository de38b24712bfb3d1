"""Draws responses of a finished run's draw-K policy: what `alignjax sample --workdir --best_of` does.

K responses of the reference are scored for each one that is written, and one is kept with the weights of the
tilt. This is the policy that the draw-K forecast is about, at any K, and it needs no further training.
"""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import jax
import numpy as np

from alignjax.config import SamplingSettings
from alignjax.data.responses import Responses
from alignjax.errors import InputError
from alignjax.policy.best_of import Kept, best_of
from alignjax.policy.encoding import prompt_of
from alignjax.run_samples import encoder_of, opened
from alignjax.runtime.files import write_text
from alignjax.sample_lines import Draws, Line, check_draws, ids_of, read_prompts
from alignjax.scores import calibration as calib
from alignjax.scores.scorers import require_tables, score_responses
from alignjax.workflow import dialling, own_samples
from alignjax.workflow.dialling import Wanted
from alignjax.workflow.prepared import Prepared


def sample_best_of(
    workdir: Path,
    prompts_path: str,
    output_path: str,
    draws: Draws,
    wanted: Wanted,
    count: int,
    *,
    allowed: Collection[str] = (),
) -> list[str]:
    """Draws K responses of a run's reference for each that is written, and keeps one by the tilt's weights.

    Args:
      workdir: the run's folder.
      prompts_path: as of `sample`; the lines have the text of their prompts.
      output_path: as of `sample`; every line also has "drawn_from", which is K.
      draws: how responses are drawn; `num_samples` of them are written for each prompt.
      wanted: what is asked; nothing: what the run asked.
      count: K.
      allowed: functions, module:function, that may be imported.

    Returns:
      What was found, in lines: multipliers, forecast, and what was drawn from.

    Raises:
      InputError: the folder is no run, a stage that is needed is not done, or a line or an option cannot be
        used.
      InfeasibleError: what is asked cannot be met on the run's samples.
    """
    if count < 1:
        raise InputError(f"--best_of: is {count}; must be at least 1, the draws behind each response.")
    if draws.greedy or draws.prompt_batch_size is not None:
        name = "greedy" if draws.greedy else "prompt_batch_size"
        raise InputError(f"--{name}: does not go with --best_of; leave one of them out.")
    check_draws(draws, output_path)
    lines = read_prompts(prompts_path)
    with opened(workdir, allowed) as (_, ready):
        answer = dialling.dialled(ready, wanted)
        lam = answer.answer.lam or {}
        kept = _kept(ready, lines, draws, np.array([lam[n] for n in ready.setup.config.constraints]), count)
        logps = kept.responses.logps  # as the sampler computed them, like those of any other draw
        if logps is None:
            raise InputError(f"{workdir}: the reference gives a log-probability that is not finite.")
        told = [*dialling.said(answer), _drawn_from(ready, draws, count)]
    rows = [row for _, row in lines]
    write_text(Path(output_path), _render(rows, kept, logps, count))
    return told


def _kept(ready: Prepared, lines: Sequence[Line], draws: Draws, lam: np.ndarray, count: int) -> Kept:
    """The responses that are kept, at multipliers [m] of the calibrated scores."""
    setup, by = ready.setup, ready.by

    def score(drawn: Responses) -> np.ndarray:
        require_tables(by, None, drawn=[drawn])
        own_samples.use_drawing(setup.logps, by.values(), drawn, setup.log.say)
        scores = calib.calibrated(ready.calibration.fit, score_responses(by, drawn))
        return scores[..., 0] + scores[..., 1:] @ lam

    model = ready.reference.model
    return best_of(
        jax.random.key(draws.seed),
        ready.reference,
        [prompt_of(row, where) for where, row in lines],
        ids_of(lines, encoder_of(ready), model, draws),
        SamplingSettings(len(lines), draws.num_samples, draws.max_new_tokens, draws.temperature, draws.top_p),
        setup.batching,
        count=count,
        score=score,
        beta=setup.config.beta,
    )


def _drawn_from(ready: Prepared, draws: Draws, count: int) -> str:
    """What a response costs, how far from the reference it can be, and where the forecast is of another."""
    forecast, text = ready.setup.config.sampling, ""
    if count != forecast.num_samples:
        text = f"; the forecast is of {forecast.num_samples} draws"
    ours = draws.max_new_tokens, draws.temperature, draws.top_p
    theirs = forecast.max_new_tokens, forecast.temperature, forecast.top_p
    if ours != theirs:
        text += (
            f"; the forecast is of responses of at most {theirs[0]} tokens at temperature {theirs[1]:g} and "
            f"top_p {theirs[2]:g}"
        )
    return (
        f"drawn from the reference, 1 of {count} kept by its scores: {count} draws for each response, and a "
        f"KL of at most {math.log(count):.2f} nats{text}."
    )


def _render(rows: Sequence[dict[str, object]], kept: Kept, logps: np.ndarray, count: int) -> str:
    rendered = []
    for i, row in enumerate(rows):
        given = {name: row[name] for name in ("prompt", "prompt_ids") if name in row}
        for k, (text, ids) in enumerate(zip(kept.responses.texts[i], kept.responses.tokens[i], strict=True)):
            line = {**given, "response": text, "response_ids": ids.response_ids.tolist()}
            line |= {"logps": float(logps[i, k]), "sample": k, "drawn_from": count}
            rendered.append(json.dumps(line, ensure_ascii=False))
    return "\n".join(rendered) + "\n"
