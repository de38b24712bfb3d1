"""Configurations by name: the files that come with alignjax, wherever it is installed."""

from pathlib import Path

import pytest

import alignjax
from alignjax.config import shipped
from alignjax.config.shipped import config_file, shipped_folder, shipped_names
from alignjax.errors import InputError

CLONE = Path(alignjax.__file__).parents[1]


def test_in_a_clone_they_are_beside_the_package():
    assert shipped_folder() == CLONE / "configs"
    assert shipped_names() == ["mocan", "pecan"]


def test_in_a_wheel_they_are_within_it(tmp_path, monkeypatch):
    (tmp_path / "alignjax" / "configs").mkdir(parents=True)
    (tmp_path / "alignjax" / "configs" / "pecan.py").touch()
    (tmp_path / "configs").mkdir()  # of another package, beside this one
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "alignjax")
    assert shipped_names() == ["pecan"]
    assert config_file("pecan:tiny") == f"{tmp_path}/alignjax/configs/pecan.py:tiny"


def test_names_and_files(tmp_path, monkeypatch):
    assert config_file("mocan") == f"{CLONE}/configs/mocan.py"
    assert config_file("mocan:") == f"{CLONE}/configs/mocan.py:"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pecan.py").touch()
    for own in ("pecan.py", "./pecan.py:tiny", f"{tmp_path}/pecan.py"):
        assert config_file(own) == own


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("pcan:tiny", "--config=pcan: no such configuration; did you mean pecan? alignjax has mocan"),
        ("own", "--config=own: no such configuration; alignjax has mocan and pecan, and a file"),
        ("configs/pecan.py:tiny", "--config=configs/pecan.py: no such file; --config=pecan is the one"),
        ("own.py", "--config=own.py: no such file; give"),
        ("", "--config=: no such configuration; alignjax has mocan and pecan,"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, monkeypatch, argument, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        config_file(argument)
    assert str(refused.value).startswith(said)


def test_a_misspelled_file_gets_the_one_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pecan.py").touch()
    with pytest.raises(
        InputError, match=r"^--config=configs/pecna\.py: no such file; did you mean configs/pecan"
    ):
        config_file("configs/pecna.py:tiny")
