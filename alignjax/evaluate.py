"""Evaluates the policies of a run again: samples, scores, and writes evaluation.json and the report.

python -m alignjax.evaluate --workdir=DIR
"""

from pathlib import Path

from absl import flags

from alignjax import cli
from alignjax.errors import InputError
from alignjax.runs import read_config, run
from alignjax.stages import Stages


def evaluate(workdir: Path) -> str:
    """Redoes the evaluation stage of a run; returns its table.

    Raises:
      InputError: the folder is no run, or its policy is not trained yet.
    """
    config = read_config(workdir)
    record = Stages(workdir).records().get("policy", {})
    if record.get("status") != "done":
        raise InputError(
            f"{workdir}: stage policy is not done; run python -m alignjax.train with this --workdir first."
        )
    (workdir / "evaluation.json").unlink(missing_ok=True)  # a stage whose output is missing is done again
    return run(config, workdir)


def _define_flags() -> None:
    flags.DEFINE_string("workdir", "", "Folder of a run whose policy is trained.")


def _main() -> None:
    print(evaluate(Path(flags.FLAGS.workdir)))


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["workdir"])
