"""What is published: a source archive that holds all of the clone, and a wheel that runs far from it.

Both are built without network. .ci/run does the main job by the installed wheel.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import alignjax

ROOT = Path(alignjax.__file__).parents[1]
NEEDED = 77  # what pyproject.toml's build-system requires
LEFT_OUT = (".gitignore",)


def installed_setuptools() -> int:
    """Its major version; 0: there is none."""
    try:
        return int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        return 0


pytestmark = pytest.mark.skipif(
    installed_setuptools() < NEEDED,
    reason=f"building needs setuptools {NEEDED} or newer: pip install -e '.[test]'",
)


class Built(NamedTuple):
    """The files of both archives by name, and the wheel unpacked as an installer does it."""

    source: set[str]
    wheel: set[str]
    installed: Path


def build(what: str, folder: Path, output: Path) -> Path:
    code = f"from setuptools import build_meta; build_meta.build_{what}({str(output)!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (archive,) = output.iterdir()
    return archive


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel is built from the source archive, and that from a copy: building writes into its folder."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("source", "wheel"):
        (folder / name).mkdir()
    made = (".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "runs", "build", "dist")
    shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(*made))
    archive = build("sdist", folder / "copy", folder / "source")
    with tarfile.open(archive) as opened:
        source = {name.partition("/")[2] for name in opened.getnames()}
        # Older releases of Python 3.11 have no filters, and newer ones warn where none is given.
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        opened.extractall(folder / "unpacked", **safe)
    (unpacked,) = (folder / "unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked, folder / "wheel")) as opened:
        opened.extractall(folder / "installed")
        return Built(source, set(opened.namelist()), folder / "installed")


def test_the_source_archive_is_complete(built):
    if not (ROOT / ".git").exists():
        pytest.skip("no clone: nothing lists the files that belong to it")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert len(tracked) > 400
    assert tracked - built.source == set(LEFT_OUT)


def test_the_wheel_is_the_package_with_its_configurations(built):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "alignjax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configs = {f"alignjax/{path.relative_to(ROOT)}" for path in (ROOT / "configs").glob("*.py")}
    assert configs == {"alignjax/configs/mocan.py", "alignjax/configs/pecan.py"}
    folder = f"alignjax-{alignjax.__version__}.dist-info/"
    about = {name for name in built.wheel if name.startswith(folder)}
    assert built.wheel == package | configs | about
    assert {f"{folder}licenses/LICENSE", f"{folder}METADATA"} <= about
    script = (built.installed / folder / "entry_points.txt").read_text().split("\n")
    assert script[:2] == ["[console_scripts]", "alignjax = alignjax.__main__:main"]
    assert f"Version: {alignjax.__version__}" in (built.installed / folder / "METADATA").read_text()


def test_it_runs_far_from_the_clone(built, tmp_path):
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        """As the script that an installer writes."""
        code = "from alignjax.__main__ import main; import alignjax, sys; print(alignjax.__file__); main()"
        return subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(built.installed)},
            capture_output=True,
            text=True,
            check=False,
        )

    home = f"{built.installed}/alignjax/__init__.py\n"
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"{home}alignjax {alignjax.__version__}\n"), done.stderr
    # The configuration is found in the wheel and read; what is refused is the number.
    done = run("train", "pecan", "--config.beta=-1.0")
    assert (done.returncode, done.stdout) == (2, home)
    assert done.stderr.startswith("config.beta: is -1.0, must be ") and done.stderr.count("\n") == 1
