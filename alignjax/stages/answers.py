"""Earlier answers: the top of a run's folder holds the latest, the ones before it lie under answers/NAME/.

An answer is the stage `dual` and every stage that reads it: labels, policy, its samples, the evaluation. When
something else is asked, the files of a finished answer are moved aside instead of being overwritten; when it
is asked for again, they are moved back.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from alignjax.runtime import preemption, processes
from alignjax.runtime.files import remove_empty
from alignjax.stages.ledger import Answer, Ledger, StageRecord, write_ledger

FOLDER = "answers"
FIRST, LAST = "dual", "evaluation"  # of the stages that make an answer
_PAGES = ("report.html", "figures")


@preemption.uninterrupted()
def set_aside(workdir: Path, ledger: Ledger, name_of: Callable[[Path], str]) -> Ledger:
    """Moves a finished answer from the top of the folder to answers/NAME/.

    Args:
      workdir: the run's folder.
      ledger: its record.
      name_of: the workdir -> a name for the answer at the top, such as `safety-margin-1`.

    Returns:
      The ledger as it is now, which is written; the same where the top holds no finished answer.
    """
    members = ledger.dependents(FIRST) if FIRST in ledger.stages else []
    whole = {name for name in members if _is_whole(workdir, ledger.stages[name])}
    # A stage that the evaluation does not rest on, as of an audit that was stopped, is not kept unfinished.
    if LAST not in members or not _read_by(ledger, LAST) & set(members) <= whole:
        return ledger
    answer = Answer(
        ledger.stages[FIRST].fingerprint, {name: ledger.stages[name] for name in members if name in whole}
    )
    name = _free_name(ledger, name_of(workdir))
    _move(workdir, workdir / FOLDER / name, _files(answer))
    ledger = dataclasses.replace(ledger.without(members), answers={**ledger.answers, name: answer})
    write_ledger(workdir, ledger)
    return ledger


@preemption.uninterrupted()
def bring_back(workdir: Path, ledger: Ledger, fingerprint: str, name_of: Callable[[Path], str]) -> Ledger:
    """Moves the earlier answer with this fingerprint of `dual`, if there is one, back to the top.

    Args:
      workdir: the run's folder.
      ledger: its record.
      fingerprint: of the stage `dual` that is asked for.
      name_of: as of `set_aside`, for the answer that is at the top now.

    Returns:
      The ledger as it is now, which is written.
    """
    found = [name for name, answer in ledger.answers.items() if answer.fingerprint == fingerprint]
    if not found:
        return ledger
    ledger = set_aside(workdir, ledger, name_of)
    name, answer = found[0], ledger.answers[found[0]]
    _clear(workdir, ledger, answer)
    _move(workdir / FOLDER / name, workdir, _files(answer))
    others = {key: value for key, value in ledger.answers.items() if key != name}
    stages = {**{k: v for k, v in ledger.stages.items() if k not in answer.stages}, **answer.stages}
    ledger = dataclasses.replace(ledger, stages=stages, answers=others)
    write_ledger(workdir, ledger)
    return ledger


def _read_by(ledger: Ledger, name: str) -> set[str]:
    """The stage, and every stage that it reads, directly or not."""
    found, new = set[str](), {name}
    while new := {one for one in new if one in ledger.stages} - found:
        found |= new
        new = {one for stage in new for one in ledger.stages[stage].inputs}
    return found


def _is_whole(workdir: Path, record: StageRecord) -> bool:
    return record.done and all((workdir / path).exists() for path in record.outputs)


def _clear(workdir: Path, ledger: Ledger, answer: Answer) -> None:
    """Removes what an unfinished answer left where files of this one belong, and nothing of other stages.

    A folder of files is refused later if it holds more than its stage wrote.
    """
    answers = ledger.dependents(FIRST)
    others = {path for k, record in ledger.stages.items() if k not in answers for path in record.outputs}
    if processes.is_primary():
        for top in {Path(path).parts[0] for path in _files(answer)}:
            for file in (workdir / top).rglob("*"):
                if file.is_file() and file.relative_to(workdir).as_posix() not in others:
                    file.unlink()


def _files(answer: Answer) -> list[str]:
    return [path for record in answer.stages.values() for path in record.outputs] + list(_PAGES)


def _free_name(ledger: Ledger, name: str) -> str:
    """The name, numbered where an answer with other settings has it already."""
    tried, number = name, 1
    while tried in ledger.answers:
        number += 1
        tried = f"{name}-{number}"
    return tried


def _move(source: Path, target: Path, files: Iterable[str]) -> None:
    """Moves what exists of some files and folders, and removes folders that are left empty."""
    processes.barrier("before moving an answer")
    if processes.is_primary():
        for name in files:
            if not (source / name).exists():
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if (target / name).is_dir():
                shutil.rmtree(target / name)
            os.replace(source / name, target / name)
            remove_empty(source, (source / name).parent)
        if source.parent.name == FOLDER:
            remove_empty(source.parent, source)
    processes.barrier("moved an answer")
