"""What every command shares: flags in, one line of error and an exit status out."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from alignjax.config.command_line import make_room, refuse_unknown
from alignjax.config.reading import only_method
from alignjax.config.shipped import config_file
from alignjax.config.usage import usage
from alignjax.errors import InfeasibleError, InputError, NotVerifiedError
from alignjax.runtime import faults, preemption
from alignjax.runtime.compile_cache import use_compile_cache
from alignjax.runtime.terminal import columns, fitted, painted

EXIT_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_NOT_VERIFIED = 5
_UNSET = re.compile(r"--?config\.([\w.]+)=None")


def run(
    main: Callable[[], None],
    argv: Sequence[str] | None = None,
    required: Sequence[str] = (),
    *,
    resumes: bool = True,
    unnamed: str = "",
) -> None:
    """Parses flags, calls `main` and exits with the statuses that docs/troubleshooting.md lists.

    Status 0: done. 2: an InputError, or a fault of the machine (full disk, no memory). 3: an InfeasibleError.
    5: a NotVerifiedError. 75: stopped by SIGTERM or SIGINT; a second signal ends the process at once. Each
    but 0 comes with one line on standard error. Anything else is a bug and keeps its traceback.

    Args:
      main: the command; reads its own flags.
      argv: command line with the program's name first; None: sys.argv.
      required: names of flags that must be given.
      resumes: whether the command saves its progress, and continues from there when it is run again.
      unnamed: a flag of several values that takes the arguments without a name; empty: there may be none.
    """
    argv = list(sys.argv if argv is None else argv)
    faults.hide_what_is_raised_too()
    if "compile_cache" not in flags.FLAGS:
        said = "Folder for compiled programs; none: keep none. Default: ~/.cache/alignjax."
        flags.DEFINE_string("compile_cache", "", said)

    def work() -> None:
        rest = load_config(lambda: _parse(argv))
        if rest and unnamed:
            flags.FLAGS[unnamed].value = [*(flags.FLAGS[unnamed].value or []), *rest]
        elif rest:
            raise InputError(f"unexpected argument {rest[0]!r}; options are written --name=value.")
        for name in required:
            if not flags.FLAGS[name].value:
                raise InputError(f"--{name} is missing; give --{name}=...")
        faults.check_address_space()
        use_compile_cache(flags.FLAGS.compile_cache)
        main()
        _flush_output()

    try:
        with preemption.watched():
            line, status = _outcome(work)
    except preemption.Stopped:  # a signal that arrived while the outcome was being determined
        line, status = "", preemption.EXIT_STOPPED
    if status == preemption.EXIT_STOPPED:
        line = (
            "progress saved; run the same command to resume"
            if resumes
            else "stopped; run the same command again"
        )
    if line:
        tone = {preemption.EXIT_STOPPED: "bold", EXIT_NOT_VERIFIED: "warn"}.get(status, "bad")
        print(painted(fitted(line, sys.stderr), tone, sys.stderr), file=sys.stderr)
    sys.exit(status)


def _outcome(work: Callable[[], None]) -> tuple[str, int]:
    """Calls `work`; the line that its end is reported with, and the exit status.

    After a stop that was raised, whatever else comes out is taken for a consequence of it: libraries turn
    exceptions that they do not know into their own, or drop them.
    """
    try:
        work()
    except SystemExit:
        raise
    except BaseException as error:
        if not isinstance(error, preemption.Stopped | InputError) and (line := faults.describe_fault(error)):
            return line, EXIT_INPUT
        if not preemption.was_raised() and not preemption.is_stop(error):
            if isinstance(error, NotVerifiedError):
                _flush_output()
                return " ".join(str(error).split()), EXIT_NOT_VERIFIED
            if not isinstance(error, InputError):
                raise
            status = EXIT_INFEASIBLE if isinstance(error, InfeasibleError) else EXIT_INPUT
            return " ".join(str(error).split()), status
        return "", preemption.EXIT_STOPPED
    return "", preemption.EXIT_STOPPED if preemption.was_raised() else 0


def _flush_output() -> None:
    """Writes what is left in the buffer of standard output, while its error can still be reported."""
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = "standard output"
        # Python would try again when it ends, and print a traceback of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def define_config() -> None:
    """Defines --config=FILE[:PRESET] and its overrides --config.FIELD=VALUE.

    An override may name an entry of a table that the file lacks, as --config.constraints.honesty.margin=0.5.
    """
    config_flags.DEFINE_config_file("config", help_string="FILE[:PRESET]; overrides as --config.FIELD=VALUE.")
    flag = flags.FLAGS["config"]
    flag.parser = _ConfigFile(flag.parser)


def replaced() -> list[str]:
    """What the command line asks in the place of what the configuration file asks, in sentences."""
    parser = flags.FLAGS["config"].parser
    assert isinstance(parser, _ConfigFile)
    return parser.said


class _ConfigFile(flags.ArgumentParser):
    """Reads a configuration file, and makes room in it for the overrides before they are applied."""

    def __init__(self, file: flags.ArgumentParser):
        self._file = file
        self.said: list[str] = []  # what the command line took the place of

    def parse(self, argument: str) -> Any:
        try:
            config = self._file.parse(config_file(argument))
        except ValueError as error:
            if isinstance(error.__context__, InputError):  # a traceback of it, as text
                raise error.__context__ from None
            raise
        if isinstance(config, ConfigDict):  # else the file has returned nothing, or cannot be read
            argv = flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
            self.said = make_room(config, argv)
            refuse_unknown(config, argv)
        return config

    def flag_type(self) -> str:
        return self._file.flag_type()


def _parse(argv: list[str]) -> list[str]:
    if any(arg in ("--help", "-h", "--helpfull", "--helpshort") for arg in argv[1:]):
        # absl files a program's own flags under its path, and libraries that are imported have flags too.
        ours = (sys.argv[0], "alignjax")
        by_module = flags.FLAGS.flags_by_module_dict().items()
        own = [flag for module, found in by_module if module.startswith(ours) for flag in found]
        width = min(119, max(79, columns() - 1)) if sys.stdout.isatty() else 79
        print(usage(sys.modules["__main__"].__doc__ or "", own, width))
        sys.exit(0)  # absl would end with 1; help is no failure
    try:
        return flags.FLAGS(argv)[1:]
    except flags.Error as error:
        if isinstance(error.__context__, InputError):  # absl writes the flag before a line that names it
            raise error.__context__ from None
        raise InputError(_of_flag(_last_line(error))) from None


def _of_flag(line: str) -> str:
    """What absl says of a flag, as this package says it."""
    if unknown := re.fullmatch(r"Unknown command line flag '(.*?)'\.?(?: Did you mean: (\S+?)[, ].*)?", line):
        name, near = unknown.groups()
        hint = f"did you mean --{near}? " if near else ""
        return f"--{name}: no such option; {hint}see --help."
    if wrong := re.fullmatch(
        r"flag (--\S+?=.*): (?:invalid literal for int|could not convert string to float).*", line
    ):
        kind = "a whole number" if "invalid literal" in line else "a number"
        return f"{wrong[1]}: must be {kind}; see --help."
    return f"{line}; see --help."


def take_unset(argv: list[str]) -> list[str]:
    """Takes `--config.FIELD=None` out of a command line and returns the fields.

    A ConfigDict flag converts its text to the type of the value it replaces, so None cannot be written for a
    field that holds a number; here it can. The last flag wins, as always: a field that a later argument
    sets to a value is not returned.
    """
    matches = [_UNSET.fullmatch(arg) for arg in argv]
    fields = []
    for i, match in enumerate(matches):
        if match is not None:
            sets = re.compile(rf"--?(no)?config\.{re.escape(match[1])}(=.*)?", re.DOTALL)
            later = zip(argv[i + 1 :], matches[i + 1 :], strict=True)
            if not any(unset is None and sets.fullmatch(arg) for arg, unset in later):
                fields.append(match[1])
    argv[:] = [arg for arg, match in zip(argv, matches, strict=True) if match is None]
    return fields


def unset(config: ConfigDict, fields: Sequence[str]) -> None:
    """Sets each named field of a configuration to None.

    Raises:
      InputError: the configuration has no such field.
    """
    # Fields that the file leaves out; of constraints there is nothing to take back.
    make_room(config, [f"--config.{field}=" for field in fields if not field.startswith("constraints.")])
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
    except Exception as error:
        raise InputError(_missing_field(error) or f"config: {_last_line(error)}") from None


def _missing_field(error: Exception) -> str:
    """What to say of a field that a ConfigDict does not have; empty for any other failure."""
    # A ConfigDict wraps the KeyError into an AttributeError where the field is read as an attribute.
    cause = error.args[0] if isinstance(error, AttributeError) and error.args else error
    if not isinstance(cause, KeyError) or not cause.args:
        return ""
    text = str(cause.args[0])
    name, hint = re.search(r"\w+", text), re.search(r'Did you mean "(\w+)"', text)
    field = text if name is None else name[0]
    if owner := only_method(field):
        return f"config.{field}: only {owner} reads it, and this configuration does not have it; remove it."
    similar = "" if hint is None else f" (did you mean {hint[1]}?)"
    return f"config: no such field or table, {field!r}{similar}; see the configuration file."


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
