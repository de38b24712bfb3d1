"""The loop around the train step: logging, held-out evaluation, early stopping, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax

from alignjax.alignment.recorder import Numbers, Recorder, Tracker
from alignjax.alignment.step import TrainState
from alignjax.errors import InputError
from alignjax.runtime.checkpoint import Checkpoints
from alignjax.runtime.preemption import Stopped

Tree = Any
BatchesFrom = Callable[[int], Iterator[Any]]


class Bar(Protocol):
    """A progress bar with tqdm's methods."""

    def update(self, n: float | None = 1) -> Any:
        """Advances by n steps."""
        ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> Any:
        """Sets the text after the bar."""
        ...


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Training length and intervals.

    Attributes:
      stage: name for messages and logs.
      num_steps: train steps in all.
      log_every: steps per log line, whose values are means over these steps.
      eval_every: steps between evaluations on held-out batches; None: only before the first and after the
        last step, where there is always one.
      patience: stop after this many evaluations in a row without a lower `judge_by`; None: never stop early.
      checkpoint_every: steps between checkpoints; None: no checkpoints.
      steps_per_epoch: train steps per pass over the data, for the metric `epoch`; None: not logged.
      judge_by: name of the held-out mean; the parameters with its lowest value are kept.
    """

    stage: str
    num_steps: int
    log_every: int = 10
    eval_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    steps_per_epoch: float | None = None
    judge_by: str = "loss"

    def __post_init__(self) -> None:
        """Refuses counts below 1."""
        for field in ("num_steps", "log_every", "eval_every", "patience", "checkpoint_every"):
            value = dataclasses.asdict(self)[field]
            if value is not None and value < 1:
                raise InputError(f"{self.stage}.{field}: {value!r} cannot be used; give a whole number >= 1.")


class FitResult(NamedTuple):
    """Result of `fit`.

    Attributes:
      state: after the last step.
      trainable: the parameters to use: those with the lowest held-out `judge_by`, or the last ones if there
        was no evaluation.
      steps: number of train steps done, including those before a resume.
      best_step: number of steps after which `trainable` was reached.
      best_loss: held-out `judge_by` of `trainable`; nan without evaluation.
      stopped_early: whether `patience` ended the training.
      history: the records logged since the start or the resume, each with "step".
    """

    state: TrainState
    trainable: Tree
    steps: int
    best_step: int
    best_loss: float
    stopped_early: bool
    history: list[dict[str, float]]


def fit(
    state: TrainState,
    train_step: Callable[[TrainState, Tree, Any], tuple[TrainState, dict[str, Any]]],
    frozen: Tree,
    batches: BatchesFrom,
    settings: FitSettings,
    *,
    place: Callable[[Any], Any] = jax.device_put,
    evaluate: Callable[[Tree], Numbers] | None = None,
    first_step_check: Callable[[str, Numbers], None] | None = None,
    log: Callable[[int, Numbers], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
    stop: Callable[[], bool] = lambda: False,
    bar: Bar | None = None,
) -> FitResult:
    """Trains for `settings.num_steps` steps, or until the held-out loss no longer falls.

    A run that was killed and is started again with the same arguments resumes from its last checkpoint and
    ends with the same bits as an uninterrupted run: the state holds the key, batches are a function of the
    step, and the checkpoint holds the best parameters and the counts.

    Args:
      state: from `init_state`; donated.
      train_step: from `make_train_step`.
      frozen: parameters that are not trained, or None.
      batches: step -> iterator over the batches from that step on, counted from 0; see `epochs`.
      settings: length and intervals.
      place: puts a batch on the devices (`runtime.mesh.shard_batch` for several).
      evaluate: trainable -> means on held-out batches, including "loss"; see `evaluate_batches`. None: no
        evaluation.
      first_step_check: called with the stage and the first step's metrics; see `check_first_dpo_step`.
      log: called with the step and the record of every log line (names without prefix) and every evaluation
        (names with the prefix eval_).
      on_resume: called with the number of steps restored, 0 at a fresh start, before anything is logged.
      checkpoints: where to save to and resume from; None: neither.
      stop: returns True if training should stop after the current step, with a checkpoint.
      bar: advanced at every step.

    Returns:
      FitResult.

    Raises:
      InputError: a loss that is not finite (the message names stage and step), a failed first-step check,
        batches that end too early, or checkpoints of another model.
      Stopped: `stop` returned True.
    """
    tracker = Tracker.start(state.trainable, keep_best=evaluate is not None)
    state, start = _resume(state, tracker, checkpoints)
    if on_resume is not None:
        on_resume(start)
    recorder = Recorder(
        settings.stage, tracker, log, settings.log_every, settings.steps_per_epoch, settings.judge_by
    )
    if bar is not None:
        bar.update(start)
    if evaluate is not None and start == 0:
        tracker.judge(0, state.trainable, recorder.evaluated(0, evaluate(state.trainable)))
    iterator = batches(start)
    step = start
    for step in range(start + 1, settings.num_steps + 1):
        if tracker.out_of_patience(settings.patience):
            step -= 1
            break
        state, metrics = train_step(state, frozen, place(_next(iterator, settings, step)))
        recorder.push(step, metrics)
        if step == 1 and first_step_check is not None:
            first_step_check(settings.stage, recorder.first())
        if evaluate is not None and _due(step, settings.eval_every, settings.num_steps):
            recorder.settle()
            tracker.judge(step, state.trainable, recorder.evaluated(step, evaluate(state.trainable)))
        stopping = stop()
        if checkpoints is not None and (stopping or _due(step, settings.checkpoint_every, None)):
            recorder.settle()
            checkpoints.save(step, {"state": state, "best": tracker.best}, tracker.position(step))
        if stopping:
            raise Stopped
        if bar is not None:
            bar.update(1)
            bar.set_postfix_str(recorder.summary, refresh=False)
    recorder.finish(step)
    stopped = step < settings.num_steps
    if evaluate is None:
        return FitResult(state, state.trainable, step, step, math.nan, stopped, recorder.history)
    best_step, best_loss = tracker.best_step, tracker.best_loss
    return FitResult(state, tracker.best, step, best_step, best_loss, stopped, recorder.history)


class Epoch(Protocol):
    """The batches of one epoch: a list or a grain MapDataset."""

    def __len__(self) -> int:
        """Number of batches."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Batch number `index`, counted from 0."""
        ...


