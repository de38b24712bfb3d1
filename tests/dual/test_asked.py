"""Margins asked in four ways, and the words in which an infeasible problem is refused."""

from typing import Any

import numpy as np
import pytest

from alignjax.dual import Asked, asked_margins, frontier, reachable, reference_means, require_feasible, solve
from alignjax.errors import InfeasibleError, InputError

# Prompt 0 has g = 0, 4 and a padded sample: mean 2, largest 4. Prompt 1 has 1, 2, 6: mean 3, largest 6.
# Each prompt weighs the same: reference mean 2.5, largest margin ((4 - 2) + (6 - 3)) / 2 = 2.5.
G = np.array([[[0.0], [4.0], [np.nan]], [[1.0], [2.0], [6.0]]])
MASK = np.array([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("asked", "margin"),
    [
        (Asked(margin=-0.5), -0.5),
        (Asked(level=3.0), 0.5),
        (Asked(rate=0.75), -1.75),
        (Asked(margin=0.0), 0.0),
    ],
)
def test_margins_by_hand(asked, margin):
    np.testing.assert_allclose(asked_margins([asked], G, mask=MASK), [margin])


def test_nothing_asked_is_nan_and_constraints_do_not_mix():
    both = np.concatenate([G, 10 * G], axis=2)
    margins = asked_margins([Asked(), Asked(level=26.0)], both, mask=MASK)
    np.testing.assert_allclose(margins, [np.nan, 1.0])


def test_a_fraction_is_of_the_safety_only_tilt_at_this_beta():
    """beta 2, g = 0, 2 log 3: weights 1/4 and 3/4, mean 3/2 log 3, margin 1/2 log 3."""
    g = np.array([[[0.0], [2 * np.log(3)], [np.nan]]])
    mask = np.array([[True, True, False]])
    np.testing.assert_allclose(asked_margins([Asked(fraction=0.5)], g, beta=2.0, mask=mask), [np.log(3) / 4])
    most = reachable(g, mask)
    np.testing.assert_allclose(asked_margins([Asked(fraction=0.5)], g, beta=1e-3, mask=mask), most / 2)
    # It is the margin that the solver's tilt has.
    rewards, utilities = np.zeros((5, 7)), np.random.default_rng(0).normal(size=(5, 7, 1))
    half = asked_margins([Asked(fraction=0.5)], utilities, beta=0.4)
    tilted = frontier(rewards, utilities, beta=0.4, lams=np.ones((1, 1)))
    np.testing.assert_allclose(2 * half, tilted.margins[0])


def test_a_group_is_asked_in_its_own_units():
    """Half of the prompts are in it, with u = 0, 2: level 1.5 is a margin of 0.5 for them."""
    u = np.array([[0.0, 2.0], [5.0, 7.0]])
    exposure = np.array([[2.0], [0.0]])
    given: dict[str, Any] = {"exposure": exposure, "beta": 0.5}
    group = (exposure * u)[..., None]
    np.testing.assert_allclose(asked_margins([Asked(level=1.5)], group, **given), [0.5])
    alone = asked_margins([Asked(fraction=0.5)], u[:1, :, None], beta=0.5)
    np.testing.assert_allclose(asked_margins([Asked(fraction=0.5)], group, **given), alone)


def test_reference_means_by_hand():
    np.testing.assert_allclose(reference_means(G, MASK), [2.5])
    np.testing.assert_allclose(reference_means(G[..., 0], MASK), 2.5)
    np.testing.assert_allclose(reference_means(np.arange(6.0).reshape(2, 3)), 2.5)


def test_errors():
    with pytest.raises(InputError, match="constraint 0: give one of margin, level, fraction and rate, not"):
        asked_margins([Asked(margin=1.0, level=1.0)], G, mask=MASK)
    with pytest.raises(InputError, match="constraints: 2 are asked, the utilities have 1"):
        asked_margins([Asked(), Asked()], G, mask=MASK)
    with pytest.raises(InputError, match="fraction is 1.0, must lie between 0 and 1"):
        asked_margins([Asked(fraction=1.0)], G, mask=MASK, beta=1.0)
    with pytest.raises(InputError, match="constraint 0: a fraction is a share of a tilt's margin; give beta"):
        asked_margins([Asked(fraction=0.5)], G, mask=MASK)
    with pytest.raises(InputError, match="constraint 0: rate is 95.0, must lie between 0 and 1"):
        asked_margins([Asked(rate=95.0)], G, mask=MASK)


def refusal(utilities, margins, names, mask=None):
    utilities = np.asarray(utilities, np.float64)
    rewards = np.zeros(utilities.shape[:2])
    solution = solve(rewards, utilities, beta=1.0, margins=margins, mask=mask)
    with pytest.raises(InfeasibleError) as caught:
        require_feasible(names, solution, margins, utilities, mask=mask)
    return str(caught.value)


def test_refusal_names_the_largest_margin():
    message = refusal(G, [3.0], ["safety"], MASK)
    assert "no policy on these samples meets them" in message and message.endswith(
        "ask for less, or sample more."
    )
    assert "safety: asked 3, the largest margin that can be met alone is 2.5" in message
    assert "together" not in message


def test_refusal_of_margins_that_can_be_met_alone_only():
    """g2 = -g1: d = (1/2, 1/2) gives <d, g> = 0, at most 0, and 0.5 is asked."""
    message = refusal([[[1.0, -1.0], [-1.0, 1.0]]], [0.5, 0.5], ["safety", "honesty"])
    assert "safety: asked 0.5, the largest margin that can be met alone is 1;" in message
    assert "together: 0.5 safety + 0.5 honesty asked 0.5, at most" in message


def test_refusal_without_a_proof():
    """A solution that neither reaches its margins nor refutes them: within rounding of the most."""
    good = solve(np.zeros((2, 3)), G, beta=1.0, margins=np.array([1.0]), mask=MASK)
    require_feasible(["safety"], good, np.array([1.0]), G, mask=MASK)
    with pytest.raises(
        InfeasibleError, match="no multiplier was found that meets them, they lie within rounding"
    ):
        require_feasible(["safety"], good._replace(feasible=np.array(False)), np.array([2.5]), G, mask=MASK)


# Prompt 0 brings at most 1/2, prompt 1 at most 5.
UNEQUAL = np.array([[[0.0], [1.0]], [[0.0], [10.0]]])


def test_weights_of_the_prompts_reach_what_is_asked_and_the_refusal():
    given: dict[str, Any] = {"prompt_weights": np.array([1.0, 0.0])}
    np.testing.assert_allclose(asked_margins([Asked(level=0.75)], UNEQUAL, **given), [0.25])
    np.testing.assert_allclose(asked_margins([Asked(level=3.0)], UNEQUAL), [0.25])
    np.testing.assert_allclose(
        asked_margins([Asked(fraction=0.5)], UNEQUAL, beta=1e-3, prompt_weights=np.array([1.0, 0.0])), [0.25]
    )
    np.testing.assert_allclose(asked_margins([Asked(fraction=0.5)], UNEQUAL, beta=1e-3), [1.375])
    asked = np.array([2.0])
    solution = solve(np.zeros((2, 2)), UNEQUAL, beta=1.0, margins=asked, **given)
    with pytest.raises(InfeasibleError, match="the largest margin that can be met alone is 0.5"):
        require_feasible(["safety"], solution, asked, UNEQUAL, **given)


@pytest.mark.parametrize("value", [0.1, 1.0, -3.3, 0.0])
@pytest.mark.parametrize("shape", [(3, 7, 1), (5, 11, 2), (1, 2, 1)])
def test_utilities_that_are_all_equal_meet_a_margin_of_0(value, shape):
    """The mean of 7 or 11 equal numbers is rounded: it must not pass for a margin."""
    utilities, rewards = np.full(shape, value), np.random.default_rng(0).normal(size=shape[:2])
    np.testing.assert_array_equal(reachable(utilities), np.zeros(shape[2]))
    for margins in (np.zeros(shape[2]), asked_margins([Asked(level=value)] * shape[2], utilities)):
        solution = solve(rewards, utilities, beta=0.5, margins=margins)
        assert solution.feasible and not solution.lam.any()
    assert solve(rewards, utilities, beta=0.5, levels=np.full(shape[2], value)).feasible
    assert not solve(rewards, utilities, beta=0.5, margins=np.full(shape[2], 1e-6)).feasible
