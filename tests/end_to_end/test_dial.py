"""The dial of finished runs: responses at any margin, and the product of policies as the answer itself."""

import json

import jax
import numpy as np
import pytest

from alignjax import runs
from alignjax.data.tokenize import TokenizedResponse, encode_prompt
from alignjax.errors import InfeasibleError, InputError
from alignjax.evaluate import evaluate
from alignjax.export import export
from alignjax.models import Mixture, load_adapter, load_pretrained
from alignjax.policy.logps import response_logps
from alignjax.run_samples import opened, sample_run
from alignjax.sample_lines import Draws
from alignjax.workflow import dialling
from alignjax.workflow.dialling import Wanted
from alignjax.workflow.tempering import tempered

MARGIN = 0.02
DRAWS = Draws(num_samples=2, max_new_tokens=8, seed=3)


def skip(config):
    config.align.skip = True
    config.dial = ("merged", "best_of")


def load(path):
    return json.loads(path.read_text())


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_config):
    """Folder of a finished run whose answer is the product of its policies: nothing was aligned."""

    workdir = tmp_path_factory.mktemp("dial") / "run"
    runs.run(tiny_config(margin=MARGIN, change=skip), workdir)
    return workdir


@pytest.fixture(scope="module")
def prompts(whole, tmp_path_factory):
    """Prompts of the run's own samples: other words are not in the world's vocabulary."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    own = list(dict.fromkeys(row["prompt"] for row in rows(whole / "samples.jsonl")))[:3]
    path.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in own))
    return path


def test_the_run_ends_with_the_product(whole):
    stages = load(whole / "run.json")["stages"]
    assert "product" in stages and not {"policy", "labels", "pair_scores", "preview"} & set(stages)
    record, dual = load(whole / "product.json"), load(whole / "dual.json")
    matrix = np.array(load(whole / "calibration.json")["matrix"])
    lam = dual["lam"]["safety"]
    assert record["multipliers"] == {"safety": lam}
    # beta_pre is beta in this preset.
    strength = record["strength"]
    np.testing.assert_allclose(list(record["weights"].values()), strength * np.array([1.0, lam]) @ matrix)
    assert 0 < strength <= 1 and record["kl"] > 0
    assert strength == 1 or record["kl"] < 1.5 * dual["forecast"]["draw_k"]["kl"]["mean"]
    found = load(whole / "evaluation.json")
    assert list(found["policies"]) == ["reference", "reward", "safety", "aligned"]
    assert found["policies"]["aligned"]["kl"]["mean"] > 0
    assert set(found["verdicts"]) == {"safety", "reward", "kl"}


def test_policies_without_a_training_stand_beside_the_answer(whole):
    """The merge is sampled; draw-K is the reference's own responses with the weights of the tilt."""
    found, answer = load(whole / "dial.json"), load(whole / "dual.json")
    assert list(found["policies"]) == ["aligned", "merged", "best_of"] and not found["exact"]
    costs = {k: (v["passes"], v["draws"], v["trainings"]) for k, v in found["policies"].items()}
    assert costs == {"aligned": (3, 1, 0), "merged": (1, 1, 0), "best_of": (1, 4, 0)}
    assert [one["tested"] for one in found["policies"].values()] == [True, False, False]
    own = load(whole / "evaluation.json")["policies"]["aligned"]
    same = found["policies"]["aligned"]["result"]
    assert same["kl"] == pytest.approx(own["kl"]) and same["margins"]["safety"]["mean"] == pytest.approx(
        own["margins"]["safety"]["mean"]
    )
    matrix = np.array(load(whole / "calibration.json")["matrix"])
    with np.load(whole / "evaluation_scores" / "baselines.npz") as stored:
        scores = stored["reference.raw"] @ matrix.T
    tilt = (scores[..., 0] + answer["lam"]["safety"] * scores[..., 1]) / answer["beta"]
    weights = np.exp(tilt - tilt.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    margin = (weights * scores[..., 1]).sum(axis=1).mean() - scores[..., 1].mean()
    drawn = found["policies"]["best_of"]["result"]["margins"]["safety"]["mean"]
    assert drawn == pytest.approx(margin, rel=1e-6)
    assert "The same multiplier without a training" in (whole / "report.html").read_text()


def test_a_second_run_and_an_evaluation_keep_the_product(whole, tiny_config, stages_done, capsys):
    runs.run(tiny_config(margin=MARGIN, change=skip), whole)
    assert stages_done(capsys.readouterr().out) == []
    before = (whole / "evaluation.json").read_bytes()
    evaluate(whole)
    assert stages_done(capsys.readouterr().out) == ["evaluation"]  # the table beside it rests on the scores
    assert (whole / "evaluation.json").read_bytes() == before


def test_lines_are_drawn_from_the_product_at_the_margin(whole, prompts, tmp_path):
    before = {
        path: path.read_bytes() for path in whole.rglob("*") if path.is_file() and "lock" not in path.name
    }
    wanted = Wanted(margins={"safety": 2 * MARGIN})
    told = sample_run(whole, str(prompts), str(tmp_path / "out.jsonl"), DRAWS, wanted)
    drawn = rows(tmp_path / "out.jsonl")
    assert [row["sample"] for row in drawn] == [0, 1] * 3
    with opened(whole) as (run, ready):
        answer = dialling.dialled(ready, wanted).answer
        single = dialling.factors(run, ready)
        product = tempered(ready, single, dialling.product_of(ready, answer.lam or {}), answer)
        policy = dialling.product_policy(ready.reference, single, product)
        assert isinstance(policy.lora, Mixture)
        weights = softmaxed(ready, lam_of(answer))
    # Without a guard the multiplier is the one at which draw-K of the run's own table has the margin.
    utilities = ready.calibration.table.utilities[..., 0]
    reached = (weights * utilities).sum(axis=1).mean() - utilities.mean()
    assert reached >= 2 * MARGIN - 1e-5
    assert lam_of(answer) >= load(whole / "dual.json")["lam"]["safety"]
    np.testing.assert_allclose(policy.lora.weights, list(product.weights.values()), rtol=1e-6)
    # The log-probabilities in the lines are the product's own.
    read, template = ready.reference.tokenizer, ready.data.template
    responses = [
        TokenizedResponse(
            np.array(encode_prompt(read, template, row["prompt"]), np.int32),
            np.array(row["response_ids"], np.int32),
        )
        for row in drawn
    ]
    expected = response_logps(policy.model, responses, lora=policy.lora, batch_size=6)
    np.testing.assert_allclose([row["logps"] for row in drawn], expected, rtol=1e-4, atol=1e-4)
    assert told[0].startswith(f"lambda: safety {lam_of(answer):.4f}")
    assert "margin of safety" in told[1] and "KL" in told[1] and "3 forward passes" in told[-1]
    assert {path: path.read_bytes() for path in before} == before  # nothing of the run has changed


def lam_of(answer):
    assert answer.lam is not None
    return answer.lam["safety"]


def softmaxed(ready, lam):
    table = ready.calibration.table
    return np.asarray(
        jax.nn.softmax((table.rewards + lam * table.utilities[..., 0]) / ready.setup.config.beta, axis=1)
    )


def test_given_multipliers_are_taken_and_nothing_asked_is_what_the_run_asked(whole):
    with opened(whole) as (_, ready):
        found = dialling.dialled(ready, Wanted(multipliers={"safety": 0.7})).answer
        assert found.lam == {"safety": 0.7} and not found.solved and found.forecast is not None
        assert dialling.dialled(ready).answer.lam == load(whole / "dual.json")["lam"]


def test_a_rate_is_reached_by_a_multiplier_of_the_score(whole):
    with opened(whole) as (_, ready):
        rate, table = ready.calibration.record.rates["safety"], ready.calibration.table
        safe = 1 / (1 + np.exp(-(rate.slope * table.utilities[..., 0] + rate.intercept)))
        least, most = safe.mean(), safe.max(axis=1).mean()
        asked = float(0.6 * least + 0.4 * most)
        found = dialling.dialled(ready, Wanted(rates={"safety": asked}))
        weights = softmaxed(ready, lam_of(found.answer))
        reached = (weights * safe).sum(axis=1).mean()
        assert reached == pytest.approx(found.rates["safety"], abs=1e-4)
        assert reached >= asked - 1e-4 and reached == pytest.approx(asked, abs=1e-3)
        assert f"rate of draw-K: safety {reached:.3f}" in dialling.said(found)[1]
        with pytest.raises(InfeasibleError, match="rate|alone"):
            dialling.dialled(ready, Wanted(rates={"safety": (1 + float(most)) / 2}))


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (
            ["--margin=safety=99"],
            3,
            "constraints: no policy on these samples meets them (safety: asked 99,",
        ),
        (
            ["--margin=safty=1"],
            2,
            "'safty' is no constraint of this run; did you mean safety?",
        ),
        (["--margin=safety=x"], 2, "--margin=safety=x: 'x' is not a number."),
        (
            ["--margin=safety"],
            2,
            "--margin=safety: must be a constraint's name and a number; write",
        ),
        (
            ["--margin=safety=1", "--margin=safety=2"],
            2,
            "'safety' is asked for already by --margin=",
        ),
        (["--margin=safety=1", "--rate=safety=0.5"], 2, "safety: is asked for twice; give one of"),
        (["--rate=safety=95"], 2, "--rate=safety=95: must lie between 0 and 1, it is a probability."),
        (
            ["--multiplier=safety=-1"],
            2,
            "--multiplier=safety=-1: must be at least 0, it multiplies",
        ),
        (["--model=somewhere"], 2, "--model: the run of --workdir has its own; leave it out."),
    ],
)
def test_bad_questions_end_in_one_line(whole, prompts, tmp_path, command, flags, status, message):
    out = tmp_path / "out.jsonl"
    given = [f"--workdir={whole}", f"--prompts={prompts}", f"--output={out}", "--max_new_tokens=8", *flags]
    found = command("sample", *given)
    assert found.status == status and found.err.count("\n") == 1 and message in found.err, found.err
    assert not out.exists()


