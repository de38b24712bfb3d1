"""run.json: what it holds, and that a damaged, edited or older one is refused."""

import json

import jax
import pytest

import alignjax
from alignjax.errors import InputError
from alignjax.stages.ledger import Answer, Ledger, StageRecord, read_ledger, write_ledger


def record(*inputs: str, **changes) -> StageRecord:
    values = {"status": "done", "fingerprint": "ab", "version": 1, "settings": {}, "inputs": inputs}
    return StageRecord(**values | changes)


# scores -> dual -> labels -> policy; reward beside them.
STAGES = {
    "scores": record(settings={"beta": 0.1, "names": ["safety"], "none": None}),
    "reward": record("scores"),
    "dual": record("scores", outputs={"dual.json": "cd"}, seconds=1.25, peak_memory_mib=7),
    "labels": record("dual"),
    "policy": record("labels", "scores", status="running"),
}


def test_a_ledger_comes_back_as_it_was_written(tmp_path):
    ledger = Ledger(stages=STAGES, answers={"safety-margin-1": Answer("ef", {"dual": STAGES["dual"]})})
    write_ledger(tmp_path, ledger)
    found = read_ledger(tmp_path)
    assert found.stages == STAGES and found.answers == ledger.answers
    assert found.alignjax == alignjax.__version__ and found.versions["jax"] == jax.__version__
    assert found.environment["devices"] == ("cpu:cpu",) * 8 and found.environment["processes"] == 1


def test_a_folder_without_run_json_has_no_stages(tmp_path):
    assert read_ledger(tmp_path) == Ledger()


def test_dependents_read_a_stage_directly_or_not():
    ledger = Ledger(stages=STAGES)
    assert ledger.dependents("dual") == ["dual", "labels", "policy"]
    assert ledger.dependents("scores") == list(STAGES)
    assert ledger.dependents("policy") == ["policy"]
    assert list(ledger.without(["dual", "policy"]).stages) == ["scores", "reward", "labels"]


def test_a_stage_keeps_its_place_and_a_new_one_is_the_last():
    ledger = Ledger(stages=STAGES).with_stage("dual", record("scores", version=2))
    assert list(ledger.stages) == list(STAGES) and ledger.stages["dual"].version == 2
    assert list(ledger.with_stage("evaluation", record()).stages)[-1] == "evaluation"


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value["stages"]["dual"].update(status="running"),
        lambda value: value["stages"]["dual"]["outputs"].update({"dual.json": "ce"}),
        lambda value: value["stages"]["scores"]["settings"].update(beta=0.2),
        lambda value: value["stages"].pop("labels"),
        lambda value: value.update(sha256="00"),
        lambda value: value.pop("sha256"),
        lambda value: value.update(python="2.7"),
    ],
)
def test_an_edited_record_is_refused(tmp_path, edit):
    write_ledger(tmp_path, Ledger(stages=STAGES))
    path = tmp_path / "run.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"run\.json: was damaged or edited .* or run again in a new folder"):
        read_ledger(tmp_path)


@pytest.mark.parametrize("path", ["../elsewhere", "/tmp/elsewhere", "policy/../../elsewhere"])
@pytest.mark.parametrize("where", ["output", "output of an answer", "name of an answer"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, path, where):
    # A folder from elsewhere must not have files moved that are not its own.
    stage = record(outputs={path: "ab"}) if where.startswith("output") else record()
    answers = {path if where.startswith("name") else "a": Answer("ef", {"dual": stage})}
    ledger = Ledger(stages={"dual": stage}) if where == "output" else Ledger(answers=answers)
    write_ledger(tmp_path, ledger)
    with pytest.raises(InputError, match=r"run\.json: names a file outside of the folder, '.*elsewhere'"):
        read_ledger(tmp_path)


def test_layout_does_not_count(tmp_path):
    write_ledger(tmp_path, Ledger(stages=STAGES))
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
    assert read_ledger(tmp_path).stages == STAGES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"run\.json: is not valid JSON"),
        ('{"stages": {', r"run\.json: is not valid JSON"),
        ("\xff", r"run\.json: is not valid JSON"),
        ("[1]", r"run\.json: is not the record of a run"),
        ("null", r"run\.json: is not the record of a run"),
        # What earlier releases wrote: no format number.
        (
            '{"version": "0.1.0", "stages": {"dual": {"status": "done"}}}',
            r"run\.json: has format None",
        ),
        ('{"format": 1, "stages": {}}', r"run\.json: has format 1, this version of alignjax reads format 3"),
        ('{"format": 2, "stages": {}}', r"run\.json: has format 2"),
        ('{"format": 4, "stages": {}}', r"run\.json: has format 4"),
        ('{"format": 3, "stages": {"dual": {}}}', r"run\.json\.stages\.dual\.status: is missing"),
        ('{"format": 3, "steps": {}}', r"run\.json\.steps: no such field"),
    ],
)
def test_what_is_no_record_of_this_format_is_refused(tmp_path, text, message):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        read_ledger(tmp_path)
    assert "\n" not in str(caught.value)
