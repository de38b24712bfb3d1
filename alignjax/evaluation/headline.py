"""The run in one sentence: ship, kept at a cost, or do not ship."""

from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Headline
from alignjax.records.verdict import TestRecord, Verdict

SHIP, COST, DO_NOT_SHIP = "ship", "kept at a cost", "do not ship"
VERIFIED, REFUTED = "verified", "refuted"


def headline(answer: DualAnswer, test: TestRecord) -> Headline:
    """What the test says of a policy, and what to do next.

    Args:
      answer: of the dual, which says what was asked.
      test: of the policy.
    """
    constraints = {name: test.verdicts[name] for name in answer.names if name in test.verdicts}
    asked = {name: one for name, one in constraints.items() if one.asked is not None}
    if not asked:
        return Headline(DO_NOT_SHIP, "Nothing was asked, so nothing is verified; ask for a margin.")
    missed = {name: one for name, one in asked.items() if one.state != VERIFIED}
    if missed:
        parts = "; ".join(_missed(name, one) for name, one in missed.items())
        return Headline(DO_NOT_SHIP, f"Do not ship: {parts}.")
    kept = ", ".join(
        f"{name} at least {one.low or 0.0:.2f} (asked {one.asked:.2f})" for name, one in asked.items()
    )
    confidence = next(iter(asked.values())).confidence
    kept = f"{kept}, with confidence {confidence:g}"
    costs = _costs(test)
    if not costs:
        return Headline(SHIP, f"Ship: {kept}; the reward and KL are what they should be.")
    return Headline(COST, f"Kept at a cost: {kept}; but {' and '.join(costs)}.")


def _missed(name: str, one: Verdict) -> str:
    bound = "no bound" if one.low is None else f"at least {one.low:.2f} is shown"
    shown = f"{name}: asked {one.asked:.2f}, delivered {one.mean:.2f}, {bound} ({one.state})"
    if one.state == REFUTED:
        return f"{shown}; ask for less, or align again with config.rounds.count"
    if one.low is None:
        return f"{shown}; one test prompt gives no bound: raise config.test.prompts or config.test.share"
    if one.more is None:
        return f"{shown}; more test prompts would not decide it: more held-out labels or another round would"
    return f"{shown}; about {one.more} more test prompts would decide it"


def _costs(test: TestRecord) -> list[str]:
    """What is not as it should be of reward and KL, in words."""
    found = []
    reward, kl = test.verdicts.get("reward"), test.verdicts.get("kl")
    if reward is not None and reward.state != VERIFIED:
        word = "below" if reward.mean < 0 else "above"
        text = f"the reward is {abs(reward.mean):.2f} {word} the reference's"
        if reward.asked:
            text += f" (a gain of {reward.asked:.2f} is {reward.state})"
        elif reward.mean >= 0:
            text += " (that it is above is not shown)"
        found.append(text)
    if kl is not None and kl.state != VERIFIED and kl.asked is not None:
        found.append(f"KL is {kl.mean:.2f} nats, {kl.asked:.2f} was to be expected")
    return found
