"""Processes of one run: joined, agreed, gathered; alone nothing of it happens."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.runtime import processes
from alignjax.runtime.files import remove, write_text


def test_one_process_is_first_and_agrees_with_itself(tmp_path):
    assert processes.is_primary() and not processes.is_multiprocess()
    assert processes.broadcast(True) and not processes.broadcast(False)
    processes.barrier("anywhere")
    processes.check_shared(tmp_path / "not even there", "--workdir")
    values = np.arange(3.0)
    assert processes.to_host(values) is values


def test_files_are_replaced_and_removed(tmp_path):
    path = tmp_path / "new" / "file"
    write_text(path, "a")
    write_text(path, "b")
    assert path.read_text() == "b" and [p.name for p in path.parent.iterdir()] == ["file"]
    remove(path)
    remove(path)
    remove(path.parent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            r"JAX_NUM_PROCESSES: is 'two', must be a whole",
        ),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": ""}, r"JAX_PROCESS_ID: is '', must be a whole number"),
    ],
)
def test_what_cannot_be_joined_is_refused(monkeypatch, env, message):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        processes.start()


def test_without_a_cluster_the_flag_is_refused():
    """In a process of its own: no backend may exist."""
    code = "from alignjax.runtime import processes\nprocesses.start()"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COORD", "SLURM", "OMPI", "TPU"))}
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    last = result.stderr.strip().splitlines()[-1]
    assert "--distributed: the other processes cannot be joined (" in last and "JAX_COORDINATOR" in last


WORKER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import jax, numpy as np
    from alignjax.errors import InputError
    from alignjax.runtime import checkpoint, processes
    from alignjax.runtime.files import remove, write_text
    from alignjax.runtime.mesh import make_mesh, shard_batch
    processes.start()
    folder, number = Path(sys.argv[1]), jax.process_index()
    assert processes.is_multiprocess() and processes.is_primary() == (number == 0)
    assert processes.broadcast(number == 0) and not processes.broadcast(number == 1)
    mesh = make_mesh(4, 1, 2)
    rows = np.arange(24.0).reshape(8, 3)
    placed = shard_batch({"x": rows}, mesh)["x"]
    assert not placed.is_fully_addressable
    np.testing.assert_array_equal(processes.to_host(placed), rows)
    assert checkpoint._not_finite({"x": placed}) == ""
    rows[7, 2] = np.nan  # of process 1, and refused by both
    assert checkpoint._not_finite({"x": placed, "y": shard_batch({"y": rows}, mesh)["y"]}) == "['y']"
    rows[7, 2] = 23.0
    np.testing.assert_array_equal(processes.to_host(jax.jit(lambda x: x.sum())(placed)), rows.sum())
    write_text(folder / "file", f"{number}")
    assert (folder / "file").read_text() == "0"
    remove(folder / "file")
    assert not (folder / "file").exists()
    processes.check_shared(folder, "--workdir")
    own = folder / str(number)
    own.mkdir()
    try:
        processes.check_shared(own, "--workdir")
    except InputError as error:
        assert "processes [1] do not see" in str(error)
    else:
        raise AssertionError("a folder of its own was taken for shared")
    print("passed")
    """
)


def start_two(code, *arguments):
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    running = []
    for number in range(2):
        env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
        env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
        running.append(
            subprocess.Popen(
                [sys.executable, "-u", "-c", code, *arguments],
                env=env | {"JAX_PROCESS_ID": str(number)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return running


@pytest.mark.multihost
def test_two_processes(tmp_path):
    running = start_two(WORKER, str(tmp_path))
    printed = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], printed
    assert all(text.rstrip().endswith("passed") for text in printed)


STEPS = textwrap.dedent(
    """
    import jax, numpy as np
    from alignjax import cli
    from alignjax.runtime import preemption, processes
    from alignjax.runtime.mesh import make_mesh, shard_batch

    def main():
        processes.start()
        mesh = make_mesh()
        step = jax.jit(lambda x: x.sum())
        for number in range(100_000):
            float(step(shard_batch({"x": np.arange(8.0)}, mesh)["x"]))
            if number == 3:
                print("begun", flush=True)
            preemption.stop_if_asked()

    cli.run(main, ["command"])
    """
)


@pytest.mark.multihost
def test_ctrl_c_in_one_process_stops_both_after_the_same_step():
    running = start_two(STEPS)
    for process in running:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "begun\n":
            assert line, "it ended"
    running[1].send_signal(signal.SIGINT)
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [75, 75], printed
    assert all("progress saved; run the same command to resume\n" in text for text in printed)
