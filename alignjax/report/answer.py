"""The answer of the dual as a page of text and as a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from alignjax.records.answer import (
    Asked,
    Corrected,
    DualAnswer,
    Ends,
    Forecast,
    Intervals,
    Predicted,
    PromptMargins,
)
from alignjax.records.figure import Figure as Estimate  # here a Figure is matplotlib's
from alignjax.records.units import Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROUNDING = 1e-6  # of what is asked: a margin that is missed by less is met


def render(answer: DualAnswer) -> str:
    """A feasible answer as a paragraph, a table of the constraints, and what else is to be known.

    Where the gate is closed the numbers are those of draw-K, and nothing is said of the tilted policy.

    Args:
      answer: of `dual.answer`.

    Raises:
      ValueError: the answer is infeasible.
    """
    forecast, shown = _forecast(answer), answer.num_resamples > 0
    said = _shown(answer)
    lines = [*_opening(answer, said), "", *_table(answer, said), ""]
    most = "" if _is_open(answer) else "at most "
    lines += [
        f"reward             {answer.reference.reward:.5g} -> " + _estimate(said.reward, shown),
        f"KL                 {most}{_estimate(said.kl, shown)} nats a prompt",
        f"effective samples  {said.ess.median:.4g} a prompt (median), {said.ess.least:.4g} (least)",
    ]
    lines.append(f"{_draw_k(answer):<18} {_policy(forecast.draw_k, shown, 'at most ')}")
    tilted = "nothing can be said: the gate is closed"
    lines.append(f"{'tilted policy':<18} {_policy(forecast.tilt, shown) if _is_open(answer) else tilted}")
    if answer.guard is not None:
        lines.append("without guard      " + _without_guard(answer))
    if answer.multiple is not None:
        lines.append(f"limit              {answer.multiple:.4g} times what is asked can be met together")
    if answer.corrected is not None and _is_open(answer):
        lines.append("many samples       " + _corrected(answer.corrected))
    if answer.num_prompts > 1:
        prompts: Mapping[str, PromptMargins] = answer.prompts or {}
        lines += [f"prompts            {name}: {_spread(found)}" for name, found in prompts.items()]
    if answer.solver is not None:
        error = "not finite" if answer.solver.error is None else f"{answer.solver.error:.1e}"
        lines.append(f"solver             {answer.solver.iterations} iterations, error {error}")
    lines += [f"Warning: {text}" for text in answer.warnings]
    return "\n".join(lines)


def asked_words(asked: Asked, unit: Unit | None = None) -> str:
    """What is asked of one constraint, in words: a margin may also be 0 or negative."""
    if unit is not None and unit.tail is not None:
        return (
            f"the worst {unit.tail.share:.4g} of the responses cost at most {unit.tail.cost:.4g} on average"
        )
    if asked.rate is not None:
        return f"at least {asked.rate:.4g} of the responses are safe"
    if asked.level is not None:
        return f"the mean utility is at least {asked.level:.4g}"
    if asked.margin is None:
        return "nothing is asked"
    if asked.margin == 0:
        return "the mean utility does not fall"
    verb = "rises by at least" if asked.margin > 0 else "falls by at most"
    share = "" if asked.fraction is None else f", {asked.fraction:.4g} of what the safety-only tilt brings"
    return f"the mean utility {verb} {abs(asked.margin):.4g}{share}"


def plot(answer: DualAnswer) -> "Figure":
    """Three panels a constraint: the dual with lambda*, the margin with its interval, reward against utility.

    The margin is that of the tilted policy; of draw-K where the gate is closed.

    Args:
      answer: of `dual.answer`.

    Raises:
      ValueError: the answer is infeasible.
    """
    # Here, because matplotlib takes longer to import than a table takes to be solved.
    from matplotlib.figure import Figure

    from alignjax.report.figures import draw_dual, draw_margin, draw_trade
    from alignjax.report.style import style

    predicted, curve, lams = _shown(answer), answer.frontier, answer.multipliers
    if curve is None:
        raise ValueError("report.answer: the answer has no curve to draw.")
    with style():
        figure = Figure(figsize=(12.6, 3.4 * len(answer.names)), layout="constrained")
        grid = figure.subplots(len(answer.names), 3, squeeze=False)
        for j, name in enumerate(answer.names):
            lam = float(lams[j])
            interval = None if answer.intervals is None else answer.intervals.lam[name]
            draw_dual(grid[j, 0], curve, j, name, lam, interval=interval)
            draw_margin(
                grid[j, 1],
                curve,
                j,
                name,
                lam,
                asked=answer.asked[name].margin,
                predicted=predicted.margins[name],
                interval=interval,
                errors=curve.margin_errors[:, j],
            )
            at = predicted.utilities[name].mean, predicted.reward.mean
            draw_trade(grid[j, 2], curve, j, name, reference=answer.reference.utilities[name], at=at)
    return figure


def _forecast(answer: DualAnswer) -> Forecast:
    if answer.forecast is None:
        raise ValueError("report.answer: the answer is infeasible; call dual.require_answer first.")
    return answer.forecast


def _is_open(answer: DualAnswer) -> bool:
    return answer.gate is not None and answer.gate.open


def _shown(answer: DualAnswer) -> Predicted:
    """The forecast that may be believed: of the tilted policy, or of draw-K where the gate is closed."""
    forecast = _forecast(answer)
    return forecast.tilt if _is_open(answer) else forecast.draw_k


def _draw_k(answer: DualAnswer) -> str:
    return f"draw-{_forecast(answer).draw_k.ess.num_samples}"


def _opening(answer: DualAnswer, said: Predicted) -> list[str]:
    """What was found, in sentences."""
    lams = dict(zip(answer.names, answer.multipliers, strict=True))
    free = [name for name, lam in lams.items() if lam == 0]
    gain = said.reward_gain.mean
    change = f"{'raises' if gain >= 0 else 'lowers'} the mean reward by {abs(gain):.4g}"
    sentences = [f"{answer.num_prompts} prompts, {answer.num_samples} responses, beta {answer.beta:g}."]
    sentences += [
        f"Asked of {name}: {asked_words(asked, answer.units.get(name))}."
        for name, asked in answer.asked.items()
        if asked.margin is not None
    ]
    margins = ", ".join(f"{name} {found.mean:.4g}" for name, found in said.margins.items())
    if not _is_open(answer):
        sentences.append(
            "The gate is closed: nothing can be said of the tilted policy. Known is the policy that draws "
            f"{said.ess.num_samples} responses from the reference and keeps one by its weight: it {change}, "
            f"is at most {said.kl.mean:.4g} nats from the reference, and has margins: {margins}."
        )
    elif not answer.solved:
        sentences.append(
            f"Forecast: the tilted policy of the given multiplier {change} and is {said.kl.mean:.4g} nats "
            "from the reference."
        )
    elif answer.guard is not None:
        sentences.append(
            f"Forecast: the tilted policy meets what is asked with confidence {answer.guard.confidence:g}, "
            f"{change} and is {said.kl.mean:.4g} nats from the reference."
        )
    else:
        missed = [
            name for name in answer.names if _misses(said.margins[name].mean, answer.asked[name].margin)
        ]
        meets = "meets what is asked on average, without a guard"
        if missed:
            meets = f"is expected to miss what is asked of {', '.join(missed)} (margins: {margins})"
        sentences.append(
            f"Forecast: the tilted policy {meets}, {change} and is {said.kl.mean:.4g} nats from the "
            "reference."
        )
    if answer.solved and free and _is_open(answer):
        also = "" if len(free) == len(lams) else " and the other constraints"
        verb = "bring" if also else "brings"
        sentences.append(
            f"{', '.join(free)}: the multiplier is 0, because the reward{also} alone {verb} what is asked."
        )
    return sentences


def _misses(margin: float, asked: float | None) -> bool:
    return asked is not None and margin < asked - _ROUNDING * max(1.0, abs(asked))


def _policy(found: Predicted, shown: bool, kl: str = "") -> str:
    """A policy's forecast in one line."""
    margins = [f"margin of {name} {_estimate(margin, shown)}" for name, margin in found.margins.items()]
    return ", ".join(
        [*margins, f"reward {_estimate(found.reward, shown)}", f"KL {kl}{_estimate(found.kl, shown)}"]
    )


