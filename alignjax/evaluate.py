"""Evaluates the policies of a finished run again, and writes the report. Trains nothing.

    python -m alignjax.evaluate --workdir=DIR [--labels=FILE.jsonl]
        [--allow_function=module:function ...]

--labels joins what people said of the responses under evaluation_samples/ (docs/data-formats.md); the
verdicts then rest on them, as a further look at the test prompts. Status 5: what was asked is not verified.
A function that the folder's configuration names is not imported unless the command line names it too.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from absl import flags

from alignjax import cli
from alignjax.config import Config
from alignjax.errors import InputError, NotVerifiedError
from alignjax.runs import Finished, read_config, run
from alignjax.stages.ledger import read_ledger

_MAY_COMPUTE = ("evaluation", "test")  # samples, scores, tests and record


def evaluate(workdir: Path, *, allowed: Collection[str] = (), labels: str | None = None) -> Finished:
    """Computes the evaluation of a run again.

    Args:
      workdir: the run's folder.
      allowed: functions, module:function, that may be imported.
      labels: JSON Lines of human labels, which the folder's configuration names from now on; None: those that
        it names, if any.

    Raises:
      InputError: the folder is no run, a stage before the evaluation is not done with its settings, or its
        configuration names a function that is not allowed.
    """
    config = read_config(workdir)
    refuse_functions(config, allowed, workdir)
    if labels is not None:
        if not Path(labels).is_file():
            raise InputError(f"--labels={labels}: is no file; name the JSON Lines file of human labels.")
        config = dataclasses.replace(config, test=dataclasses.replace(config.test, labels=labels))
    redo = "evaluation" if "evaluation" in read_ledger(workdir).stages else ""
    return run(config, workdir, redo=redo, may_compute=_MAY_COMPUTE)


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


def _define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of a run whose policy is trained.")
    flags.DEFINE_multi_string("allow_function", [], "module:function of config.json to import.")
    flags.DEFINE_string("labels", None, "JSON Lines of human labels on responses of the policies.")


def _main() -> None:
    given = flags.FLAGS
    finished = evaluate(Path(given.workdir), allowed=given.allow_function, labels=given.labels)
    print(finished.table)
    if finished.unverified:
        raise NotVerifiedError(finished.unverified)


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["workdir"])
