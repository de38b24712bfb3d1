"""What is asked of the constraints: a margin, a level, a rate or a share; and what cannot be met."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.feasibility import reachable_along
from alignjax.dual.solver import Solution, margin_of_level, margins_from_fraction, reachable
from alignjax.errors import InfeasibleError, InputError
from alignjax.records.answer import Asked


def asked_margins(
    asked: Sequence[Asked],
    utilities: ArrayLike,
    *,
    beta: float | None = None,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
) -> np.ndarray:
    """The margin that each constraint is asked for.

        b_j = margin,   level - E_ref g_j,   rate - E_ref g_j,   or   fraction (E_w g_j - E_ref g_j)

    with w_ik = softmax_k(g_ikj / beta), the tilt to this constraint alone at this beta.

    Args:
      asked: one for each of the m constraints.
      utilities: [N, K, m] float.
      beta: KL weight > 0, which a fraction needs; None: no fraction is asked.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt in the means; None: equal.
      exposure: [N, m] float >= 0, how much of what is asked each prompt carries; the margin is that of the
        prompts that carry it. None: 1.

    Returns:
      [m] float64; nan where nothing is asked.

    Raises:
      InputError: more than one of the four asked of a constraint, a fraction or a rate outside (0, 1), a
        fraction without beta, or shapes.
    """
    means = reference_means(utilities, mask, prompt_weights)
    if len(asked) != means.size:
        raise InputError(
            f"constraints: {len(asked)} are asked, the utilities have {means.size}; ask one each."
        )
    carried = shares(exposure, means.size, prompt_weights)
    margins = np.full(means.size, np.nan)
    for j, one in enumerate(asked):
        if sum(value is not None for value in (one.margin, one.level, one.fraction, one.rate)) > 1:
            raise InputError(
                f"constraint {j}: give one of margin, level, fraction and rate, not several; remove the "
                "others."
            )
        if one.rate is not None and not 0 < one.rate < 1:
            raise InputError(f"constraint {j}: rate is {one.rate}, must lie between 0 and 1: a probability.")
        if one.margin is not None:
            margins[j] = one.margin
        elif one.target is not None:
            margins[j] = margin_of_level(one.target, means[j] / carried[j])
        elif one.fraction is not None:
            if beta is None:
                raise InputError(f"constraint {j}: a fraction is a share of a tilt's margin; give beta too.")
            column = np.asarray(utilities)[..., j]
            column = column if exposure is None else per_exposure(column, np.asarray(exposure)[:, j])
            alone = safety_only(column, beta, mask)
            gained = alone if exposure is None else alone * np.asarray(exposure)[:, j]
            margins[j] = margins_from_fraction(
                one.fraction, np.average(gained, weights=prompt_weights) / carried[j]
            )
    return margins


def safety_only(utility: np.ndarray, beta: float, mask: ArrayLike | None = None) -> np.ndarray:
    """Each prompt's margin under the tilt to one utility alone.

        sum_k w_ik g_ik - mean_k g_ik,     w_ik = softmax_k(g_ik / beta)

    Args:
      utility: [N, K] float, g.
      beta: KL weight > 0, in the units of `utility` per nat.
      mask: [N, K] bool, True where a sample exists; None: all.

    Returns:
      [N] float64, at least 0.
    """
    present = np.ones(utility.shape, bool) if mask is None else np.asarray(mask, bool)
    values = np.where(present, np.asarray(utility, np.float64), 0.0)
    top = np.where(present, values, -np.inf).max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # below every float beta the best response has all the weight
        weights = np.where(present, np.exp(np.minimum(values - top, 0.0) / beta), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    gained = (weights * values).sum(axis=1) - prompt_references(values, present)
    return np.maximum(gained, 0.0)


def shares(exposure: ArrayLike | None, size: int, prompt_weights: ArrayLike | None = None) -> np.ndarray:
    """How much of each constraint the prompts carry on average, sum_i p_i e_ij: [m], 1 without exposure."""
    return (
        np.ones(size)
        if exposure is None
        else np.average(np.asarray(exposure), axis=0, weights=prompt_weights)
    )


def per_exposure(values: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Values [N, ...] of a constraint in its own units, x_i / e_i with e [N]; 0 where e is."""
    safe = np.where(exposure > 0, exposure, 1.0).reshape(-1, *[1] * (values.ndim - 1))
    carries = (exposure > 0).reshape(safe.shape)
    return np.where(carries, values / safe, 0.0)


