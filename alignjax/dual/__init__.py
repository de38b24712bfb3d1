"""The convex problem: which multiplier, what it promises, and whether the constraints can be met at all."""

from alignjax.dual.asked import Asked, asked_margins, reference_means, require_feasible
from alignjax.dual.objective import objective, tilt
from alignjax.dual.solve import Solution, margins_from_fraction, reachable, solve

__all__ = [
    "Asked",
    "Solution",
    "asked_margins",
    "margins_from_fraction",
    "objective",
    "reachable",
    "reference_means",
    "require_feasible",
    "solve",
    "tilt",
]
