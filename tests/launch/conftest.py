"""The launch scripts against stub programs that record their calls and answer as a test tells them."""

import os
import shlex
import shutil
import signal
import subprocess
import time
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


# After the first word that is no flag, what follows belongs to the program or the files that the word names.
FLAGS_FIRST = ("sbatch", "srun", "tar")


class Ended(NamedTuple):
    """How a script ended."""

    status: int
    out: str
    err: str


class Call(NamedTuple):
    """One call of a tool, as the tool itself reads it.

    Attributes:
      tool: its name.
      words: positional words, in order.
      flags: the values of every flag, sorted; a flag without a value has "".
    """

    tool: str
    words: list[str]
    flags: dict[str, list[str]]

    @property
    def remote(self) -> list[str]:
        """The words of the command for another machine's shell; empty: there is none."""
        return shlex.split(" ".join(self.flags.get("--command", [])))


def parse(line: list[str]) -> Call:
    """Reads the words of a command; the order of flags means nothing in any of the tools."""
    tool, *rest = line
    words: list[str] = []
    flags: dict[str, list[str]] = {}
    for word in rest:
        if not word.startswith("-") or (words and tool in FLAGS_FIRST):
            words.append(word)
            continue
        name, _, value = word.partition("=")
        # However the words of a shell command are quoted, the shell reads the same.
        value = shlex.join(shlex.split(value)) if name == "--command" else value
        flags[name] = sorted([*flags.get(name, []), value])
    return Call(tool, words, flags)


def split(record: str) -> list[list[str]]:
    """Commands out of a record: each as its number of words and the words, a NUL after every one."""
    words, commands = record.split("\0")[:-1], []
    while words:
        length = int(words[0])
        commands.append(words[1 : length + 1])
        words = words[length + 1 :]
    return commands


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

    def machine(self, python: str = PYTHON) -> Path:
        """A home that `ssh` leads to, with the project's worker.sh; returns the stub of its python there."""
        project = self.home / "alignjax"
        (project / "launch").mkdir(parents=True)
        (project / ".venv" / "bin").mkdir(parents=True)
        shutil.copy(LAUNCH / "worker.sh", project / "launch")
        program = project / ".venv" / "bin" / "python"
        program.write_text(python, encoding="utf-8")
        program.chmod(0o755)
        return program

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

    def run_until(self, file: str, sent: signal.Signals, *command: object) -> Ended:
        """Runs a program, and sends it a signal once a stub has made the file."""
        with self.start(*command) as process:
            self.wait_for(file)
            process.send_signal(sent)
            out, err = process.communicate(timeout=20)
        return Ended(process.returncode, out, err)

    def wait_for(self, file: str) -> None:
        """Waits until a stub has made the file."""
        started = time.monotonic()
        while not (self.folder / file).exists():
            assert time.monotonic() - started < 20, f"{file} was not made"
            time.sleep(0.01)

    def calls(self) -> list[Call]:
        """The calls so far, forgotten then."""
        return [parse(words) for words in self._take("calls")]

    def read(self, lines: str) -> list[Call]:
        """Calls written as commands, as bash reads them; without the clearing up on this machine."""
        program = 'while IFS= read -r line; do eval "set -- $line"; printf "%s\\0" "$#" "$@"; done'
        done = subprocess.run(
            ["bash", "-c", program], input=lines, capture_output=True, text=True, check=True
        )
        return [parse(words) for words in split(done.stdout) if words[0] != "rm"]

    def python(self) -> list[list[str]]:
        """The arguments of each python so far, forgotten then."""
        return self._take("python")

    def _take(self, name: str) -> list[list[str]]:
        record = self.folder / name
        taken = split(record.read_bytes().decode()) if record.exists() else []
        for file in (record, self.folder / "count"):
            file.unlink(missing_ok=True)
        return taken


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    """Stub programs for one test."""
    return Stubs(tmp_path)


@pytest.fixture(scope="session")
def awkward() -> tuple[str, ...]:
    """Arguments that are hard to pass on."""
    return AWKWARD
