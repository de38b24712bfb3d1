"""The launch scripts against stub programs that record their calls and answer as a test tells them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
PLATFORMS = ("gcloud", "kubectl", "sbatch", "sky", "srun", "scancel", "scontrol", "squeue")

# Arguments that any carelessness about quoting breaks.
AWKWARD = (
    "--config.a=two words",
    '--config.b=it\'s "quoted" `id`',
    "--config.c=$HOME $(id) ${x} $$",
    "--config.d=first\nsecond\n",
    "--config.e=back\\slash \\n & ; | > * ~ # !",
    "--config.f=",
    "",
    "--config.g=\ttab é",
)

# A call is recorded as its number of words and the words, each with a NUL at its end. $n counts the calls.
# A rule is a piece of bash that sees $tool, $n and the arguments, and may print and exit; without one the
# answer is status 0.
STUB = r"""#!/usr/bin/env bash
tool=${0##*/}
printf '%s\0' "$(($# + 1))" "$tool" "$@" >>"$STUB_DIR/calls"
echo >>"$STUB_DIR/count"
mapfile -t lines <"$STUB_DIR/count"
n=${#lines[@]}
source "$STUB_DIR/rule"
exit 0
"""

# python -m alignjax.train: records its arguments and ends with the status in a file, if there is one.
PYTHON = r"""#!/usr/bin/env bash
printf '%s\0' "$#" "$@" >>"$STUB_DIR/python"
if [[ -e $STUB_DIR/status ]]; then exit "$(<"$STUB_DIR/status")"; fi
"""

# Every script with the flags that it must have, and some that it may have.
COMMANDS = {
    "tpu_vm": (
        "--zone=z-a",
        "--project=p",
        "--type=v6e-8",
        "--config=configs/pecan.py:tiny",
        "--workdir=runs/it is",
    ),
    "queued_resources": (
        *("--zone=z-a", "--project=p", "--type=v5litepod-16", "--bucket=b"),
        *("--config=configs/pecan.py", "--workdir=/bucket/it is", "--poll=0"),
    ),
    "gke": (
        *("--cluster=c", "--zone=z", "--project=p", "--type=tpu-v6e-slice", "--topology=4x4", "--image=i"),
        *("--bucket=b", "--config=configs/pecan.py", "--workdir=/bucket/it is", "--poll=0", "--slices=2"),
    ),
    "slurm": ("--nodes=2", "--gpus=8", "--config=configs/pecan.py", "--workdir=runs/it is"),
    "skypilot": (
        *("--accelerator=tpu-v6e-8", "--bucket=gs://b"),
        *("--config=configs/pecan.py", "--workdir=/bucket/it is"),
    ),
}

# What the platforms answer when all goes well.
ANSWERS = r"""
case "$tool $*" in
  gcloud*queued-resources\ describe*) echo ACTIVE ;;
  gcloud*tpu-vm\ describe*) echo READY ;;
  kubectl*get*terminalState*) echo Completed ;;
  sky\ status*) echo '[{"name": "another"}]' ;;
  squeue*) echo RUNNING ;;
  sbatch*) echo 4711 ;;
esac
"""


class Ended(NamedTuple):
    """How a script ended."""

    status: int
    out: str
    err: str


def split(record: bytes) -> list[list[str]]:
    """Calls out of what the stubs wrote."""
    words, calls = record.decode().split("\0")[:-1], []
    while words:
        length = int(words[0])
        calls.append(words[1 : length + 1])
        words = words[length + 1 :]
    return calls


class Stubs:
    """A folder of stub programs, first on PATH, and what they were called with."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.home = folder / "home"
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "TMPDIR": str(folder),
            "STUB_DIR": str(folder),
            "FOLLOW_SECONDS": "0.02",
        }
        (folder / "bin").mkdir()
        for tool in (*PLATFORMS, "tar"):
            self.add(tool)
        self.rule("")

    def add(self, tool: str, text: str = STUB) -> None:
        """One more stub."""
        program = self.folder / "bin" / tool
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)

    def rule(self, text: str) -> None:
        """What the stubs do from now on, before the usual answers."""
        (self.folder / "rule").write_text(text + ANSWERS, encoding="utf-8")

    def machine(self) -> None:
        """A home that `ssh` leads to, with the project's worker.sh and a stub of its python."""
        project = self.home / "alignjax"
        (project / "launch").mkdir(parents=True)
        (project / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(LAUNCH / "worker.sh", project / "launch")
        python = project / ".venv" / "bin" / "python"
        python.write_text(PYTHON, encoding="utf-8")
        python.chmod(0o755)

    def start(self, *command: object) -> subprocess.Popen[str]:
        """Starts a program; in a folder of its own, since scripts write there."""
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: object) -> Ended:
        """Runs a program to its end."""
        with self.start(*command) as process:
            out, err = process.communicate(timeout=60)
        return Ended(process.returncode, out, err)

    def launch(self, platform: str, *arguments: str) -> Ended:
        """Runs a platform's script with the flags it must have and these."""
        return self.run(*self.command(platform, *arguments))

    def command(self, platform: str, *arguments: str) -> list[str]:
        """The words of `launch`."""
        return [str(LAUNCH / platform / "run.sh"), "--name=run-1", *COMMANDS[platform], *arguments]

    def calls(self) -> list[list[str]]:
        """The calls so far, forgotten then."""
        return self._take("calls")

    def python(self) -> list[list[str]]:
        """The arguments of each python so far, forgotten then."""
        return self._take("python")

    def _take(self, name: str) -> list[list[str]]:
        record = self.folder / name
        taken = split(record.read_bytes()) if record.exists() else []
        for file in (record, self.folder / "count"):
            file.unlink(missing_ok=True)
        return taken


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    """Stub programs for one test."""
    return Stubs(tmp_path)


@pytest.fixture(scope="session")
def launch_folder() -> Path:
    """The folder of the scripts."""
    return LAUNCH


@pytest.fixture(scope="session")
def awkward() -> tuple[str, ...]:
    """Arguments that are hard to pass on."""
    return AWKWARD
