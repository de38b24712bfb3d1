"""Plain calls and traced ones through the same functions.

A pass over a table takes about a millisecond, a program for it some tenths of a second to compile. So where
a call is plain, NumPy does what is done once, and the passes that a solution repeats are compiled. Inside a
caller's jit or vmap all of it is traced.
"""

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from alignjax.dual.arguments import on_host

# NumPy's in a plain call, JAX's in a traced one: both have the same methods, but no type in common.
Array: TypeAlias = Any

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_MOST_THREADS = 8
_ALIGNMENT = 64  # bytes; JAX reads such arrays of NumPy where they lie, and copies others for every call


def module_of(*trees: Any) -> Any:
    """jax.numpy where any of the values is JAX's, else numpy: one text of a formula serves both."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(trees)) else np


def compiled(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A function of arrays that a plain call runs as one compiled program on the host, and a trace as it is.

    Called with NumPy's arrays alone it works in their types and returns NumPy's.
    """
    program = jax.jit(function)

    @functools.wraps(function)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        if module_of(args, kwargs) is jnp:
            return function(*args, **kwargs)
        with on_host():
            return jax.tree.map(np.asarray, program(*args, **kwargs))

    return call


def on_all_cores(work: Callable[[int], _Result], count: int) -> list[_Result]:
    """Calls `work` with 0, 1, ... count - 1 in a plain call; the results in this order.

    A compiled program for small tables uses a single core and does not hold Python's lock, so that a thread
    for each core has as many of them at work at once.
    """
    size = max(1, min(os.cpu_count() or 1, _MOST_THREADS, count))

    def share(first: int) -> list[_Result]:
        with on_host():  # a thread has its own settings of JAX and NumPy
            return [work(number) for number in range(first, count, size)]

    with ThreadPoolExecutor(size) as pool:
        shares = list(pool.map(share, range(size)))
    return [shares[number % size][number // size] for number in range(count)]


def room_for(shape: tuple[int, ...], kind: DTypeLike) -> np.ndarray:
    """An array to be filled, where compiled programs will read it without a copy."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + size].view(kind).reshape(shape)


def aligned(array: np.ndarray) -> np.ndarray:
    """The same numbers where compiled programs read them without a copy."""
    if array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0:
        return array
    out = room_for(array.shape, array.dtype)
    out[...] = array
    return out