def _without_guard(answer: DualAnswer) -> str:
    """What the guard costs, beside the plain answer."""
    guard = answer.guard
    assert guard is not None
    plain = guard.plain
    lams = ", ".join(f"lambda of {name} {lam:.5g}" for name, lam in plain.lam.items())
    if not _is_open(answer):
        return lams
    margins = ", ".join(f"margin of {name} {margin:.5g}" for name, margin in plain.margins.items())
    cost = plain.reward - _forecast(answer).tilt.reward.mean
    return (
        f"{lams}, {margins}, reward {plain.reward:.5g}, KL {plain.kl:.5g}: "
        f"the guard costs {cost:.4g} of reward"
    )


def _table(answer: DualAnswer, predicted: Predicted) -> list[str]:
    """A row for each constraint: multiplier and margin with their intervals, and the reference."""
    names, guarded, intervals = answer.names, answer.guard, answer.intervals
    width = max(len("constraint"), *(len(name) for name in names))
    shown = answer.num_resamples > 0
    heads = ["lambda"] + ["low", "high"] * (intervals is not None) + ["asked"] + ["guard"] * bool(guarded)
    heads += ["margin"] + ["low", "high"] * shown + ["largest", "reference", "level"]
    rows = [f"{'constraint':<{width}}" + "".join(f"{head:>11}" for head in heads)]
    for name, lam in zip(names, answer.multipliers, strict=True):
        margin, asked = predicted.margins[name], answer.asked[name].margin
        row = [f"{lam:.5g}", *_lam_ends(intervals, name), "-" if asked is None else f"{asked:.5g}"]
        numbers = [guarded.room[name]] if guarded else []
        numbers += [margin.mean, *([margin.low, margin.high] if shown else []), answer.reachable[name]]
        numbers += [answer.reference.utilities[name], predicted.utilities[name].mean]
        row += [f"{value:.5g}" for value in numbers]
        rows.append(f"{name:<{width}}" + "".join(f"{text:>11}" for text in row))
    whose = "the tilted policy" if _is_open(answer) else f"the policy {_draw_k(answer)}"
    rows.append(f"margin, largest, reference and level in units of the utility; margin and level of {whose}")
    if shown:
        rows.append(
            f"low and high: {answer.confidence:.0%} intervals; they hold {' and '.join(answer.holds)}"
        )
    return rows


