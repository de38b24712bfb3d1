"""The loop: logging, best parameters, early stopping, resume bit for bit, self-checks, messages."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment.loop import FitSettings, check_first_dpo_step, epochs, evaluate_batches, fit
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import init_state, make_eval_step, make_train_step
from alignjax.data.batches import Rows
from alignjax.errors import InputError
from alignjax.runtime.checkpoint import Checkpoints
from alignjax.runtime.metrics import MetricsWriter, read_metrics
from alignjax.runtime.preemption import Stopped


class Batch(NamedTuple):
    rows: Rows
    weights: Any
    target: Any


def _batch(*targets):
    """One token a row."""
    one = np.ones((len(targets), 1), np.int32)
    return Batch(
        Rows(one, one, one, one, one, one, one),
        np.ones(len(targets), np.float32),
        np.array(targets, np.float32),
    )


def _loss_fn(trainable, frozen, batch, key):
    """(w - target)^2, with noise from the key while training."""
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key)
    loss = jnp.mean(jnp.square(trainable["w"][None] - batch.target)) + noise * trainable["w"]
    return loss * frozen, {"weight": jnp.sum(batch.weights), "square": loss}


TX, SCHEDULE = make_optimizer(
    OptimizerSettings(learning_rate=0.05, total_steps=100, schedule="linear", warmup_steps=2)
)
STEP, EVAL = make_train_step(_loss_fn, TX, SCHEDULE), make_eval_step(_loss_fn)
ONE = np.float32(1)


def _state():
    return init_state({"w": jnp.float32(0.0)}, TX, jax.random.key(0))


def _epoch(epoch):
    """Four batches in an order of the epoch's own."""
    values = np.random.default_rng(epoch).permutation(4).astype(np.float32)
    return [_batch(v, v + 1) for v in values]


def _evaluate(trainable):
    return evaluate_batches(EVAL, trainable, ONE, [_batch(0.3), _batch(0.5)])


def test_epochs_start_anywhere():
    def first(start, n):
        iterator = epochs(_epoch)(start)
        return [float(next(iterator).target[0]) for _ in range(n)]

    assert first(0, 12)[6:] == first(6, 6)
    assert sorted(first(4, 4)) == [0.0, 1.0, 2.0, 3.0] and first(0, 4) != first(4, 4)
    with pytest.raises(InputError, match="smaller than one batch"):
        next(epochs(lambda epoch: [])(0))


def test_logs_means_of_windows_and_counts():
    records, settings = {}, FitSettings("policy", 10, log_every=4, steps_per_epoch=4)
    result = fit(_state(), STEP, ONE, epochs(_epoch), settings, log=records.__setitem__)
    assert list(records) == [4, 8, 10] and result.steps == 10 and not result.stopped_early
    state, losses = _state(), []
    for _, batch in zip(range(10), epochs(_epoch)(0), strict=False):
        state, metrics = STEP(state, ONE, batch)
        losses.append(float(metrics["loss"]))
    means = [np.mean(losses[:4]), np.mean(losses[4:8]), np.mean(losses[8:])]
    np.testing.assert_allclose([r["loss"] for r in records.values()], means, rtol=1e-6)
    assert [r["num_tokens"] for r in records.values()] == [8, 16, 20]
    assert [r["epoch"] for r in records.values()] == [1.0, 2.0, 2.5]
    # Of the last step of the window: step 4 is counted 3 from 0, one after the end of the warm-up.
    np.testing.assert_allclose(records[4]["learning_rate"], 0.05 * (1 - 1 / 98), rtol=1e-5)
    assert {"grad_norm", "square", "tokens_per_second"} <= set(records[4])
    assert result.history[0] == {"step": 4, **records[4]}
    assert math.isnan(result.best_loss)
    np.testing.assert_array_equal(result.trainable["w"], result.state.trainable["w"])
    np.testing.assert_array_equal(result.trainable["w"], state.trainable["w"])


class Later:
    """A number of a step that is known only once somebody waits for it."""

    def __init__(self, value, waited):
        self.value, self.waited = value, waited

    def __array__(self, dtype=None, copy=None):
        self.waited()
        return np.asarray(self.value, dtype)


