"""The answer of the dual as a page of text and as a figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alignjax.report.figures import Curve, draw_dual, draw_margin, draw_trade
from alignjax.report.style import style


def render(found: Mapping[str, Any]) -> str:
    """The record of a feasible answer as a paragraph, a table and what else is to be known.

    Args:
      found: of `workflow.answer.record`.
    """
    lines = [_opening(found), "", *_table(found), ""]
    ess, intervals = found["ess"], found["intervals"] or {}
    lines += [
        f"reward             {found['reference']['reward']:.5g} -> {found['reward']:.5g}"
        + _ends(intervals.get("reward")),
        f"KL                 {found['kl']:.5g}" + _ends(intervals.get("kl")) + " nats a prompt",
        f"effective samples  {ess['median']:.4g} a prompt (median), {ess['least']:.4g} (least)",
    ]
    if found["multiple"] is not None:
        lines.append(f"limit              {found['multiple']:.4g} times what is asked can be met together")
    if found["bias"] is not None:
        lines.append("finite samples     " + _bias(found))
    for name, prompts in found["prompts"].items():
        if found["num_prompts"] > 1:
            lines.append(f"prompts            {name}: " + _prompts(prompts))
    lines.append(f"solver             {found['iterations']} iterations, error {found['error']:.1e}")
    lines += [f"Warning: {text}" for text in found["warnings"]]
    return "\n".join(lines)


def plot(found: Mapping[str, Any], curve: Curve, margin_errors: np.ndarray) -> Figure:
    """Three panels a constraint: the dual with lambda*, the margin with its interval, reward against utility.

    Args:
      found: of `workflow.answer.record`, feasible.
      curve: the prediction along the ray through lambda*.
      margin_errors: [P, m] float, standard errors of its margins.
    """
    names = found["names"]
    with style():
        figure = Figure(figsize=(12.6, 3.4 * len(names)), layout="constrained")
        grid = figure.subplots(len(names), 3, squeeze=False)
        intervals = found["intervals"] or {}
        for j, name in enumerate(names):
            lam, asked = found["lam"][name], found["asked"][name]["margin"]
            interval = _finite((intervals.get("lam") or {}).get(name))
            draw_dual(grid[j, 0], curve, j, name, lam, interval=interval)
            estimate = {"mean": found["margins"][name], **((intervals.get("margins") or {}).get(name) or {})}
            draw_margin(
                grid[j, 1],
                curve,
                j,
                name,
                lam,
                asked=asked,
                predicted=estimate,
                interval=interval,
                errors=margin_errors[:, j],
            )
            reference = found["reference"]["utilities"][name]
            at = found["utilities"][name], found["reward"]
            draw_trade(grid[j, 2], curve, j, name, reference=reference, at=at)
    return figure


def _opening(found: Mapping[str, Any]) -> str:
    """What was found, in sentences."""
    binding = [name for name in found["names"] if found["lam"][name] > 0]
    free = [name for name in found["names"] if name not in binding]
    gain = found["reward"] - found["reference"]["reward"]
    change = f"{'raises' if gain >= 0 else 'lowers'} the mean reward by {abs(gain):.4g}"
    surely = f" with confidence {found['confidence']:g}" if found["conservative"] else ""
    sentences = [
        f"{found['num_prompts']} prompts, {found['num_samples']} responses, beta {found['beta']:g}.",
        f"The tilted policy meets every margin{surely}, {change} and lies {found['kl']:.4g} nats from the "
        "reference.",
    ]
    if free:
        also = " and the other constraints" if binding else ""
        sentences.append(f"No price for {', '.join(free)}: the reward{also} alone bring its margin.")
    return "\n".join(sentences)


def _table(found: Mapping[str, Any]) -> list[str]:
    """A row a constraint: multiplier and margin with their intervals, and what surrounds them."""
    names, guarded = found["names"], found["conservative"]
    width = max(len("constraint"), *(len(name) for name in names))
    intervals = found["intervals"]
    heads = ["lambda"] + ["low", "high"] * bool(intervals) + ["asked"] + ["guard"] * bool(guarded)
    heads += ["margin"] + ["low", "high"] * bool(intervals) + ["largest", "reference", "level"]
    rows = [f"{'constraint':<{width}}" + "".join(f"{head:>11}" for head in heads)]
    for name in names:
        row = [found["lam"][name], *_pair(intervals, "lam", name), found["asked"][name]["margin"]]
        row += [guarded["guard"][name]] if guarded else []
        row += [found["margins"][name], *_pair(intervals, "margins", name), found["reachable"][name]]
        row += [found["reference"]["utilities"][name], found["utilities"][name]]
        shown = ["infinite" if value is None else f"{value:.5g}" for value in row]
        rows.append(f"{name:<{width}}" + "".join(f"{text:>11}" for text in shown))
    if intervals:
        rows.append(f"low and high: {found['confidence']:.0%} intervals over prompts")
    return rows


def _pair(intervals: Mapping[str, Any] | None, quantity: str, name: str) -> list[float | None]:
    return [intervals[quantity][name][end] for end in ("low", "high")] if intervals else []


def _ends(interval: Mapping[str, float] | None) -> str:
    return f" [{interval['low']:.5g}, {interval['high']:.5g}]" if interval else ""


def _bias(found: Mapping[str, Any]) -> str:
    """What the halves and quarters of the samples say."""
    bias = found["bias"]
    parts = [f"margin of {name} {value:+.2g}" for name, value in bias["margins"].items()]
    if bias["lam"] is None:
        parts.append("none of lambda found")
    else:
        parts += [f"lambda of {name} {value:+.2g}" for name, value in bias["lam"].items()]
    corrected = (found["intervals"] or {}).get("bias_corrected")
    return "estimated bias " + ", ".join(parts) + ("; taken off the intervals" if corrected else "")


def _prompts(prompts: Mapping[str, Any]) -> str:
    """Where the margin comes from."""
    least, most = (f"{value:.3g} (prompt {key})" for key, value in (prompts["least"][0], prompts["most"][0]))
    share = prompts["share_of_top_tenth"]
    tenth = "" if share is None else f"; a tenth of the prompts brings {share:.0%} of it"
    middle = prompts["quartiles"]
    return f"margin {middle[1]:.3g} to {middle[3]:.3g} (quartiles), least {least}, most {most}{tenth}"


def _finite(interval: Mapping[str, float | None] | None) -> dict[str, float] | None:
    if interval is None or interval["low"] is None or interval["high"] is None:
        return None
    return {"low": interval["low"], "high": interval["high"]}
