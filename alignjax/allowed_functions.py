"""Which functions of a run's folder a command may import."""

from collections.abc import Collection
from pathlib import Path

from alignjax.config import Config
from alignjax.errors import InputError


def refuse_functions(config: Config, allowed: Collection[str], workdir: Path) -> None:
    """Refuses functions that a folder names and the command line does not: a folder may be anybody's.

    Raises:
      InputError: names the field, the function, and the flag that allows it.
    """
    named = {f"scores.{name}.function": one.function for name, one in config.scores.items()}
    named |= {f"judges.{name}.function": one.function for name, one in config.judges.items()}
    for field, function in named.items():
        if function and function not in allowed:
            raise InputError(
                f"{workdir / 'config.json'}: {field} is {function}, and a function that a folder names is "
                f"not imported; if you trust it, give --allow_function={function}."
            )
