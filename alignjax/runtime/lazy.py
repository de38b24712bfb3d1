"""Names of a package whose modules are imported on first use (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
      package: its `__name__`.
      homes: name -> the module that it is an attribute of; a module whose last part is the name is meant
        itself.

    Returns:
      Both functions. The first keeps what it imported in the package, so that it is asked once for a name,
      and raises AttributeError for a name without a home.
    """
    names = vars(sys.modules[package])

    def getattribute(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(home)
        names[name] = module if home.endswith(f".{name}") else getattr(module, name)
        return names[name]

    def listed() -> list[str]:
        return sorted({*names, *homes})

    return getattribute, listed