@pytest.mark.parametrize("log_every", [1, 3])
def test_the_next_batch_is_placed_before_anything_waits_for_a_step(log_every):
    events = []

    def step(state, frozen, number):
        metrics = {
            name: Later(1.0, lambda: events.append(f"wait {number}")) for name in ("loss", "num_tokens")
        }
        events.append(f"step {number}")
        return state, metrics

    def place(number):
        events.append(f"place {number}")
        return number

    fit(_state(), step, ONE, lambda start: iter(range(6)), FitSettings("policy", 6, log_every), place=place)
    when = {event: index for index, event in reversed(list(enumerate(events)))}
    for number in range(5):
        assert when[f"step {number + 1}"] < when[f"wait {number}"]  # its batch was made and placed before
    # One line is due after every `log_every` steps; between them nothing waits.
    waits = [index for index, event in enumerate(events) if event.startswith("wait")]
    assert sum(events[i - 1].startswith("step") for i in waits) == -(-5 // log_every)


def test_keeps_the_best_and_stops_early():
    """w goes from 0 past 0.4, the held-out optimum, towards about 2."""
    settings = FitSettings("policy", 60, log_every=60, eval_every=2, patience=3)
    records = []
    result = fit(
        _state(),
        STEP,
        ONE,
        epochs(_epoch),
        settings,
        evaluate=_evaluate,
        log=lambda s, r: records.append((s, r)),
    )
    evals = {step: record["eval_loss"] for step, record in records if "eval_loss" in record}
    best = min(evals, key=lambda s: evals[s])
    assert list(evals)[0] == 0 and list(evals)[-1] == best + 6 == result.steps < 60 and result.stopped_early
    assert (result.best_step, result.best_loss) == (best, evals[best])
    np.testing.assert_allclose(_evaluate(result.trainable)["loss"], result.best_loss)
    assert result.trainable["w"] != result.state.trainable["w"]
    np.testing.assert_allclose(evals[0], (0.3**2 + 0.5**2) / 2, rtol=1e-6)

    free = FitSettings("policy", 60, log_every=60, eval_every=2)
    longer = fit(_state(), STEP, ONE, epochs(_epoch), free, evaluate=_evaluate)
    assert longer.steps == 60 and longer.best_step == best and not longer.stopped_early
    np.testing.assert_array_equal(longer.trainable["w"], result.trainable["w"])


def test_another_mean_can_choose_the_parameters():
    """w rises from 0: the loss is lowest on the way, -w at the end."""

    def evaluate(trainable):
        return {**_evaluate(trainable), "minus_w": -float(trainable["w"])}

    settings = FitSettings("policy", 60, log_every=60, eval_every=20, judge_by="minus_w")
    result = fit(_state(), STEP, ONE, epochs(_epoch), settings, evaluate=evaluate)
    assert result.best_step == 60
    np.testing.assert_allclose(result.best_loss, -result.state.trainable["w"], rtol=1e-6)
    assert min(r["eval_loss"] for r in result.history if "eval_loss" in r) < result.history[-1]["eval_loss"]


class Killed(Exception):
    pass


def _run(folder, kill_at=None, stop_at=None):
    """One run with checkpoints and metrics.jsonl; killed at the start of a step, or asked to stop at one."""
    begun = 0

    def batches(start):
        nonlocal begun
        for begun, batch in enumerate(epochs(_epoch)(start), start + 1):
            if begun == kill_at:
                raise Killed
            yield batch

    settings = FitSettings("policy", 23, log_every=5, eval_every=4, checkpoint_every=5)
    with MetricsWriter(folder) as writer, Checkpoints(folder / "checkpoints") as checkpoints:
        return fit(
            _state(), STEP, ONE, batches, settings, evaluate=_evaluate, checkpoints=checkpoints,
            stop=lambda: begun == stop_at,
            log=lambda step, record: writer.write("policy", step, record),
            on_resume=lambda step: writer.rewind("policy", step),
        )  # fmt: skip


@pytest.mark.parametrize("kill_at", [4, 13, 22])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, kill_at):
    whole = _run(tmp_path / "whole")
    with pytest.raises(Killed):
        _run(tmp_path / "killed", kill_at)
    _check_equal(tmp_path, whole, _run(tmp_path / "killed"))


@pytest.mark.parametrize("stop_at", [3, 5, 23])
def test_a_run_asked_to_stop_loses_no_step(tmp_path, stop_at):
    whole = _run(tmp_path / "whole")
    with pytest.raises(Stopped):
        _run(tmp_path / "killed", stop_at=stop_at)
    with Checkpoints(tmp_path / "killed" / "checkpoints") as checkpoints:
        found = checkpoints.restore({"state": _state(), "best": _state().trainable})
    assert found is not None and found.step == stop_at
    _check_equal(tmp_path, whole, _run(tmp_path / "killed"))


def _check_equal(folder, whole, resumed):
    """Same bits and same log lines of the runs in `folder`/whole and `folder`/killed."""

    def raw(s):
        return jax.device_get(s.replace(key=jax.random.key_data(s.key)))

    jax.tree.map(np.testing.assert_array_equal, raw(whole.state), raw(resumed.state))
    jax.tree.map(np.testing.assert_array_equal, whole.trainable, resumed.trainable)
    assert whole[2:6] == resumed[2:6]
    logs = [read_metrics(folder / run / "metrics.jsonl") for run in ("whole", "killed")]
    timeless = [
        [{k: v for k, v in r.items() if k not in ("tokens_per_second", "peak_memory")} for r in log]
        for log in logs
    ]
    assert timeless[0] == timeless[1]


