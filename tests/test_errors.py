"""Near misses: the nearest name, file or folder, and what to do about a model that is not here."""

import pytest

from alignjax.errors import did_you_mean, file_near, no_model


def test_the_nearest_name():
    assert did_you_mean("safty", ["reward", "safety"]) == "did you mean safety? "
    assert did_you_mean("xyz", ["reward", "safety"]) == ""


def test_the_nearest_file_of_the_folder(tmp_path):
    (tmp_path / "reward.jsonl").touch()
    assert file_near(tmp_path / "rewrd.jsonl") == f"did you mean {tmp_path / 'reward.jsonl'}? "
    assert file_near(tmp_path / "other.csv") == ""
    assert file_near(tmp_path / "nowhere" / "reward.jsonl") == ""


@pytest.mark.parametrize("name", ["meta-llama/Llama-3-8B", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_name_on_a_hub_is_not_downloaded(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = name.partition("/")[2]
    assert str(no_model(name)) == (
        f"{name}: no such folder, and names on a hub are not downloaded; get it with "
        f"`hf download {name} --local-dir={folder}`, then give {folder}."
    )


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama").mkdir(parents=True)
    assert "did you mean models/llama? give a Hugging Face" in str(no_model("models/lama"))
    assert str(no_model("nowhere")).startswith("nowhere: no such file or folder; give a Hugging Face model")
