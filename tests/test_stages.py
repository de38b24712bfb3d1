import json

import pytest

from alignjax.errors import InputError
from alignjax.runtime.files import write_text
from alignjax.stages import Stages, file_digest, read_json, write_json


def pipeline(workdir, calls, *, margin=1.0, seed=0):
    """Three stages in a row; each leaves its name in `calls` when it works."""
    stages = Stages(workdir, say=lambda line: None)

    def work(name):
        def write():
            calls.append(name)
            write_text(workdir / f"{name}.txt", name)

        return write

    stages.run("scores", work("scores"), settings={"seed": seed}, outputs=["scores.txt"])
    stages.run("dual", work("dual"), settings={"margin": margin}, inputs=["scores"], outputs=["dual.txt"])
    stages.run("policy", work("policy"), settings={}, inputs=["dual"], outputs=["policy.txt"])
    return calls


def test_finished_stages_are_skipped(tmp_path):
    assert pipeline(tmp_path, []) == ["scores", "dual", "policy"]
    assert pipeline(tmp_path, []) == []


def test_a_changed_margin_redoes_the_dual_and_what_follows(tmp_path):
    pipeline(tmp_path, [])
    assert pipeline(tmp_path, [], margin=2.0) == ["dual", "policy"]
    assert pipeline(tmp_path, [], margin=2.0, seed=1) == ["scores", "dual", "policy"]


def test_a_missing_output_redoes_its_stage_alone(tmp_path):
    pipeline(tmp_path, [])
    (tmp_path / "dual.txt").unlink()
    assert pipeline(tmp_path, []) == ["dual"]


def test_a_stage_that_failed_is_not_done(tmp_path):
    stages = Stages(tmp_path, say=lambda line: None)

    def fail():
        write_text(tmp_path / "out.txt", "half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        stages.run("one", fail, settings={}, outputs=["out.txt"])
    assert stages.records()["one"]["status"] == "running"
    calls = []
    stages.run("one", lambda: calls.append("one"), settings={}, outputs=["out.txt"])
    assert calls == ["one"]


def test_records_hold_seconds_versions_and_devices(tmp_path):
    pipeline(tmp_path, [])
    record = json.loads((tmp_path / "run.json").read_text())
    assert list(record["stages"]) == ["scores", "dual", "policy"]
    assert record["stages"]["dual"]["seconds"] >= 0
    assert record["versions"]["jax"] and len(record["devices"]) == 8


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json: is not valid JSON"):
        read_json(tmp_path / "run.json")


def test_json_never_holds_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_digest_is_of_content_not_of_place(tmp_path):
    for folder, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text(text)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