def test_resume_of_a_finished_run_does_nothing(tmp_path):
    settings = FitSettings("policy", 6, checkpoint_every=3)
    for _ in range(2):
        with Checkpoints(tmp_path) as checkpoints:
            result = fit(_state(), STEP, ONE, epochs(_epoch), settings, checkpoints=checkpoints)
        assert result.steps == 6 and int(result.state.step) == 6


def test_a_loss_that_is_not_finite_names_stage_and_step():
    def batches(start):
        return iter([_batch(1.0)] * 6 + [_batch(math.nan)] + [_batch(1.0)] * 90)

    with pytest.raises(InputError, match=r"safety: step 7: the loss is nan; lower the learning rate"):
        fit(_state(), STEP, ONE, batches, FitSettings("safety", 50))
    with pytest.raises(InputError, match=r"safety: step 1: the loss is nan; no update has been made yet"):
        fit(_state(), STEP, ONE, lambda start: iter([_batch(math.nan)] * 9), FitSettings("safety", 5))
    with pytest.raises(InputError, match=r"safety: step 0: the held-out loss is inf"):
        fit(_state(), STEP, ONE, batches, FitSettings("safety", 50), evaluate=lambda w: {"loss": math.inf})


def test_never_saves_a_state_after_a_loss_that_is_not_finite(tmp_path):
    def batches(start):
        return iter([_batch(1.0)] * 2 + [_batch(math.nan)] + [_batch(1.0)] * 90)

    settings = FitSettings("safety", 50, checkpoint_every=2, log_every=50)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="step 3"):
            fit(_state(), STEP, ONE, batches, settings, checkpoints=checkpoints)
        found = checkpoints.restore({"state": _state(), "best": None})
    assert found is not None and found.step == 2


def test_first_step_check_says_what_may_be_wrong():
    check = check_first_dpo_step(tolerance=1e-3)
    good = {"loss": math.log(2) + 5e-4, "rewards/chosen": -5e-4, "rewards/rejected": 0.0}
    check("policy", good)
    for change, what in [
        ({"loss": 0.7}, r"loss is 0\.7, must be log 2 = 0\.693147 to within 0\.001"),
        ({"rewards/chosen": 0.02}, r"rewards/chosen is 0\.02, must be 0"),
        ({"rewards/rejected": math.nan}, r"rewards/rejected is nan"),
    ]:
        with pytest.raises(InputError, match=rf"policy: step 1: {what}.*do not fit this model, tokenizer"):
            check("policy", good | change)


def test_first_step_check_is_called_once_with_the_first_metrics():
    seen = []
    settings = FitSettings("policy", 3, log_every=3)
    result = fit(
        _state(),
        STEP,
        ONE,
        epochs(_epoch),
        settings,
        first_step_check=lambda stage, m: seen.append((stage, m)),
    )
    assert len(seen) == 1 and seen[0][0] == "policy" and seen[0][1]["learning_rate"] == 0.0
    assert len(result.history) == 1


def test_batches_that_end_are_an_error():
    with pytest.raises(InputError, match=r"policy: the batches ended before step 3 of 5; give more epochs"):
        fit(_state(), STEP, ONE, lambda start: iter([_batch(1.0)] * 2), FitSettings("policy", 5))


@pytest.mark.parametrize("field", ["num_steps", "log_every", "eval_every", "patience", "checkpoint_every"])
def test_settings_refused(field):
    values: dict[str, Any] = {"num_steps": 5} | {field: 0}
    with pytest.raises(InputError, match=rf"policy\.{field}: 0 cannot be used"):
        FitSettings("policy", **values)


def test_evaluation_weights_batches_by_their_rows_and_needs_one():
    """Losses 0, 0 and 9: the mean over rows is 3."""
    means = evaluate_batches(EVAL, {"w": jnp.float32(0.0)}, ONE, [_batch(0.0, 0.0), _batch(3.0)])
    np.testing.assert_allclose(means["loss"], 3.0)
    with pytest.raises(InputError, match="no rows"):
        evaluate_batches(EVAL, {"w": jnp.float32(0.0)}, ONE, [])


def test_bar_goes_to_the_end():
    class Bar:
        n, text = 0.0, ""

        def update(self, n: float | None = 1):
            self.n += n or 0

        def set_postfix_str(self, s: str = "", refresh: bool = True):
            self.text = s

    bar = Bar()
    fit(_state(), STEP, ONE, epochs(_epoch), FitSettings("policy", 7, log_every=3), bar=bar)
    assert bar.n == 7 and bar.text.startswith("loss ")
