"""Checkpoints: round trips, kept series, damage, other structures."""

import json
import logging
import os
import resource
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from alignjax.errors import InputError
from alignjax.runtime import checkpoint, preemption
from alignjax.runtime.mesh import make_mesh, replicated, tree_shardings


def _tree(seed: int):
    w = {"w": jax.random.normal(jax.random.key(seed), (32, 64)), "half": jnp.ones(3, jnp.bfloat16)}
    return {
        "params": w,
        "opt": optax.adamw(1e-3).init(w),
        "key": jax.random.key(seed),
        "step": jnp.int32(seed),
    }


def _assert_equal(a, b):
    def raw(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), raw(y)), a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def _flip_a_byte(folder):
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_save_tree_round_trip_replaces_what_was_there(tmp_path):
    checkpoint.save_tree(tmp_path / "a", _tree(1), {"step": 1})
    checkpoint.save_tree(tmp_path / "a", _tree(2), {"step": 2, "name": "x"})
    tree, metadata = checkpoint.restore_tree(tmp_path / "a", jax.eval_shape(lambda: _tree(0)))
    _assert_equal(tree, _tree(2))
    assert metadata == {"step": 2, "name": "x"}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_restore_tree_refuses_what_it_cannot_use(tmp_path):
    with pytest.raises(InputError, match=r"missing: there is no checkpoint; run the stage"):
        checkpoint.restore_tree(tmp_path / "missing", _tree(0))
    checkpoint.save_tree(tmp_path / "a", {"w": jnp.zeros((2, 3))})
    with pytest.raises(InputError, match=r"holds \['w'\] as float32\[2, 3\], but .* need float32\[2, 4\]"):
        checkpoint.restore_tree(tmp_path / "a", {"w": jnp.zeros((2, 4))})
    with pytest.raises(InputError, match=r"holds \['v'\] as nothing"):
        checkpoint.restore_tree(tmp_path / "a", {"v": jnp.zeros((2, 3))})
    _flip_a_byte(tmp_path / "a")
    with pytest.raises(
        InputError, match=r"a: the checkpoint is damaged \(.* has changed since it was written\)"
    ):
        checkpoint.restore_tree(tmp_path / "a", {"w": jnp.zeros((2, 3))})


def test_series_keeps_the_last_ones_and_gives_the_newest(tmp_path):
    with checkpoint.Checkpoints(tmp_path, max_to_keep=2) as series:
        assert series.restore(_tree(0)) is None
        for step in (1, 2, 3):
            series.save(step, _tree(step), {"next_index": 10 * step, "loss": 0.1})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]
    with checkpoint.Checkpoints(tmp_path) as series:
        found = series.restore(_tree(0))
    assert found is not None and found.step == 3 and found.data == {"next_index": 30, "loss": 0.1}
    _assert_equal(found.state, _tree(3))


def _truncate(folder):
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])


