"""The dial: what other margins of a constraint would have cost, and the flags that ask for them."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from alignjax.records.answer import Asked, DialPoint, DualAnswer
from alignjax.report import tables
from alignjax.report.sections import Grid
from alignjax.report.style import LAM

IMPOSSIBLE = "cannot be met"


class Dial(NamedTuple):
    """One number's dial.

    Attributes:
      name: of the constraint, or of the dimension whose categories are all asked for the same.
      label: of the slider.
      kind: what is asked: margin, level or rate; of a tail its cost; multiplier, where that is given.
      grid: a row for every point, in the order of what is asked.
      own: row of what the run asked.
      sketch: points of the sketch in percent of its width and height from the lower left: what is asked
        against the forecast of the reward's gain; None where it cannot be met.
      zero: height in percent at which the reward is the reference's.
    """

    name: str
    label: str
    kind: str
    grid: Grid
    own: int
    sketch: list[tuple[float, float] | None]
    zero: float


def dials(answer: DualAnswer) -> list[Dial]:
    """A dial for every number that has at least two points that can be met.

    Args:
      answer: of the dual.
    """
    found = []
    points = answer.dial or ()
    names = list(dict.fromkeys(point.name for point in points))
    for name in names:
        own = [point for point in points if point.name == name]
        if sum(point.reached is not None for point in own) >= 2:
            found.append(_dial(answer, name, own))
    covered = {*names, *(key for key, unit in answer.units.items() if unit.dimension in names)}
    left = [name for name in answer.names if name not in covered]
    if found and left:
        found[-1].grid.notes.append(f"Without a dial, to keep this short: {', '.join(left)}.")
    return found


def flags(name: str, kind: str, value: float, answer: DualAnswer) -> str:
    """What a command of this run needs at its end to ask for another value, quoted for a shell.

    Args:
      name: of the constraint, or of a dimension whose categories are all asked for the same.
      kind: margin, level, rate, cost or multiplier.
      value: to ask for.
      answer: of the run: what it asks, and of which category.
    """
    if kind == "multiplier":
        return f"--config.lam={value:g}"
    if kind == "cost":
        return f"--config.constraints.{name}.tail.cost={value:g}"
    if name not in answer.names:
        return f"--config.constraints.{name}.groups.{kind}={value:g}"
    unit = answer.units.get(name)
    if unit is not None and unit.category is not None:
        setting = f"--config.constraints.{unit.dimension}.groups.{kind}"
        if unit.category.isidentifier():
            return f"{setting}.{unit.category}={value:g}"
        numbers = {
            other.category: _number(answer.asked[key], kind)
            for key, other in answer.units.items()
            if other.dimension == unit.dimension
        }
        return shlex.quote(f"{setting}={numbers | {unit.category: value}}")
    setting = f"--config.constraints.{name}"
    text = f"{setting}.{kind}={value:g}"
    return text if answer.asked[name].fraction is None else f"{setting}.fraction=None {text}"


def _number(asked: Asked, kind: str) -> float | None:
    return {"margin": asked.margin, "level": asked.level, "rate": asked.rate}[kind]


def _dial(answer: DualAnswer, name: str, points: Sequence[DialPoint]) -> Dial:
    kind, words = points[0].kind, _words(answer, name, points[0].kind)
    lams = [LAM] if len(answer.names) == 1 else [f"{LAM} of {one}" for one in answer.names]
    lams = [] if kind == "multiplier" else lams
    head = [words.asked, *lams, words.reached, "reward gain", "KL, nats", "forecast", "add to the command"]
    rows = []
    for point in points:
        shown = tables.format_number(point.asked, 3 if kind in ("rate", "multiplier") else 2)
        flag = flags(name, kind, point.asked, answer)
        if point.reached is None:
            cells = [*(tables.MISSING for _ in lams), *[tables.MISSING] * 3, IMPOSSIBLE, tables.MISSING]
        else:
            cells = [tables.format_number(point.lam.get(one), 3) for one in answer.names] if lams else []
            cells += [tables.format_estimate(x) for x in (point.reached, point.reward_gain, point.kl)]
            cells += ["open" if point.open else "closed: draw-K", flag]
        rows.append((shown, "", cells))
    own = next((i for i, point in enumerate(points) if point.own), 0)
    sketch, zero = _sketch(points)
    own_names = [key for key, unit in answer.units.items() if unit.dimension == name] or [name]
    others = any(one not in own_names for one in answer.names)
    notes = [*words.notes, *_notes(points, others=others)]
    return Dial(name, words.label, kind, Grid(words.title, head, rows, notes), own, sketch, zero)


class _Words(NamedTuple):
    """What a dial is called, and what its numbers are."""

    title: str
    label: str
    asked: str
    reached: str
    notes: list[str]


def _words(answer: DualAnswer, name: str, kind: str) -> _Words:
    if kind == "multiplier":
        title = f"Dial of the multiplier: what another one would bring to {name}"
        return _Words(title, "multiplier of the run", LAM, f"{name} margin forecast", [])
    title = f"Dial of {name}: what another {kind} would cost"
    if kind == "cost":
        tail = answer.units[name].tail
        assert tail is not None
        note = (
            f"Asked is the most that the mean cost of the worst {tail.share:.3g} of the responses may be; "
            "the cost is minus the score, so that less asks for more. The forecast is a bound on it."
        )
        title = f"Dial of {name}: what another bound on its tail would cost"
        return _Words(title, f"cost asked of the tail of {name}", "cost asked", "cost forecast", [note])
    if name not in answer.names:
        note = "One number is asked of every category; the forecast is that of the category with the least."
        label = f"{kind} asked of each category of {name}"
        return _Words(title, label, f"{kind} asked of each", f"least {kind} forecast", [note])
    return _Words(title, f"{kind} asked of {name}", f"{kind} asked", f"{kind} forecast", [])


def _sketch(points: Sequence[DialPoint]) -> tuple[list[tuple[float, float] | None], float]:
    """Places of the points, and the height of 0, in percent."""
    gains = [point.reward_gain.mean for point in points if point.reward_gain is not None]
    low, high = min(0.0, *gains), max(0.0, *gains)
    least, most = points[0].asked, points[-1].asked

    def across(x: float) -> float:
        return round(4.0 + 92.0 * (x - least) / (most - least or 1.0), 2)

    def up(y: float) -> float:
        return round(8.0 + 84.0 * (y - low) / (high - low or 1.0), 2)

    placed = [
        None if point.reward_gain is None else (across(point.asked), up(point.reward_gain.mean))
        for point in points
    ]
    return placed, up(0.0)


def _notes(points: Sequence[DialPoint], *, others: bool) -> list[str]:
    """What the numbers are."""
    notes = [
        "Each row is the dual solved for another question on the same samples, with the run's guard and "
        "intervals; nothing was trained for it. Reward gain: above the reference's."
    ]
    if points[0].kind == "multiplier":
        notes = [
            "Each row is the forecast at another multiplier on the same samples; nothing was trained for it. "
            "Margin and reward gain: above the reference's."
        ]
    if others and points[0].kind != "multiplier":
        notes.append("The other constraints are asked as in this run.")
    if any(point.reached is not None and not point.open for point in points):
        notes.append(
            "Where the gate is closed, the samples say nothing of the tilted policy; the numbers are those "
            "of the policy that draws K responses and keeps one, whose KL is at most what is shown."
        )
    notes.append("To ask for a row, add its last column to the command of this run, and run it again.")
    return notes
