"""What every command shares: flags in, one line of error and an exit status out."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from alignjax.errors import InfeasibleError, InputError
from alignjax.runtime import preemption

EXIT_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_STOPPED = 75
_UNSET = re.compile(r"--config\.([\w.]+)=None")


def run(main: Callable[[], None], argv: Sequence[str] | None = None, required: Sequence[str] = ()) -> None:
    """Parses flags, calls `main` and exits with the statuses of the command line contract.

    Args:
      main: the command; reads its own flags.
      argv: command line with the program's name first; None: sys.argv.
      required: names of flags that must be given.

    Status: 0 done; 2 an InputError; 3 an InfeasibleError; 75 stopped by SIGTERM with everything saved.
    Anything else is a bug and keeps its traceback.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        rest = load_config(lambda: _parse(argv))
        if rest:
            raise InputError(f"unexpected argument {rest[0]!r}; options are written --name=value.")
        for name in required:
            if not flags.FLAGS[name].value:
                raise InputError(f"--{name} is missing; give --{name}=...")
        preemption.watch()
        main()
    except preemption.Stopped:
        print("stopped by a signal, everything is saved: the same command goes on.", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(EXIT_INFEASIBLE if isinstance(error, InfeasibleError) else EXIT_INPUT)
    sys.exit(0)


def _parse(argv: list[str]) -> list[str]:
    if any(arg in ("--help", "-h", "--helpfull", "--helpshort") for arg in argv[1:]):
        # absl prints the module's documentation with its flags and exits with status 1; help is no failure.
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    try:
        return flags.FLAGS(argv)[1:]
    except flags.Error as error:
        raise InputError(f"{_last_line(error)}; see --help.") from None


def take_unset(argv: list[str]) -> list[str]:
    """Takes `--config.FIELD=None` out of a command line and returns the fields.

    A ConfigDict flag converts its text by the type of the value it replaces, so that None cannot be written
    for a field that holds a number; here it can.
    """
    matches = [_UNSET.fullmatch(arg) for arg in argv]
    argv[:] = [arg for arg, match in zip(argv, matches, strict=True) if match is None]
    return [match[1] for match in matches if match is not None]


def unset(config: ConfigDict, fields: Sequence[str]) -> None:
    """Sets each named field of a configuration to None.

    Raises:
      InputError: the configuration has no such field.
    """
    for field in fields:
        *parents, last = field.split(".")
        node: Any = config
        for name in parents:
            node = node[name] if isinstance(node, ConfigDict) and name in node else None
        if not isinstance(node, ConfigDict) or last not in node:
            raise InputError(f"config.{field}: no such field; see the configuration file for those it has.")
        node[last] = None


def load_config(load: Callable[[], Any]) -> Any:
    """Calls `load`, turning every failure of a configuration file into an InputError.

    The file is the user's own code: whatever it raises is about the configuration, not about this program.
    """
    try:
        return load()
    except InputError:
        raise
    except KeyError as error:
        name = str(error.args[0]).strip("'\"")
        raise InputError(f"config: no such field or table, {name!r}; see the configuration file.") from None
    except Exception as error:
        raise InputError(f"config: {_last_line(error)}") from None


def check_output(path: str | Path, *, folder: bool = False, flag: str = "output") -> None:
    """Refuses an output that cannot be written, before hours are spent on what it would hold.

    Raises:
      InputError: the output is a folder where a file is meant, or its folder cannot be made or written to.
    """
    path = Path(path)
    if path.is_dir() and not folder:
        raise InputError(f"--{flag}={path}: is a folder; give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--{flag}={path}: its folder cannot be made ({error.strerror}); name another."
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--{flag}={path}: its folder cannot be written to; name another.")


def _last_line(error: BaseException) -> str:
    # ConfigDict puts a traceback into its message; the last line is the reason.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
