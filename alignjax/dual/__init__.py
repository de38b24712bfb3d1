"""The convex problem: which multiplier, what it promises, how surely, and whether it can be had at all."""

from alignjax.dual.asked import asked_margins, reference_means, require_feasible
from alignjax.dual.bias import Bias, finite_sample_bias
from alignjax.dual.curves import SATURATED, Frontier, Prompts, by_prompt, frontier, sweep
from alignjax.dual.dual_function import objective, tilt
from alignjax.dual.engine import answer
from alignjax.dual.feasibility import Reach, reachable_along
from alignjax.dual.guard import Conservative, solve_conservative
from alignjax.dual.remarks import require_answer
from alignjax.dual.solver import Solution, margins_from_fraction, reachable, solve
from alignjax.dual.uncertainty import Bounds, Interval, bootstrap
from alignjax.records.answer import Asked, DualAnswer

__all__ = [
    "SATURATED",
    "Asked",
    "Bias",
    "Bounds",
    "Conservative",
    "DualAnswer",
    "Frontier",
    "Interval",
    "Prompts",
    "Reach",
    "Solution",
    "answer",
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
    "require_answer",
    "require_feasible",
    "solve",
    "solve_conservative",
    "sweep",
    "tilt",
]
