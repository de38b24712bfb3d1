import jax
import jax.numpy as jnp
import pytest

from alignjax.runtime.profiling import Profile, traced


@jax.jit
def step(x):
    return x + 1.0


def files(folder):
    return {path.name.partition(".")[2] for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("calls", [4, 2])
def test_the_calls_asked_for_are_traced(tmp_path, calls):
    with traced(step, Profile(tmp_path / "profile", 2, 2), "policy") as run:
        x = jnp.zeros(())
        for _ in range(calls):  # two calls: the training ends within the trace
            x = run(x)
    assert float(x) == calls
    assert any(name.endswith("xplane.pb") for name in files(tmp_path / "profile" / "policy"))
    assert list((tmp_path / "profile" / "policy").rglob("perfetto_trace.json.gz"))


def test_nothing_is_traced_unasked(tmp_path):
    for profile in (None, Profile(tmp_path / "profile", 2, 0)):
        with traced(step, profile, "policy") as run:
            assert run is step
    with traced(step, Profile(tmp_path / "profile", 5, 1), "policy") as run:
        run(jnp.zeros(()))  # too short for the trace to begin
    assert not (tmp_path / "profile").exists()