def test_flags_of_a_run_need_a_run(prompts, tmp_path, command):
    given = [f"--prompts={prompts}", f"--output={tmp_path / 'out.jsonl'}", "--max_new_tokens=8"]
    found = command("sample", *given)
    assert found.status == 2 and "--model is missing; give --model=..., or --workdir=..." in found.err
    found = command("sample", *given, "--model=x", "--margin=safety=1")
    assert found.status == 2 and "--margin: is about a finished run; give --workdir=..." in found.err


def test_a_folder_without_a_finished_run_is_refused(tmp_path, prompts):
    with pytest.raises(InputError, match="config.json: is missing"):
        sample_run(tmp_path, str(prompts), str(tmp_path / "out.jsonl"), DRAWS, Wanted())


def test_the_merge_of_another_margin_is_written_and_says_that_it_is_not_tested(whole, tmp_path):
    wanted = Wanted(multipliers={"safety": 0.7})
    export(whole, tmp_path / "adapter", adapter_only=True, wanted=wanted)
    export(whole, tmp_path / "model", adapter_only=False, wanted=wanted)
    base = load_pretrained(whole / "reference")
    lora = load_adapter(tmp_path / "adapter", base.config)
    with opened(whole) as (run, ready):
        single = dialling.factors(run, ready)
        answer = dialling.dialled(ready, wanted).answer
        found = tempered(ready, single, dialling.product_of(ready, answer.lam or {}), answer)
        weights = list(found.weights.values())
        kernels = base.params["layers"]
        written = load_pretrained(tmp_path / "model").params["layers"]
        for name, pair in lora.params["layers"].items():
            parts = [one.params["layers"][name] for one in dialling.adapters_of(single)]
            scales = [one.scale for one in dialling.adapters_of(single)]
            added = sum(
                w * scale * np.einsum("lir,lro->lio", part["a"], part["b"])
                for w, scale, part in zip(weights, scales, parts, strict=True)
            )
            np.testing.assert_allclose(
                lora.scale * np.einsum("lir,lro->lio", pair["a"], pair["b"]), added, atol=1e-6
            )
            np.testing.assert_allclose(
                written[name]["kernel"], kernels[name]["kernel"] + added, rtol=1e-5, atol=1e-6
            )
    card = (tmp_path / "model" / "README.md").read_text()
    assert "**Not tested.**" in card and "lambda: safety 0.7000" in card and "verified" not in card


def test_the_product_that_a_run_ended_with_is_written_as_its_merge(whole, tmp_path):
    export(whole, tmp_path / "cut", adapter_only=True, rank=1)
    config = load(tmp_path / "cut" / "adapter_config.json")
    assert config["r"] == 1
    card = (tmp_path / "cut" / "README.md").read_text()
    lam = load(whole / "product.json")["multipliers"]["safety"]
    assert f"lambda: safety {lam:.4f}" in card and "cut to rank 1, which leaves out" in card
    with pytest.raises(InputError, match="--stage: was trained at its own margin"):
        export(whole, tmp_path / "no", adapter_only=True, stage="reward", wanted=Wanted())
    with pytest.raises(InputError, match="--rank: is of a merge"):
        export(whole, tmp_path / "no", adapter_only=True, stage="reward", rank=2)
