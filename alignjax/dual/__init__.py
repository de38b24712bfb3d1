"""The convex problem: which multiplier, what it promises, how surely, and whether it can be had at all."""

from alignjax.dual.asked import Asked, asked_margins, reference_means, require_feasible
from alignjax.dual.bias import Bias, finite_sample_bias
from alignjax.dual.feasibility import Reach, reachable_along
from alignjax.dual.frontier import SATURATED, Frontier, Prompts, by_prompt, frontier, sweep
from alignjax.dual.objective import objective, tilt
from alignjax.dual.solve import Solution, margins_from_fraction, reachable, solve
from alignjax.dual.uncertainty import Bounds, Conservative, Interval, bootstrap, solve_conservative

__all__ = [
    "SATURATED",
    "Asked",
    "Bias",
    "Bounds",
    "Conservative",
    "Frontier",
    "Interval",
    "Prompts",
    "Reach",
    "Solution",
    "asked_margins",
    "bootstrap",
    "by_prompt",
    "finite_sample_bias",
    "frontier",
    "margins_from_fraction",
    "objective",
    "reachable",
    "reachable_along",
    "reference_means",
    "require_feasible",
    "solve",
    "solve_conservative",
    "sweep",
    "tilt",
]
