"""What is tried again and what is not: preemptions, status 75, statuses 2 and 3."""

import signal
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SBATCH = LAUNCH / "slurm" / "train.sbatch"


def kinds(calls) -> list[str]:
    """One word a call: what it does."""
    return [kind(call) for call in calls]


def kind(call) -> str:
    """The verb of `gcloud compute tpus KIND VERB`, or that of worker.sh."""
    if call.tool != "gcloud":
        return call.tool
    if call.remote:
        return call.remote[call.remote.index("launch/worker.sh") + 1]
    return "node describe" if call.words[2:4] == ["tpu-vm", "describe"] else call.words[3]


INSTALL = ["tar", "scp", "setup"]
FIRST = ["list", "create", "describe", *INSTALL, "start", "follow"]


def times(pattern: str, answers: dict[int, str]) -> str:
    """A rule for the calls that fit the pattern: an answer by the number among them, from 1."""
    cases = " ".join(f"{number}) {answer} ;;" for number, answer in answers.items())
    return f"""
if [[ "$tool $*" == {pattern} ]]; then
  file=$STUB_DIR/seen.{abs(hash(pattern))}
  echo >>"$file"
  mapfile -t seen <"$file"
  case ${{#seen[@]}} in {cases} esac
fi
"""


DESCRIBE, FOLLOW = "*queued-resources\\ describe*", "*worker.sh\\ follow*"


def test_waits_until_the_request_is_active(stubs):
    stubs.rule(times(DESCRIBE, {1: "echo WAITING_FOR_RESOURCES; exit", 2: "echo PROVISIONING; exit"}))
    assert stubs.launch("queued_resources").status == 0
    assert kinds(stubs.calls()) == [*FIRST[:2], *["describe"] * 3, *FIRST[3:], "delete"]


# The connection is lost, and the machine is gone by what the request or the machine itself says.
GONE = {
    "suspended": (times(DESCRIBE, {2: "echo SUSPENDED; exit"}), ["describe"]),
    "preempted": (
        times("*tpu-vm\\ describe*", {1: "echo PREEMPTED; exit"}),
        ["describe", "node describe"],
    ),
    "not found": (
        times(DESCRIBE, {2: "exit 1", 3: "exit 1", 4: "exit 1"}),
        ["describe"] * 3,
    ),
}


@pytest.mark.parametrize("status, gone", [(75, "suspended"), (255, "preempted"), (1, "not found")])
def test_after_a_preemption_it_is_created_again_and_goes_on(stubs, gone, status):
    answers, looks = GONE[gone]
    stubs.rule(times(FOLLOW, {1: f"exit {status}"}) + answers)
    ended = stubs.launch("queued_resources", "--", "--config.seed=3")
    assert ended.status == 0, ended.err
    calls = stubs.calls()
    second = [*FIRST[1:], "delete"]
    assert kinds(calls) == [*FIRST, *looks, "delete", *second]
    starts = [call for call in calls if kind(call) == "start"]
    assert len(starts) == 2 and starts[0] == starts[1]
    assert starts[0].remote[-2:] == ["--workdir=/bucket/it is", "--config.seed=3"]


def test_a_preemption_during_the_installation(stubs):
    stubs.rule(times("*setup*", {1: "exit 255"}) + times(DESCRIBE, {2: "echo SUSPENDING; exit"}))
    assert stubs.launch("queued_resources").status == 0
    assert kinds(stubs.calls())[:8] == [*FIRST[:6], "describe", "delete"]


def test_a_preemption_before_it_was_active(stubs):
    stubs.rule(times(DESCRIBE, {1: "echo SUSPENDED; exit", 2: "echo SUSPENDED; exit"}))
    assert stubs.launch("queued_resources").status == 0
    assert kinds(stubs.calls())[:6] == ["list", "create", "describe", "describe", "delete", "create"]


def test_a_request_that_fails_is_final(stubs):
    stubs.rule(times(DESCRIBE, {1: "echo FAILED; exit"}))
    ended = stubs.launch("queued_resources")
    assert ended.status == 1 and "the request failed" in ended.err
    assert kinds(stubs.calls()) == ["list", "create", "describe", "delete"]


def test_a_signal_on_a_machine_that_stays_starts_it_again_there(stubs):
    stubs.rule(times(FOLLOW, {1: "exit 75"}))
    assert stubs.launch("queued_resources").status == 0
    looks = ["describe", "node describe"]
    assert kinds(stubs.calls()) == [*FIRST, *looks, *FIRST[2:], "delete"]


@pytest.mark.parametrize("status, looks", [(2, []), (3, []), (1, ["describe", "node describe"])])
def test_final_statuses_are_not_tried_again(stubs, status, looks):
    stubs.rule(times(FOLLOW, {1: f"exit {status}"}))
    assert stubs.launch("queued_resources").status == status
    assert kinds(stubs.calls()) == [*FIRST, *looks, "delete"]


