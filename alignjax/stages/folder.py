"""Runs stages on a folder: what is done is loaded, what is loaded is checked, what is computed is saved."""

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from alignjax.errors import InputError, did_you_mean
from alignjax.runtime import preemption, processes
from alignjax.runtime.files import remove, remove_empty
from alignjax.runtime.metrics import peak_memory_bytes
from alignjax.stages import answers
from alignjax.stages.fingerprints import file_digests
from alignjax.stages.ledger import Ledger, LookRecord, StageRecord, environment, read_ledger, write_ledger
from alignjax.stages.run import counted, fingerprint_of
from alignjax.stages.stage import Stage, Stored, Work
from alignjax.stages.timetable import Planned, in_words, seconds_left

T = TypeVar("T")


@dataclasses.dataclass
class FolderRun:
    """A run whose folder is the shadow of its values.

    Attributes:
      workdir: the run's folder.
      name_of: names the answer at the top of the folder before another one takes its place.
      say: prints a line for the user.
      redo: a stage to compute again, with everything that reads it; empty: none.
      may_compute: names of the only stages that may be computed, by prefix; None: all.
      fingerprints: of the stages so far, by name.
      planned: names of the stages met so far -> all stages of the run, as far as they are known.
    """

    workdir: Path
    name_of: Callable[[Path], str]
    say: Callable[[str], None] = print
    redo: str = ""
    may_compute: Collection[str] | None = None
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)
    planned: Callable[[Sequence[str]], Sequence[Planned]] = lambda met: ()
    _met: list[str] = dataclasses.field(init=False, default_factory=list)
    _taken: dict[str, float] = dataclasses.field(init=False, default_factory=dict)
    _redone: set[str] = dataclasses.field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        """Forgets the stages that are to be computed again."""
        self._ledger = read_ledger(self.workdir)
        self._devices_before = self._ledger.devices
        if self.redo:
            self._forget(self.redo)

    @property
    def ledger(self) -> Ledger:
        """What run.json says now."""
        return self._ledger

    def do(self, stage: Stage[T]) -> T:
        """The stage's value: loaded where it was computed with these settings and inputs, else computed.

        Raises:
          InputError: a file is not as the stage wrote it, or the stage may not be computed here.
          Stopped: the run was asked to stop.
        """
        work = self._work(stage)
        first = stage.name == answers.FIRST and self.may_compute is None
        if first and not self._is_kept(stage):
            self._verify_answer(stage)
            self._ledger = answers.bring_back(self.workdir, self._ledger, work.fingerprint, self.name_of)
        self._met.append(stage.name)
        if processes.broadcast(self._is_kept(stage)):
            self.say(f"{self._place(stage)}, done before, kept")
            self._note_earlier(stage.name)
            return self._loaded(stage, work) if stage.load is not None else stage.compute(work)
        self._require_allowed(stage)
        if preemption.asked():
            raise preemption.Stopped
        return self._computed(stage, work)

    def load(self, stage: Stored[T]) -> T:
        """The value of a finished stage; its inputs need not be met in this process.

        Raises:
          InputError: the stage is not done, was done with other settings, or a file is not as it was written.
        """
        for name in stage.inputs:
            if name not in self._ledger.stages:
                raise self._not_done(name)
            self.fingerprints.setdefault(name, self._ledger.stages[name].fingerprint)
        work = self._work(stage)
        if not self._is_kept(stage):
            raise self._not_done(stage.name)
        return self._loaded(stage, work)

    def _work(self, stage: Stored[T]) -> Work:
        found = fingerprint_of(stage, self.fingerprints)
        return Work(found, self.workdir / "cache" / f"{stage.name}-{found[:16]}")

    def _is_kept(self, stage: Stored[T]) -> bool:
        record = self._ledger.stages.get(stage.name)
        if record is None or not record.done:
            return False
        same = record.fingerprint == self.fingerprints[stage.name]
        return same and all((self.workdir / output).exists() for output in stage.outputs)

    def _loaded(self, stage: Stored[T], work: Work) -> T:
        """Checks every file against its digest, then reads them."""
        assert stage.load is not None
        self._verify(stage.name, stage.outputs)
        return stage.load(self.workdir, work)

    def _verify(self, stage: str, outputs: Collection[str]) -> None:
        """Refuses files that are not as the stage wrote them."""
        written = self._ledger.stages[stage].outputs
        there = file_digests(self.workdir, outputs)
        for name in sorted(written.keys() | there.keys()):
            if written.get(name) != there.get(name):
                what = "changed"
                if name not in there:
                    what = "is missing"
                elif name not in written:
                    what = "was added"
                raise InputError(
                    f"{self.workdir / name}: {what} after stage {stage} wrote its files; restore it, or "
                    f"compute it again with --redo={stage}."
                )

    def _computed(self, stage: Stage[T], work: Work) -> T:
        self.say(self._place(stage))
        whole = work.scratch is None or not work.scratch.exists()  # else an earlier process did a part of it
        before = self._ledger.stages.get(stage.name)
        if before is not None and before.done:
            self._redone.add(stage.name)
        record = StageRecord("running", work.fingerprint, stage.version, dict(stage.settings), stage.inputs)
        first = stage.name == answers.FIRST
        if not first or stage.name not in self._ledger.stages:
            self._write(self._ledger.with_stage(stage.name, record))
        start = time.monotonic()
        value = stage.compute(self._looking(stage, work))
        if first:  # not before: a question that cannot be answered leaves the answer before it in place
            self._verify_answer(stage)
            self._ledger = answers.set_aside(self.workdir, self._ledger, self.name_of)
            self._write(self._ledger.with_stage(stage.name, record))
        with preemption.deferred():  # a value is saved and recorded whole
            if stage.save is not None:
                stage.save(self.workdir, value)
            seconds = round(time.monotonic() - start, 2)
            peak = round(peak_memory_bytes() / 2**20)
            digests = file_digests(self.workdir, stage.outputs)
            done = dataclasses.replace(
                record, status="done", outputs=digests, seconds=seconds, peak_memory_mib=peak
            )
            self._write(self._ledger.with_stage(stage.name, done))
        assert work.scratch is not None
        remove(work.scratch)
        remove_empty(self.workdir / "cache", work.scratch.parent)
        if whole:
            self._taken[stage.name] = seconds
        self.say(f"  {in_words(seconds)}, peak memory {peak:,.0f} MiB{self._time_left()}")
        if stage.reload and stage.load is not None:
            return stage.load(self.workdir, work)
        return value if stage.slim is None else stage.slim(value)

    def _place(self, stage: Stored[T]) -> str:
        """The stage's number among those of the run, and its name."""
        planned = self.planned(self._met)
        of = f" of {max(len(planned), len(self._met))}" if planned else ""
        return f"stage {len(self._met)}{of}: {stage.name}"

    def _note_earlier(self, name: str) -> None:
        """Keeps the time that an earlier process took for a stage, where its devices were these."""
        seconds = self._ledger.stages[name].seconds
        if seconds is not None and tuple(self._devices_before) == environment()["devices"]:
            self._taken[name] = seconds

    def _time_left(self) -> str:
        """The time of the stages to come; empty where nothing is known of it, or none is left."""
        planned = self.planned(self._met)
        # What was done before and reads nothing that was done again is kept, unless it seems to have
        # settings of its own that changed: stages of its kind were done again.
        again = {name for one in self._redone for name in self._ledger.dependents(one)}
        kinds = {stage.kind for stage in planned if stage.name in self._redone}
        kept = {
            stage.name
            for stage in planned
            if (record := self._ledger.stages.get(stage.name)) is not None
            and record.done
            and stage.name not in again
            and stage.kind not in kinds
        }
        left = seconds_left(planned, self._taken, self._met, kept)
        return "" if left is None or left < 5 else f"; about {in_words(left)} left"

    def _looking(self, stage: Stage[T], work: Work) -> Work:
        """The work with its look, which is counted before anything is seen."""
        if stage.looks is None:
            return work
        known = self._ledger.looks.get(stage.looks.prompts, ())
        before = [(one.fingerprint, one.share) for one in known]
        after, look = counted(stage.looks, before, work.fingerprint)
        records = tuple(LookRecord(fingerprint, share) for fingerprint, share in after)
        looks = {**self._ledger.looks, stage.looks.prompts: records}
        self._write(dataclasses.replace(self._ledger, looks=looks))
        return work._replace(look=look)

    def _verify_answer(self, first: Stored[T]) -> None:
        """Refuses a damaged answer at the top of the folder before it is named and moved."""
        record = self._ledger.stages.get(first.name)
        if record is not None and record.done and all((self.workdir / o).exists() for o in first.outputs):
            self._verify(first.name, first.outputs)

    def _write(self, ledger: Ledger) -> None:
        self._ledger = ledger
        write_ledger(self.workdir, ledger)

    def _forget(self, name: str) -> None:
        if name not in self._ledger.stages:
            known = ", ".join(self._ledger.stages) or "none yet"
            near = did_you_mean(name, self._ledger.stages)
            raise InputError(f"--redo={name}: no such stage in {self.workdir}; {near}it has {known}.")
        self._write(self._ledger.without(self._ledger.dependents(name)))

    def _require_allowed(self, stage: Stage[T]) -> None:
        allowed = self.may_compute
        if allowed is not None and not any(stage.name.startswith(name) for name in allowed):
            raise self._not_done(stage.name)

    def _not_done(self, name: str) -> InputError:
        """A refusal that lists what would have to be computed."""
        stale = self._ledger.dependents(name) if name in self._ledger.stages else [name]
        return InputError(
            f"{self.workdir}: stage {name} is not done with the settings of this folder's config.json, and "
            f"this command trains nothing; python -m alignjax.train with this --workdir would compute "
            f"{', '.join(stale)}."
        )
