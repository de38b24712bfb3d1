"""Runs every stage of one method in order.

    python -m alignjax.train --config=FILE[:PRESET] [--workdir=DIR] [--config.FIELD=VALUE ...]

Finished stages are skipped; the same command goes on where it stopped.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from alignjax import cli
from alignjax.config import from_mapping
from alignjax.errors import InputError
from alignjax.runs import run

_CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE[:PRESET]; overrides as --config.FIELD=VALUE.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; default runs/METHOD-PRESET.")


def _default_workdir(argument: str, method: str) -> Path:
    _, _, preset = argument.partition(":")
    return Path("runs") / f"{method}-{preset or 'tiny'}"


def _main(argument: str, unset: list[str]) -> None:
    if _CONFIG.value is None:
        raise InputError("--config is missing; give --config=configs/pecan.py.")
    values = cli.load_config(lambda: _CONFIG.value)
    cli.load_config(lambda: cli.unset(values, unset))
    config = from_mapping(cli.load_config(values.to_dict))
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else _default_workdir(argument, config.method)
    print(run(config, workdir))
    print(f"report: {workdir / 'report.html'}")


def main() -> None:
    """Entry point."""
    unset = cli.take_unset(sys.argv)
    argument = next((arg.split("=", 1)[1] for arg in sys.argv if arg.startswith("--config=")), "")
    cli.run(lambda: _main(argument, unset))


if __name__ == "__main__":
    main()
