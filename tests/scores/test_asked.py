"""From what is asked of scores to the constraints of the dual."""

import functools
from collections.abc import Sequence

import numpy as np
import pytest

from alignjax.config import ConstraintSettings, GroupSettings, TailSettings
from alignjax.errors import InputError
from alignjax.records.answer import Asked
from alignjax.records.units import Rate, Tail, Unit
from alignjax.scores.asked import Resolved, resolve
from alignjax.scores.units import exposure, utilities

DIMENSIONS = ("reward", "safety", "honesty")
RATE = Rate(2.0, 0.5, np.eye(2))
# 6 thefts, 5 frauds, 2 of arson, 1 of stalking, 2 without a category.
CATEGORIES = {"category": (*["theft"] * 6, *["fraud"] * 5, "arson", "arson", "stalking", None, None)}
SCORES = np.random.default_rng(0).normal(size=(16, 3, 3))


def asking(**constraints: ConstraintSettings) -> Resolved:
    return resolve(
        constraints, DIMENSIONS, SCORES, categories=CATEGORIES, rates={"safety": RATE, "honesty": None}
    )


def groups(**numbers: object) -> ConstraintSettings:
    return ConstraintSettings(groups=GroupSettings(**numbers))  # pyright: ignore[reportArgumentType]  # mixed


def test_scores_and_rates():
    found = asking(
        safety=ConstraintSettings(rate=0.9),
        honesty=ConstraintSettings(fraction=0.5),
    )
    assert found.units["safety"].rate is RATE and found.units["honesty"] == Unit("honesty")
    assert found.asked == {"safety": Asked(rate=0.9), "honesty": Asked(fraction=0.5)}
    assert found.findings == ()
    # Where the score is the probability itself, nothing stands between the two.
    found = asking(safety=ConstraintSettings(), honesty=ConstraintSettings(rate=0.9))
    assert found.units == {name: Unit(name) for name in DIMENSIONS[1:]}
    assert found.asked == {"safety": Asked(), "honesty": Asked(rate=0.9)}


def test_one_number_for_every_category():
    found = asking(safety=groups(margin=0.5), honesty=ConstraintSettings(level=0.1))
    assert found.units == {
        "safety[fraud]": Unit("safety", "fraud", "category", 5 / 16),
        "safety[theft]": Unit("safety", "theft", "category", 6 / 16),
        "safety[other]": Unit("safety", "other", "category", 3 / 16, other_than=("fraud", "theft")),
        "honesty": Unit("honesty"),
    }
    assert found.asked == dict.fromkeys(list(found.units)[:3], Asked(margin=0.5)) | {
        "honesty": Asked(level=0.1)
    }
    assert found.findings == (
        "safety: 2 of 16 prompts have no category; nothing is asked of them.",
        "safety[other] holds what has fewer than 5 prompts of its own: arson (2), stalking (1).",
        "safety[other]: 3 of the prompts alone; their mean says little, sample more prompts.",
    )
    values = utilities(found.units, SCORES, DIMENSIONS, CATEGORIES)
    safety = SCORES[..., 1]
    for j, rows in enumerate((slice(6, 11), slice(0, 6), slice(11, 14))):
        # The mean over all prompts is the mean over the category's own.
        assert values[..., j].mean() == pytest.approx(safety[rows].mean())
    np.testing.assert_allclose(exposure(found.units, CATEGORIES, 16).mean(axis=0), 1.0)


def test_numbers_by_category_are_asked_of_these_alone():
    found = asking(safety=groups(rate={"stalking": 0.8, "theft": 0.9}))
    assert list(found.units) == ["safety[stalking]", "safety[theft]"]
    assert found.units["safety[theft]"] == Unit("safety", "theft", "category", 6 / 16, rate=RATE)
    assert list(found.asked.values()) == [Asked(rate=0.8), Asked(rate=0.9)]
    assert found.findings[1] == "safety: nothing is asked of the category arson, fraud."
    assert found.findings[2].startswith("safety[stalking]: 1 of the prompts alone")


def test_a_category_called_other_is_one_of_the_others():
    categories = {"topic": ["other"] * 6 + ["a"] * 5 + ["b"] * 5}
    one = groups(level=0.0, column="topic")
    found = resolve({"safety": one}, DIMENSIONS, SCORES, categories=categories, rates={})
    assert list(found.units) == ["safety[a]", "safety[b]", "safety[other]"] and found.findings == ()
    assert found.units["safety[other]"].share == 6 / 16


def test_shares_are_of_the_prompts_weights():
    weights = np.arange(16.0)
    one = {"safety": groups(margin={"fraud": 0.0})}
    found = resolve(one, DIMENSIONS, SCORES, categories=CATEGORIES, rates={}, prompt_weights=weights)
    assert found.units["safety[fraud]"].share == pytest.approx((6 + 7 + 8 + 9 + 10) / 120)
    with pytest.raises(InputError, match=r"constraints.safety\[fraud\]: all of its prompts weigh 0"):
        zero = np.where((weights > 5) & (weights < 11), 0.0, 1.0)
        resolve(one, DIMENSIONS, SCORES, categories=CATEGORIES, rates={}, prompt_weights=zero)


