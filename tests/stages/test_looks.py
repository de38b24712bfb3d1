"""Looks at test prompts: counted before anything is seen, never forgotten, the same look once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignjax.runtime.work import Look
from alignjax.stages import FolderRun, Looks, MemoryRun, Run, Stage, Work
from alignjax.stages.ledger import read_ledger


def halving(spent: Sequence[float]) -> float:
    return 0.5 ** (len(spent) + 1)


@dataclasses.dataclass
class Looker:
    """A stage that tests, and the looks that it was given."""

    seen: list[Look]
    fails: bool = False

    def stage(self, margin: float, prompts: str = "p") -> Stage[float]:
        def compute(work: Work) -> float:
            assert work.look is not None
            self.seen.append(work.look)
            if self.fails:
                raise RuntimeError("broken")
            return margin

        def save(folder: Path, value: float) -> None:
            (folder / "test.txt").write_text(str(value))

        return Stage(
            name="test",
            settings={"margin": margin},
            outputs=("test.txt",),
            compute=compute,
            save=save,
            load=lambda folder, work: float((folder / "test.txt").read_text()),
            abstract=lambda: 0.0,
            looks=Looks(prompts, halving),
        )


def folder_run(workdir) -> FolderRun:
    return FolderRun(workdir, lambda folder: "", lambda line: None)


@pytest.fixture(params=["folder", "memory"])
def run(request, tmp_path) -> Run:
    return folder_run(tmp_path) if request.param == "folder" else MemoryRun()


def test_every_look_at_the_same_prompts_has_its_number_and_its_share(run):
    tester = Looker([])
    for margin in (1.0, 2.0, 3.0):
        run.do(tester.stage(margin))
    assert tester.seen == [Look(1, 0.5, 0.5), Look(2, 0.25, 0.75), Look(3, 0.125, 0.875)]


def test_other_prompts_are_counted_on_their_own(run):
    tester = Looker([])
    run.do(tester.stage(1.0))
    run.do(tester.stage(2.0, prompts="q"))
    assert tester.seen == [Look(1, 0.5, 0.5)] * 2


def test_the_same_look_again_is_not_another_one(tmp_path):
    tester = Looker([])
    for margin in (1.0, 2.0, 1.0):
        folder_run(tmp_path).do(tester.stage(margin))
    assert [look.number for look in tester.seen] == [1, 2, 1]
    assert len(read_ledger(tmp_path).looks["p"]) == 2


def test_a_look_that_fails_has_been_taken(tmp_path):
    tester = Looker([], fails=True)
    with pytest.raises(RuntimeError):
        folder_run(tmp_path).do(tester.stage(1.0))
    tester.fails = False
    folder_run(tmp_path).do(tester.stage(2.0))
    assert tester.seen[1] == Look(2, 0.25, 0.75)


def test_looks_outlive_their_stage(tmp_path):
    tester = Looker([])
    folder_run(tmp_path).do(tester.stage(1.0))
    again = FolderRun(tmp_path, lambda folder: "", lambda line: None, "test")
    assert "test" not in again.ledger.stages
    again.do(tester.stage(1.0))
    assert [look.number for look in tester.seen] == [1, 1]