def reference_means(
    values: ArrayLike, mask: ArrayLike | None = None, prompt_weights: ArrayLike | None = None
) -> np.ndarray:
    """Mean under the reference: over prompts, of the mean over each prompt's samples.

    Args:
      values: [N, K, ...] float.
      mask: [N, K] bool, at least one True a row; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt; None: equal.

    Returns:
      [...] float64.
    """
    return np.average(prompt_references(values, mask), axis=0, weights=prompt_weights)


def prompt_references(values: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Mean over each prompt's samples: [N, K, ...], mask [N, K] -> [N, ...] float64."""
    values = np.asarray(values, np.float64)
    if mask is None:
        return values.mean(axis=1)
    present = np.asarray(mask, bool).reshape(*values.shape[:2], *[1] * (values.ndim - 2))
    return np.where(present, values, 0.0).sum(axis=1) / present.sum(axis=1)


def require_feasible(
    names: Sequence[str],
    solution: Solution,
    margins: ArrayLike,
    utilities: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
) -> None:
    """Refuses a solution that does not reach its margins.

    Args:
      names: m names of the constraints.
      solution: of `solve`, called plainly.
      margins: [m] float, those it was asked for.
      utilities: [N, K, m] float.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt in the means; None: equal.

    Raises:
      InfeasibleError: the margins cannot be met; the message names the largest that can, alone and in the
        combination that proves that not all can be met together, and the multiple of all that can.
    """
    if bool(solution.feasible):
        return
    b = np.asarray(margins, np.float64)
    most = np.asarray(reachable(utilities, mask, prompt_weights=prompt_weights))
    direction = np.asarray(solution.certificate, np.float64)
    together = combined_reach(direction, utilities, mask, prompt_weights)
    multiple = None
    if b.size > 1:
        multiple = reachable_along(utilities, b, mask=mask, prompt_weights=prompt_weights).multiple
    raise InfeasibleError(refusal(names, b, most, direction, together, multiple))


def combined_reach(
    direction: np.ndarray,
    utilities: ArrayLike,
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
) -> float:
    """The largest margin of the utility <direction, g>; `direction` [m] >= 0, the rest as in `reachable`."""
    used = np.flatnonzero(direction)
    values = np.asarray(utilities, np.float64)[..., used] @ direction[used]
    return float(np.asarray(reachable(values[..., None], mask, prompt_weights=prompt_weights))[0])


def refusal(
    names: Sequence[str],
    margins: np.ndarray,
    most: np.ndarray,
    direction: np.ndarray,
    together: float,
    multiple: float | None,
) -> str:
    """The message that says which margins cannot be met, and what can.

    Args:
      names: m names of the constraints.
      margins: [m], asked.
      most: [m], the largest of each constraint alone.
      direction: [m], the certificate; zeros: there is no proof.
      together: the largest margin of the certificate's combination.
      multiple: of all margins that can be met at once; None: not said.
    """
    shown = [
        f"{name}: asked {asked:.6g}, the largest margin that can be met alone is {top:.6g}"
        for name, asked, top in zip(names, margins, most, strict=True)
    ]
    used = np.flatnonzero(direction)
    if len(used) > 1:
        weighted = " + ".join(f"{direction[j]:.4g} {names[j]}" for j in used.tolist())
        asked = float(direction @ margins)
        shown.append(f"together: {weighted} asked {asked:.6g}, at most {together:.6g} can be met")
    if multiple is not None:
        shown.append(f"all at once {multiple:.4g} of what is asked can be met")
    what = "no policy on these samples meets them"
    if not len(used):
        what = "no multiplier was found that meets them, they lie within rounding of the most that can be met"
    return f"constraints: {what} ({'; '.join(shown)}); ask for less, or sample more."