def test_what_cannot_be_asked():
    with pytest.raises(
        InputError, match="no prompt has the category 'murder'; the prompts have arson, fraud"
    ):
        asking(safety=groups(margin={"theft": 0.0, "murder": 0.0}))
    with pytest.raises(
        InputError, match="constraints.safety.groups: no prompt has a 'topic'; add the column"
    ):
        asking(safety=groups(margin=0.0, column="topic"))
    for one in (ConstraintSettings(rate=0.9), groups(rate=0.9)):
        with pytest.raises(InputError, match="needs labels of single responses, is_response_0_safe and"):
            resolve({"safety": one}, DIMENSIONS, SCORES, categories=CATEGORIES, rates={})
        with pytest.raises(InputError, match=r"do not rise with the score \(slope -1\)"):
            down = {"safety": Rate(-1.0, 0.0, np.eye(2))}
            resolve({"safety": one}, DIMENSIONS, SCORES, categories=CATEGORIES, rates=down)


TAIL = ConstraintSettings(tail=TailSettings(share=0.25, cost=1.0))


def parabola(best: float, widths: list[float]):
    """A value of the dual that is largest at one threshold; it notes the levels it is asked for."""

    def value(table: np.ndarray, asked: Sequence[Asked]) -> float:
        level = asked[0].level
        assert level is not None
        threshold = 1.0 + level  # level = -(cost - threshold)
        np.testing.assert_allclose(
            table[..., 0], -np.maximum(-SCORES[..., 1] - threshold, 0) / 0.25, atol=1e-12
        )
        widths.append(threshold)
        return -((threshold - best) ** 2)

    return value


def test_the_threshold_of_a_tail_is_the_best_of_fifty_quantiles():
    seen = list[float]()
    found = resolve({"safety": TAIL}, DIMENSIONS, SCORES, categories={}, rates={}, value=parabola(0.4, seen))
    costs = -SCORES[..., 1][-SCORES[..., 1] <= 1.0]
    np.testing.assert_allclose(seen, np.quantile(costs, np.linspace(0, 1, 50)))
    tail = found.units["safety"].tail
    assert tail is not None and tail.threshold == pytest.approx(min(seen, key=lambda eta: abs(eta - 0.4)))
    assert (tail.share, tail.cost) == (0.25, 1.0)
    assert found.asked["safety"].level == pytest.approx(tail.threshold - 1.0)


def test_ties_and_infeasible_tails():
    """Alike from 0 to 0.5: the middle. Nowhere: the threshold that comes closest to being met."""

    def flat(table: np.ndarray, asked: Sequence[Asked]) -> float:
        assert asked[0].level is not None
        return 3.0 if 0.0 <= 1.0 + asked[0].level <= 0.5 else 2.0

    found = resolve({"safety": TAIL}, DIMENSIONS, SCORES, categories={}, rates={}, value=flat)
    tail = found.units["safety"].tail
    assert tail is not None and 0.1 < tail.threshold < 0.4
    found = resolve(
        {"safety": TAIL}, DIMENSIONS, SCORES, categories={}, rates={}, value=lambda table, asked: -np.inf
    )
    tail, best = found.units["safety"].tail, -SCORES[..., 1].max(axis=1)
    assert tail is not None

    def room(eta: float) -> float:
        """What the policy of the least cost leaves below what is asked."""
        return 1.0 - eta - np.mean(np.maximum(best - eta, 0)) / 0.25

    costs = -SCORES[..., 1]
    assert room(tail.threshold) == pytest.approx(
        max(room(eta) for eta in np.quantile(costs[costs <= 1.0], np.linspace(0, 1, 50)))
    )
    above = ConstraintSettings(tail=TailSettings(share=0.25, cost=-9.0))
    found = resolve(
        {"safety": above}, DIMENSIONS, SCORES, categories={}, rates={}, value=lambda table, asked: -np.inf
    )
    assert found.units["safety"].tail == Tail(0.25, -9.0, costs.min())


def test_masked_responses_are_no_part_of_a_tail():
    """A response that does not exist gives no threshold, whatever its score."""
    mask = np.ones(SCORES.shape[:2], bool)
    mask[:, 2] = False
    wild = np.where(mask[..., None], SCORES, -1e6)
    seen, cut = list[float](), list[float]()

    def value(into: list[float]):
        def one(table: np.ndarray, asked: Sequence[Asked]) -> float:
            assert asked[0].level is not None
            into.append(asked[0].level)
            return -np.inf

        return one

    tail = functools.partial(resolve, {"safety": TAIL}, DIMENSIONS, categories={}, rates={})
    a = tail(wild, mask=mask, value=value(seen))
    b = tail(SCORES[:, :2], value=value(cut))
    assert seen == cut and a.units == b.units
    with pytest.raises(ValueError, match="give `value`, which solves the dual"):
        tail(SCORES)
