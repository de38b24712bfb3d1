"""Gathers what a run's folder holds into the report and the last table."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.dual import SATURATED
from alignjax.report import Curve, ReportInputs, console_table, write_report
from alignjax.runtime import processes
from alignjax.runtime.metrics import read_metrics
from alignjax.stages import read_json
from alignjax.workflow.context import Context
from alignjax.workflow.dualize import read_calibration
from alignjax.workflow.preferences import Preferences

_MANY_CUT = 0.05  # of a policy's responses


def present(context: Context, preferences: Preferences) -> str:
    """Writes report.html and figures/ from the run's artefacts; returns the last table of the console."""
    workdir, config = context.workdir, context.config
    evaluation = read_json(workdir / "evaluation.json")
    dual = read_json(workdir / "dual.json")
    calibration = read_json(workdir / "calibration.json")
    curve = dual["frontier"]
    inputs = ReportInputs(
        title=f"{config.method} on {config.data.world or Path(config.model.path or '').name}",
        dual=dual,
        evaluation=evaluation,
        config=read_json(workdir / "config.json"),
        run=read_json(workdir / "run.json"),
        calibration=calibration,
        counts=preferences.counts,
        metrics=read_metrics(workdir / "metrics.jsonl"),
        scores=_scores(context),
        frontier=Curve(*(np.array(curve[name]) for name in ("lams", "margins", "reward", "kl", "objective"))),
        samples=_samples(workdir, list(evaluation["policies"]), config.shown_samples),
        findings=[
            *calibration["findings"],
            *_warnings(dual),
            *([] if context.population else _cut(evaluation)),
        ],
        rounds=_rounds(workdir, config.rounds.count),
    )
    if processes.is_primary():
        write_report(inputs, workdir)
    return console_table(evaluation)


def _scores(context: Context) -> dict[str, dict[str, np.ndarray]]:
    """Calibrated scores of single responses by policy, for the histograms."""
    matrix = read_calibration(context.workdir).matrix
    with np.load(context.workdir / "evaluation_scores.npz") as stored:
        policies = {name: (stored[name] @ matrix.T).reshape(-1, matrix.shape[0]) for name in stored.files}
    names = context.config.dimensions
    return {
        policy: {name: values[:, j] for j, name in enumerate(names)} for policy, values in policies.items()
    }


def _samples(workdir: Path, policies: list[str], most: int) -> list[dict[str, Any]]:
    """The first response of every policy to the first prompts."""
    shown: dict[int, dict[str, Any]] = {}
    for policy in policies:
        path = workdir / "evaluation_samples" / f"{policy}.jsonl"
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["sample"] == 0 and row["prompt_id"] < most:
                entry = shown.setdefault(row["prompt_id"], {"prompt": _shown(row["prompt"]), "responses": {}})
                entry["responses"][policy] = row["response"]
    return list(shown.values())


def _shown(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _rounds(workdir: Path, count: int) -> list[dict[str, Any]]:
    """What every round of a multi-shot run measured; none where there is one shot."""
    return [read_json(workdir / "rounds" / f"{n}.json") for n in range(1, count + 1)] if count > 1 else []


def _cut(evaluation: dict[str, Any]) -> list[str]:
    """Policies of which many responses have no end: what was scored is a part of what they would say."""
    shares = {name: policy["cut"]["mean"] for name, policy in evaluation["policies"].items()}
    many = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= _MANY_CUT)
    if not many:
        return []
    return [f"Responses cut at config.evaluation.max_new_tokens: {many}; scores are of unfinished texts."]


def _warnings(dual: dict[str, Any]) -> list[str]:
    """What a reader should know before believing the prediction."""
    found = []
    ess = dual["predicted"]["ess"]
    if ess["median"] < SATURATED:
        found.append(
            f"The median prompt has {ess['median']:.1f} effective samples of {ess['num_samples']}: the "
            "prediction is saturated; draw more samples or raise beta."
        )
    share = (dual["intervals"] or {}).get("feasible_share", 1.0)
    if share < 0.95:
        found.append(
            f"The constraints can be met on {share:.0%} of the resamples only: margins near the limit."
        )
    return found
