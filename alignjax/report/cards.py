"""What was asked, forecast, delivered and shown of each constraint, of the reward and of KL, side by side."""

from collections.abc import Sequence
from typing import NamedTuple

from alignjax.records.answer import Asked, DualAnswer, Predicted
from alignjax.records.evaluation import Evaluation, PolicyResult
from alignjax.records.figure import Figure as Estimate  # here a Figure is matplotlib's
from alignjax.records.verdict import Verdict
from alignjax.report.tables import format_estimate, format_number

CLOSED = "closed"
UNTESTED = "not tested"


class Card(NamedTuple):
    """One line of the promise.

    Attributes:
      name: of a constraint, or "reward" or "kl".
      what: the quantity in words, such as "margin" or "rate".
      asked: the least that was asked, of KL the most; None: nothing was.
      forecast: of the tilt, before training.
      gate_open: whether the forecast is to be believed.
      delivered: by the aligned policy.
      truth: the same on the world's true score; None outside an embedded world.
      verdict: of the test; None where there was none.
    """

    name: str
    what: str
    asked: float | None
    forecast: Estimate | None
    gate_open: bool
    delivered: Estimate | None
    truth: Estimate | None
    verdict: Verdict | None

    @property
    def label(self) -> str:
        """What the line is about, in few letters."""
        return {"reward": "reward gain", "kl": "KL, nats"}.get(self.name, f"{self.name} {self.what}")

    @property
    def state(self) -> str:
        """The verdict in a word."""
        return UNTESTED if self.verdict is None else self.verdict.state

    @property
    def shown(self) -> str:
        """The bound of the test in words."""
        if self.verdict is None:
            return "-"
        bound = self.verdict.high if self.name == "kl" else self.verdict.low
        if bound is None:
            return "no bound"
        return f"{'at most' if self.name == 'kl' else 'at least'} {format_number(bound)}"

    @property
    def confidence(self) -> str:
        """Of the bound, in percent."""
        return "" if self.verdict is None else f"{100 * self.verdict.confidence:.3g}%"


def cards_of(evaluation: Evaluation, answer: DualAnswer) -> list[Card]:
    """One card for each constraint, then the reward's gain and KL.

    Args:
      evaluation: of the policies.
      answer: of the dual, which says how each constraint was asked, and whether its forecast is open.
    """
    aligned, predicted = evaluation.policies.get("aligned"), answer.predicted
    gate_open = answer.gate is None or answer.gate.open
    found = [
        _constraint(name, evaluation, answer.asked[name], predicted, aligned, gate_open)
        for name in answer.names
    ]
    reference = evaluation.policies.get("reference")
    reward_truth = None
    if aligned is not None and reference is not None and aligned.true_reward and reference.true_reward:
        rise = aligned.true_reward.mean - reference.true_reward.mean
        reward_truth = Estimate(rise, rise, rise)
    reward, kl = (evaluation.verdicts.get(name) for name in ("reward", "kl"))
    found.append(
        Card(
            "reward",
            "reward above the reference's",
            None if reward is None else reward.asked,
            None if predicted is None else predicted.reward_gain,
            gate_open,
            None if aligned is None else aligned.reward_gain,
            reward_truth,
            reward,
        )
    )
    found.append(
        Card(
            "kl",
            "KL, nats",
            None if kl is None else kl.asked,
            None if predicted is None else predicted.kl,
            gate_open,
            None if aligned is None else aligned.kl,
            None,
            kl,
        )
    )
    return found


def grid(found: Sequence[Card]) -> list[list[str]]:
    """The cards as rows of text below a head, one line for each.

    Args:
      found: of `cards_of`.

    Returns:
      Head and rows of equal length; with a last column of true values where any card has one.
    """
    on_truth = any(card.truth is not None for card in found)
    confidence = next((card.confidence for card in found if card.verdict is not None), "")
    shown = f"shown, {confidence}" if confidence else "shown"
    head = ["", "verdict", "asked", "forecast", "delivered", shown, *(["true"] if on_truth else [])]
    rows = [head]
    for card in found:
        truth = [format_estimate(card.truth)] if on_truth else []
        forecast = format_estimate(card.forecast) if card.gate_open else CLOSED
        cells = [format_number(card.asked), forecast, format_estimate(card.delivered)]
        bound = card.shown.replace("at least", ">=").replace("at most", "<=")
        rows.append([card.label, card.state, *cells, bound, *truth])
    return rows


def _constraint(
    name: str,
    evaluation: Evaluation,
    asked: Asked,
    predicted: Predicted | None,
    aligned: PolicyResult | None,
    gate_open: bool,
) -> Card:
    absolute = asked.level is not None or asked.rate is not None
    what = "rate" if asked.rate is not None else "level" if asked.level is not None else "margin"
    verdict = evaluation.verdicts.get(name)
    number = asked.rate if asked.rate is not None else asked.level if absolute else asked.margin
    forecast = delivered = truth = None
    if predicted is not None:
        forecast = (predicted.utilities if absolute else predicted.margins).get(name)
    if aligned is not None:
        delivered = (aligned.utilities if absolute else aligned.margins).get(name)
        truth = None if absolute else (aligned.true_margins or {}).get(name)
    return Card(name, what, number, forecast, gate_open, delivered, truth, verdict)
