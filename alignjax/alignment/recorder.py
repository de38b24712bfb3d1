"""The best parameters so far and the metrics of past steps, read while the device computes the next ones."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.errors import InputError
from alignjax.runtime.metrics import peak_memory_bytes

Tree = Any
Numbers = dict[str, float]

# Metrics of a window that are those of its last step, not means over its steps.
_LAST_OF_WINDOW = ("learning_rate",)


@dataclasses.dataclass
class Tracker:
    """The best parameters so far, and the counts that a resumed run needs.

    Attributes:
      best: copy of the parameters with the lowest held-out loss; None if there is no evaluation.
      best_loss: that loss, or inf.
      best_step: number of steps done when it was measured.
      worse: evaluations since then.
      num_tokens: tokens of all steps so far.
      window: metrics of the steps since the last log line.
    """

    best: Tree
    best_loss: float = math.inf
    best_step: int = 0
    worse: int = 0
    num_tokens: int = 0
    window: list[Numbers] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, trainable: Tree, *, keep_best: bool) -> Tracker:
        """The tracker before the first step; copies the parameters, which the step overwrites."""
        return cls(best=jax.tree.map(jnp.copy, trainable) if keep_best else None)

    def judge(self, step: int, trainable: Tree, loss: float) -> None:
        """Records the held-out loss after `step`, and keeps the parameters if it is the lowest so far."""
        if loss < self.best_loss:
            self.best, self.best_loss, self.best_step = jax.tree.map(jnp.copy, trainable), loss, step
            self.worse = 0
        else:
            self.worse += 1

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the last `patience` evaluations were no better than the best."""
        return patience is not None and self.worse >= patience

    def position(self, step: int) -> dict[str, Any]:
        """The JSON object that a checkpoint holds beside its arrays."""
        return {
            "next_index": step,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "best_step": self.best_step,
            "worse": self.worse,
            "num_tokens": self.num_tokens,
            "window": self.window,
        }

    def go_back_to(self, best: Tree, position: dict[str, Any]) -> None:
        """Restores the tracker from a checkpoint."""
        self.best = best
        self.best_loss = math.inf if position["best_loss"] is None else position["best_loss"]
        self.best_step, self.worse = position["best_step"], position["worse"]
        self.num_tokens, self.window = position["num_tokens"], position["window"]


class Recorder:
    """Reads the metrics of past steps while the device computes the current one, and logs them.

    Attributes:
      history: the logged records, each with its "step".
      summary: a short form of the last record, for a progress bar.
    """

    def __init__(
        self,
        stage: str,
        tracker: Tracker,
        log: Callable[[int, Numbers], None] | None,
        log_every: int,
        steps_per_epoch: float | None,
        judge_by: str,
    ):
        """Arguments as in `FitSettings` and `fit`."""
        self.history: list[dict[str, float]] = []
        self.summary = ""
        self._stage, self._tracker, self._log = stage, tracker, log
        self._log_every, self._steps_per_epoch, self._judge_by = log_every, steps_per_epoch, judge_by
        self._unread: list[tuple[int, dict[str, Any]]] = []
        self._due: int | None = None
        self._clock = (time.perf_counter(), tracker.num_tokens)

    def push(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of a step that has just been dispatched; first logs the line that was due."""
        self._write_due()
        self._unread.append((step, metrics))
        if step % self._log_every == 0:
            self._due = step

    def first(self) -> Numbers:
        """Metrics of the first step since the start; waits for them."""
        self._read()
        return self._tracker.window[0]

    def settle(self) -> None:
        """Reads all metrics, so that every loss is known before an evaluation or a checkpoint."""
        self._write_due()
        self._read()

    def finish(self, step: int) -> None:
        """Reads all metrics and logs the last window, which may be shorter."""
        self.settle()
        if self._tracker.window:
            self._write(step)

    def evaluated(self, step: int, means: Numbers) -> float:
        """Logs an evaluation and returns its `judge_by`."""
        record = {f"eval_{name}": value for name, value in means.items()}
        loss = record[f"eval_{self._judge_by}"]
        self._check_finite(step, loss, "held-out loss")
        self._emit(step, record)
        # tokens_per_second counts training time only.
        self._clock = (time.perf_counter(), self._tracker.num_tokens)
        return loss

    def _write_due(self) -> None:
        if self._due is not None:
            due, self._due = self._due, None
            self._read()
            self._write(due)

    def _read(self) -> None:
        """Brings unread metrics to the host; raises an InputError for a loss that is not finite."""
        unread, self._unread = self._unread, []
        values = jax.device_get([metrics for _, metrics in unread])
        for (step, _), metrics in zip(unread, values, strict=True):
            self._check_finite(step, float(metrics["loss"]), "loss")
            self._tracker.num_tokens += int(metrics["num_tokens"])
            self._tracker.window.append({n: float(v) for n, v in metrics.items() if n != "num_tokens"})

    def _check_finite(self, step: int, loss: float, name: str) -> None:
        if not math.isfinite(loss):
            remedy = (
                "no update has been made yet; look for nan in weights, labels or reference log-probabilities."
                if step <= 1
                else "lower the learning rate, lengthen the warm-up or clip the gradient."
            )
            raise InputError(f"{self._stage}: step {step}: the {name} is {loss}; {remedy}")

    def _write(self, step: int) -> None:
        """Logs the window that ends at `step`."""
        window, self._tracker.window = self._tracker.window, []
        record = {name: float(np.mean([m[name] for m in window])) for name in window[0]}
        record |= {name: window[-1][name] for name in _LAST_OF_WINDOW if name in record}
        tokens, now = self._tracker.num_tokens, time.perf_counter()
        before, tokens_before = self._clock
        record["num_tokens"] = tokens
        record["peak_memory"] = peak_memory_bytes()
        record["tokens_per_second"] = (tokens - tokens_before) / max(now - before, 1e-9)
        self._clock = (now, tokens)
        if self._steps_per_epoch is not None:
            record["epoch"] = step / self._steps_per_epoch
        self.summary = f"loss {record['loss']:.4f}"
        self._emit(step, record)

    def _emit(self, step: int, record: Numbers) -> None:
        self.history.append({"step": step, **record})
        if self._log is not None:
            self._log(step, record)
