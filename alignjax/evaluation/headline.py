"""The run in one sentence, ship, kept at a cost or do not ship, and in another what to do next."""

from collections.abc import Mapping

from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Headline
from alignjax.records.verdict import TestRecord, Verdict

SHIP, COST, DO_NOT_SHIP = "ship", "kept at a cost", "do not ship"
VERIFIED, REFUTED = "verified", "refuted"


def headline(answer: DualAnswer, test: TestRecord) -> Headline:
    """What the test says of a policy, and what to do next.

    The state follows from the verdicts on the constraints, on the reward's gain and on KL:

        do not ship      something that was asked is not verified: a constraint, or a gain of reward or a
                         bound on KL that the configuration asks for; or nothing was asked
        kept at a cost   all that was asked is verified, but the reward is shown to be below the reference's
                         (its upper bound is below 0), or KL is above the upper end of its forecast
        ship             all that was asked is verified, and neither is the case

    A reward that may be above or below the reference's, and a KL of which nothing was forecast because the
    gate is closed, do not stop a policy from being shipped; the sentence says so.

    Args:
      answer: of the dual, which says what was asked.
      test: of the policy.
    """
    constraints = {name: test.verdicts[name] for name in answer.names if name in test.verdicts}
    asked = {name: one for name, one in constraints.items() if one.asked is not None}
    if not asked:
        return Headline(DO_NOT_SHIP, "Do not ship: nothing was asked.", "Ask for a margin, and run again.")
    missed = _missed(asked, test)
    if missed:
        parts = "; ".join(_missed_words(name, one) for name, one in missed.items())
        return Headline(DO_NOT_SHIP, f"Do not ship: {parts}.", _remedy(missed))
    kept = ", ".join(
        f"{name} at least {one.low or 0.0:.2f} (asked {one.asked:.2f})" for name, one in asked.items()
    )
    kept = f"{kept}, with confidence {next(iter(asked.values())).confidence:g}"
    reward, kl = test.verdicts.get("reward"), test.verdicts.get("kl")
    lost = reward is not None and reward.state == REFUTED
    far = kl is not None and kl.asked is not None and kl.mean > kl.asked
    price = " and ".join(
        [*([] if reward is None else [_reward_words(reward)]), *([] if kl is None else [_kl_words(kl)])]
    )
    if not lost and not far:
        after = f"; {price}" if price else ""
        return Headline(SHIP, f"Ship: {kept}{after}.", "Export the model with python -m alignjax.export.")
    return Headline(COST, f"Kept at a cost: {kept}; but {price}.", _cheaper(lost))


def _missed(asked: Mapping[str, Verdict], test: TestRecord) -> dict[str, Verdict]:
    """What was asked for and is not verified, by name."""
    missed = {name: one for name, one in asked.items() if one.state != VERIFIED}
    if missed or test.accepted:
        return missed
    # The constraints are verified and the test has refused: a gain of reward or a bound on KL was asked for.
    extra = {name: test.verdicts[name] for name in ("reward", "kl") if name in test.verdicts}
    return {name: one for name, one in extra.items() if one.state != VERIFIED and one.asked is not None}


def _missed_words(name: str, one: Verdict) -> str:
    limit = one.high if name == "kl" else one.low
    side = "at most" if name == "kl" else "at least"
    bound = "no bound" if limit is None else f"{side} {limit:.2f} is shown"
    called = {"kl": "KL", "reward": "gain of reward"}.get(name, name)
    return f"{called}: asked {one.asked:.2f}, delivered {one.mean:.2f}, {bound} ({one.state})"


def _remedy(missed: Mapping[str, Verdict]) -> str:
    """What would decide or mend it; what is refuted comes first, for no larger test would help it."""
    refuted = [name for name, one in missed.items() if one.state == REFUTED]
    if refuted == ["kl"]:
        return "Raise beta or ask for a smaller margin; both keep the policy nearer to the reference."
    if refuted:
        return f"Ask for less of {', '.join(refuted)}, or allow more rounds with config.rounds.count."
    if any(one.low is None for one in missed.values()):
        return "One test prompt gives no bound: raise config.test.prompts or config.test.share."
    more = [one.more for one in missed.values()]
    counts = [count for count in more if count is not None]
    if len(counts) < len(more):
        return "More test prompts would not decide it: add held-out labels, or allow another round."
    return (
        f"About {max(counts)} more test prompts would decide it: raise config.test.prompts or "
        "config.test.share."
    )


def _cheaper(lost: bool) -> str:
    """The next step where the price is high."""
    better = "a smaller margin costs less reward" if lost else "a smaller margin or a larger beta lowers KL"
    return f"Decide whether it is worth that; {better}: report.html shows how much."


def _reward_words(one: Verdict) -> str:
    """How the reward compares with the reference's, with its bounds."""
    bounds = "" if one.low is None or one.high is None else f" [{one.low:.2f}, {one.high:.2f}]"
    if one.state == REFUTED or one.mean < 0:
        sure = "" if one.state == REFUTED else ", which may be chance"
        return f"the reward changes by {one.mean:.2f}{bounds} from the reference's{sure}"
    sure = "" if one.state == VERIFIED else ", which may be chance"
    return f"the reward rises by {one.mean:.2f}{bounds} above the reference's{sure}"


def _kl_words(one: Verdict) -> str:
    """How far the policy is from the reference, and how far it was forecast to be."""
    text = f"KL is {one.mean:.2f} nats"
    if one.asked is None:
        return f"{text}, of which nothing was forecast"
    return f"{text}, {'above' if one.mean > one.asked else 'within'} the {one.asked:.2f} to be expected"
