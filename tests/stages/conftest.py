"""A small method on a folder: stages of one text each, which note when they are computed."""

import dataclasses
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from alignjax.errors import InfeasibleError
from alignjax.runtime.files import write_text
from alignjax.stages import FolderRun, Run, Stage, Work
from alignjax.stages.timetable import Planned

NAMES = ("samples", "scores", "dual", "policy", "evaluation")
LARGEST = 10.0  # a margin beyond it cannot be met


@dataclasses.dataclass
class Method:
    """samples -> scores -> dual -> policy -> evaluation, on a folder.

    `margin` determines dual, `seed` samples, `versions` the version of single stages. `calls` are the names
    of what was computed, in order. A stage whose name is `fails` raises after it has written to its scratch
    folder.
    """

    workdir: Path
    margin: float = 1.0
    seed: int = 0
    versions: dict[str, int] = dataclasses.field(default_factory=dict)
    fails: str = ""
    last: str = "evaluation"
    redo: str = ""
    may_compute: Collection[str] | None = None
    planned: Callable[[Sequence[str]], Sequence[Planned]] = lambda met: ()
    calls: list[str] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)

    def folder_run(self) -> FolderRun:
        say = self.said.append
        return FolderRun(self.workdir, name_of, say, self.redo, self.may_compute, planned=self.planned)

    def run(self) -> list[str]:
        """All stages up to `last` on the folder; the names of those that were computed."""
        self.on(self.folder_run())
        return self.calls

    def on(self, run: Run) -> dict[str, str]:
        """The values of all stages up to `last`."""
        return {name: run.do(self.stage(name)) for name in NAMES[: NAMES.index(self.last) + 1]}

    def stage(self, name: str) -> Stage[str]:
        place = NAMES.index(name)
        settings = {"dual": {"margin": self.margin}, "samples": {"seed": self.seed}}

        def compute(work: Work) -> str:
            self.calls.append(name)
            if (file := work.file("progress.txt")) is not None:
                write_text(file, "half")
            if self.fails == name:
                raise RuntimeError("broken")
            if name == "dual" and self.margin > LARGEST:
                raise InfeasibleError(f"the margin {self.margin:g} cannot be met")
            return f"{name} of seed {self.seed} at margin {self.margin:g}"

        return Stage(
            name=name,
            settings=settings.get(name, {}),
            inputs=() if place == 0 else (NAMES[place - 1],),
            version=self.versions.get(name, 1),
            outputs=("policy",) if name == "policy" else (f"{name}.txt",),
            compute=compute,
            save=self._save_policy if name == "policy" else lambda folder, value: _save(folder, name, value),
            load=lambda folder, work: _file(folder, name).read_text(),
            abstract=lambda: "",
        )

    def _save_policy(self, folder: Path, value: str) -> None:
        """A folder that is replaced as a whole, with a file whose name no other answer has."""
        shutil.rmtree(folder / "policy", ignore_errors=True)
        _save(folder, "policy", value)
        write_text(folder / "policy" / f"weights-{self.margin:g}.txt", value)


def _file(folder: Path, name: str) -> Path:
    return folder / "policy" / "policy.txt" if name == "policy" else folder / f"{name}.txt"


def _save(folder: Path, name: str, value: str) -> None:
    write_text(_file(folder, name), value)


def name_of(workdir: Path) -> str:
    """margin-1 for the answer at margin 1."""
    return "margin-" + (workdir / "dual.txt").read_text().rpartition(" ")[2]


@pytest.fixture
def method(tmp_path: Path) -> Callable[..., Method]:
    """method(margin=2.0) is a new process on the same folder."""

    def make(**changes) -> Method:
        return Method(tmp_path, **changes)

    return make
