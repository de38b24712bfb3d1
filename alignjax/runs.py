"""A run on a folder: its configuration, its lock, all its stages, and the report."""

import json
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.alignment.course import course_findings
from alignjax.config import Config, from_mapping, to_mapping
from alignjax.config.fields import split
from alignjax.data.findings import cut_findings
from alignjax.errors import InfeasibleError, InputError
from alignjax.mocan import mocan
from alignjax.pecan import pecan
from alignjax.records.answer import DualAnswer
from alignjax.records.codec import read_json, read_record
from alignjax.records.evaluation import Evaluation
from alignjax.report import (
    EarlierAnswer,
    ReportInputs,
    StageTime,
    console_table,
    findings_of,
    write_comparison,
    write_report,
)
from alignjax.report.plausibility import unexplained
from alignjax.runtime import processes, terminal
from alignjax.runtime.boards import open_boards
from alignjax.runtime.files import write_bytes, write_text
from alignjax.runtime.log import Log
from alignjax.runtime.metrics import MetricsWriter, read_metrics
from alignjax.runtime.terminal import fitted, painted
from alignjax.scores import calibration as calib
from alignjax.stages import FolderRun, MemoryRun, Run
from alignjax.stages.answers import FOLDER as ANSWERS
from alignjax.stages.ledger import Ledger
from alignjax.stages.lock import locked
from alignjax.workflow.flips import flips_of
from alignjax.workflow.itinerary import itinerary
from alignjax.workflow.outcome import Outcome
from alignjax.workflow.presenting import accuracies, product_findings, samples_of
from alignjax.workflow.setup import Setup, make_setup

_METHODS = {"pecan": pecan, "mocan": mocan}


class Finished(NamedTuple):
    """What a command says of a finished run.

    Attributes:
      table: the last tables of the console.
      verdict: the headline, which ends them.
      tone: good, warn or bad, in which it is shown.
      unverified: where what was asked is not verified, a line on the exit status; empty where nothing is
        missing, or `config.require_verified` is False.
    """

    table: str
    verdict: str
    tone: str
    unverified: str

    def show(self, report: Path) -> None:
        """Prints the tables, where the report is, and the verdict."""
        print(self.table)
        print(f"\nreport: {report}\n")
        print(painted(fitted(self.verdict, sys.stdout), self.tone, sys.stdout), flush=True)


_TONES = {"ship": "good", "kept at a cost": "warn", "do not ship": "bad"}
_UNVERIFIED = (
    "exit status 5: what was asked is not shown; all is saved (--config.require_verified=False ends with 0)"
)


def run(
    config: Config,
    workdir: Path,
    *,
    devices: Sequence[Any] | None = None,
    redo: str = "",
    may_compute: Collection[str] | None = None,
) -> Finished:
    """Every stage of the configured method on a folder, skipping those that are done.

    Args:
      config: checked configuration.
      workdir: the run's folder; made where missing.
      devices: to run on, as `config.mesh` arranges them; None: all there are.
      redo: a stage to compute again, with all that reads it; empty: none.
      may_compute: names of the only stages that may be computed, by prefix; None: all.

    Returns:
      What is to be said.

    Raises:
      InputError: data, model or scores cannot be used, another run is at work in the folder, or a file of the
        folder is damaged.
      InfeasibleError: the constraints cannot be met on the samples.
    """
    with opened(workdir, redo=redo, may_compute=may_compute, config=config) as (folder, metrics):
        folder.planned = lambda met: itinerary(config, _counts(workdir, met), met)
        before = _asked_before(workdir)
        write_text(workdir / "config.json", json.dumps(to_mapping(config), indent=1) + "\n")
        log = Log(say, metrics)
        setup = make_setup(
            config,
            devices=devices,
            log=log,
            cache=workdir / "cache",
            unscored=workdir / "unscored.jsonl",
            traces=workdir / "profile",
        )
        try:
            outcome = execute(folder, setup)
        except InputError as error:
            # The answer that is there stays, with the configuration that asked for it.
            stays = isinstance(error, InfeasibleError) or may_compute is not None
            if before is not None and stays:
                write_bytes(workdir / "config.json", before)
            raise
        table = present(workdir, setup, outcome, folder.ledger)
        required = config.require_verified and not outcome.tested.test.accepted
        headline = outcome.evaluation.record.headline
        return Finished(table, headline.text, _TONES[headline.state], _UNVERIFIED if required else "")


def in_memory(config: Config, *, devices: Sequence[Any] | None = None) -> Outcome:
    """Every stage of the configured method, without a folder: the values themselves.

    Args:
      config: checked configuration.
      devices: as of `run`.

    Raises:
      InputError: data, model or scores cannot be used.
      InfeasibleError: the constraints cannot be met on the samples.
    """
    return execute(MemoryRun(), make_setup(config, devices=devices))


def execute(by: Run, setup: Setup) -> Outcome:
    """The configured method's box."""
    return _METHODS[setup.config.method](by, setup)