def test_restarts_are_counted(stubs):
    stubs.rule(f'if [[ "$tool $*" == {FOLLOW} ]]; then exit 75; fi')
    ended = stubs.launch("queued_resources", "--max_restarts=2")
    assert ended.status == 75 and "given up after 2 restarts" in ended.err
    assert kinds(stubs.calls()).count("start") == 3


@pytest.mark.parametrize("status", [1, 75])
def test_a_tpu_vm_ends_with_the_status_and_fetches_the_run(stubs, status):
    stubs.rule(times(FOLLOW, {1: f"exit {status}"}))
    assert stubs.launch("tpu_vm").status == status
    assert kinds(stubs.calls())[-4:] == ["follow", "pack", "scp", "delete"]


def test_with_a_bucket_there_is_nothing_to_fetch(stubs):
    assert stubs.launch("tpu_vm", "--bucket=b", "--spot", "--version=v").status == 0
    calls = stubs.calls()
    assert kinds(calls) == ["list", "create", *INSTALL, "start", "follow", "delete"]
    assert {"--version": ["v"], "--spot": [""]}.items() <= calls[1].flags.items()


@pytest.mark.parametrize("statuses, status", [("2", 2), ("137 3 137", 3), ("75 1", 1), ("", 1), ("23", 1)])
def test_a_failed_jobset_ends_with_the_status_of_training(stubs, statuses, status):
    stubs.rule(
        f"""
case "$tool $*" in
  *get\\ jobset*terminalState*) echo Failed; exit ;;
  *get\\ pods*) echo '{statuses}'; exit ;;
esac
"""
    )
    assert stubs.launch("gke").status == status
    assert stubs.calls()[-1].words == ["delete", "jobset", "run-1"]


def test_the_logs_of_a_jobset_are_followed_after_a_restart(stubs):
    stubs.rule(times("*\\ wait\\ *", {1: "exit 1"}))
    assert stubs.launch("gke").status == 0
    verbs = [call.words[0] for call in stubs.calls()]
    assert verbs[3:] == ["logs", "wait", "get", "logs", "wait", "get", "delete"]


def test_a_jobset_that_someone_deleted(stubs):
    stubs.rule('case "$tool $*" in *\\ wait\\ *) exit 1 ;; *get*--output=name) ((n < 3)) || exit 4 ;; esac')
    assert stubs.launch("gke").status == 4


@pytest.mark.parametrize("status, cancelled", [(0, 0), (100, 0), (1, 1)])
def test_a_managed_job_that_ended_by_itself_is_not_cancelled(stubs, status, cancelled):
    stubs.rule(times("*jobs\\ launch*", {1: f"exit {status}"}))
    assert stubs.launch("skypilot", "--spot").status == status
    assert [call.words for call in stubs.calls()[1:]] == [["jobs", "cancel"]] * cancelled


SRUN = 'if [[ $tool == srun ]]; then exit "$(<"$STUB_DIR/status")"; fi\n'


@pytest.mark.parametrize(
    "status, state, queued",
    [*((status, "RUNNING", status == 75) for status in (0, 1, 2, 3, 75, 137)), (75, "COMPLETING", False)],
)
def test_slurm_queues_again_what_a_signal_stopped(stubs, status, state, queued):
    stubs.environment["SLURM_JOB_ID"] = "4711"
    (stubs.folder / "status").write_text(str(status))
    stubs.rule(SRUN + f"if [[ $tool == squeue ]]; then echo {state}; exit; fi")
    assert stubs.run(SBATCH, "python", "--config=c").status == status
    first, *others = stubs.calls()
    assert first.words == ["python", "-m", "alignjax.train", "--distributed", "--config=c"]
    again = [call.words for call in others if call.tool == "scontrol"]
    assert again == [["requeue", "4711"]] * queued


def test_slurm_passes_the_signal_on_and_waits_for_the_checkpoint(stubs):
    stubs.environment["SLURM_JOB_ID"] = "4711"
    stubs.rule(
        """
case $tool in
  srun)
    touch "$STUB_DIR/running"
    until [[ -e $STUB_DIR/asked ]]; do sleep 0.02; done
    sleep 0.2
    touch "$STUB_DIR/saved"
    exit 75
    ;;
  scancel) touch "$STUB_DIR/asked" ;;
esac
"""
    )
    ended = stubs.run_until("running", signal.SIGTERM, SBATCH, "python", "--config=c")
    assert ended.status == 75, ended.err
    assert "queued again" in ended.out and (stubs.folder / "saved").exists()
    assert [call.tool for call in stubs.calls()] == ["srun", "scancel", "squeue", "scontrol"]


def test_slurm_directives():
    lines = SBATCH.read_text(encoding="utf-8").splitlines()
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert directives == {"--requeue", "--signal=B:TERM@120", "--open-mode=append"}
    # SLURM reads no directive after the first command.
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH "))
    assert all(line.startswith("#") for line in lines[:last])
