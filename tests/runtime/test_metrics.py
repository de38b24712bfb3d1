"""Metrics files, resume, progress."""

import json

import numpy as np

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


def test_progress_shows_rate_on_standard_error(capsys):
    with metrics.progress(4, "policy", initial=1) as bar:
        bar.update(3)
        bar.set_postfix_str("loss 0.5")
    captured = capsys.readouterr()
    assert (
        captured.out == "" and "policy" in captured.err and "4/4" in captured.err and "step" in captured.err
    )


def test_peak_memory_is_that_of_a_process_with_jax():
    assert 2**25 < metrics.peak_memory_bytes() < 2**40
