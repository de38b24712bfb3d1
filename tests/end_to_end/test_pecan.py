"""PeCAN from pairs to policy through the public door, on the embedded world, a few steps of everything."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from alignjax import runs
from alignjax import solve as solve_command
from alignjax.alignment import training
from alignjax.best_of_samples import sample_best_of
from alignjax.config import AuditSettings
from alignjax.data.tokenize import TokenizedResponse, encode_prompt
from alignjax.data.worlds import world_for
from alignjax.data.worlds.assistant import category
from alignjax.errors import InfeasibleError, InputError
from alignjax.evaluate import evaluate
from alignjax.export import export
from alignjax.models import Lora, load_adapter, load_pretrained
from alignjax.policy.logps import response_logps
from alignjax.sample_lines import Draws
from alignjax.stages import FolderRun
from alignjax.workflow import groundwork, labels, scoring
from alignjax.workflow.dialling import Wanted
from alignjax.workflow.setup import make_setup

STAGES = [
    *"reference data reward safety samples scores calibration dual pair_scores labels policy".split(),
    *(f"evaluation samples/{name}" for name in ("reference", "reward", "safety")),
    *("evaluation scores/baselines", "evaluation samples/aligned", "evaluation scores/aligned"),
    *("test", "evaluation"),
]
ARTEFACTS = """
config.json run.json metrics.jsonl data.json reference/config.json reference/model.safetensors
reference/tokenizer.json reward/best reward/last safety/best safety/last samples.jsonl scores.npz
calibration.json dual.json labels.jsonl policy/best policy/last test.json evaluation.json report.html figures
evaluation_scores/baselines.npz evaluation_scores/aligned.npz tensorboard
""".split()
TRL = """
loss rewards/chosen rewards/rejected rewards/accuracies rewards/margins logps/chosen logps/rejected
learning_rate grad_norm epoch
""".split()
MARGIN = 0.02


def load(path):
    return json.loads(path.read_text())


def load_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def whole(tiny_run):
    """Folder of one finished run, asked for MARGIN; read it, copy it, never write to it."""
    return tiny_run


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def stop(monkeypatch):
    """stop(module, name) makes that stage fail."""

    def set_stop(module, name):
        def fail(*args, **options):
            raise RuntimeError("the power went out")

        monkeypatch.setattr(module, name, fail)

    return set_stop


def test_the_folder_has_every_artefact(whole):
    for name in ARTEFACTS:
        assert (whole / name).exists(), name
    assert list((whole / "figures").glob("*.svg"))
    assert not list(whole.rglob("*.tmp*")) and not list(whole.rglob(".*"))


def test_run_json_has_every_stage_done(whole):
    record = load(whole / "run.json")
    assert list(record["stages"]) == STAGES
    assert {stage["status"] for stage in record["stages"].values()} == {"done"}
    assert record["versions"]["jax"] and record["devices"] and record["processes"] == 1


def is_figure(value):
    return list(value) == ["mean", "low", "high"] and all(np.isfinite(number) for number in value.values())


def test_evaluation_has_the_fixed_names(whole):
    found = load(whole / "evaluation.json")
    assert found["asked"] == {"safety": MARGIN}
    assert list(found["policies"]) == ["reference", "reward", "safety", "aligned"]
    for name in ("reward", "kl"):
        assert is_figure(found["predicted"][name])
    for name in ("utilities", "margins"):
        assert is_figure(found["predicted"][name]["safety"])
    for policy in found["policies"].values():
        assert is_figure(policy["reward"]) and is_figure(policy["kl"]) and is_figure(policy["true_reward"])
        for name in ("utilities", "margins", "true_margins"):
            assert list(policy[name]) == ["safety"] and is_figure(policy[name]["safety"])
    reference = found["policies"]["reference"]
    assert reference["kl"]["mean"] == 0 and reference["margins"]["safety"]["mean"] == 0


def test_predicted_is_what_the_tilt_gives(whole):
    # Draw K, keep one with weights proportional to exp((r + lam g) / beta), each prompt by itself. Without a
    # guard the multiplier is the one at which this policy has the margin.
    dual, scores = load(whole / "dual.json"), np.load(whole / "scores.npz")
    r, g = scores["rewards"].astype(np.float64), scores["utilities"][..., 0].astype(np.float64)
    weights = np.exp((r + dual["lam"]["safety"] * g) / dual["beta"])
    weights /= weights.sum(axis=1, keepdims=True)
    margin = (weights * g).sum(axis=1).mean() - g.mean()
    assert margin >= MARGIN - 1e-5
    if dual["lam"]["safety"] > 0:  # complementary slackness
        np.testing.assert_allclose(margin, MARGIN, atol=1e-5)
    kl = (weights * np.log(weights * weights.shape[1])).sum(axis=1).mean()
    assert dual["guard"] is None and dual["predicted"] == dual["forecast"]["tilt"]
    predicted = dual["forecast"]["draw_k"]
    np.testing.assert_allclose(predicted["margins"]["safety"]["mean"], margin, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(predicted["kl"]["mean"], kl, rtol=1e-3)
    np.testing.assert_allclose(
        predicted["reward"]["mean"], (weights * r).sum(axis=1).mean(), rtol=1e-3, atol=1e-5
    )


def test_the_dual_alone_answers_the_same_and_previews_the_policy(whole, tmp_path, capsys):
    dual, preview = load(whole / "dual.json"), tmp_path / "preview.jsonl"
    outputs = solve_command.Outputs(preview=str(preview), responses=str(whole / "samples.jsonl"))
    solve_command.solve(
        whole / "scores.npz",
        beta=dual["beta"],
        asked={"margin": [f"safety={MARGIN}"]},
        as_json=True,
        num_resamples=0,
        outputs=outputs._replace(preview_samples=300),
    )
    found = json.loads(capsys.readouterr().out)
    assert found["lam"]["safety"] == pytest.approx(dual["lam"]["safety"], rel=1e-6)
    margins = [one["predicted"]["margins"]["safety"]["mean"] for one in (found, dual)]
    assert margins[0] == pytest.approx(margins[1], rel=1e-3)
    rows = [json.loads(line) for line in preview.read_text().splitlines()]
    samples = [json.loads(line) for line in (whole / "samples.jsonl").read_text().splitlines()]
    own = {(row["prompt_id"], row["prompt"], row["response"]) for row in samples}
    assert {(row["prompt_id"], row["prompt"], row["response"]) for row in rows} <= own
    drawn = np.array([row["reward"] for row in rows]).reshape(-1, 300)
    error = np.sqrt(np.mean(drawn.var(axis=1, ddof=1)) / drawn.size)
    drawn_k = found["forecast"]["draw_k"]
    assert drawn.mean() == pytest.approx(drawn_k["reward"]["mean"], abs=4 * error + 1e-9)


def test_labels_are_the_sigmoid_of_the_lagrangian(whole, tiny_config):
    # Scored again, response by response: beta_pre log(pi / pi_ref), calibrated, then sigma(s(y0) - s(y1)).
    config = tiny_config(margin=MARGIN)
    run, setup = FolderRun(whole, lambda workdir: "", may_compute=()), make_setup(config)
    reference = run.load(groundwork.reference(setup))
    base = reference.model
    lines = [json.loads(line) for line in (whole / "labels.jsonl").read_text().splitlines()]
    shown = lines[:8]
    end = base.config.eos_ids[0]
    responses = [
        TokenizedResponse(ids(base, f"user: {line['prompt']} assistant:"), ids(base, line[side], end))
        for line in shown
        for side in ("chosen", "rejected")
    ]
    ref = response_logps(base, responses, batch_size=16)
    scores = []
    for name in config.dimensions:
        lora = run.load(scoring.stored_prealigned(setup, reference, name)).lora
        scores.append(config.beta_pre * (response_logps(base, responses, lora=lora, batch_size=16) - ref))
    calibrated = np.stack(scores, axis=-1) @ np.array(load(whole / "calibration.json")["matrix"]).T
    total = calibrated @ np.array([1.0, load(whole / "dual.json")["lam"]["safety"]])
    expected = 1 / (1 + np.exp(total[1::2] - total[0::2]))
    np.testing.assert_allclose([line["label"] for line in shown], expected, atol=1e-3)
    assert expected.std() > 1e-2
    assert len({(line["prompt"], line["chosen"], line["rejected"]) for line in lines}) == len(lines)


def ids(model, text, *more):
    return np.array([*model.tokenizer.encode(text, add_special_tokens=False), *more], np.int32)


def test_metrics_have_trl_names(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    names = {
        stage: set().union(*(line for line in lines if line["stage"] == stage))
        for stage in ("reward", "policy")
    }
    for found in names.values():
        assert set(TRL) <= found
    first = next(line for line in lines if line["stage"] == "policy")
    # Before the first update pi is pi_ref: every label gives log 2.
    np.testing.assert_allclose(first["loss"], np.log(2), atol=1e-3)


def test_no_times_and_no_paths_in_the_results(whole):
    for name in ("dual.json", "evaluation.json"):
        text = (whole / name).read_text()
        assert str(whole) not in text and "seconds" not in text and "time" not in text


def test_a_second_call_keeps_everything(copy, tiny_config, stages_done, capsys):
    before = {
        p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and p.suffix in (".json", ".jsonl", ".npz")
    }
    runs.run(tiny_config(margin=MARGIN), copy)
    out = capsys.readouterr().out
    assert stages_done(out) == []
    assert len(STAGES) == 19 and [line for line in out.splitlines() if line.startswith("stage ")] == [
        f"stage {number} of 19: {name}, done before, kept" for number, name in enumerate(STAGES, 1)
    ]
    assert {p: p.read_bytes() for p in before} == before


def test_equal_runs_give_equal_bytes(whole, tmp_path, tiny_config):
    runs.run(tiny_config(margin=MARGIN), tmp_path / "again")
    for name in (
        "data.json",
        "calibration.json",
        "dual.json",
        "labels.jsonl",
        "samples.jsonl",
        "evaluation.json",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes(), name
    adapters = []
    for workdir in (whole, tmp_path / "again"):
        export(workdir, tmp_path / f"adapter {workdir.name}", adapter_only=True)
        adapters.append((tmp_path / f"adapter {workdir.name}" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_another_margin_redoes_the_dual_and_what_follows_and_a_broken_run_resumes(
    copy, tiny_config, stages_done, stop, capsys, monkeypatch
):
    config = tiny_config(margin=MARGIN / 2)
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_dpo", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runs.run(config, copy)
    assert stages_done(capsys.readouterr().out) == ["dual", "labels", "policy"]
    assert load(copy / "run.json")["stages"]["policy"]["status"] == "running"
    assert load(copy / "dual.json")["asked"]["safety"]["margin"] == MARGIN / 2
    runs.run(config, copy)
    scored = ["evaluation samples/aligned", "evaluation scores/aligned", "test", "evaluation"]
    assert stages_done(capsys.readouterr().out) == ["policy", *scored]
    assert load(copy / "evaluation.json")["asked"] == {"safety": MARGIN / 2}
    # The lines of the stage that was done twice are there once.
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["stage"] == "policy" and "loss" in line]
    assert len(steps) == len(set(steps))


def dual_of(workdir, config, stop):
    """dual.json of a run that goes no further."""
    stop(labels, "relabel")
    with pytest.raises(RuntimeError, match="the power went out"):
        runs.run(config, workdir)
    return load(workdir / "dual.json")


def test_a_given_multiplier_is_taken(copy, tiny_config, stop):
    dual = dual_of(copy, tiny_config(lam=0.7), stop)
    assert dual["lam"] == {"safety": 0.7} and not dual["solved"] and dual["asked"]["safety"]["margin"] is None


def test_a_level_is_the_mean_and_a_margin(copy, tiny_config, stop):
    asked = load(copy / "dual.json")
    mean = float(np.load(copy / "scores.npz")["utilities"].mean(dtype=np.float64))
    dual = dual_of(copy, tiny_config(level=mean + MARGIN), stop)
    np.testing.assert_allclose(dual["asked"]["safety"]["margin"], MARGIN, atol=1e-6)
    assert dual["asked"]["safety"]["level"] == mean + MARGIN
    np.testing.assert_allclose(dual["lam"]["safety"], asked["lam"]["safety"], rtol=1e-3)


def test_a_fraction_is_of_the_margin_of_the_tilt_to_safety_alone(copy, tiny_config, stop):
    utilities = np.load(copy / "scores.npz")["utilities"][..., 0].astype(np.float64)
    dual = dual_of(copy, tiny_config(fraction=0.25), stop)
    weights = np.exp(utilities / dual["beta"])
    weights /= weights.sum(axis=1, keepdims=True)
    margin = 0.25 * ((weights * utilities).sum(axis=1) - utilities.mean(axis=1)).mean()
    np.testing.assert_allclose(dual["asked"]["safety"]["margin"], margin, rtol=1e-4)
    drawn = dual["forecast"]["draw_k"]["margins"]["safety"]["mean"]
    assert drawn >= margin - 1e-5
    if dual["lam"]["safety"] > 0:
        np.testing.assert_allclose(drawn, margin, rtol=1e-3, atol=1e-5)


def test_the_dual_of_a_run_is_guarded_unless_that_is_not_wanted(copy, tiny_config, stop):
    """With more prompts than the other tests have, so that the guard comes to rest."""
    asked = load(copy / "dual.json")
    assert asked["guard"] is None and asked["confidence"] == 0.95

    def guarded(config):
        config.confidence = 0.9
        config.sampling.update({"num_prompts": 32, "num_samples": 8})

    dual = dual_of(copy, tiny_config(margin=MARGIN, change=guarded), stop)
    guard, name = dual["guard"], "safety"
    assert guard["settled"] and guard["confidence"] == 0.9
    # What is asked on top: the scatter of the margin and of the calibration, and the size of the bias.
    spread = np.hypot(guard["standard_error"][name], guard["calibration"][name])
    assert guard["room"][name] > abs(guard["bias"][name]) + spread > 0
    assert dual["lam"][name] > guard["plain"]["lam"][name] and guard["low"][name] >= MARGIN - 1e-3
    margin = dual["forecast"]["tilt"]["margins"][name]["mean"]
    assert margin == pytest.approx(MARGIN + guard["room"][name], abs=2e-3)
    assert isinstance(dual["gate"]["open"], bool)


def test_each_category_of_prompts_keeps_a_margin_of_its_own(copy, tiny_config):
    """Labels are sigma of differences of r + lambda(x) g, with lambda_c / p_c on prompts of category c."""

    def grouped(config):
        config.constraints.safety.groups.margin = 0.01
        for name in ("sampling", "evaluation"):
            config[name].num_prompts = 16  # of both categories

    runs.run(tiny_config(change=grouped), copy)
    dual = load(copy / "dual.json")
    names = [f"safety[{one}]" for one in ("benign", "harmful")]
    assert list(dual["lam"]) == names == list(load(copy / "evaluation.json")["asked"])
    scores = np.load(copy / "pair_scores.npz")["scores"]
    lines = [json.loads(line) for line in (copy / "labels.jsonl").read_text().splitlines()]
    of = {dual["units"][name]["category"]: dual["lam"][name] / dual["units"][name]["share"] for name in names}
    lam = np.array([of[category(line["prompt"])] for line in lines])
    total = scores[..., 0] + lam[:, None] * scores[..., 1]
    expected = 1 / (1 + np.exp(total[:, 1] - total[:, 0]))
    np.testing.assert_allclose([line["label"] for line in lines], expected, rtol=1e-4)


def test_a_margin_beyond_reach_is_refused(copy, tiny_config):
    with pytest.raises(
        InfeasibleError, match="safety: asked 50, the largest margin that can be met alone is"
    ):
        runs.run(tiny_config(margin=50.0), copy)


def looks_of(workdir):
    """The shares of the error that looks at the run's test prompts have spent."""
    (looks,) = load(workdir / "run.json")["looks"].values()
    return [look["share"] for look in looks]


