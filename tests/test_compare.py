"""The command `alignjax compare`: which folders it takes, and what it refuses."""

import json

import pytest

from alignjax.records.codec import encode
from alignjax.stages.fingerprints import file_digests
from alignjax.stages.ledger import Ledger, LookRecord, StageRecord, write_ledger
from tests.report.conftest import make_inputs

FILES = {"calibration": "calibration.json", "dual": "dual.json", "evaluation": "evaluation.json"}


@pytest.fixture
def folder_of(tmp_path):
    """Makes the folder of a finished run, or of one whose last stages are missing."""

    def make(name, *, done=("calibration", "dual", "evaluation"), seed=0):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        given = make_inputs()
        (folder / "config.json").write_text(json.dumps({"method": "pecan", "seed": seed}))
        stages = {"reference": StageRecord("done", "r", 1, {}, ())}
        for stage, record in zip(FILES, (given.calibration, given.answer, given.evaluation), strict=True):
            (folder / FILES[stage]).write_text(json.dumps(encode(record)))
            digests = file_digests(folder, [FILES[stage]])
            stages[stage] = StageRecord("done" if stage in done else "running", stage, 1, {}, (), digests)
        write_ledger(folder, Ledger(stages=stages, looks={"prompts": (LookRecord("f", 0.5),)}))
        return folder

    return make


def test_folders_are_named_with_or_without_the_flag(command, folder_of, tmp_path):
    a, b = folder_of("x/run"), folder_of("y/run", seed=3)
    output = tmp_path / "page.html"
    status, out, err = command("compare", a, b, f"--output={output}")
    assert (status, err) == (0, "")
    page = output.read_text(encoding="utf-8")
    # Folders of the same name are told apart by what stands above them.
    for name in ("x/run", "y/run"):
        assert name in out and f">{name}</h2>" in page
    assert 'scope="row">seed</th><td>0</td><td>3</td>' in page
    assert out.rstrip().endswith(str(output))
    again = tmp_path / "again.html"
    assert command("compare", f"--workdirs={a},{b}", f"--output={again}").status == 0
    assert again.read_bytes() == output.read_bytes()


def refused(command, *arguments):
    """The one line of a refusal."""
    status, out, err = command("compare", *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1
    return err.strip()


def test_folders_that_are_no_runs_are_refused(command, folder_of, tmp_path):
    a, none = folder_of("a"), tmp_path / "none"
    page = f"--output={tmp_path / 'page.html'}"
    said = f"{none}: is not the folder of a run, it has no run.json; name the --workdir of a finished run."
    assert refused(command, a, none, page) == said
    assert "its stage evaluation is not done" in refused(
        command, a, folder_of("half", done=("calibration", "dual")), page
    )
    bare = folder_of("bare")
    (bare / "config.json").unlink()
    assert "has no config.json" in refused(command, a, bare, page)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("count", [0, 1, 9])
def test_two_to_eight_are_compared(command, count, tmp_path):
    arguments = [tmp_path / str(i) for i in range(count)]
    assert refused(command, *arguments).startswith(f"--workdirs: {count} given; name the folders of 2 to 8")


def test_the_same_folder_twice_is_refused(command, folder_of):
    a = folder_of("a")
    assert refused(command, a, a / ".." / "a").endswith("the folder is given twice; name different runs.")


def test_a_file_of_a_run_is_not_written_over(command, folder_of):
    a, b = folder_of("a"), folder_of("b")
    before = (a / "dual.json").read_bytes()
    assert "is a file of a run" in refused(command, a, b, f"--output={a / 'dual.json'}")
    assert (a / "dual.json").read_bytes() == before
    assert command("compare", a, b, f"--output={a / 'compared.html'}").status == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text(path.read_text() + " "), "changed after stage evaluation wrote it"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_records_that_are_not_as_written_are_refused(command, folder_of, damage, said):
    a, b = folder_of("a"), folder_of("b")
    damage(b / "evaluation.json")
    assert said in refused(command, a, b)
