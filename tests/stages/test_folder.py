"""A run on a folder: computed once, loaded after that, never read where a file is not as it was written."""

import json
import re
from pathlib import Path

import pytest

import alignjax
from alignjax.errors import InputError
from alignjax.runtime import preemption
from alignjax.stages import FolderRun, MemoryRun, Stage, Work

ALL = ["samples", "scores", "dual", "policy", "evaluation"]


def test_finished_stages_are_loaded_and_give_the_same_values(method):
    first, second = method(), method()
    computed = first.on(first.folder_run())
    assert first.calls == ALL
    assert second.on(second.folder_run()) == computed and second.calls == []
    assert computed["dual"] == "dual of seed 0 at margin 1"
    assert second.said == [f"stage {i}: {name}, done before, kept" for i, name in enumerate(ALL, 1)]


def test_a_run_in_memory_gives_the_same_values(method, tmp_path):
    one = method()
    assert method().on(MemoryRun()) == one.on(MemoryRun()) and one.calls == ALL
    assert list(tmp_path.iterdir()) == []
    assert method().on(MemoryRun()) == one.on(one.folder_run())


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"margin": 2.0}, ["dual", "policy", "evaluation"]),
        ({"seed": 1}, ALL),
        ({"versions": {"policy": 2}}, ["policy", "evaluation"]),
        ({"versions": {"evaluation": 2}}, ["evaluation"]),
    ],
)
def test_what_determines_a_stage_redoes_it_and_all_that_read_it(method, change, redone):
    method().run()
    assert method(**change).run() == redone
    assert method(**change).run() == []


def test_a_release_of_the_package_alone_redoes_nothing(method, monkeypatch):
    method().run()
    monkeypatch.setattr(alignjax, "__version__", "999.0")
    assert method().run() == []


@pytest.mark.parametrize("output", ["dual.txt", "scores.txt", "evaluation.txt"])
def test_a_deleted_output_is_computed_again_alone(method, tmp_path, output):
    method().run()
    (tmp_path / output).unlink()
    assert method().run() == [output.removesuffix(".txt")]
    assert not (tmp_path / "answers").exists()


def test_stages_stay_in_the_order_of_the_work(method, tmp_path):
    method().run()
    (tmp_path / "dual.txt").unlink()
    again = method()
    again.run()
    assert list(again.folder_run().ledger.stages) == ALL
    assert again.folder_run().ledger.dependents("dual") == ["dual", "policy", "evaluation"]


def _write(folder: Path, text: str) -> None:
    (folder / "scores.txt").write_text(text)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name", "what", "stage"),
    [
        (lambda at: _flip(at / "scores.txt"), "scores.txt", "changed", "scores"),
        (lambda at: (at / "scores.txt").write_text("scor"), "scores.txt", "changed", "scores"),
        (lambda at: (at / "scores.txt").write_text(""), "scores.txt", "changed", "scores"),
        (lambda at: _flip(at / "policy" / "policy.txt"), "policy/policy.txt", "changed", "policy"),
        (lambda at: (at / "policy" / "policy.txt").unlink(), "policy/policy.txt", "is missing", "policy"),
        (lambda at: (at / "policy" / "new").write_text(""), "policy/new", "was added", "policy"),
        (lambda at: (at / "policy" / "x").mkdir() or (at / "policy" / "x" / "y").write_text(""),
         "policy/x/y", "was added", "policy"),
        (lambda at: (at / "evaluation.txt").write_text("much better"), "evaluation.txt", "changed",
         "evaluation"),
    ],
)  # fmt: skip
def test_damage_is_named_with_file_stage_and_remedy(method, tmp_path, damage, name, what, stage):
    method().run()
    damage(tmp_path)
    broken = method()
    with pytest.raises(InputError) as caught:
        broken.run()
    assert str(caught.value) == (
        f"{tmp_path / name}: {what} after stage {stage} wrote its files; restore it, or compute it again "
        f"with --redo={stage}."
    )
    assert broken.calls == []
    redone = method(redo=stage)
    assert redone.run() == ALL[ALL.index(stage) :]
    assert method().run() == []


def test_redo_forgets_a_stage_and_all_that_read_it(method):
    method().run()
    assert method(redo="scores").run() == ALL[1:]
    assert method(redo="evaluation").run() == ["evaluation"]
    with pytest.raises(InputError, match=r"^--redo=polcy: no such stage in .*; did you mean policy\? it has"):
        method(redo="polcy").run()


def test_redo_in_a_new_folder_says_that_nothing_is_there(method):
    with pytest.raises(InputError, match="it has none yet"):
        method(redo="dual").run()


def test_what_may_not_be_computed_is_refused_with_a_list(method, tmp_path):
    method().run()
    assert method(may_compute=()).run() == []
    changed = method(seed=1, may_compute=("evaluation",))
    with pytest.raises(InputError) as caught:
        changed.run()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: stage samples is not done with the settings")
    assert message.endswith("would compute samples, scores, dual, policy, evaluation.")
    assert changed.calls == []
    assert method().run() == []  # nothing was touched


def test_what_may_be_computed_is_named_by_prefix(method, tmp_path):
    method().run()
    (tmp_path / "evaluation.txt").unlink()
    with pytest.raises(InputError, match=r"stage evaluation is not done .* would compute evaluation\.$"):
        method(may_compute=("policy",)).run()
    assert method(may_compute=("eval",)).run() == ["evaluation"]