def _lam_ends(intervals: Intervals | None, name: str) -> list[str]:
    if intervals is None:
        return []
    ends: Ends = intervals.lam[name]
    return ["infinite" if end is None else f"{end:.5g}" for end in (ends.low, ends.high)]


def _estimate(estimate: Estimate, shown: bool) -> str:
    interval = f" [{estimate.low:.5g}, {estimate.high:.5g}]" if shown else ""
    return f"{estimate.mean:.5g}{interval}"


def _corrected(corrected: Corrected) -> str:
    """The estimates that halves and quarters of the samples extrapolate to."""
    parts = [f"margin of {name} {_estimate(found, True)}" for name, found in corrected.margins.items()]
    for name, found in corrected.lam.items():
        shown = "not found" if found is None else _estimate(found, True)
        parts.append(f"lambda of {name} {shown}")
    return "extrapolated estimate: " + ", ".join(parts)


def _spread(prompts: PromptMargins) -> str:
    """Which prompts bring the margin."""
    least, most = (f"{p.margin:.3g} (prompt {p.prompt})" for p in (prompts.least[0], prompts.most[0]))
    share = prompts.share_of_top_tenth
    tenth = "" if share is None else f"; a tenth of the prompts brings {share:.0%} of it"
    middle = prompts.quartiles
    return f"margin {middle[1]:.3g} to {middle[3]:.3g} (quartiles), least {least}, most {most}{tenth}"
