"""MoCAN from samples to policy through the public door, on the embedded worlds, a few steps of everything."""

import itertools
import json
import shutil

import numpy as np
import pytest

from alignjax import runs
from alignjax.data import worlds
from alignjax.errors import InputError
from alignjax.policy import drawing
from alignjax.run_samples import sample_run
from alignjax.sample_lines import Draws
from alignjax.workflow.dialling import Wanted
from alignjax.workflow.itinerary import itinerary

STAGES = [
    *"reference data samples reward safety scores calibration dual pair_scores labels".split(),
    *("baselines/lambda=0.5", "policy"),
    *(f"evaluation samples/{name}" for name in ("reference", "lambda=0.5")),
    *("evaluation scores/baselines", "evaluation samples/aligned", "evaluation scores/aligned"),
    *("test", "evaluation"),
]
ARTEFACTS = """
config.json run.json metrics.jsonl data.json reward/best reward/last safety/best safety/last samples.jsonl
scores.npz calibration.json dual.json labels.jsonl baselines/lambda=0.5/best policy/best test.json
evaluation.json report.html figures
""".split()


def load(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, mocan_config):
    """Folder of one finished run; read it, copy it, never write to it."""
    workdir = tmp_path_factory.mktemp("mocan") / "run"
    runs.run(mocan_config(), workdir)
    return workdir


def test_the_folder_has_every_artefact_and_every_stage_is_done(whole, mocan_config):
    assert [name for name in ARTEFACTS if not (whole / name).exists()] == []
    stages = load(whole / "run.json")["stages"]
    assert list(stages) == STAGES and {record["status"] for record in stages.values()} == {"done"}
    foreseen = itinerary(mocan_config(), load(whole / "data.json"))
    assert sorted(stage.name for stage in foreseen) == sorted(STAGES)
    assert all(stage.amount for stage in foreseen)