DAMAGE = {
    "a changed byte": (_flip_a_byte, "has changed"),
    "a short file": (_truncate, "has changed"),
    "a missing file": (lambda folder: (folder / "state" / "_METADATA").unlink(), "_METADATA is missing"),
    "saving cut off": (lambda folder: (folder / "checksums.json").unlink(), "saving was cut off"),
    "unreadable sums": (lambda folder: (folder / "checksums.json").write_bytes(b"\xff{"), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_last_checkpoint_falls_back_with_a_warning(tmp_path, caplog, kind):
    damage, message = DAMAGE[kind]
    with checkpoint.Checkpoints(tmp_path) as series:
        series.save(1, _tree(1), {"next_index": 1})
        series.save(2, _tree(2), {"next_index": 2})
    damage(tmp_path / "2")
    with checkpoint.Checkpoints(tmp_path) as series, caplog.at_level(logging.WARNING, logger="absl"):
        found = series.restore(_tree(0))
        assert found is not None and found.step == 1 and found.data == {"next_index": 1}
        _assert_equal(found.state, _tree(1))
        warned = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
        assert len(warned) == 1 and str(tmp_path / "2") in warned[0] and message in warned[0]
        series.save(2, _tree(2), {"next_index": 2})  # the step is done again
        again = series.restore(_tree(0))
        assert again is not None and again.step == 2
    assert (tmp_path / "damaged-2").is_dir()


def test_all_damaged_is_a_fresh_start(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as series:
        series.save(1, _tree(1), None)
        series.wait()
        _flip_a_byte(tmp_path / "1")
        assert series.restore(_tree(0)) is None


def test_another_model_is_refused_and_nothing_is_renamed(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as series:
        series.save(1, {"w": jnp.zeros(3)}, None)
        with pytest.raises(InputError, match=r"need float32\[4\]; use the settings it was saved with"):
            series.restore({"w": jnp.zeros(4)})
    assert json.loads((tmp_path / "1" / "checksums.json").read_text())


def test_restores_onto_another_mesh(tmp_path):
    axes = {"w": ("embed", "mlp")}
    tree = {"w": jnp.arange(64.0).reshape(8, 8)}
    eight, two = make_mesh(1, 4, 2), make_mesh(1, 2, 1, devices=jax.devices()[:2])
    checkpoint.save_tree(tmp_path / "a", jax.device_put(tree, tree_shardings(axes, eight)))
    like = {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=tree_shardings(axes, two)["w"])}
    restored, _ = checkpoint.restore_tree(tmp_path / "a", like)
    np.testing.assert_array_equal(restored["w"], tree["w"])
    assert (
        restored["w"].sharding.spec == PartitionSpec("fsdp") and len(restored["w"].sharding.device_set) == 2
    )
    assert replicated(two).is_fully_replicated


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("wrong", [jnp.nan, -jnp.inf])
def test_a_value_that_is_not_finite_is_refused(tmp_path, dtype, wrong):
    axes, mesh = {"w": ("embed", "mlp")}, make_mesh(1, 4, 2)
    tree = {"w": jnp.ones((8, 8), dtype).at[5, 2].set(wrong)}
    checkpoint.save_tree(tmp_path / "a", tree | {"count": jnp.int32(3), "key": jax.random.key(0)})
    placed = jax.ShapeDtypeStruct((8, 8), dtype, sharding=tree_shardings(axes, mesh)["w"])
    like = {"w": placed, "count": jnp.int32(0), "key": jax.random.key(0)}
    with pytest.raises(
        InputError, match=r"a: the checkpoint holds a value that is not finite in \['w'\]; del"
    ):
        checkpoint.restore_tree(tmp_path / "a", like)
    found, _ = checkpoint.restore_tree(tmp_path / "a", like, finite=False)
    np.testing.assert_array_equal(np.asarray(found["w"], np.float32), np.asarray(tree["w"], np.float32))


def test_arrays_of_the_host_are_checked_in_blocks(monkeypatch):
    monkeypatch.setattr(checkpoint, "_BLOCK", 4)
    values = np.zeros((3, 3), np.float32)
    assert checkpoint._not_finite({"a": values}) == ""
    values[2, 2] = np.nan
    assert checkpoint._not_finite({"a": np.zeros(0), "b": values, "c": np.ones(2, int)}) == "['b']"


@pytest.fixture
def small_files():
    """Files larger than 1 MB cannot be written, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, small_files):
    checkpoint.save_tree(tmp_path / "a", {"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match="File too large"):
        checkpoint.save_tree(tmp_path / "a", {"w": jnp.ones((1024, 1024))})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    found, _ = checkpoint.restore_tree(tmp_path / "a", {"w": jnp.ones(3)})
    np.testing.assert_array_equal(found["w"], np.zeros(3))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_series_keeps_its_checkpoints_when_one_fails(tmp_path, small_files, at_once):
    with pytest.raises(ValueError, match="File too large"), checkpoint.Checkpoints(tmp_path) as series:
        series.save(1, {"w": jnp.zeros(3)}, None)
        series.save(2, {"w": jnp.ones((1024, 1024))}, None)
        if at_once:
            series.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    with checkpoint.Checkpoints(tmp_path) as series:
        found = series.restore({"w": jnp.ones(3)})
    assert found is not None and found.step == 1


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with checkpoint.Checkpoints(tmp_path):
        assert not list(tmp_path.iterdir())


def test_a_signal_at_any_moment_of_a_restore_or_a_save_is_one_stop(tmp_path):
    tree = {"w": jnp.ones((256, 256)), "b": [jnp.ones(n) for n in range(1, 9)]}
    checkpoint.save_tree(tmp_path / "a", tree)
    work = {
        "restore": lambda: checkpoint.restore_tree(tmp_path / "a", tree),
        "save": lambda: checkpoint.save_tree(tmp_path / "b", tree),
    }
    rng = np.random.default_rng(0)
    for name in ("restore", "save"):
        start = time.monotonic()
        work[name]()
        usual = time.monotonic() - start
        for moment in rng.uniform(0.0, usual, 10):
            timer = threading.Timer(moment, os.kill, (os.getpid(), signal.SIGTERM))
            with pytest.raises(preemption.Stopped), preemption.watched():
                timer.start()
                while not preemption.asked():
                    work[name]()
            timer.join()
    found, _ = checkpoint.restore_tree(tmp_path / "b", tree)
    _assert_equal(found, tree)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("where", ["save", "wait", "restore", "close"])
def test_a_signal_within_a_series(tmp_path, monkeypatch, where):
    """It arrives within orbax, whose call is completed; the checkpoint is there."""
    method = {"save": "save", "wait": "wait_until_finished", "restore": "restore", "close": "close"}[where]
    series = checkpoint.Checkpoints(tmp_path)
    real, main = getattr(series._manager, method), threading.current_thread()

    def send(*args, **kwargs):
        if threading.current_thread() is not main:
            signal.pthread_kill(main.ident or 0, signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(series._manager, method, real)
        return real(*args, **kwargs)

    monkeypatch.setattr(series._manager, method, send)
    with pytest.raises(preemption.Stopped), preemption.watched(), series:
        series.save(1, _tree(1), None)
        series.restore(_tree(0))
    with checkpoint.Checkpoints(tmp_path) as again:
        found = again.restore(_tree(0))
    assert found is not None and found.step == 1
    _assert_equal(found.state, _tree(1))
