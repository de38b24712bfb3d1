"""The answer of the dual as a page of text and as a figure."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from alignjax.records.answer import Corrected, DualAnswer, Ends, Intervals, Predicted, PromptMargins
from alignjax.records.figure import Figure as Estimate  # here a Figure is matplotlib's
from alignjax.report.figures import draw_dual, draw_margin, draw_trade
from alignjax.report.style import style


def render(answer: DualAnswer) -> str:
    """A feasible answer as a paragraph, a table of the constraints, and what else is to be known.

    Args:
      answer: of `dual.answer`.

    Raises:
      ValueError: the answer is infeasible.
    """
    predicted = _predicted(answer)
    ess, shown = predicted.ess, answer.num_resamples > 0
    lines = [_opening(answer, predicted), "", *_table(answer, predicted), ""]
    lines += [
        f"reward             {answer.reference.reward:.5g} -> " + _estimate(predicted.reward, shown),
        f"KL                 {_estimate(predicted.kl, shown)} nats a prompt",
        f"effective samples  {ess.median:.4g} a prompt (median), {ess.least:.4g} (least)",
    ]
    if answer.multiple is not None:
        lines.append(f"limit              {answer.multiple:.4g} times what is asked can be met together")
    if answer.corrected is not None:
        lines.append("many samples       " + _corrected(answer.corrected))
    if answer.num_prompts > 1:
        prompts: Mapping[str, PromptMargins] = answer.prompts or {}
        lines += [f"prompts            {name}: {_spread(found)}" for name, found in prompts.items()]
    if answer.solver is not None:
        error = "not finite" if answer.solver.error is None else f"{answer.solver.error:.1e}"
        lines.append(f"solver             {answer.solver.iterations} iterations, error {error}")
    lines += [f"Warning: {text}" for text in answer.warnings]
    return "\n".join(lines)


def plot(answer: DualAnswer) -> Figure:
    """Three panels a constraint: the dual with lambda*, the margin with its interval, reward against utility.

    Args:
      answer: of `dual.answer`.

    Raises:
      ValueError: the answer is infeasible.
    """
    predicted, curve, lams = _predicted(answer), answer.frontier, answer.multipliers
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


def _predicted(answer: DualAnswer) -> Predicted:
    if answer.predicted is None:
        raise ValueError("report.answer: the answer is infeasible; call dual.require_answer first.")
    return answer.predicted


def _opening(answer: DualAnswer, predicted: Predicted) -> str:
    """What was found, in sentences."""
    lams = dict(zip(answer.names, answer.multipliers, strict=True))
    free = [name for name, lam in lams.items() if lam == 0]
    gain = predicted.reward_gain.mean
    change = f"{'raises' if gain >= 0 else 'lowers'} the mean reward by {abs(gain):.4g}"
    surely = f" with confidence {answer.confidence:g}" if answer.conservative else ""
    sentences = [f"{answer.num_prompts} prompts, {answer.num_samples} responses, beta {answer.beta:g}."]
    distance = f"is {predicted.kl.mean:.4g} nats from the reference."
    if answer.solved:
        sentences.append(f"The tilted policy meets every margin{surely}, {change} and {distance}")
    else:
        sentences.append(f"The tilted policy of the given multiplier {change} and {distance}")
    if answer.solved and free:
        also = "" if len(free) == len(lams) else " and the other constraints"
        verb = "bring" if also else "brings"
        what = "their margins" if len(free) > 1 else "its margin"
        sentences.append(
            f"{', '.join(free)}: the multiplier is 0, because the reward{also} alone {verb} {what}."
        )
    return "\n".join(sentences)


def _table(answer: DualAnswer, predicted: Predicted) -> list[str]:
    """A row for each constraint: multiplier and margin with their intervals, and the reference."""
    names, guarded, intervals = answer.names, answer.conservative, answer.intervals
    width = max(len("constraint"), *(len(name) for name in names))
    shown = answer.num_resamples > 0
    heads = ["lambda"] + ["low", "high"] * (intervals is not None) + ["asked"] + ["guard"] * bool(guarded)
    heads += ["margin"] + ["low", "high"] * shown + ["largest", "reference", "level"]
    rows = [f"{'constraint':<{width}}" + "".join(f"{head:>11}" for head in heads)]
    for name, lam in zip(names, answer.multipliers, strict=True):
        margin, asked = predicted.margins[name], answer.asked[name].margin
        row = [f"{lam:.5g}", *_lam_ends(intervals, name), "-" if asked is None else f"{asked:.5g}"]
        numbers = [guarded.guard[name]] if guarded else []
        numbers += [margin.mean, *([margin.low, margin.high] if shown else []), answer.reachable[name]]
        numbers += [answer.reference.utilities[name], predicted.utilities[name].mean]
        row += [f"{value:.5g}" for value in numbers]
        rows.append(f"{name:<{width}}" + "".join(f"{text:>11}" for text in row))
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
