"""Strict switches for every test: eight devices, no silent promotion of ranks or types."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

# Compiling is most of the suite's work, and many tests and commands compile the same: the first process makes
# a cache that its workers, and the commands that tests start, find by these names. It goes with the process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="alignjax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# XLA's optimizations cost more than they gain on programs this small. The main job, which .ci/run runs
# beside the tests, is compiled with them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


_LONGEST = ("tests/end_to_end/", "tests/test_notebooks.py", "tests/planning/", "tests/dual/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process ends with one of them alone."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs() -> Iterator[None]:
    """Frees a module's compiled programs at its end.

    Every program holds memory maps, and Linux allows a process 65,530 (vm.max_map_count). The whole suite
    compiles more than that; then XLA's compiler ends in a segmentation fault.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def one_device() -> Iterator[None]:
    """Runs that do not name their devices have one, and not the eight that every test is given."""
    # Here, because most tests need no workflow.
    from alignjax.runtime.mesh import make_mesh
    from alignjax.workflow import setup

    def make(*, devices: Any, **sizes: int) -> Any:
        return make_mesh(**sizes, devices=devices or jax.devices()[:1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", make)
        yield