@contextmanager
def opened(
    workdir: Path,
    *,
    redo: str = "",
    may_compute: Collection[str] | None = None,
    config: Config | None = None,
) -> Iterator[tuple[FolderRun, MetricsWriter]]:
    """A run's folder, made where missing and locked, and its log.

    Args:
      workdir: the folder.
      redo: as of `run`.
      may_compute: as of `run`.
      config: of the run, whose `log_to` says where metrics are drawn; None: TensorBoard's files.

    Raises:
      InputError: the folder cannot be written to, another run is at work in it, or a board does not start.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        processes.check_shared(workdir, f"--workdir={workdir}")
    except OSError as error:
        raise InputError(
            f"--workdir={workdir}: cannot be written to ({error.strerror}); name another."
        ) from None
    with locked(workdir), _metrics(workdir, config) as metrics:
        yield FolderRun(workdir, answer_name, say, redo, may_compute), metrics


def _metrics(workdir: Path, config: Config | None) -> MetricsWriter:
    """The log of a run, drawn where its configuration says; without one by TensorBoard."""
    primary = processes.is_primary()
    boards = None
    if config is not None:
        kinds = [kind for kind in split(config.log_to) if kind != "none"]
        boards = open_boards(kinds, workdir, to_mapping(config)) if primary else []
    return MetricsWriter(workdir, active=primary, boards=boards)


def _counts(workdir: Path, met: Sequence[str]) -> dict[str, dict[str, int]]:
    """What the stage `data` counted; empty before the file is written, or checked against its digest."""
    return read_json(workdir / "data.json") if "data" in met[:-1] else {}


def _asked_before(workdir: Path) -> bytes | None:
    """The configuration that the folder's last run was started with; None: there was none."""
    path = workdir / "config.json"
    return path.read_bytes() if path.exists() else None


def read_config(workdir: Path) -> Config:
    """The configuration that a run was started with.

    Raises:
      InputError: the folder holds no config.json, or one that cannot be used.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(f"{path}: is missing; --workdir must name the folder of a run.")
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: is not a configuration; restore it, or start the run with --config again.")
    return from_mapping(values)


def answer_name(workdir: Path) -> str:
    """What the answer at the top of a folder asked for, as a folder's name: `safety-margin-1`."""
    answer = read_record(DualAnswer, workdir / "dual.json")
    if not answer.solved and answer.lam is not None:
        return "-".join(f"{name}-lambda-{value:g}" for name, value in answer.lam.items())
    words = []
    for name, asked in answer.asked.items():
        if asked.level is not None:
            words.append(f"{name}-level-{asked.level:g}")
        elif asked.rate is not None:
            words.append(f"{name}-rate-{asked.rate:g}")
        elif asked.fraction is not None:
            words.append(f"{name}-fraction-{asked.fraction:g}")
        elif asked.margin is not None:
            words.append(f"{name}-margin-{asked.margin:g}")
    return "-".join(words)


def present(workdir: Path, setup: Setup, outcome: Outcome, ledger: Ledger) -> str:
    """Writes report.html and figures/, and answers/index.html; returns the last table of the console."""
    config, record = setup.config, outcome.evaluation.record
    answer, calibration = outcome.answer, outcome.calibration
    earlier = [_earlier(workdir / ANSWERS / name) for name in reversed(list(ledger.answers))]
    scores = _calibrated_scores(outcome, config.dimensions)
    metrics = read_metrics(workdir / "metrics.jsonl")
    findings = [
        *product_findings(setup),
        *cut_findings(outcome.data.pairs.counts),
        *course_findings(metrics),
        *unexplained(record, scores),
        *findings_of(answer, record, calibration.record, population=setup.population),
    ]
    inputs = ReportInputs(
        title=f"{config.method} on {config.data.world or Path(config.model.path or '').name}",
        answer=answer,
        evaluation=record,
        calibration=calibration.record,
        config=to_mapping(config),
        environment=ledger.environment,
        stages=[StageTime(k, v.seconds, v.peak_memory_mib) for k, v in ledger.stages.items()],
        counts=outcome.data.pairs.counts,
        metrics=metrics,
        scores=scores,
        samples=samples_of(setup, outcome),
        shown_samples=config.shown_samples,
        accuracies=accuracies(outcome),
        findings=findings,
        rounds=outcome.tested.rounds,
        tests=outcome.tested.tests,
        others=earlier,
        flips=flips_of(setup, outcome),
        erosion=outcome.erosion,
        dial=outcome.dial,
    )
    if processes.is_primary():
        write_report(inputs, workdir)
        if earlier:
            latest = EarlierAnswer("latest", answer, record)
            write_comparison([latest, *earlier], workdir / ANSWERS / "index.html")
    return console_table(
        record,
        answer,
        width=max(80, terminal.columns()),
        findings=findings,
        calibrated=calibration.record.kind != "none",
    )


def _earlier(folder: Path) -> EarlierAnswer:
    """An answer under answers/."""
    return EarlierAnswer(
        folder.name,
        read_record(DualAnswer, folder / "dual.json"),
        read_record(Evaluation, folder / "evaluation.json"),
    )


def _calibrated_scores(outcome: Outcome, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Calibrated scores of single responses by policy and dimension, for the histograms."""
    fit, found = outcome.calibration.fit, {}
    for policy, raw in outcome.evaluation.scores.items():
        values = calib.calibrated(fit, raw).reshape(-1, len(names))
        found[policy] = {name: values[:, j] for j, name in enumerate(names)}
    return found


def say(line: str) -> None:
    """Prints a line, in the first process only."""
    if processes.is_primary():
        terminal.say(line)