def test_an_earlier_answer_is_kept_with_its_policy_and_its_look_and_comes_back(
    copy, whole, tiny_config, stages_done, capsys
):
    """Another question at the same test prompts is a second look; the first answer's look stays the first."""
    assert looks_of(copy) == [0.8]
    assert (load(copy / "test.json")["look"], load(copy / "evaluation.json")["look"]) == (1, 1)
    runs.run(tiny_config(margin=MARGIN / 2), copy)
    # One look was planned and spent 0.8 of the error; the first one beyond the plan has 0.2 / (1 x 2).
    assert looks_of(copy) == pytest.approx([0.8, 0.1])
    second = load(copy / "test.json")
    assert (second["look"], second["share"], second["spent"]) == pytest.approx((2, 0.1, 0.9))
    assert second["verdicts"]["safety"]["confidence"] == pytest.approx(1 - 0.05 * 0.1)
    assert load(copy / "evaluation.json")["look"] == 2
    earlier = copy / "answers" / f"safety-margin-{MARGIN}"
    for name in (
        "dual.json",
        "labels.jsonl",
        "test.json",
        "evaluation.json",
        "report.html",
        "policy/best/checksums.json",
    ):
        assert (earlier / name).exists(), name
    assert (earlier / "dual.json").read_bytes() == (whole / "dual.json").read_bytes()
    page = (copy / "answers" / "index.html").read_text()
    assert f"safety-margin-{MARGIN}" in page and f"{MARGIN / 2:g}" in page
    capsys.readouterr()
    runs.run(tiny_config(margin=MARGIN), copy)
    assert stages_done(capsys.readouterr().out) == []
    for name in ("test.json", "evaluation.json"):
        assert (copy / name).read_bytes() == (whole / name).read_bytes()
    assert looks_of(copy) == pytest.approx([0.8, 0.1])
    assert [path.name for path in (copy / "answers").iterdir() if path.is_dir()] == [
        f"safety-margin-{MARGIN / 2}"
    ]


