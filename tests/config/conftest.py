"""The configuration files in configs/, as modules."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """load("pecan") is configs/pecan.py."""
    return _load


@pytest.fixture
def tiny() -> Any:
    """The ConfigDict of configs/pecan.py:tiny; its attributes have no types."""
    return _load("pecan").get_config("tiny")


@pytest.fixture
def tiny_mocan() -> Any:
    """The ConfigDict of configs/mocan.py:tiny."""
    return _load("mocan").get_config("tiny")
