"""The loop around the train step: logging, held-out evaluation, early stopping, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Progress bar, as tqdm's."""

    def update(self, n: float | None = 1) -> Any:
        """Go on by n steps."""
        ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> Any:
        """Text behind the bar."""
        ...


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How long, and what happens how often.

    Attributes:
      stage: name for messages and logs.
      num_steps: train steps in all.
      log_every: steps a log line; its values are means over them.
      eval_every: steps between evaluations on held-out batches; None: at the start and the end only. There
        is always one before the first and one after the last step.
      patience: evaluations in a row without a lower held-out `judge_by` after which to stop; None: go on.
      checkpoint_every: steps between checkpoints; None: none.
      steps_per_epoch: train steps that see the data once, for the metric `epoch`; None: not logged.
      judge_by: name of the held-out mean whose lowest value chooses the parameters.
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
        """Refuse counts below 1."""
        for field in ("num_steps", "log_every", "eval_every", "patience", "checkpoint_every"):
            value = dataclasses.asdict(self)[field]
            if value is not None and value < 1:
                raise InputError(f"{self.stage}.{field}: {value!r} cannot be used; give a whole number >= 1.")


class FitResult(NamedTuple):
    """What `fit` hands back.

    Attributes:
      state: after the last step done.
      trainable: the parameters to use: those of the lowest held-out `judge_by`, without evaluation the last.
      steps: train steps done, those before a resume included.
      best_step: step of `trainable`.
      best_loss: held-out `judge_by` of `trainable`; nan without evaluation.
      stopped_early: whether patience ran out.
      history: the logged records since the start or the resume, each with "step".
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
    """Train for `settings.num_steps` steps, or until the held-out loss no longer falls.

    A run that was killed and is called again with the same arguments goes on from its last checkpoint and
    ends with the same bits as one that was not: the state holds the key, batches are a function of the step,
    and the checkpoint holds the best parameters and the counts.

    Args:
      state: from `init_state`; donated.
      train_step: from `make_train_step`.
      frozen: parameters that are not trained, or None.
      batches: start -> iterator over the batches of steps start, start + 1, ...; see `epochs`.
      settings: how long and how often.
      place: puts a batch on the devices (`runtime.mesh.shard_batch` for several).
      evaluate: trainable -> means on held-out batches, with "loss"; see `evaluate_batches`. None: none.
      first_step_check: called with the stage and the first step's metrics; see `check_first_dpo_step`.
      log: called with step and record for every log line (names without prefix) and evaluation (eval_...).
      on_resume: called with the number of steps restored, before anything else is logged (0: fresh start).
      checkpoints: where to save and resume; None: neither.
      stop: whether to stop after the step at hand, with a checkpoint of it.
      bar: moved on at every step.

    Returns:
      FitResult.

    Raises:
      InputError: a loss that is not finite (stage and step named), a failed first-step check, batches that
        end too early, or checkpoints of another model.
      Stopped: `stop` said so.
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


def epochs(make_epoch: Callable[[int], Sequence[Any]]) -> BatchesFrom:
    """Batches of epoch 0, 1, 2, ... one after the other, from any step, without reading those before.

    Args:
      make_epoch: epoch -> its batches with len() and indexing (a list, a grain MapDataset); a function of the
        epoch alone, with the same number of batches every time.

    Returns:
      A function from a step to the iterator over the batches from there on; it does not end.
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
    """Mean loss and metrics over batches; padding rows do not count.

    Args:
      eval_step: from `make_eval_step`.
      trainable: parameters.
      frozen: parameters, or None.
      batches: once over the held-out data.
      place: as in `fit`.

    Returns:
      name -> mean, "loss" among them.

    Raises:
      InputError: no batch with a row that counts.
    """
    # All steps are sent off before the first result is waited for.
    device_sums = [eval_step(trainable, frozen, place(batch)) for batch in batches]
    sums = jax.device_get(device_sums)
    # In float64 and in order: the same numbers however long the list.
    totals = {name: sum(float(s[name]) for s in sums) for name in (sums[0] if sums else {})}
    weight = totals.pop("weight", 0.0)
    if weight <= 0:
        raise InputError("evaluation: the held-out data have no rows; hold out more or switch it off.")
    return {name: total / weight for name, total in totals.items()}


def check_first_dpo_step(tolerance: float = 1e-2) -> Callable[[str, Numbers], None]:
    """A check for `fit`: DPO from the reference starts at log-ratios 0 and loss log 2.

    It does not hold for other losses than `losses.dpo`, nor when training goes on from a policy that has
    moved.

    Args:
      tolerance: largest |loss - log 2| and |mean implicit reward|, nats; 1e-2 leaves room for bfloat16.

    Returns:
      check(stage, metrics of the first step); raises InputError.
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
                "delete the cached ones and compute them again."
            )

    return check


def _resume(state: TrainState, tracker: Tracker, checkpoints: Checkpoints | None) -> tuple[TrainState, int]:
    """State and number of steps of the last checkpoint, if there is one."""
    if checkpoints is None:
        return state, 0
    found = checkpoints.restore({"state": state, "best": tracker.best})
    if found is None:
        return state, 0
    tracker.go_back_to(found.state["best"], found.data)
    return found.state["state"], found.data["next_index"]


def _due(step: int, every: int | None, last: int | None) -> bool:
    """Whether something that happens every so many steps, and at the last one, happens after `step`."""
    return step == last or (every is not None and step % every == 0)


def _next(iterator: Iterator[Any], settings: FitSettings, step: int) -> Any:
    """The next batch; an iterator that ends is an error, not a shorter training."""
    for batch in iterator:
        return batch
    raise InputError(
        f"{settings.stage}: the batches ended before step {step} of {settings.num_steps}; give more epochs "
        "or fewer steps."
    )
