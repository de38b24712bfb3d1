"""FLOPs of the matrix products of a traced function; loops count with all of their iterations."""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def product_flops(jaxpr: Any, trips: Sequence[float] = ()) -> float:
    """FLOPs of the matrix products of a traced function, on all devices together.

        2 x (elements of the result) x (length of the contracted dimensions),   for each product

    Recomputation (remat) is part of the traced function, so it is included. Of the branches of a condition,
    the one with most FLOPs is counted.

    Args:
      jaxpr: of `jitted.trace(...)`.
      trips: iterations of the loops whose end depends on data, the outermost first, one for each level of
        nesting; the body of a loop without one is counted once.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_of_equation(equation, trips) for equation in inner.eqns)


def _of_equation(equation: Any, trips: Sequence[float]) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)
    if name == "scan":
        return params["length"] * product_flops(params["jaxpr"], trips)
    if name == "while":
        return (trips[0] if trips else 1.0) * product_flops(params["body_jaxpr"], trips[1:])
    if name == "shard_map":  # of one device
        return params["mesh"].size * product_flops(params["jaxpr"], trips)
    if name == "pallas_call":
        # Of every block, including those that the kernel skips because a mask hides them.
        return math.prod(params["grid_mapping"].grid) * product_flops(params["jaxpr"], trips)
    if name == "cond":
        return max(product_flops(branch, trips) for branch in params["branches"])
    return sum(product_flops(one, trips) for one in _jaxprs(params))


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    return [value for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
