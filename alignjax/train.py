"""Runs every stage of one method in order.

    alignjax train pecan                  the embedded world, two minutes
    alignjax train mocan:enumerable       exact scores
    alignjax train pecan:own --config.model.path=FOLDER
        --config.data.sources.reward.path=helpful.jsonl
        --config.data.sources.safety.path=safe.jsonl --workdir=runs/mine

`python -m alignjax.train --config=FILE[:PRESET]` is the same. Presets: tiny, enumerable, own
(your model and pairs, all of them), smollm2-135m, alpaca-7b, llama3-8b. Any field is set by
--config.FIELD=VALUE.

Finished stages are skipped, and an interrupted run resumes with the same command. --redo computes a stage and
everything that reads it again. Another margin keeps the answer before it under answers/ in the run's folder.
Status 5: everything is done and saved, but the test does not show what was asked; for 0 give
--config.require_verified=False.
"""

# ruff: noqa: E402  the imports follow the handler below because they take seconds

if __name__ == "__main__":
    from alignjax.runtime.preemption import exit_on_signal

    exit_on_signal()

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from alignjax import cli
from alignjax.config import from_mapping
from alignjax.config.sizes import left_open
from alignjax.errors import InputError, NotVerifiedError
from alignjax.models.gguf_file import names_gguf
from alignjax.runs import run, say
from alignjax.runtime import processes
from alignjax.workflow.sizing import sized


def _define_flags() -> None:
    cli.define_config()
    flags.DEFINE_string("workdir", "", "Folder of the run; default runs/METHOD-PRESET.")
    flags.DEFINE_string("redo", "", "Stage to compute again, with everything that reads it.")
    flags.DEFINE_boolean("distributed", False, "Join the other processes of this run: TPU slice, SLURM, GKE.")


def _default_workdir(method: str) -> Path:
    _, _, preset = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return Path("runs") / f"{method}-{preset or 'tiny'}"


def _main(unset: list[str]) -> None:
    values = cli.load_config(lambda: flags.FLAGS.config)
    if values is None:
        raise InputError("--config is missing; give --config=pecan, or a file as --config=configs/pecan.py.")
    cli.load_config(lambda: cli.unset(values, unset))
    given = cli.load_config(lambda: values.to_dict())
    if not left_open(given):
        from_mapping(given)  # a mistake is told before other processes are waited for
    if flags.FLAGS.distributed:
        processes.start()
    config, decided = sized(given)
    workdir = Path(flags.FLAGS.workdir) if flags.FLAGS.workdir else _default_workdir(config.method)
    for line in cli.replaced():
        say(line)
    if config.model.path:
        names_gguf(Path(config.model.path))  # refused here, before a folder is made
    if decided:
        say(f"sizes by rule, from data, model and device: {', '.join(decided)}")
    finished = run(config, workdir, redo=flags.FLAGS.redo)
    if processes.is_primary():
        finished.show(workdir / "report.html")
    if finished.unverified:
        raise NotVerifiedError(finished.unverified)


def main() -> None:
    """Entry point."""
    _define_flags()  # here and not on import: several commands have flags of the same name
    unset = cli.take_unset(sys.argv)
    cli.run(lambda: _main(unset))


if __name__ == "__main__":
    main()
