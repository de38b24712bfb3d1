"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import optax

from alignjax.errors import InputError

SCHEDULES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of AdamW with warm-up, decay, clipping and gradient accumulation.

    Steps are optimizer updates; one update takes `accumulate` train steps of one batch each.

    Attributes:
      learning_rate: the largest rate, reached at the end of the warm-up.
      schedule: rate after the warm-up: "cosine" or "linear" decay to 0 at `total_steps`, or "constant".
      warmup_steps: updates over which the rate rises linearly from 0; the first update has rate 0.
      total_steps: updates in all, warm-up included.
      weight_decay: decoupled decay, per unit of learning rate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the square root of the second moment.
      clip_norm: largest global norm of the gradient; None: no clipping.
      accumulate: batches whose mean gradient makes one update.
    """

    learning_rate: float
    total_steps: int
    schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    accumulate: int = 1

    @property
    def num_steps(self) -> int:
        """Train steps of the whole schedule: `total_steps` updates of `accumulate` batches each."""
        return self.total_steps * self.accumulate


def make_optimizer(
    settings: OptimizerSettings, *, decay_mask: Any = None
) -> tuple[optax.GradientTransformation, Callable[[Any], Any]]:
    """Makes AdamW and its learning-rate schedule from settings, which are checked.

    Args:
      settings: see `OptimizerSettings`.
      decay_mask: tree of bools over the trainable parameters, True for parameters that decay; None: all do.

    Returns:
      The transformation, and a function from the train step (int or [] int32, counted from 0) to the
      learning rate ([] float32) of the update that this step belongs to.

    Raises:
      InputError: a value out of range; the message names the field.

    Reference: Loshchilov and Hutter 2019, arXiv 1711.05101 (AdamW); Kingma and Ba 2015, arXiv 1412.6980.
    """
    _check(settings)
    rate = _schedule(settings)
    parts = [] if settings.clip_norm is None else [optax.clip_by_global_norm(settings.clip_norm)]
    parts.append(
        optax.adamw(
            rate,
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=decay_mask,
        )
    )
    tx = optax.chain(*parts)
    if settings.accumulate > 1:
        tx = optax.MultiSteps(tx, every_k_schedule=settings.accumulate).gradient_transformation()
    return tx, lambda step: rate(step // settings.accumulate)


def _schedule(settings: OptimizerSettings) -> optax.Schedule:
    """Learning rate by update: linear from 0 to the largest rate, then the decay."""
    peak, decay_steps = settings.learning_rate, settings.total_steps - settings.warmup_steps
    match settings.schedule:
        case "cosine":
            after = optax.cosine_decay_schedule(peak, decay_steps)
        case "linear":
            after = optax.linear_schedule(peak, 0.0, decay_steps)
        case _:
            after = optax.constant_schedule(peak)
    if settings.warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(0.0, peak, settings.warmup_steps)
    return optax.join_schedules([warmup, after], [settings.warmup_steps])


def _check(settings: OptimizerSettings) -> None:
    """Refuses values out of range, naming the field."""
    s = settings
    bounds = [
        ("learning_rate", s.learning_rate, "a number > 0", 0 < s.learning_rate < math.inf),
        ("schedule", s.schedule, f"one of {', '.join(SCHEDULES)}", s.schedule in SCHEDULES),
        ("total_steps", s.total_steps, "a whole number >= 1", s.total_steps >= 1),
        (
            "warmup_steps",
            s.warmup_steps,
            f"a whole number from 0 to total_steps - 1 = {s.total_steps - 1}",
            0 <= s.warmup_steps < max(s.total_steps, 1),
        ),
        ("weight_decay", s.weight_decay, "a number >= 0", 0 <= s.weight_decay < math.inf),
        ("b1", s.b1, "a number in [0, 1)", 0 <= s.b1 < 1),
        ("b2", s.b2, "a number in [0, 1)", 0 <= s.b2 < 1),
        ("eps", s.eps, "a number > 0", 0 < s.eps < math.inf),
        ("clip_norm", s.clip_norm, "a number > 0, or None", s.clip_norm is None or s.clip_norm > 0),
        ("accumulate", s.accumulate, "a whole number >= 1", s.accumulate >= 1),
    ]
    for field, value, wanted, fits in bounds:
        if not fits:
            raise InputError(f"optimizer.{field}: {value!r} cannot be used; give {wanted}.")
