from collections.abc import Callable

import pytest

from alignjax.models.model_cache import ModelCache


class Loads:
    """Loads(cache).of("a") gives a model named a, and notes what the cache held meanwhile."""

    def __init__(self, cache: ModelCache):
        self.cache = cache
        self.noted: list[tuple[str, tuple[str, ...]]] = []

    def of(self, name: str) -> Callable[[], str]:
        def load() -> str:
            self.noted.append((name, self.cache.held))
            return f"model {name}"

        return load


def test_all_models_stay_once_they_were_asked_for():
    cache = ModelCache(one=False)
    loads = Loads(cache)
    assert cache.held == ()
    for name in ("a", "b", "a", "b"):
        assert cache.get(name, loads.of(name)) == f"model {name}"
    assert [name for name, _ in loads.noted] == ["a", "b"]
    assert cache.held == ("model a", "model b")


def test_a_single_model_is_let_go_before_the_next_is_read():
    cache = ModelCache(one=True)
    loads = Loads(cache)
    for name in ("a", "a", "b", "a"):
        assert cache.get(name, loads.of(name)) == f"model {name}"
        assert cache.held == (f"model {name}",)
    # Nothing was held while one was read: two would not fit.
    assert loads.noted == [("a", ()), ("b", ()), ("a", ())]


def test_a_model_that_could_not_be_read_is_not_held():
    cache = ModelCache(one=True)
    cache.get("a", lambda: "model a")

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        cache.get("b", fail)
    assert cache.held == ()
    assert cache.get("b", lambda: "model b") == "model b"
