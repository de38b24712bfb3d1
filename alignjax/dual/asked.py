"""What is asked of the constraints: a margin, a level or a share of the reachable; and what cannot be met."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from alignjax.dual.feasibility import reachable_along
from alignjax.dual.solve import Solution, margins_from_fraction, reachable
from alignjax.errors import InfeasibleError, InputError


class Asked(NamedTuple):
    """What is asked of one constraint: exactly one of the three. None of them: nothing is asked.

    Attributes:
      margin: how much the mean utility must rise above the reference's, in the units of the utility.
      level: the mean utility to reach, in the same units.
      fraction: the margin as a share, in (0, 1), of the largest that the constraint alone can reach.
    """

    margin: float | None = None
    level: float | None = None
    fraction: float | None = None


def asked_margins(
    asked: Sequence[Asked], utilities: ArrayLike, *, mask: ArrayLike | None = None
) -> np.ndarray:
    """The margin that each constraint is asked for.

        b_j = margin,   level - E_ref g_j,   or   fraction (mean_i max_k g_ik - E_ref g_j)

    Args:
      asked: one for each of the m constraints.
      utilities: [N, K, m] float.
      mask: [N, K] bool, True where a sample exists; None: all.

    Returns:
      [m] float64; nan where nothing is asked.

    Raises:
      InputError: more than one of the three asked of a constraint, a fraction outside (0, 1), or shapes.
    """
    most, means = np.asarray(reachable(utilities, mask)), reference_means(utilities, mask)
    if len(asked) != most.size:
        raise InputError(
            f"constraints: {len(asked)} are asked, the utilities have {most.size}; ask one each."
        )
    margins = np.full(most.size, np.nan)
    for j, one in enumerate(asked):
        if sum(value is not None for value in one) > 1:
            raise InputError(
                f"constraint {j}: give one of margin, level and fraction, not several; remove the others."
            )
        if one.margin is not None:
            margins[j] = one.margin
        elif one.level is not None:
            margins[j] = one.level - means[j]
        elif one.fraction is not None:
            margins[j] = margins_from_fraction(one.fraction, most[j])
    return margins


def reference_means(values: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Mean under the reference: over prompts, of the mean over each prompt's samples.

    Args:
      values: [N, K, ...] float.
      mask: [N, K] bool, at least one True a row; None: all.

    Returns:
      [...] float64.
    """
    values = np.asarray(values, np.float64)
    if mask is None:
        return values.mean(axis=(0, 1))
    present = np.asarray(mask, bool).reshape(*values.shape[:2], *[1] * (values.ndim - 2))
    return np.mean(np.where(present, values, 0.0).sum(axis=1) / present.sum(axis=1), axis=0)


def require_feasible(
    names: Sequence[str],
    solution: Solution,
    margins: ArrayLike,
    utilities: ArrayLike,
    *,
    mask: ArrayLike | None = None,
) -> None:
    """Refuses a solution that does not reach its margins.

    Args:
      names: m names of the constraints.
      solution: of `solve`, called plainly.
      margins: [m] float, those it was asked for.
      utilities: [N, K, m] float.
      mask: [N, K] bool, True where a sample exists; None: all.

    Raises:
      InfeasibleError: the margins cannot be met; the message names the largest that can, alone and in the
        combination that proves that not all can be met together, and the multiple of all that can.
    """
    if bool(solution.feasible):
        return
    b, most = np.asarray(margins, np.float64), np.asarray(reachable(utilities, mask))
    shown = [
        f"{name}: asked {asked:.6g}, the largest margin that can be met alone is {top:.6g}"
        for name, asked, top in zip(names, b, most, strict=True)
    ]
    direction = np.asarray(solution.certificate, np.float64)
    if np.count_nonzero(direction) > 1:
        used = np.flatnonzero(direction).tolist()
        values = np.asarray(utilities, np.float64)[..., used] @ direction[used]
        top = float(np.asarray(reachable(values[..., None], mask))[0])
        weighted = " + ".join(f"{direction[j]:.4g} {names[j]}" for j in used)
        shown.append(f"together: {weighted} asked {float(direction @ b):.6g}, at most {top:.6g} can be met")
    if b.size > 1:
        multiple = reachable_along(utilities, b, mask=mask).multiple
        shown.append(f"all at once {multiple:.4g} of what is asked can be met")
    what = "no policy on these samples meets them"
    if not direction.any():
        what = "no multiplier was found that meets them, they lie within rounding of the most that can be met"
    raise InfeasibleError(f"constraints: {what} ({'; '.join(shown)}); ask for less, or sample more.")