def test_train_and_solve_say_the_same_of_the_same_table(whole, capsys, tiny_config):
    config = tiny_config(margin=MARGIN)
    solve_command.solve(
        whole / "scores.npz",
        beta=config.beta,
        asked={"margin": [f"safety={MARGIN}"]},
        as_json=True,
        num_resamples=config.bootstrap,
        seed=config.seed,
        calibration=whole / "calibration.json",
    )
    found, dual = json.loads(capsys.readouterr().out), load(whole / "dual.json")
    # What held-out pairs say of the scores where the tilt goes is known to the run alone.
    assert set(found.pop("warnings")) <= set(dual.pop("warnings"))
    # A run also asks what other margins would have cost; one of the points is its own question.
    assert [(p["asked"], p["lam"]) for p in dual.pop("dial") if p["own"]] == [(MARGIN, dual["lam"])]
    assert found == dual


def test_settings_that_change_no_result_redo_nothing(copy, tiny_config, stages_done, capsys):
    config = tiny_config(margin=MARGIN)
    align = dataclasses.replace(config.align, log_every=7, checkpoint_every=3)
    model = dataclasses.replace(config.model, remat=True)
    changed = dataclasses.replace(config, align=align, model=model, ref_batch_size=16, shown_samples=2)
    runs.run(changed, copy)
    assert stages_done(capsys.readouterr().out) == []


