"""The convex problem: which multiplier, what it promises, and whether the constraints can be met at all."""

from alignjax.dual.objective import objective, tilt
from alignjax.dual.solve import Solution, margins_from_fraction, reachable, solve

__all__ = ["Solution", "margins_from_fraction", "objective", "reachable", "solve", "tilt"]
