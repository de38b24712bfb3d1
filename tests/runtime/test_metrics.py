"""Metrics files, resume, progress."""

import io
import json
import resource
import sys

import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from alignjax.errors import InputError
from alignjax.runtime import metrics


def test_lines_are_flushed_and_numbers_are_plain(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write("policy", 10, {"loss": np.float32(0.5), "num_tokens": 7, "eval_loss": float("nan")})
        line = writer.path.read_text()  # before the file is closed
    assert json.loads(line) == {
        "stage": "policy",
        "step": 10,
        "loss": 0.5,
        "num_tokens": 7,
        "eval_loss": None,
    }
    assert line.startswith('{"stage": "policy", "step": 10, ')
    assert len(list((tmp_path / "tensorboard" / "policy").glob("events.*"))) == 1


def test_appends_after_reopening_and_drops_a_torn_line(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write("reward", 1, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "reward", "st')
    assert [r["step"] for r in metrics.read_metrics(tmp_path / "metrics.jsonl")] == [1]
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write("reward", 2, {"loss": 2.0})
    assert [r["step"] for r in metrics.read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_rewind_removes_the_steps_to_be_done_again_of_one_stage(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        for step in (5, 10, 15):
            writer.write("reward", step, {"loss": 1.0})
            writer.write("safety", step, {"loss": 1.0})
        writer.rewind("reward", 10)
        writer.write("reward", 15, {"loss": 2.0})
        writer.rewind("policy", 0)
    steps = [(r["stage"], r["step"], r["loss"]) for r in metrics.read_metrics(tmp_path / "metrics.jsonl")]
    assert [s for s in steps if s[0] == "reward"] == [
        ("reward", 5, 1.0),
        ("reward", 10, 1.0),
        ("reward", 15, 2.0),
    ]
    assert len([s for s in steps if s[0] == "safety"]) == 3
    assert len(metrics.read_metrics(tmp_path / "metrics.jsonl", "safety")) == 3


def test_inactive_writer_writes_nothing(tmp_path):
    with metrics.MetricsWriter(tmp_path / "run", active=False) as writer:
        writer.write("policy", 1, {"loss": 1.0})
        writer.rewind("policy", 0)
    assert not (tmp_path / "run").exists()


def test_a_log_file_gets_lines_and_no_cursor(capsys):
    with (
        metrics.progress(30, "policy", unit="row") as bar,
        metrics.progress(2, "inner", leave=False) as inner,
    ):
        inner.update(2)
        bar.update(30)
    written = capsys.readouterr().err
    assert not set(written) & {"\r", "\x1b"}
    lines = written.splitlines()
    assert lines[0] == "policy: 0/30 rows, begun" and lines[-1] == "policy: 30/30 rows, in 00:00"


def test_progress_shows_rate_on_standard_error(capsys):
    with metrics.progress(4, "policy", initial=1) as bar:
        bar.update(3)
        bar.set_postfix_str("loss 0.5")
    captured = capsys.readouterr()
    assert captured.out == "" and "policy: 4/4 steps" in captured.err


def test_what_ends_early_says_how_long_it_took_and_a_comma_in_a_name_hides_nothing(capsys):
    with metrics.progress(10, "judge a, b") as bar:
        bar.update(4)
    assert capsys.readouterr().err.splitlines() == [
        "judge a, b: 0/10 steps, begun",
        "judge a, b: 4/10 steps, in 00:00",
    ]


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_on_a_terminal_a_bar_says_how_fast_and_what_is_left_in_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with metrics.progress(115, "sampling safe-only policy", unit="prompt") as bar:
        monkeypatch.setattr(bar, "_time", lambda: bar.start_t + 0.4)
        bar.update(12)
        bar.refresh()
        monkeypatch.setattr(bar, "_time", lambda: bar.start_t + 4.0)
        bar.update(103)
    shown = [line.strip() for line in terminal.getvalue().split("\r")]
    assert max(map(len, shown)) <= 80
    # 12 prompts in 0.4 s are 30 a second; 103 are left.
    assert any(
        line.startswith("sampling safe-only policy: 12/115 prompts, 30 prompts/s, 00:03 left |")
        for line in shown
    )
    assert any(line.startswith("sampling safe-only policy: 115/115 prompts, in 00:04 |") for line in shown)


def test_peak_memory_is_that_of_a_process_with_jax():
    assert 2**25 < metrics.peak_memory_bytes() < 2**40


def events(path):
    """The records of a TensorBoard file: a length, its checksum, the event, its checksum."""
    content, found = path.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
        found.append(event_pb2.Event.FromString(content[12 : 12 + size]))  # pyright: ignore[reportAttributeAccessIssue]  # protobuf's
        content = content[16 + size :]
    return found


def test_tensorboard_files_hold_the_curves_and_hide_what_is_done_again(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write("policy", 1, {"loss": 0.5, "eval_loss": float("nan")})
        writer.rewind("policy", 0)
        writer.write("policy", 1, {"loss": 0.25})
    first, second = sorted((tmp_path / "tensorboard" / "policy").iterdir())
    points = [
        [(e.step, v.tag, v.simple_value) for e in events(path) for v in e.summary.value]
        for path in (first, second)
    ]
    assert points == [[(1, "loss", 0.5)], [(1, "loss", 0.25)]]
    started = [event.step for event in events(second) if event.HasField("session_log")]
    assert started == [1] and not any(event.HasField("session_log") for event in events(first))


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"null", b"7", b'{"step": 1}', b'{"stage": 1, "step": 1}', b"\xff\xfe", b"[" * 9999, b""],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"stage": "reward", "step": 1, "loss": 1.0}\n' + line + b"\n")
    with pytest.raises(
        InputError, match=r"metrics\.jsonl:2: is not a line of metrics \(.*\); remove the line\."
    ):
        metrics.read_metrics(path)
    with metrics.MetricsWriter(tmp_path) as writer, pytest.raises(InputError, match=r"metrics\.jsonl:2: "):
        writer.rewind("reward", 0)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl: is missing"):
        metrics.read_metrics(tmp_path / "metrics.jsonl")


def test_a_write_that_fails_names_the_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write("policy", 1, {"loss": 1.0})
        resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size, hard))
        try:
            with pytest.raises(OSError, match="File too large: .*metrics.jsonl"):
                writer.write("policy", 2, {"loss": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record["step"] for record in metrics.read_metrics(writer.path)][:1] == [1]