def test_evaluate_gives_the_same_numbers_again(copy, whole, stages_done, capsys):
    evaluate(copy)
    assert stages_done(capsys.readouterr().out) == ["evaluation"]
    assert (copy / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()


def test_an_audit_is_made_once_and_changes_nothing_else(copy, whole, tiny_config, stages_done, capsys):
    attacks = ("temperature", "prefill", "disalign")
    audit = AuditSettings(attacks, temperatures=(0.5, 1.0), prefill_tokens=(2,), alphas=(0.5,))
    runs.run(dataclasses.replace(tiny_config(margin=MARGIN), audit=audit), copy)
    out = capsys.readouterr().out
    assert stages_done(out) == [*(f"audit/{name}" for name in attacks), "audit"]
    assert out.count("prefill: safety margin ") == 1
    assert (copy / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()
    found, record = load(copy / "evaluation.json"), load(copy / "audit.json")
    assert [curve["attack"] for curve in record["curves"]] == list(attacks) and record["samples"] == 4
    plain = found["policies"]["aligned"]
    for curve in record["curves"]:
        # All eight test prompts are audited: without an attack the policy is as it was evaluated.
        (own,) = (point for point in curve["points"] if point["strength"] == curve["start"])
        for name in ("margins", "true_margins", "utilities"):
            assert own[name]["safety"]["mean"] == pytest.approx(plain[name]["safety"]["mean"], abs=1e-9)
        (other,) = (point for point in curve["points"] if point is not own)
        assert other["margins"]["safety"]["mean"] != own["margins"]["safety"]["mean"]
    given = load_lines(copy / "audit" / "prefill" / "2.jsonl")
    (text,) = {row["text"] for row in given}
    assert len(text.split()) == 2 and all(row["response"].startswith(text) for row in given)
    assert "Audit: 4 responses to each of 8 test prompts" in (copy / "report.html").read_text()
    # The folder remembers what was asked, and nothing of it is computed again.
    evaluate(copy, audit=["temperature"])
    assert stages_done(capsys.readouterr().out) == ["evaluation", "audit"]
    assert load(copy / "audit.json")["curves"] == record["curves"][:1]
    audit = dataclasses.replace(audit, attacks=("temperature",), temperatures=(0.7,))
    runs.run(dataclasses.replace(tiny_config(margin=MARGIN), audit=audit), copy)
    assert stages_done(capsys.readouterr().out) == ["audit/temperature", "audit"]
    assert sorted(path.name for path in (copy / "audit" / "temperature").iterdir()) == [
        "0.7.jsonl",
        "scores.npz",
    ]


def test_an_audit_that_cannot_be_made_is_refused(whole):
    with pytest.raises(InputError, match=r"config.audit.attacks\[0\]: is 'heat', must be temperature, "):
        evaluate(whole, audit=["heat"])
    with pytest.raises(InputError, match="--prefill and --system_prompt are of an audit; add --audit=all"):
        evaluate(whole, prefill="sure")


def test_one_of_k_draws_is_kept(whole, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    own = list(dict.fromkeys(row["prompt"] for row in load_lines(whole / "samples.jsonl")))[:3]
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in own))
    draws, wanted = Draws(num_samples=2, max_new_tokens=8, seed=3), Wanted(multipliers={"safety": 2.0})
    told = sample_best_of(whole, str(prompts), str(out), draws, wanted, 4)
    rows = load_lines(out)
    assert [(row["prompt"], row["sample"], row["drawn_from"]) for row in rows] == [
        (one, k, 4) for one in own for k in (0, 1)
    ]
    assert (
        told[0] == "lambda: safety 2.0000" and "1 of 4 kept" in told[-1] and "at most 1.39 nats" in told[-1]
    )
    # The log-probabilities in the lines are the reference's own.
    base = load_pretrained(whole / "reference")
    assert base.tokenizer is not None
    prompted = [encode_prompt(base.tokenizer, world_for("assistant").template, row["prompt"]) for row in rows]
    responses = [
        TokenizedResponse(np.array(ids, np.int32), np.array(row["response_ids"], np.int32))
        for ids, row in zip(prompted, rows, strict=True)
    ]
    logps = response_logps(base, responses, batch_size=6)
    np.testing.assert_allclose([row["logps"] for row in rows], logps, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="--best_of: is 0; must be at least 1"):
        sample_best_of(whole, str(prompts), str(out), draws, wanted, 0)
    with pytest.raises(InputError, match="--greedy: does not go with --best_of"):
        sample_best_of(whole, str(prompts), str(out), Draws(1, 8, greedy=True), wanted, 4)
    prompts.write_text(json.dumps({"prompt_ids": [1, 2]}) + "\n")
    with pytest.raises(InputError, match='prompts.jsonl:1: "prompt" is given as token ids alone'):
        sample_best_of(whole, str(prompts), str(out), draws, wanted, 4)


def test_exports_are_adapter_and_base(whole, tmp_path):
    export(whole, tmp_path / "merged", adapter_only=False)
    export(whole, tmp_path / "adapter", adapter_only=True)
    base, merged = load_pretrained(whole / "reference"), load_pretrained(tmp_path / "merged")
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str((whole / "reference").resolve())
    again = load_pretrained(tmp_path / "adapter")  # PEFT's folder alone is the model as well
    jax.tree.map(np.testing.assert_array_equal, again.params, merged.params)
    lora = load_adapter(tmp_path / "adapter", base.config)
    assert isinstance(lora, Lora) and max(float(abs(x).max()) for x in jax.tree.leaves(lora.params)) > 0
    assert merged.tokenizer is not None and base.tokenizer is not None
    assert merged.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    rng = np.random.default_rng(0)
    pairs = [rng.integers(1, base.config.vocab_size, size=(2, 8)).astype(np.int32) for _ in range(16)]
    responses = [TokenizedResponse(*pair) for pair in pairs]
    adapted = response_logps(base, responses, lora=lora, batch_size=16)
    np.testing.assert_allclose(response_logps(merged, responses, batch_size=16), adapted, atol=1e-3)
    assert np.abs(adapted - response_logps(base, responses, batch_size=16)).max() > 1e-2


@pytest.mark.slow
def test_eight_devices_agree_with_one(whole, tmp_path, tiny_config, check_eight_devices):
    check_eight_devices(whole, tiny_config(margin=MARGIN), tmp_path / "eight")
