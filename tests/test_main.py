"""`alignjax COMMAND`: which module it runs and how, and what is said where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import alignjax
from alignjax import __main__ as door

COMMANDS = ("data", "plan", "train", "evaluate", "compare", "export", "sample", "score", "solve")
PACKAGE = Path(alignjax.__file__).parent


@pytest.fixture
def given(monkeypatch, capsys):
    """given("train", "pecan") is the status, what is printed, and the module and arguments that are run."""

    def run(*arguments):
        ran = []
        monkeypatch.setattr(sys, "argv", ["alignjax", *arguments])
        monkeypatch.setattr(
            door.runpy, "run_module", lambda name, **options: ran.append((name, sys.argv[1:], options))
        )
        try:
            door.main()
            status = 0
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr(), ran

    return run


def test_every_command_of_the_package_is_listed():
    modules = [path for path in PACKAGE.glob("*.py") if "__name__ ==" in path.read_text()]
    modules += [path.parent for path in PACKAGE.glob("*/__main__.py")]
    assert tuple(door.COMMANDS) == COMMANDS
    assert sorted(path.stem for path in modules) == sorted((*COMMANDS, "__main__"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_run_as_its_module(given, name):
    status, out, err, ran = given(name, "--a=1", "b")
    assert (status, out, err) == (0, "", "")
    assert ran == [(f"alignjax.{name}", ["--a=1", "b"], {"run_name": "__main__", "alter_sys": True})]


@pytest.mark.parametrize("name", ["train", "plan"])
def test_the_configuration_needs_no_flag(given, name):
    for named in ("pecan:enumerable", "mine/own.py"):
        (_, arguments, _) = given(name, named, "--config.lam=1.0")[3][0]
        assert arguments == [f"--config={named}", "--config.lam=1.0"]
    assert given("solve", "scores.npz")[3][0][1] == ["scores.npz"]  # and no other command has one


def test_help_is_one_screen(given):
    for flag in ("--help", "-h", "help"):
        status, out, err, ran = given(flag)
        assert (status, err, ran) == (0, "", [])
        lines = out.splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 80
        assert [line.split()[0] for line in lines[2 : 2 + len(COMMANDS)]] == list(COMMANDS)
    assert given() == (2, "", out, [])


def test_version(given):
    assert given("--version") == (0, f"alignjax {alignjax.__version__}\n", "", [])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("trian", "did you mean train? "), ("eval", "did you mean evaluate? "), ("xyz", ""), ("--config=x", "")],
)
def test_a_near_miss_gets_the_nearest(given, name, hint):
    status, out, err, ran = given(name)
    assert (status, out, ran) == (2, "", [])
    assert err == f"alignjax: no command '{name}'; {hint}there are {', '.join(COMMANDS)}.\n"


def test_as_a_program(tmp_path):
    """From a folder that is not the clone: the statuses and lines of the command itself."""
    ended = subprocess.run(
        [sys.executable, "-m", "alignjax", "train", "pecan:huge"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("configs/pecan.py: no preset 'huge'; choose from tiny, ")
    assert ended.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_failure():
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "alignjax", "--help"]
        ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (0, "")
