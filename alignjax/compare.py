"""Compares finished runs on one page: what each was asked, promised and delivered. Computes nothing new.

    python -m alignjax.compare --workdirs=DIR,DIR[,...] [--output=FILE.html]
    alignjax compare DIR DIR [...]

The page has each run's verdict, a figure with the point and the forecast of every run, a table for each
promise, and the settings that differ. The first table is printed.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alignjax import cli
from alignjax.errors import InputError
from alignjax.records.answer import DualAnswer
from alignjax.records.calibration import CalibrationRecord
from alignjax.records.codec import read_json, read_record
from alignjax.records.evaluation import Evaluation
from alignjax.report.run_comparison import MOST, ComparedRun, console, write_run_comparison
from alignjax.stages.fingerprints import file_digests
from alignjax.stages.ledger import FILE, Ledger, read_ledger

_READ = {"calibration": "calibration.json", "dual": "dual.json", "evaluation": "evaluation.json"}


def compare(workdirs: Sequence[Path], output: Path) -> str:
    """Writes the page that compares finished runs.

    Args:
      workdirs: folders of the runs, from 2 to 8, in the order of the page.
      output: of the page.

    Returns:
      The first table, for the console.

    Raises:
      InputError: too few or too many folders, one given twice, or one that is not the folder of a finished
        run; or the output is a file of a run.
    """
    if not 2 <= len(workdirs) <= MOST:
        raise InputError(
            f"--workdirs: {len(workdirs)} given; name the folders of 2 to {MOST} finished runs, as "
            "--workdirs=runs/a,runs/b."
        )
    resolved = [path.resolve() for path in workdirs]
    for place, path in enumerate(resolved):
        if path in resolved[:place]:
            raise InputError(f"--workdirs={workdirs[place]}: the folder is given twice; name different runs.")
        if output.resolve().parent == path and output.exists():
            raise InputError(f"--output={output}: is a file of a run that is compared; name another.")
    names = _names(resolved)
    runs = [read_run(path, name) for path, name in zip(workdirs, names, strict=True)]
    write_run_comparison(runs, output)
    return console(runs, max(80, shutil.get_terminal_size((100, 24)).columns))


def read_run(workdir: Path, name: str) -> ComparedRun:
    """The records of a finished run.

    Args:
      workdir: its folder.
      name: what it is called on the page.

    Raises:
      InputError: the folder is not that of a finished run, or a record in it was damaged or edited.
    """
    if not (workdir / FILE).is_file() or not (workdir / "config.json").is_file():
        missing = FILE if not (workdir / FILE).is_file() else "config.json"
        raise InputError(
            f"{workdir}: is not the folder of a run, it has no {missing}; name the --workdir of a finished "
            "run."
        )
    ledger = read_ledger(workdir)
    _require_unchanged(workdir, ledger)
    config = read_json(workdir / "config.json")
    if not isinstance(config, dict):
        raise InputError(f"{workdir / 'config.json'}: is not a configuration; restore it.")
    calibration = read_record(CalibrationRecord, workdir / _READ["calibration"])
    reference = ledger.stages.get("reference")
    return ComparedRun(
        name=name,
        config=config,
        environment=ledger.environment,
        answer=read_record(DualAnswer, workdir / _READ["dual"]),
        evaluation=read_record(Evaluation, workdir / _READ["evaluation"]),
        calibrated=calibration.kind != "none",
        reference="" if reference is None else reference.fingerprint,
        scores=ledger.stages["calibration"].fingerprint,
        prompts=" ".join(sorted(ledger.looks)),
    )


def _require_unchanged(workdir: Path, ledger: Ledger) -> None:
    """Refuses a run whose last stage is not done, and records that are not as their stage wrote them."""
    for stage, file in _READ.items():
        record = ledger.stages.get(stage)
        if record is None or not record.done or file not in record.outputs:
            raise InputError(
                f"{workdir}: the run is not finished, its stage {stage} is not done; run its command again, "
                "then compare."
            )
        if not (workdir / file).is_file():
            raise InputError(
                f"{workdir / file}: is missing; restore it, or run the command of the run again."
            )
        if file_digests(workdir, [file])[file] != record.outputs[file]:
            raise InputError(
                f"{workdir / file}: changed after stage {stage} wrote it; restore it, or compute it again "
                f"with --redo={stage}."
            )


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    for count in range(1, max(len(path.parts) for path in folders) + 1):
        names = ["/".join(path.parts[-count:]) for path in folders]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("two of the folders are the same")


def _define_flags() -> None:
    flags.DEFINE_list("workdirs", [], "Folders of finished runs; or name them without a flag.")
    flags.DEFINE_string("output", "comparison.html", "Page to write.")


def _main() -> None:
    given = flags.FLAGS
    output = Path(given.output)
    cli.check_output(output)
    print(compare([Path(one) for one in given.workdirs], output))
    print(f"\n{output}")


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, resumes=False, unnamed="workdirs")
