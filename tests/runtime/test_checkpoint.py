"""Checkpoints: round trips, kept series, damage, other structures."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from alignjax.errors import InputError
from alignjax.runtime import checkpoint
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
