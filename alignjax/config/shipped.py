"""The configuration files that come with alignjax: by name in an installed wheel, as files in a clone."""

from pathlib import Path

from alignjax.errors import InputError, did_you_mean, file_near

_PACKAGE = Path(__file__).parents[1]


def shipped_folder() -> Path:
    """Where the files of configs/ are: within the package that a wheel installs, beside it in a clone."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def shipped_names() -> list[str]:
    """What `--config` takes in place of a file: mocan, pecan."""
    return sorted(path.stem for path in shipped_folder().glob("*.py"))


def config_file(argument: str) -> str:
    """FILE[:PRESET] that `--config` means: `pecan:enumerable` is the file that comes with alignjax.

    Args:
      argument: NAME[:PRESET] or FILE.py[:PRESET].

    Returns:
      FILE[:PRESET]; what names a file is returned as it is.

    Raises:
      InputError: no configuration has this name, or the file does not exist.
    """
    name, colon, preset = argument.partition(":")
    known = shipped_names()
    if "/" in name or name.endswith(".py"):
        if not Path(name).is_file():
            if Path(name).stem in known:
                raise InputError(
                    f"--config={name}: no such file; --config={Path(name).stem} is the one of alignjax."
                )
            near = file_near(name) or did_you_mean(Path(name).stem, known)
            raise InputError(f"--config={name}: no such file; {near}give the name of a file that is there.")
        return argument
    if name not in known:
        raise InputError(
            f"--config={name}: no such configuration; {did_you_mean(name, known)}alignjax has "
            f"{' and '.join(known)}, and a file of your own is named with its folder or its .py."
        )
    return f"{shipped_folder() / name}.py{colon}{preset}"
