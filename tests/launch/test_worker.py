"""What runs on a machine of a TPU slice."""

import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture
def python(stubs) -> Path:
    """The stub of python on a machine."""
    return stubs.machine()


@pytest.fixture
def worker(stubs, python):
    """worker("follow"): runs the script in the project's folder on a machine."""

    def run(*arguments: str):
        return stubs.run("sh", "-c", 'cd "$HOME/alignjax" && bash launch/worker.sh "$@"', "sh", *arguments)

    return run


@pytest.mark.parametrize("status", [0, 75, 134])
def test_follow_prints_the_log_and_ends_with_the_status(python, worker, status):
    python.write_text(f"#!/usr/bin/env bash\necho first; sleep 0.1; echo last >&2; exit {status}\n")
    began = time.monotonic()
    assert worker("start", "", "--config=c").status == 0
    assert time.monotonic() - began < 5  # it does not wait for training
    ended = worker("follow")
    assert (ended.status, ended.out) == (status, "first\nlast\n")
    assert worker("follow").status == status  # as often as the connection breaks


def test_a_second_start_leaves_the_first_alone_and_stop_ends_it(stubs, python, worker):
    python.write_text(
        "#!/usr/bin/env bash\ntrap 'exit 75' TERM\n"
        'echo started; touch "$STUB_DIR/ready"; while :; do sleep 0.05; done\n'
    )
    for _ in range(2):
        assert worker("start", "").status == 0
    stubs.wait_for("ready")
    assert worker("stop").status == 0
    ended = worker("follow")
    assert (ended.status, ended.out) == (75, "started\n")


def test_follow_without_a_status_is_a_failure(stubs, worker):
    assert worker("start", "").status == 0
    assert worker("follow").status == 0
    state = stubs.home / "alignjax" / ".launch"
    (state / "status").unlink()
    # Training's own process may wait a second until somebody collects it, and counts as running till then.
    with stubs.start("true") as ended_process:
        ended_process.wait()
    (state / "pid").write_text(str(ended_process.pid))
    ended = worker("follow")
    assert ended.status == 1 and "left no exit status" in ended.err


def test_start_fails_without_its_secret(stubs, worker):
    stubs.rule("if [[ $* == *secrets* ]]; then exit 6; fi")
    assert worker("start", "TOKEN").status == 6
    assert stubs.python() == []


def test_setup_installs_once_and_mounts_the_bucket(stubs, worker):
    for tool in ("python3", "sudo", "mountpoint", "gcsfuse"):
        stubs.add(tool)
    stubs.rule("if [[ $tool == mountpoint ]]; then exit 1; fi")
    assert worker("setup", "tpu", "my-bucket").status == 0
    calls = stubs.calls()
    assert [call.tool for call in calls] == ["python3", "python3", "mountpoint", "sudo", "sudo", "gcsfuse"]
    assert calls[1].words[-1] == ".[tpu]" and "--editable" in calls[1].flags
    assert calls[-1].words == ["my-bucket", "/bucket"]
    stubs.rule("")
    assert worker("setup", "cuda", "my-bucket").status == 0
    assert [call.tool for call in stubs.calls()] == ["python3", "python3", "mountpoint"]
    assert worker("setup", "cuda").status == 0
    assert [call.tool for call in stubs.calls()] == ["python3", "python3"]


def test_setup_makes_an_environment_where_there_is_none(stubs, python, worker):
    stubs.add("python3")
    python.unlink()
    assert worker("setup", "tpu").status == 0
    assert [call.words[:2] for call in stubs.calls()] == [["pip", "install"], ["uv", "venv"], ["uv", "pip"]]
    stubs.rule("if ((n == 1)); then exit 5; fi")
    assert worker("setup", "tpu").status == 5


def test_pack_takes_any_folder(stubs, worker):
    (stubs.folder / "bin" / "tar").unlink()
    run = stubs.home / "alignjax" / "runs" / "-it's $x"
    run.mkdir(parents=True)
    (run / "report.html").write_text("report")
    assert worker("pack", "runs/-it's $x").status == 0
    assert stubs.run("tar", "-xzf", stubs.home / "run.tar.gz").status == 0
    assert (stubs.folder / "runs" / "-it's $x" / "report.html").read_text() == "report"


def test_an_unknown_verb(worker):
    ended = worker("begin")
    assert ended.status == 2 and ended.err.count("\n") == 1