def test_a_command_that_computes_little_moves_no_answer(method, tmp_path):
    method(margin=2.0).run()
    method().run()
    assert (tmp_path / "answers" / "margin-2").is_dir()
    with pytest.raises(InputError, match="stage dual is not done"):
        method(margin=2.0, may_compute=("evaluation",)).run()
    assert (tmp_path / "answers" / "margin-2").is_dir()


def test_a_finished_stage_is_loaded_without_meeting_its_inputs(method, tmp_path):
    method().run()
    again = method()
    assert again.folder_run().load(again.stage("policy")) == "policy of seed 0 at margin 1"
    assert again.calls == []
    with pytest.raises(InputError, match="stage policy is not done .* would compute policy, evaluation"):
        changed = method(versions={"policy": 2})
        changed.folder_run().load(changed.stage("policy"))
    _flip(tmp_path / "policy" / "policy.txt")
    with pytest.raises(InputError, match="policy.txt: changed after stage policy"):
        again.folder_run().load(again.stage("policy"))


def test_loading_from_a_folder_without_the_stage_is_refused(method):
    one = method(last="scores")
    one.run()
    with pytest.raises(InputError, match="stage dual is not done .* would compute dual"):
        one.folder_run().load(one.stage("policy"))


def test_a_stage_that_failed_is_running_and_is_computed_again(method):
    method(last="scores").run()
    with pytest.raises(RuntimeError, match="broken"):
        method(fails="policy").run()
    ledger = method().folder_run().ledger
    assert (ledger.stages["policy"].status, ledger.stages["policy"].outputs) == ("running", {})
    assert ledger.stages["dual"].status == "done"
    assert method().run() == ["policy", "evaluation"]


def test_scratch_survives_a_failure_and_goes_with_success(method, tmp_path):
    with pytest.raises(RuntimeError):
        method(fails="policy").run()
    (left,) = (tmp_path / "cache").iterdir()
    assert left.name.startswith("policy-") and (left / "progress.txt").read_text() == "half"
    seen = []
    again = method()
    stage = again.stage("policy")

    def compute(work: Work) -> str:
        assert work.scratch is not None
        seen.append((work.scratch / "progress.txt").read_text())  # what the first one left
        return stage.compute(work)

    run = again.folder_run()
    for name in ALL[:3]:
        run.do(again.stage(name))
    run.do(Stage.of(stage, compute=compute, abstract=str, save=stage.save))
    assert seen == ["half"] and list((tmp_path / "cache").iterdir()) == []


def test_other_settings_have_a_scratch_folder_of_their_own(method, tmp_path):
    for margin in (1.0, 2.0):
        with pytest.raises(RuntimeError):
            method(margin=margin, fails="policy").run()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_run_that_was_asked_to_stop_computes_no_further_stage(method, monkeypatch):
    method(last="dual").run()
    monkeypatch.setattr(preemption, "asked", lambda: True)
    stopped = method()
    with pytest.raises(preemption.Stopped):
        stopped.run()
    assert stopped.calls == []  # finished ones are still loaded
    assert stopped.said[-1] == "stage 3: dual, done before, kept"


def test_a_value_may_be_read_back_after_saving(method, tmp_path):
    one = method(last="scores")
    run = one.folder_run()
    run.do(one.stage("samples"))
    stage = one.stage("scores")
    again = Stage(
        name="scores", settings={}, inputs=("samples",), outputs=stage.outputs, load=stage.load,
        compute=lambda work: "computed", save=lambda folder, value: _write(folder, "as saved"),
        abstract=str, reload=True,
    )  # fmt: skip
    assert run.do(again) == "as saved"


def test_a_stage_that_keeps_nothing_is_computed_every_time(method, tmp_path):
    calls = []
    stage = Stage(name="data", settings={}, compute=lambda work: calls.append(work) or "data", abstract=str)
    for count in (1, 2):
        run = FolderRun(tmp_path, str, lambda line: None)
        assert run.do(stage) == "data"
        assert len(calls) == count and run.ledger.stages["data"].done


def test_a_record_says_what_determined_the_stage_and_what_it_wrote(method, tmp_path):
    method().run()
    value = json.loads((tmp_path / "run.json").read_text())
    dual = value["stages"]["dual"]
    assert (dual["status"], dual["settings"], dual["inputs"]) == ("done", {"margin": 1.0}, ["scores"])
    assert dual["seconds"] >= 0 and dual["peak_memory_mib"] > 0
    assert list(value["stages"]["policy"]["outputs"]) == ["policy/policy.txt", "policy/weights-1.txt"]
    assert value["versions"]["jax"] and len(value["devices"]) == 8
    assert re.fullmatch("[0-9a-f]{64}", dual["outputs"]["dual.txt"])


def test_a_fingerprint_reaches_the_computation(method, tmp_path):
    works = []
    stage = Stage(name="one", settings={"x": 1}, compute=lambda work: works.append(work) or "", abstract=str)
    MemoryRun().do(stage)
    FolderRun(tmp_path, str, lambda line: None).do(stage)
    assert works[0].scratch is None and works[0].file("a") is None
    assert works[1].scratch == tmp_path / "cache" / f"one-{works[1].fingerprint[:16]}"
    assert works[0].fingerprint == works[1].fingerprint
