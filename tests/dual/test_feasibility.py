"""The joint multiple: by hand, against the linear program over policies, and against what solve says."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.dual import reachable, reachable_along, solve
from alignjax.errors import InputError


def by_linear_program(utilities, margins):
    """max t with margins of at least t b, over t and a policy w [N, K]: written from the definition."""
    n, k, m = utilities.shape
    gained = (utilities - utilities.mean(axis=1, keepdims=True)).reshape(n * k, m).T / n
    found = scipy.optimize.linprog(
        [*np.zeros(n * k), -1.0],
        A_ub=np.column_stack([-gained, margins]),
        b_ub=np.zeros(m),
        A_eq=np.column_stack([np.kron(np.eye(n), np.ones(k)), np.zeros(n)]),
        b_eq=np.ones(n),
        bounds=[(0, None)] * (n * k) + [(None, None)],
    )
    return -found.fun


def test_one_constraint_by_hand():
    """max 4, mean 2: a margin of 2 can be met, four times 0.5."""
    found = reachable_along(np.array([[[0.0], [4.0]]]), np.array([0.5]))
    assert found.multiple == pytest.approx(4) and found.gap < 1e-9
    np.testing.assert_allclose(found.certificate, [1.0])


def test_two_that_exclude_each_other_by_hand():
    """g2 = 1 - g1: of (0.2, 0.1) no multiple but 0, by d = (1/2, 1/2)."""
    found = reachable_along(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([0.2, 0.1]))
    assert found.multiple == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found.certificate, [0.5, 0.5])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), m=st.integers(1, 4))
def test_against_the_linear_program(seed, m):
    """Asked in units from 1e-3 to 1e3; some of it may be negative."""
    rng = np.random.default_rng(seed)
    units = 10 ** rng.uniform(-3, 3, m)
    utilities = rng.normal(size=(5, 6, m)) + rng.normal(size=(5, 6, 1))
    margins = rng.uniform(-0.3, 1, m)
    margins[0] = abs(margins[0])
    found = reachable_along(utilities * units, margins * units)
    expected = by_linear_program(utilities, margins)
    assert found.multiple == pytest.approx(expected, rel=1e-7, abs=1e-9) and found.gap <= 1e-8
    # By substitution: no policy has more along d than multiple times what is asked.
    gained = utilities * units - (utilities * units).mean(axis=1, keepdims=True)
    most = np.max(gained @ found.certificate, axis=1).mean()
    np.testing.assert_allclose(most, found.multiple * (found.certificate @ (margins * units)), rtol=1e-7)


@pytest.mark.parametrize("m", [2, 3])
def test_solve_agrees_on_both_sides(make_problem, m):
    rewards, utilities = make_problem(21, m=m)
    asked = np.linspace(0.2, 0.4, m)
    most = reachable_along(utilities, asked).multiple * asked
    assert solve(rewards, utilities, beta=0.5, margins=most * (1 - 1e-5)).feasible
    assert not solve(rewards, utilities, beta=0.5, margins=most * (1 + 1e-5)).feasible


def test_mask_weights_and_importance_are_those_of_reachable(make_problem):
    _, utilities = make_problem(8, m=1)
    mask = np.random.default_rng(0).random(utilities.shape[:2]) < 0.7
    mask[:, 0] = True
    given = {"mask": mask, "prompt_weights": np.arange(1.0, 7), "importance": 1 + mask * 2.0}
    given["importance"][:, 1] = 0.5
    found = reachable_along(np.where(mask[..., None], utilities, np.nan), np.array([1.0]), **given)
    np.testing.assert_allclose(found.multiple, reachable(utilities, **given)[0], rtol=1e-9)


def test_nothing_asked_has_no_limit():
    found = reachable_along(np.array([[[0.0, 1.0], [4.0, 1.0]]]), np.array([-0.5, 0.0]))
    assert found.multiple == np.inf and not found.certificate.any()


def test_errors():
    with pytest.raises(InputError, match=r"^dual.reachable_along: utilities has shape \(2, 3\)"):
        reachable_along(np.ones((2, 3)), np.array([1.0]))
    with pytest.raises(InputError, match=r"^dual.reachable_along: margins has shape \(2,\), must be \(1,\)"):
        reachable_along(np.ones((2, 3, 1)), np.array([1.0, 1.0]))
    with pytest.raises(InputError, match=r"^dual.reachable_along: utilities\[0, 1, 0\] is nan"):
        reachable_along(np.array([[[0.0], [np.nan]]]), np.array([1.0]))
