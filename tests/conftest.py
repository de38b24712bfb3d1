"""Strict switches for every test: eight devices, no silent promotion of ranks or types."""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs() -> Iterator[None]:
    """Frees a module's compiled programs at its end.

    Every program holds memory maps, and Linux allows a process 65,530 (vm.max_map_count). The whole suite
    compiles more than that; then XLA's compiler ends in a segmentation fault.
    """
    yield
    jax.clear_caches()
