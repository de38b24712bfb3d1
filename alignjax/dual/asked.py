"""What is asked of the constraints: a margin, a level or a share of the reachable; and what cannot be met."""

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
    mask: ArrayLike | None = None,
    prompt_weights: ArrayLike | None = None,
) -> np.ndarray:
    """The margin that each constraint is asked for.

        b_j = margin,   level - E_ref g_j,   or   fraction (mean_i max_k g_ik - E_ref g_j)

    Args:
      asked: one for each of the m constraints.
      utilities: [N, K, m] float.
      mask: [N, K] bool, True where a sample exists; None: all.
      prompt_weights: [N] float >= 0, weight of every prompt in the means; None: equal.

    Returns:
      [m] float64; nan where nothing is asked.

    Raises:
      InputError: more than one of the three asked of a constraint, a fraction outside (0, 1), or shapes.
    """
    most = np.asarray(reachable(utilities, mask, prompt_weights=prompt_weights))
    means = reference_means(utilities, mask, prompt_weights)
    if len(asked) != most.size:
        raise InputError(
            f"constraints: {len(asked)} are asked, the utilities have {most.size}; ask one each."
        )
    margins = np.full(most.size, np.nan)
    for j, one in enumerate(asked):
        if sum(value is not None for value in (one.margin, one.level, one.fraction)) > 1:
            raise InputError(
                f"constraint {j}: give one of margin, level and fraction, not several; remove the others."
            )
        if one.margin is not None:
            margins[j] = one.margin
        elif one.level is not None:
            margins[j] = margin_of_level(one.level, means[j])
        elif one.fraction is not None:
            margins[j] = margins_from_fraction(one.fraction, most[j])
    return margins


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