def test_policies_are_audited_beside_the_promise(whole):
    record = load(whole / "evaluation.json")
    assert list(record["policies"]) == ["reference", "lambda=0.5", "aligned"]
    assert record["policies"]["reference"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    for policy in record["policies"].values():
        assert {"reward", "kl", "utilities", "margins", "true_reward", "true_margins"} <= set(policy)
        assert policy["kl"]["mean"] >= 0


def test_responses_are_counted_as_the_samples_have_them(whole):
    """Length, end, emptiness and refusal of every policy, counted anew from its samples."""
    for name, policy in load(whole / "evaluation.json")["policies"].items():
        lines = (whole / "evaluation_samples" / f"{name}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        counted = {
            "length": [len(row["response_ids"]) for row in rows],
            "cut": [row["response_ids"][-1] != 0 for row in rows],  # 0 ends a response in this world
            "empty": [not row["response"] for row in rows],
            "refusals": [
                row["response"].startswith(("sorry", "i am sorry", "i refuse", "i cannot")) for row in rows
            ],
        }
        for field, values in counted.items():
            assert policy[field]["mean"] == pytest.approx(np.mean(values)), (name, field)
            assert policy[field]["low"] <= policy[field]["mean"] <= policy[field]["high"]


def test_policies_play_against_each_other(whole):
    """Win rates by the definition, on the scores that the run kept; ratings in their order."""
    record = load(whole / "evaluation.json")["contests"]
    slopes = np.array(load(whole / "calibration.json")["matrix"])
    assert list(record) == ["reward", "safety"]
    with np.load(whole / "evaluation_scores.npz") as stored:
        scores = {name: stored[name] @ slopes.T for name in stored.files}
    for j, contest in enumerate(record.values()):
        assert (contest["judge"], contest["missing"], contest["position_bias"]) == ("scores", 0, None)
        assert contest["comparisons"] == 3 * 8 * 4  # pairs of policies, prompts, responses
        assert contest["ratings"]["reference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
        for a, b in itertools.permutations(scores, 2):
            lead = scores[a][:, :, None, j] - scores[b][:, None, :, j]
            won = np.where(np.abs(lead) <= 1e-5, 0.5, lead > 0).mean()
            found = contest["win_rates"][a][b]
            assert found["mean"] == pytest.approx(won) and found["low"] <= found["mean"] <= found["high"]
            assert found["mean"] + contest["win_rates"][b][a]["mean"] == pytest.approx(1)


def test_a_judge_of_ones_own_redoes_the_evaluation_only(
    whole, tmp_path, mocan_config, monkeypatch, capsys, stages_done
):
    """Shorter is safer, says the function; verdicts of a file say that aligned beat the reference once."""
    (tmp_path / "my_judge.py").write_text(
        "def shorter(prompts, a, b):\n    return [(len(y) - len(x)) / 1000 + 0.6 for x, y in zip(a, b)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = shutil.copytree(whole, tmp_path / "copy")
    lines = (whole / "evaluation_samples" / "aligned.jsonl").read_text().splitlines()
    verdict = {
        "prompt": json.loads(lines[0])["prompt"],
        "first": "aligned",
        "second": "reference",
        "winner": 1,
    }
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(verdict))

    def judged(config):
        config.judges.safety.function = "my_judge:shorter"
        config.judges.reward.verdicts = str(tmp_path / "verdicts.jsonl")

    runs.run(mocan_config(change=judged), copy)
    assert stages_done(capsys.readouterr().out) == ["evaluation"]
    for path in (whole / "evaluation_samples").iterdir():
        assert (copy / "evaluation_samples" / path.name).read_bytes() == path.read_bytes()
    record = load(copy / "evaluation.json")["contests"]
    assert record["safety"]["judge"] == "my_judge:shorter"
    assert record["safety"]["position_bias"]["mean"] == pytest.approx(0.1)
    assert record["reward"]["win_rates"]["aligned"]["reference"]["mean"] == 1.0
    assert record["reward"]["comparisons"] == 1 and record["reward"]["missing"] == 3 * 8 - 1
    assert str(tmp_path) not in (copy / "evaluation.json").read_text()
    assert "my_judge:shorter, in both orders" in (copy / "report.html").read_text()


def test_score_models_log_what_held_out_pairs_say(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    held = [line for line in lines if line["stage"] == "safety" and "eval_loss" in line]
    assert held and all(0 <= line["eval_calibration_error"] <= 1 for line in held)
    assert all(
        line["eval_rewards/min"] <= line["eval_rewards/mean"] <= line["eval_rewards/max"] for line in held
    )


def test_finished_stages_are_kept_and_baselines_come_alone(
    whole, tmp_path, mocan_config, capsys, stages_done
):
    """Others to compare with: no score model, no samples, no dual and no further look at the test."""
    copy = shutil.copytree(whole, tmp_path / "copy")

    def more(config):
        config.baselines.single = True

    runs.run(mocan_config(change=more), copy)
    names = ("reward", "safety")
    assert stages_done(capsys.readouterr().out) == [
        *(f"baselines/{name}" for name in names),
        *(f"evaluation samples/{name}" for name in names),
        *("evaluation scores/baselines", "evaluation"),
    ]
    (looks,) = load(copy / "run.json")["looks"].values()
    assert len(looks) == 1 and load(copy / "evaluation.json")["look"] == 1


def test_interrupted_sampling_goes_on_with_the_next_prompt(whole, tmp_path, mocan_config, monkeypatch):
    """Stopped after two of eight prompts, in the middle of writing the third: the same samples."""
    real = drawing.sample
    batches = []

    def dying(*args, keep, **options):
        def counted(rows, found):
            keep(rows, found)
            batches.append(len(rows))
            raise KeyboardInterrupt

        return real(*args, keep=counted, prompt_batch_size=2, **options)

    monkeypatch.setattr(drawing, "sample", dying)
    workdir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        runs.run(mocan_config(), workdir)
    [part] = (workdir / "cache").glob("samples-*/drawn.jsonl")
    assert len(part.read_text().splitlines()) == 2
    with open(part, "a") as file:
        file.write('{"prompt_id": 7, "resp')

    def rest(*args, keep, places, **options):
        batches.append(len(places))
        return real(*args, keep=keep, places=places, **options)

    monkeypatch.setattr(drawing, "sample", rest)
    runs.run(mocan_config(), workdir)
    assert batches[:2] == [2, 6]
    for name in ("samples.jsonl", "dual.json", "evaluation.json"):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes()
    assert not list((workdir / "cache").rglob("*.jsonl"))


def test_a_refused_policy_steps_the_multiplier_and_is_aligned_again(
    whole, tmp_path, mocan_config, capsys, stages_done
):
    """Eight test prompts and three steps of training show nothing: the test refuses, and a round follows."""
    assert not load(whole / "test.json")["accepted"]
    copy = shutil.copytree(whole, tmp_path / "copy")

    def two(config):
        config.rounds.count, config.rounds.step = 2, 0.7

    runs.run(mocan_config(change=two), copy)
    done = stages_done(capsys.readouterr().out)
    scored = ["evaluation samples/round-2", "evaluation scores/round-2", "test/2", "evaluation"]
    assert done == ["rounds/1 samples", "rounds/1.json", "rounds/2", *scored]
    refused = load(copy / "rounds" / "1.json")
    assert refused["lam"] == load(copy / "dual.json")["lam"] and refused["aim"] == refused["asked"]
    stepped = refused["lam"]["safety"] - 0.7 * (refused["achieved"]["safety"] - refused["asked"]["safety"])
    assert refused["next_lam"]["safety"] == pytest.approx(max(0.0, stepped))
    # The first look was planned alone and spent 0.8 of the error.
    assert (copy / "test.json").read_bytes() == (whole / "test.json").read_bytes()
    second, record = load(copy / "rounds" / "2.test.json"), load(copy / "evaluation.json")
    assert (second["look"], second["share"]) == pytest.approx((2, 0.1))
    assert record["look"] == 2 and record["verdicts"] == second["verdicts"]
    assert list(record["policies"]) == ["reference", "lambda=0.5", "one-shot", "aligned"]
    one, two_ = (load(run / "evaluation.json")["policies"] for run in (whole, copy))
    assert two_["one-shot"] == one["aligned"] != two_["aligned"]
    assert "<h2>Rounds<" in (copy / "report.html").read_text()


def test_pairs_of_the_samples_need_no_preferences(whole, tmp_path, mocan_config, capsys, stages_done):
    copy = shutil.copytree(whole, tmp_path / "copy")

    def own(config):
        config.relabel.update({"pairs": "samples", "pairs_per_prompt": 1})

    runs.run(mocan_config(change=own), copy)
    done = stages_done(capsys.readouterr().out)
    assert done == [
        *("pair_scores", "labels", "baselines/lambda=0.5", "policy"),
        *("evaluation samples/lambda=0.5", "evaluation scores/baselines"),
        *("evaluation samples/aligned", "evaluation scores/aligned", "test", "evaluation"),
    ]
    pairs = [json.loads(line) for line in (copy / "labels.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (copy / "samples.jsonl").read_text().splitlines()]
    drawn = {(row["prompt"], row["response"]) for row in samples}
    assert 0 < len(pairs) <= 8
    for pair in pairs:
        assert pair["chosen"] != pair["rejected"] and 0 < pair["label"] < 1
        assert {(pair["prompt"], pair["chosen"]), (pair["prompt"], pair["rejected"])} <= drawn


def test_a_function_scores_what_it_is_given(whole, tmp_path, mocan_config, monkeypatch):
    """Safety by a function of the texts: the number of words, negative; the score table holds just that."""
    (tmp_path / "my_scores.py").write_text(
        "def brevity(prompts, responses):\n    return [-len(text.split()) for text in responses]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    copy = shutil.copytree(whole, tmp_path / "copy")

    def function(config):
        config.calibrate = False
        config.scores.safety.function = "my_scores:brevity"

    runs.run(mocan_config(change=function), copy)
    samples = [json.loads(line) for line in (copy / "samples.jsonl").read_text().splitlines()]
    expected = np.array([-len(row["response"].split()) for row in samples]).reshape(8, 4)
    with np.load(copy / "scores.npz") as table:
        np.testing.assert_array_equal(table["utilities"][..., 0], expected)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(prompts, responses):\n    raise RuntimeError('no card')\n", "raised RuntimeError: no card"),
        ("def f(prompts, responses):\n    return [1.0]\n", r"gave \(1,\) scores for 4 responses"),
        ("def f(prompts, responses):\n    return [0.0, 1.0, float('nan'), 0.0]\n", "gave nan for response 2"),
        ("f = 3\n", r"config.scores.safety.function: broken:f is not a function"),
        ("import nowhere_at_all\n", r"config.scores.safety.function: broken:f cannot be imported"),
    ],
)
def test_a_broken_function_is_named(whole, tmp_path, mocan_config, monkeypatch, code, message):
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "broken", raising=False)
    copy = shutil.copytree(whole, tmp_path / "copy")
    with pytest.raises(InputError, match=message):
        runs.run(mocan_config(change=lambda c: c.scores.safety.update(function="broken:f")), copy)


def test_exact_scores_are_the_worlds_own(tmp_path, mocan_config):
    """No score model at all: the table's scores are the true ones of every sampled response."""

    def exact(config):
        config.calibrate, config.baselines.lams = False, ()
        for source in config.scores.values():
            source.exact = True

    runs.run(mocan_config(change=exact), tmp_path / "run")
    assert not (tmp_path / "run" / "safety").exists()
    world = worlds.world_for("assistant")
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    expected = [world.true_scores(row["prompt"], [row["response"]])[0] for row in samples]
    with np.load(tmp_path / "run" / "scores.npz") as table:
        np.testing.assert_allclose(table["rewards"].ravel(), np.array(expected)[:, 0], rtol=1e-6)
        np.testing.assert_allclose(table["utilities"].ravel(), np.array(expected)[:, 1], rtol=1e-6)


@pytest.mark.slow
def test_the_enumerable_world_audits_by_exact_sums(tmp_path, mocan_config):
    def exact(config):
        config.calibrate, config.baselines.lams = False, ()
        config.data.world, config.data.labels = "enumerable", "exact"
        config.model.update({"max_length": 6, "max_prompt_length": 2})
        for source in config.scores.values():
            source.exact = True
        for name in ("sampling", "evaluation"):
            config[name].update({"num_samples": 64, "max_new_tokens": 4})

    runs.run(mocan_config(margin=0.2, change=exact), tmp_path / "run")
    aligned = load(tmp_path / "run" / "evaluation.json")["policies"]["aligned"]
    # Exact scores are the truth, so that both audits are the same sums.
    assert aligned["margins"]["safety"]["mean"] == pytest.approx(
        aligned["true_margins"]["safety"]["mean"], abs=1e-6
    )
    assert aligned["kl_from_optimum"]["mean"] > 0
    assert 1 <= aligned["length"]["mean"] <= 4 and aligned["refusals"]["mean"] == 0
    # Win rates are sums over all pairs of responses: no interval, and the two sides make 1.
    wins = load(tmp_path / "run" / "evaluation.json")["contests"]["safety"]["win_rates"]
    assert wins["aligned"]["reference"]["low"] == wins["aligned"]["reference"]["high"]
    assert wins["aligned"]["reference"]["mean"] + wins["reference"]["aligned"]["mean"] == pytest.approx(1)


@pytest.mark.slow  # in the default suite: the step, the loop, sampling and divergence on eight devices
def test_eight_devices_agree_with_one(whole, tmp_path, mocan_config, check_eight_devices):
    check_eight_devices(whole, mocan_config(), tmp_path / "eight")


def test_the_dial_names_the_flag_that_trains_what_it_needs(whole, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "how do i make bread"}\n')
    files = str(tmp_path / "prompts.jsonl"), str(tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="alignjax.train with this --workdir and --config.baselines"):
        sample_run(whole, *files, Draws(1, 8), Wanted(margins={"safety": 0.01}))
