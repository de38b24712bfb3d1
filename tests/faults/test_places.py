"""Places that hold no run, or cannot be written to."""

import json
import pathlib

import pytest

import alignjax

CONFIG = pathlib.Path(alignjax.__file__).parents[1] / "configs" / "pecan.py"


@pytest.mark.parametrize("name", ["evaluate", "export"])
def test_a_folder_that_is_no_run(refusal, tmp_path, name):
    output = [f"--output={tmp_path / 'out'}"] if name == "export" else []
    for workdir in (tmp_path / "nowhere", tmp_path):
        line = refusal(name, f"--workdir={workdir}", *output)
        assert f"{workdir / 'config.json'}: is missing; --workdir must name the folder of a run" in line
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["evaluate", "export"])
def test_a_run_that_has_only_begun(command, refusal, tmp_path, name):
    # What is written before the first stage: the configuration alone.
    config = tmp_path / "begun" / "config.json"
    write(config, _tiny())
    output = [f"--output={tmp_path / 'out'}"] if name == "export" else []
    line = refusal(name, f"--workdir={config.parent}", *output)
    assert "stage reference is not done" in line and "python -m alignjax.train" in line
    config.write_text("{")
    assert "config.json: is not valid JSON" in refusal(name, f"--workdir={config.parent}", *output)
    config.write_text('{"method": "pecan"}')
    assert "config.constraints: is empty" in refusal(name, f"--workdir={config.parent}", *output)
    config.write_text("[]")
    assert "config.json: is not a configuration" in refusal(name, f"--workdir={config.parent}", *output)
    write(config, _tiny())
    for text in ("{", "[]", "{}", '{"stages": []}'):
        (config.parent / "run.json").write_text(text)
        assert "run.json" in refusal(name, f"--workdir={config.parent}", *output)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _tiny():
    import importlib.util

    spec = importlib.util.spec_from_file_location("pecan_config", CONFIG)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return json.loads(json.dumps(module.get_config("tiny").to_dict()))


def test_a_workdir_that_cannot_be_made(refusal, unwritable):
    assert str(unwritable) in refusal("train", f"--config={CONFIG}", f"--workdir={unwritable}")
    assert str(unwritable.parent) in refusal("train", f"--config={CONFIG}", f"--workdir={unwritable.parent}")


def test_a_workdir_without_permission(refusal, locked):
    assert str(locked / "run") in refusal("train", f"--config={CONFIG}", f"--workdir={locked / 'run'}")


@pytest.mark.parametrize("where", ["unwritable", "folder"])
def test_an_output_that_cannot_be_written(refusal, model, lines, unwritable, tmp_path, where):
    given = lines("in.jsonl", {"prompt": "p", "response": "r"})
    output = {"unwritable": unwritable / "out.jsonl", "folder": tmp_path}[where]
    for name, option in (("sample", "--prompts"), ("score", "--input")):
        more = ["--max_new_tokens=1"] if name == "sample" else []
        line = refusal(name, f"--model={model}", f"{option}={given}", f"--output={output}", *more)
        assert f"--output={output}" in line
