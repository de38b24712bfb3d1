"""Arguments reach `python -m alignjax.train` as they were written, through every shell and file between."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
MODULE = ["-m", "alignjax.train", "--distributed"]

# ssh gives the command to the shell of the machine; here `sh`, which reads less than bash does.
SSH = r"""
if [[ "$*" == *--command=*worker.sh\ [sf][to]* ]]; then
  for word in "$@"; do
    if [[ $word == --command=* ]]; then (cd "$HOME" && exec sh -c "${word#--command=}"); exit; fi
  done
fi
"""


@pytest.mark.parametrize("platform", ["tpu_vm", "queued_resources"])
def test_through_ssh(stubs, awkward, platform):
    stubs.machine()
    stubs.rule(SSH)
    ended = stubs.launch(platform, "--config=a dir/it's.py:tiny", "--", *awkward)
    assert ended.status == 0, ended.err
    workdir = {"tpu_vm": "runs/it is", "queued_resources": "/bucket/it is"}[platform]
    assert stubs.python() == [[*MODULE, "--config=a dir/it's.py:tiny", f"--workdir={workdir}", *awkward]]


def test_the_status_of_training_comes_back_through_ssh(stubs):
    stubs.machine()
    stubs.rule(SSH)
    (stubs.folder / "status").write_text("3")
    assert stubs.launch("tpu_vm").status == 3
    assert ["delete" in call.words for call in stubs.calls()].count(True) == 1


def expanded(argument: str) -> str:
    """What Kubernetes makes of an argument: $$ is $, and $(NAME) would be the variable's value."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", argument)
    return argument.replace("$$", "$")


def manifest(stubs):
    return yaml.safe_load((stubs.folder / "run-1.jobset.yaml").read_text(encoding="utf-8"))


def test_through_a_manifest(stubs, awkward):
    ended = stubs.launch("gke", "--image=host/i:1", "--spot", "--max_restarts=5", "--", *awkward)
    assert ended.status == 0, ended.err
    jobset = manifest(stubs)
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", *MODULE]
    given = ["--config=configs/pecan.py", "--workdir=/bucket/it is", *awkward]
    assert [expanded(argument) for argument in container["args"]] == given
    assert jobset["metadata"]["name"] == "run-1" and container["image"] == "host/i:1"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    # 16 chips of a 4x4 slice, 4 on each node.
    assert (group["replicas"], job["completions"], job["parallelism"]) == (2, 4, 4)
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_a_manifest_tries_no_final_status_again(stubs):
    assert stubs.launch("gke", "--max_restarts=5").status == 0
    spec = manifest(stubs)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    # Kubernetes takes a policy for exit codes only with pods that are never restarted in place.
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [2, 3]}
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] == 5
    assert policy["rules"] == [
        {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]


@pytest.mark.parametrize(
    "accelerator, extra, spot", [("tpu-v5litepod-16", "tpu", ["--spot"]), ("H100:8", "cuda", [])]
)
def test_through_a_sky_task(stubs, awkward, accelerator, extra, spot):
    ended = stubs.launch("skypilot", f"--accelerator={accelerator}", *spot, "--", *awkward)
    assert ended.status == 0, ended.err
    (call,) = [call for call in stubs.calls() if "launch" in call.words]
    task = yaml.safe_load(Path(call.words[-1]).read_text(encoding="utf-8"))
    variables = dict(variable.split("=", 1) for variable in call.flags["--env"])
    assert set(variables) == set(task["envs"])
    assert variables["ALIGNJAX_BUCKET"] == "gs://b" and "\n" not in variables["ALIGNJAX_ARGS"]
    assert task["setup"] == f"bash launch/worker.sh setup {extra}\n"
    stubs.machine()
    project, environment = stubs.home / "alignjax", stubs.environment | variables
    subprocess.run(["bash", "-c", task["run"]], cwd=project, env=environment, check=True)
    given = ["--config=configs/pecan.py", "--workdir=/bucket/it is", *awkward]
    # GPUs are those of one machine: there is nobody to join.
    module = MODULE if extra == "tpu" else MODULE[:2]
    assert stubs.python() == [[*module, *given]]


@pytest.mark.parametrize("name", ["tpu", "gpu"])
def test_a_sky_task_recovers_from_75_and_from_no_other_status(name):
    task = yaml.safe_load((LAUNCH / "skypilot" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert task["resources"]["job_recovery"] == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [75]}
    assert task["file_mounts"] == {"/bucket": {"source": "${ALIGNJAX_BUCKET}", "mode": "MOUNT"}}


def test_through_slurm(stubs, awkward):
    # The job's script gets its arguments from SLURM as they were; srun starts the program.
    stubs.add("srun", '#!/usr/bin/env bash\nshift 2\nexec "$@"\n')
    python = stubs.machine()
    ended = stubs.launch("slurm", f"--python={python}", "--", *awkward)
    assert ended.status == 0 and ended.out == "4711\n", ended.err
    (call,) = stubs.calls()
    assert call.words[0] == str(LAUNCH / "slurm" / "train.sbatch")
    assert stubs.run(*call.words).status == 0
    given = ["--config=configs/pecan.py", "--workdir=runs/it is", *awkward]
    assert stubs.python() == [[*MODULE, *given]]


def test_slurm_options(stubs):
    options = ["--time=04:00:00", "--partition=a b", "--account=c", "--qos=d", "--output=log"]
    assert stubs.launch("slurm", "--type=h100", *options).status == 0
    (call,) = stubs.calls()
    wanted = {name: [value] for name, value in (option.split("=") for option in options)}
    wanted |= {"--gpus-per-node": ["h100:8"], "--ntasks-per-node": ["8"]}
    assert wanted.items() <= call.flags.items()


def test_slurm_one_process_a_node_sees_all_its_gpus(stubs):
    stubs.rule('printf %s "${JAX_LOCAL_DEVICE_IDS:-unset}"; exit')
    assert stubs.launch("slurm", "--process=node").out == "0,1,2,3,4,5,6,7"
    (call,) = stubs.calls()
    assert {"--ntasks-per-node": ["1"], "--gpus-per-node": ["8"]}.items() <= call.flags.items()
    assert stubs.launch("slurm", "--process=gpu").out == "unset"


@pytest.mark.parametrize("platform", ["tpu_vm", "queued_resources", "skypilot"])
def test_the_name_of_a_secret_travels_and_not_its_value(stubs, platform):
    stubs.environment["TOKEN"] = "not for the command line"
    stubs.machine('#!/usr/bin/env bash\nprintf %s "$TOKEN" >"$STUB_DIR/token"\n')
    stubs.rule('if [[ "$*" == *secrets* ]]; then echo "from the manager"; exit; fi\n' + SSH)
    assert stubs.launch(platform, "--secret=TOKEN").status == 0
    calls = stubs.calls()
    assert "not for the command line" not in str(calls)
    if platform != "skypilot":
        words = ["secrets", "versions", "access", "latest"]
        assert [call.flags for call in calls if call.words == words] == [{"--secret": ["TOKEN"]}]
        assert (stubs.folder / "token").read_text() == "from the manager"
