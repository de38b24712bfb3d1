"""The dial: what other margins of a constraint would have cost, and the flags that ask for them."""

from collections.abc import Sequence
from typing import NamedTuple

from alignjax.records.answer import Asked, DialPoint, DualAnswer
from alignjax.report import tables
from alignjax.report.sections import Grid
from alignjax.report.style import LAM

IMPOSSIBLE = "cannot be met"


class Dial(NamedTuple):
    """One constraint's dial.

    Attributes:
      name: of the constraint.
      kind: what is asked of it: margin, level or rate.
      grid: a row for every point, in the order of what is asked.
      own: row of what the run asked.
      sketch: points of the sketch in percent of its width and height from the lower left: what is asked
        against the forecast of the reward's gain; None where it cannot be met.
      zero: height in percent at which the reward is the reference's.
    """

    name: str
    kind: str
    grid: Grid
    own: int
    sketch: list[tuple[float, float] | None]
    zero: float


def dials(answer: DualAnswer) -> list[Dial]:
    """A dial for every constraint that has at least two points that can be met.

    Args:
      answer: of the dual.
    """
    found = []
    for name in answer.names:
        points = [point for point in answer.dial or () if point.name == name]
        if sum(point.reached is not None for point in points) >= 2:
            found.append(_dial(answer, name, points))
    return found


def flags(name: str, kind: str, value: float, asked: Asked) -> str:
    """What a command of this run needs at its end to ask for another value.

    Args:
      name: of the constraint.
      kind: margin, level or rate.
      value: to ask for.
      asked: in the run: a fraction has to be taken back.
    """
    setting = f"--config.constraints.{name}"
    text = f"{setting}.{kind}={value:g}"
    return text if asked.fraction is None else f"{setting}.fraction=None {text}"


def _dial(answer: DualAnswer, name: str, points: Sequence[DialPoint]) -> Dial:
    kind = points[0].kind
    lams = [LAM] if len(answer.names) == 1 else [f"{LAM} of {one}" for one in answer.names]
    head = [
        f"{kind} asked",
        *lams,
        f"{kind} forecast",
        "reward gain",
        "KL, nats",
        "forecast",
        "add to the command",
    ]
    rows = []
    for point in points:
        shown = tables.format_number(point.asked, 3 if kind == "rate" else 2)
        flag = flags(name, kind, point.asked, answer.asked[name])
        if point.reached is None:
            cells = [*(tables.MISSING for _ in lams), *[tables.MISSING] * 3, IMPOSSIBLE, tables.MISSING]
        else:
            cells = [tables.format_number(point.lam[one], 3) for one in answer.names]
            cells += [tables.format_estimate(x) for x in (point.reached, point.reward_gain, point.kl)]
            cells += ["open" if point.open else "closed: draw-K", flag]
        rows.append((shown, "", cells))
    own = next((i for i, point in enumerate(points) if point.own), 0)
    sketch, zero = _sketch(points)
    title = f"Dial of {name}: what another {kind} would cost"
    return Dial(name, kind, Grid(title, head, rows, _notes(points, len(answer.names))), own, sketch, zero)


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


def _notes(points: Sequence[DialPoint], constraints: int) -> list[str]:
    """What the numbers are."""
    notes = [
        "Each row is the dual solved for another question on the same samples, with the run's guard and "
        "intervals; nothing was trained for it. Reward gain: above the reference's."
    ]
    if constraints > 1:
        notes.append("The other constraints are asked as in this run.")
    if any(point.reached is not None and not point.open for point in points):
        notes.append(
            "Where the gate is closed, the samples say nothing of the tilted policy; the numbers are those "
            "of the policy that draws K responses and keeps one, whose KL is at most what is shown."
        )
    notes.append("To ask for a row, add its last column to the command of this run, and run it again.")
    return notes
