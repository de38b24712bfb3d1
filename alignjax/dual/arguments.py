"""What a public function of the dual is given: checked in a plain call, taken as it is in jit and vmap."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from alignjax.errors import InputError

_LEAST_SHARE = 1e-9  # of the range of the utilities; a beta below it is a mistake of units
_LEAST_SPREAD = 1e-30  # of utilities; products of smaller ones leave the range of float64


class Inputs(NamedTuple):
    """Arguments that the public functions share; None where not given.

    Attributes:
      rewards: [N, K].
      utilities: [N, K, m].
      mask: [N, K] bool.
      prompt_weights: [N].
      importance: [N, K].
      vectors: by name, [m]: margins, levels, start, lam; or [P, m]: lams, and as "sweep" margins.
    """

    rewards: Any
    utilities: Any
    mask: Any = None
    prompt_weights: Any = None
    importance: Any = None
    vectors: dict[str, Any] = {}  # noqa: B006, RUF012  # never written to


def is_traced(*trees: Any) -> bool:
    """True inside a caller's jit, vmap or grad: then values cannot be looked at."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Scope in which work is done in float64 on the host's CPU; NumPy is as silent of nan there as JAX is."""
    device = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device), np.errstate(all="ignore"):
        yield


def floats(inputs: Inputs) -> Inputs:
    """Traced inputs in one float type: that of the rewards, at least float32."""
    given = jnp.asarray(inputs.rewards).dtype
    # Not promote_types: under strict promotion it refuses float64 with float32.
    kind = given if given == jnp.float64 else jnp.dtype(jnp.float32)

    def cast(value: ArrayLike | None) -> Any:
        return None if value is None else jnp.asarray(value).astype(kind)

    return Inputs(
        cast(inputs.rewards),
        cast(inputs.utilities),
        inputs.mask,
        cast(inputs.prompt_weights),
        cast(inputs.importance),
        {name: cast(value) for name, value in inputs.vectors.items()},
    )


def checked(inputs: Inputs, where: str) -> Inputs:
    """Inputs of a plain call as numpy arrays, their values looked at.

    Scores in float32 stay so, a large table would not fit twice; the sums are float64 anyway.
    Everything else becomes float64.

    Args:
      inputs: array-likes.
      where: the public function's name, for messages.

    Raises:
      InputError: shapes or values that cannot be used; the message names the prompt and the sample.
    """
    rewards, utilities = _scores(inputs.rewards), _scores(inputs.utilities)
    if rewards.ndim != 2 or 0 in rewards.shape:
        raise InputError(
            f"{where}: rewards has shape {rewards.shape}, must be [prompts, samples], neither of them 0."
        )
    if utilities.ndim != 3 or utilities.shape[:2] != rewards.shape or utilities.shape[2] == 0:
        raise InputError(
            f"{where}: utilities has shape {utilities.shape}, must be rewards' shape {rewards.shape} and one "
            "column for each constraint; stack them on the last axis."
        )
    mask = None if inputs.mask is None else np.asarray(inputs.mask, bool)
    _check_shape(mask, rewards.shape, "mask", where)
    outer = _weights(inputs.prompt_weights, rewards.shape[:1], "prompt_weights", where)
    inner = _weights(inputs.importance, rewards.shape, "importance", where)
    present = np.ones(rewards.shape, bool)
    for value in (mask, inner):
        present = present if value is None else present & (value > 0)
    if not present.any(axis=1).all():
        row = int(np.argmin(present.any(axis=1)))
        raise InputError(
            f"{where}: prompt {row} has no sample left by the mask; drop the prompt or unmask one."
        )
    _check_finite(rewards, present, "rewards", where)
    _check_finite(utilities, present, "utilities", where)
    vectors = {
        name: _vector(value, utilities.shape[2], name, where)
        for name, value in inputs.vectors.items()
        if value is not None
    }
    return Inputs(rewards, utilities, mask, outer, inner, vectors)


def margins_or_levels(margins: Any, levels: Any, where: str) -> dict[str, Any]:
    """The vectors of a problem that is asked for by one of the two.

    Raises:
      InputError: both or neither given.
    """
    if (margins is None) == (levels is None):
        given = "neither" if margins is None else "both"
        raise InputError(f"{where}: {given} of margins and levels given; give exactly one of them.")
    return {"margins": margins, "levels": levels}


def check_scale(beta: float, utilities: ArrayLike, mask: ArrayLike | None, where: str) -> None:
    """Refuses utilities too small to be multiplied, and a beta below their rounding.

    At such a beta every tilt leaves one response of each prompt.

    Args:
      beta: KL weight, in the units of `utilities` per nat.
      utilities: [N, K, m].
      mask: [N, K] bool; None: all exist.
      where: the public function's name, for messages.

    Raises:
      InputError: the utilities differ, but by less than 1e-30, or beta is less than 1e-9 of their range.
    """
    values = np.asarray(utilities, np.float64)
    values = values if mask is None else values[np.asarray(mask, bool)]
    spread = float(np.ptp(values)) if values.size else 0.0
    if 0 < spread < _LEAST_SPREAD:
        raise InputError(
            f"{where}: the utilities differ by {spread:.3g} at most, too little to compute with; multiply "
            "all scores, beta and what is asked by one constant."
        )
    if beta < (least := _LEAST_SHARE * spread):
        raise InputError(
            f"{where}: beta is {beta:g}, and the utilities differ by up to {spread:.3g}: exp(utility / beta) "
            "would leave one response of each prompt. Give beta in the units of the scores, at least "
            f"{least:.1e}."
        )


def check_beta(beta: Any, where: str) -> float:
    """A plain call's beta as a number.

    Raises:
      InputError: it is not a finite number above 0.
    """
    if np.ndim(beta) != 0 or not 0 < float(beta) < np.inf:
        raise InputError(
            f"{where}: beta is {beta}, must be a finite number greater than 0: it is a KL weight."
        )
    return float(beta)


def _scores(value: ArrayLike) -> np.ndarray:
    value = np.asarray(value)
    return value if value.dtype == np.float32 else np.asarray(value, np.float64)


def _check_shape(value: np.ndarray | None, shape: tuple[int, ...], name: str, where: str) -> None:
    if value is not None and value.shape != shape:
        raise InputError(f"{where}: {name} has shape {value.shape}, must be {shape}.")


def _weights(value: Any, shape: tuple[int, ...], name: str, where: str) -> np.ndarray | None:
    if value is None:
        return None
    value = np.asarray(value, np.float64)
    _check_shape(value, shape, name, where)
    bad = ~(np.isfinite(value) & (value >= 0))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{where}: {name}[{', '.join(map(str, at))}] is {value[at]}, must be finite and at least 0."
        )
    if not value.any():
        raise InputError(f"{where}: {name} is 0 everywhere; give some prompt or sample a weight.")
    return value


def _check_finite(value: np.ndarray, present: np.ndarray, name: str, where: str) -> None:
    bad = ~np.isfinite(value) & (present if value.ndim == 2 else present[:, :, None])
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{where}: {name}[{', '.join(map(str, at))}] is {value[at]} (prompt {at[0]}, sample {at[1]}, "
            f"{int(bad.sum())} in all); mask such samples or repair the scores."
        )


def _vector(value: Any, size: int, name: str, where: str) -> np.ndarray:
    value = np.asarray(value, np.float64)
    rows = name in ("lams", "sweep")
    name = "margins" if name == "sweep" else name
    if value.ndim != (2 if rows else 1) or value.shape[-1] != size or not value.size:
        needed = f"(points, {size})" if rows else f"({size},)"
        raise InputError(
            f"{where}: {name} has shape {value.shape}, must be {needed}, one number a constraint."
        )
    if not np.isfinite(value).all():
        raise InputError(f"{where}: {name} is {value.tolist()}, must be finite.")
    if name in ("lams", "lam", "start") and (value < 0).any():
        raise InputError(f"{where}: {name} is {value.tolist()}, must be at least 0.")
    return value
