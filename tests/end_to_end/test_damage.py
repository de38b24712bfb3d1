"""Damage and edits in a finished run's folder: named in one line, before anything is computed from them."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignjax import runs
from alignjax.errors import InputError
from alignjax.evaluate import evaluate
from alignjax.export import export

MARGIN = 0.02


@pytest.fixture
def whole(tiny_run):
    """A finished run that was asked for MARGIN."""
    return tiny_run


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def change_lines(path, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, **change(row)}) + "\n" for row in rows))


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, indent=1))


def change_arrays(path, change):
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(
        path, **{name: change(value) if value.dtype.kind == "f" else value for name, value in arrays.items()}
    )


def change_weight(path, value):
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name] = weights[name].copy()
    weights[name].flat[0] = value
    save_file(weights, path, {"format": "pt"})


def edit_dual(value):
    value["lam"]["safety"] = 0.0


# Edits that leave a valid file behind: nothing but a digest can tell.
EDITS = {
    "labels.jsonl": lambda path: change_lines(path, lambda row: {"label": 1 - row["label"]}),
    "samples.jsonl": lambda path: change_lines(path, lambda row: {"response": "sorry"}),
    "scores_raw.npz": lambda path: change_arrays(path, lambda values: 3 * values),
    "scores.npz": lambda path: change_arrays(path, lambda values: 3 * values),
    "pair_scores.npz": lambda path: change_arrays(path, lambda values: -values),
    "calibration.json": lambda path: change_json(path, lambda v: v["matrix"][0].reverse()),
    "dual.json": lambda path: change_json(path, edit_dual),
    "reference/model.safetensors": lambda path: change_weight(path, 50.0),
    "evaluation.json": lambda path: change_json(path, lambda v: v["policies"].pop("reward")),
    "evaluation_scores/aligned.npz": lambda path: change_arrays(path, lambda values: values + 1),
    "test.json": lambda path: change_json(path, lambda v: v.update(accepted=True)),
    "evaluation_samples/reward.jsonl": lambda path: change_lines(path, lambda row: {"response": ""}),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_named_with_its_stage(copy, tiny_config, name):
    EDITS[name](copy / name)
    with pytest.raises(InputError, match=r"--redo=") as refused:
        runs.run(tiny_config(margin=MARGIN), copy)
    assert str(copy / name) in str(refused.value) and "\n" not in str(refused.value)


def test_an_edit_of_the_record_itself_is_noticed(copy, tiny_config):
    def trust(value):
        value["stages"]["labels"]["outputs"]["labels.jsonl"] = "0" * 64

    change_json(copy / "run.json", trust)
    with pytest.raises(InputError, match=r"run\.json: was damaged or edited"):
        runs.run(tiny_config(margin=MARGIN), copy)


def test_a_damaged_stage_is_computed_again_where_that_is_asked(copy, whole, tiny_config, stages_done, capsys):
    EDITS["labels.jsonl"](copy / "labels.jsonl")
    runs.run(tiny_config(margin=MARGIN), copy, redo="labels")
    scored = ["evaluation samples/aligned", "evaluation scores/aligned", "test", "evaluation"]
    again = ["labels", "policy", *scored]
    assert stages_done(capsys.readouterr().out) == again
    for name in ("labels.jsonl", "test.json", "evaluation.json"):
        assert (copy / name).read_bytes() == (whole / name).read_bytes()


def test_cached_log_probabilities_are_not_believed_when_they_changed(copy, tiny_config):
    [path] = (copy / "cache").glob("logps-reference-*.npz")
    change_arrays(path, lambda values: np.where(np.arange(len(values))[:, None] == 3, np.nan, values))
    with pytest.raises(InputError, match=rf"{path.name}: damaged"):
        runs.run(tiny_config(margin=MARGIN), copy, redo="reward")


def test_export_writes_nothing_of_a_changed_adapter(copy, tmp_path):
    file = max((copy / "policy" / "best").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"policy/best/.*: changed after stage policy wrote its files"):
        export(copy, tmp_path / "out", adapter_only=False)
    assert not (tmp_path / "out").exists()


def test_evaluate_and_export_do_not_train(copy, tmp_path):
    change_json(copy / "config.json", lambda v: v["align"].update(learning_rate=0.5))
    with pytest.raises(InputError, match=r"stage policy is not done.*would compute policy, .*evaluation"):
        evaluate(copy)
    with pytest.raises(InputError, match="stage policy is not done"):
        export(copy, tmp_path / "out", adapter_only=True)


def test_a_function_that_a_folder_names_is_not_imported(copy, tmp_path, monkeypatch):
    (tmp_path / "from_elsewhere.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    change_json(copy / "config.json", lambda v: v["judges"]["safety"].update(function="from_elsewhere:judge"))
    with pytest.raises(InputError, match="--allow_function=from_elsewhere:judge"):
        evaluate(copy)


def damaged(content, kind):
    middle = len(content) // 2
    return {
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if content
        else b"x",
        "cut": content[:middle],
        "emptied": b"",
        "garbage": b"\x00\xff not what was here",
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flipped", "cut", "emptied", "garbage"])
def test_every_file_in_every_way(whole, tmp_path, tiny_config, kind):
    """Either one line that names the file or its folder, or the results that were there before."""
    results = ("dual.json", "labels.jsonl", "evaluation.json")
    unnoticed = []
    for path in sorted(p for p in whole.rglob("*") if p.is_file()):
        name = path.relative_to(whole)
        copy = shutil.copytree(whole, tmp_path / "copy")
        (copy / name).write_bytes(damaged(path.read_bytes(), kind))
        try:
            runs.run(tiny_config(margin=MARGIN), copy)
        except InputError as error:
            assert "\n" not in str(error) and name.parts[0].split(".")[0] in str(error), (name, str(error))
        else:
            if any((copy / r).read_bytes() != (whole / r).read_bytes() for r in results):
                unnoticed.append(str(name))
        shutil.rmtree(copy)
    assert unnoticed == []