def epochs(make_epoch: Callable[[int], Epoch]) -> BatchesFrom:
    """Batches of epochs 0, 1, 2, ... in sequence, starting at any step without reading the earlier ones.

    Args:
      make_epoch: epoch -> its batches; a function of the epoch alone, with the same number of batches for
        all.

    Returns:
      A function from a step to an endless iterator over the batches from that step on.

    Raises:
      InputError: an epoch has no batches; raised when the iterator is first used.
    """

    def start_at(step: int) -> Iterator[Any]:
        per_epoch = len(make_epoch(0))
        if per_epoch == 0:
            raise InputError("no batches: the data set is smaller than one batch; lower the batch size.")
        epoch, index = divmod(step, per_epoch)
        while True:
            source = make_epoch(epoch)
            for i in range(index, per_epoch):
                yield source[i]
            epoch, index = epoch + 1, 0

    return start_at


def evaluate_batches(
    eval_step: Callable[[Tree, Tree, Any], dict[str, Any]],
    trainable: Tree,
    frozen: Tree,
    batches: Iterable[Any],
    *,
    place: Callable[[Any], Any] = jax.device_put,
) -> Numbers:
    """Mean loss and metrics over batches, without padding rows.

    Args:
      eval_step: from `make_eval_step`.
      trainable: parameters.
      frozen: parameters, or None.
      batches: once over the held-out data.
      place: as in `fit`.

    Returns:
      Name -> mean, including "loss".

    Raises:
      InputError: no batch has a row of positive weight.
    """
    # All steps are dispatched before the first result is waited for.
    device_sums = [eval_step(trainable, frozen, place(batch)) for batch in batches]
    sums = jax.device_get(device_sums)
    # Summed in float64 and in order, so that the result does not depend on the device.
    totals = {name: sum(float(s[name]) for s in sums) for name in (sums[0] if sums else {})}
    weight = totals.pop("weight", 0.0)
    if weight <= 0:
        raise InputError("evaluation: the held-out data have no rows; hold out more or switch it off.")
    return {name: total / weight for name, total in totals.items()}


def check_first_dpo_step(tolerance: float = 1e-2) -> Callable[[str, Numbers], None]:
    """A check for `fit`: DPO that starts at the reference has log-ratios of 0 and a loss of log 2.

    It applies to `losses.dpo` only, and not if training starts from a policy other than the reference.

    Args:
      tolerance: largest |loss - log 2| and |mean implicit reward|, in nats; 1e-2 leaves room for bfloat16.

    Returns:
      check(stage, metrics of the first step), which raises an InputError.
    """

    def check(stage: str, metrics: Numbers) -> None:
        gaps = {
            "loss": metrics["loss"] - math.log(2.0),
            "rewards/chosen": metrics["rewards/chosen"],
            "rewards/rejected": metrics["rewards/rejected"],
        }
        worst = max(gaps, key=lambda name: math.inf if math.isnan(gaps[name]) else abs(gaps[name]))
        if not abs(gaps[worst]) <= tolerance:
            raise InputError(
                f"{stage}: step 1: {worst} is {metrics[worst]:.6g}, must be "
                f"{'log 2 = 0.693147' if worst == 'loss' else '0'} to within {tolerance:g} before any "
                "update; the reference log-probabilities do not fit this model, tokenizer, data or length: "
                "delete the cached ones, so that they are computed again."
            )

    return check


def _resume(state: TrainState, tracker: Tracker, checkpoints: Checkpoints | None) -> tuple[TrainState, int]:
    """State and number of steps of the last checkpoint; the given state and 0 if there is none."""
    if checkpoints is None:
        return state, 0
    found = checkpoints.restore({"state": state, "best": tracker.best})
    if found is None:
        return state, 0
    tracker.go_back_to(found.state["best"], found.data)
    return found.state["state"], found.data["next_index"]


def _due(step: int, every: int | None, last: int | None) -> bool:
    """Whether `step` is the last one or a multiple of `every`."""
    return step == last or (every is not None and step % every == 0)


def _next(iterator: Iterator[Any], settings: FitSettings, step: int) -> Any:
    """The next batch; raises an InputError if there is none, since training would end too early."""
    for batch in iterator:
        return batch
    raise InputError(
        f"{settings.stage}: the batches ended before step {step} of {settings.num_steps}; give more epochs "
        "or fewer steps."
    )
