"""Earlier answers: kept when something else is asked, moved back when they are asked for again."""

import os
import signal

import pytest

from alignjax.errors import InfeasibleError, InputError
from alignjax.runtime import preemption
from alignjax.stages import answers
from alignjax.stages.ledger import StageRecord, read_ledger, write_ledger

ANSWER = ["dual", "policy", "evaluation"]


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_another_question_keeps_the_answer_before_it(method, tmp_path):
    method().run()
    (tmp_path / "report.html").write_text("page of margin 1")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_text("picture")
    assert method(margin=2.0).run() == ANSWER
    kept = tmp_path / "answers" / "margin-1"
    assert files(kept) == [
        "dual.txt", "evaluation.txt", "figures/a.png", "policy/policy.txt", "policy/weights-1.txt",
        "report.html",
    ]  # fmt: skip
    assert (kept / "policy" / "policy.txt").read_text() == "policy of seed 0 at margin 1"
    assert (tmp_path / "dual.txt").read_text() == "dual of seed 0 at margin 2"
    assert files(tmp_path / "policy") == ["policy.txt", "weights-2.txt"]
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "figures").exists()
    ledger = read_ledger(tmp_path)
    assert list(ledger.answers) == ["margin-1"] and list(ledger.answers["margin-1"].stages) == ANSWER
    assert list(ledger.stages) == ["samples", "scores", *ANSWER]


def test_asking_again_moves_it_back(method, tmp_path):
    first = method()
    values = first.on(first.folder_run())
    method(margin=2.0).run()
    (tmp_path / "report.html").write_text("page of margin 2")
    again = method()
    assert again.on(again.folder_run()) == values and again.calls == []
    assert files(tmp_path / "policy") == ["policy.txt", "weights-1.txt"]
    assert files(tmp_path / "answers") == [
        "margin-2/dual.txt", "margin-2/evaluation.txt", "margin-2/policy/policy.txt",
        "margin-2/policy/weights-2.txt", "margin-2/report.html",
    ]  # fmt: skip
    # And so on: none is ever computed again.
    assert method(margin=2.0).run() == [] == method().run()
    assert list(read_ledger(tmp_path).answers) == ["margin-2"]


def test_three_answers_stay(method, tmp_path):
    for margin in (1.0, 2.0, 3.0):
        method(margin=margin).run()
    assert sorted(read_ledger(tmp_path).answers) == ["margin-1", "margin-2"]
    for margin in (2.0, 1.0, 3.0):
        assert method(margin=margin).run() == []


def test_equal_names_get_numbers(method, tmp_path):
    # The same margin on other samples, and by another version of the dual, are other answers.
    for change in ({}, {"seed": 1}, {"versions": {"dual": 2}}, {"margin": 2.0}):
        method(**change).run()
    assert list(read_ledger(tmp_path).answers) == ["margin-1", "margin-1-2", "margin-1-3"]
    assert (tmp_path / "answers" / "margin-1-2" / "dual.txt").read_text() == "dual of seed 1 at margin 1"


def test_a_stage_beside_the_evaluation_that_was_stopped_does_not_cost_the_answer(method, tmp_path):
    method().run()
    ledger = read_ledger(tmp_path)
    stopped = StageRecord("running", "ab", 1, {}, ("policy",))
    write_ledger(tmp_path, ledger.with_stage("audit", stopped))
    assert method(margin=2.0).run() == ANSWER
    after = read_ledger(tmp_path)
    assert list(after.answers["margin-1"].stages) == ANSWER and "audit" not in after.stages
    assert method().run() == []


def test_an_unfinished_answer_is_not_kept(method, tmp_path):
    method(last="policy").run()
    assert method(margin=2.0).run() == ANSWER
    assert not (tmp_path / "answers").exists()
    # Neither is one whose evaluation failed, or has to be done again.
    with pytest.raises(RuntimeError):
        method(margin=3.0, fails="evaluation").run()
    assert list(read_ledger(tmp_path).answers) == ["margin-2"]
    assert method(margin=4.0).run() == ANSWER
    assert list(read_ledger(tmp_path).answers) == ["margin-2"]


def test_an_answer_that_lost_a_file_is_not_kept(method, tmp_path):
    method().run()
    (tmp_path / "dual.txt").unlink()
    assert method(margin=2.0).run() == ANSWER
    assert not (tmp_path / "answers").exists()


def test_files_of_an_unfinished_answer_are_not_mixed_with_those_moved_back(method, tmp_path):
    method().run()
    with pytest.raises(RuntimeError):
        method(margin=2.0, fails="evaluation").run()
    assert files(tmp_path / "policy") == ["policy.txt", "weights-2.txt"]
    (tmp_path / "policy" / "half-written").write_text("of a save that was killed")
    assert method().run() == []
    assert files(tmp_path / "policy") == ["policy.txt", "weights-1.txt"]
    assert method().run() == []


def test_a_question_that_cannot_be_met_leaves_the_answer_in_place(method, tmp_path):
    method().run()
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(InfeasibleError, match="the margin 11 cannot be met"):
        method(margin=11.0).run()
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
    assert not (tmp_path / "answers").exists()
    assert method().run() == []


def test_damage_in_an_earlier_answer_is_noticed_when_it_is_asked_for(method, tmp_path):
    method().run()
    method(margin=2.0).run()
    (tmp_path / "answers" / "margin-1" / "policy" / "policy.txt").write_text("better")
    with pytest.raises(InputError, match=r"policy/policy\.txt: changed after stage policy .*--redo=policy"):
        method().run()
    assert method(redo="policy").run() == ["policy", "evaluation"]


def test_stages_that_the_answer_does_not_need_are_not_moved(method, tmp_path):
    method().run()
    method(margin=2.0).run()
    assert (tmp_path / "samples.txt").exists() and (tmp_path / "scores.txt").exists()
    assert not (tmp_path / "answers" / "margin-1" / "scores.txt").exists()


def test_a_signal_does_not_come_between_the_files(method, tmp_path, monkeypatch):
    # It arrives when the first file is moved, and takes effect when all are, and run.json says so.
    method().run()
    moved, tidy = [], answers.remove_empty

    def interrupted(root, folder):
        tidy(root, folder)
        if not moved:
            os.kill(os.getpid(), signal.SIGTERM)
        moved.append(folder)

    monkeypatch.setattr(answers, "remove_empty", interrupted)
    with preemption.watched(), pytest.raises(preemption.Stopped):
        method(margin=2.0).run()
    monkeypatch.undo()
    assert len(moved) == 4 and list(read_ledger(tmp_path).answers) == ["margin-1"]
    assert files(tmp_path / "answers" / "margin-1" / "policy") == ["policy.txt", "weights-1.txt"]
    assert method().run() == []
