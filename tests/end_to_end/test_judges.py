"""Judges that are models, and judges with prompts of their own, on a finished run."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from alignjax import runs
from alignjax.data import worlds
from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Model, init_params, init_score_model, save_score_model
from alignjax.workflow.itinerary import itinerary

POLICIES = ["reference", "aligned"]
GUARD = "unsafe : {% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
WORLD = worlds.world_for("assistant")
# The last is one that is trained on, written otherwise.
OWN = [*WORLD.prompts_test[:4], f"  {WORLD.prompts_train[0].replace(' ', '  ')} "]


def load(path):
    return json.loads(path.read_text())


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def responses_of(folder):
    """By policy, the texts of its responses by prompt."""
    found = {}
    for name in POLICIES:
        rows = rows_of(folder / f"{name}.jsonl")
        found[name] = [[row["response"] for row in rows if row["prompt_id"] == i] for i in range(len(rows))]
        found[name] = [texts for texts in found[name] if texts]
    return found


def save_score(world, folder, *, kind):
    """A random score model that reads the world's ids."""
    config = DecoderConfig("llama", len(world.tokenizer), 16, 24, 1, 2, 1, 8, eos_ids=(0,))
    body = Model(init_params(jax.random.key(0), config), config, world.tokenizer)
    save_score_model(init_score_model(jax.random.key(1), body, kind=kind), folder)


def last(text):
    return text.split()[-1] if text.split() else "assistant"


@pytest.fixture(scope="module")
def judges(tmp_path_factory, chain_model, exact_run):
    """Folders of a guard and of a general judge, and what they say to a response's last word."""
    words = sorted({last(text) for texts in responses_of(exact_run / "evaluation_samples").values()
                    for row in texts for text in row} - {"assistant"})  # fmt: skip
    folder = tmp_path_factory.mktemp("judges")
    said = {"assistant": "safe", **dict(zip(words, itertools.cycle(["unsafe", "safe", "hm"]), strict=False))}
    chain_model(folder / "guard", {**said, "unsafe": "S2", "S2": "</s>"}, chat_template=GUARD)
    letters = {"<unk>": "C", **dict(zip(words, itertools.cycle("AB"), strict=False))}
    chain_model(folder / "general", letters)
    return folder, said, letters


@pytest.fixture(scope="module")
def judged(tmp_path_factory, exact_run, exact_config, judges):
    """A copy of the run with a guard on the test prompts, and a general judge on prompts of its own."""
    folder, _, _ = judges
    own = folder / "own.jsonl"
    own.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in [*OWN, OWN[0]]))

    def change(config):
        config.judges.safety.update({"preset": "llama-guard", "path": str(folder / "guard")})
        template = "{prompt} {first} {second}"
        config.judges.reward.update({"preset": "general", "path": str(folder / "general")})
        config.judges.reward.update({"prompts": str(own), "template": template})

    copy = shutil.copytree(exact_run, tmp_path_factory.mktemp("judged") / "run")
    runs.run(exact_config(change), copy)
    return copy, change


def test_a_guard_judges_every_response_to_the_test_prompts(judged, judges):
    copy, _ = judged
    _, said, _ = judges
    evaluation = load(copy / "evaluation.json")
    values = {"safe": 1.0, "unsafe": 0.0, "hm": np.nan}
    found = {
        name: np.array([[values[said[last(text)]] for text in row] for row in texts])
        for name, texts in responses_of(copy / "evaluation_samples").items()
    }
    record, every = evaluation["judges"]["safety"], np.stack([*found.values()])
    assert (record["judge"], record["prompts"], record["own_prompts"]) == ("llama-guard", 16, False)
    assert record["asked"] == every.size and record["unread"] == np.isnan(every).sum()
    known = np.isfinite(every).any(axis=2)
    shares = np.where(known, np.nansum(every, axis=2) / np.maximum(1, np.isfinite(every).sum(axis=2)), np.nan)
    for name, share in zip(POLICIES, shares, strict=True):
        assert record["safe"][name]["mean"] == pytest.approx(np.nanmean(share))
        assert record["hazards"][name].get("S2", 0) == (found[name] == 0).sum()
    wins = evaluation["contests"]["safety"]["win_rates"]["aligned"]["reference"]
    assert wins["mean"] == pytest.approx(np.nanmean((1 + shares[1] - shares[0]) / 2))
    assert evaluation["contests"]["safety"]["judge"] == "llama-guard"
    answers = rows_of(copy / "judges" / "safety.jsonl")
    assert {row["answer"].split()[0] for row in answers if row["answer"]} <= {"safe", "unsafe", "hm"}


def test_the_stages_of_judges_are_foreseen(judged, exact_config):
    copy, change = judged
    foreseen = itinerary(exact_config(change), load(copy / "data.json"))
    assert sorted(stage.name for stage in foreseen) == sorted(load(copy / "run.json")["stages"])


def test_a_general_judge_has_prompts_of_its_own(judged, judges):
    """Every policy answers them; a prompt twice in the file is one; one of them is trained on."""
    copy, _ = judged
    _, _, letters = judges
    evaluation = load(copy / "evaluation.json")
    record, contest = evaluation["judges"]["reward"], evaluation["contests"]["reward"]
    assert (record["prompts"], record["own_prompts"], record["trained_on"]) == (5, True, 1)
    assert record["asked"] == contest["comparisons"] * 2 == 5 * 2
    samples = copy / "judge_samples" / "reward"
    assert [row["prompt"] for row in rows_of(samples / "aligned.jsonl")[::4]] == OWN
    first = {name: [row[0] for row in texts] for name, texts in responses_of(samples).items()}
    value = {"A": 1.0, "B": 0.0, "C": 0.5}

    def verdict(second):
        return value[letters.get(second.split()[-1], letters["<unk>"])]

    shares = [
        (verdict(ours) + 1 - verdict(theirs)) / 2  # each is what is said where the other is shown first
        for ours, theirs in zip(first["reference"], first["aligned"], strict=True)
    ]
    assert contest["win_rates"]["aligned"]["reference"]["mean"] == pytest.approx(np.mean(shares))
    assert str(copy) not in (copy / "evaluation.json").read_text()
    assert "general, in both orders, on 5 prompts of its own" in (copy / "report.html").read_text()


def test_another_judge_redoes_its_own_stage_and_the_evaluation(
    judged, tmp_path, exact_config, capsys, stages_done
):
    """A cost model by a path; the responses and the other judge's answers stay."""
    done, change = judged
    copy = shutil.copytree(done, tmp_path / "copy")
    save_score(WORLD, tmp_path / "cost", kind="cost")

    def other(config):
        change(config)
        config.judges.safety.update({"preset": "cost", "path": str(tmp_path / "cost")})

    runs.run(exact_config(other), copy)
    assert stages_done(capsys.readouterr().out) == ["evaluation by the judge of safety", "evaluation"]
    record = load(copy / "evaluation.json")["judges"]["safety"]
    rows = rows_of(copy / "judges" / "safety.jsonl")
    utilities = {name: [row["utility"] for row in rows if row["policy"] == name] for name in POLICIES}
    for name in POLICIES:
        assert record["safe"][name]["mean"] == pytest.approx(np.mean(np.array(utilities[name]) > 0), abs=0.04)
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "cost", moved)

    def same(config):
        other(config)
        config.judges.safety.path = str(moved)

    runs.run(exact_config(same), copy)
    assert stages_done(capsys.readouterr().out) == []  # the content of the folder counts, not its name


def test_what_cannot_be_asked_is_refused_before_training(tmp_path, exact_config, chain_model):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "how do i make bread"}\n{"text": "x"}\n')
    guard = chain_model(tmp_path / "guard", {"a": "safe"}, chat_template=GUARD)
    folder = tmp_path / "reward"
    save_score(WORLD, folder, kind="reward")
    cases = [
        ({"preset": "llama-guard", "path": str(tmp_path / "none")}, "path: .*none does not exist"),
        ({"preset": "cost", "path": str(tmp_path / "none")}, "path: .*none is no folder"),
        ({"preset": "cost", "path": str(folder)}, "preset: is 'cost', but .*score_type 'reward'"),
        (
            {"preset": "llama-guard", "path": str(guard), "prompts": str(bad)},
            r'bad.jsonl:2: "prompt" is missing',
        ),
        ({"preset": "llama-guard", "path": str(guard), "prompts": "none.jsonl"}, "prompts: none.jsonl is no"),
    ]
    workdir = tmp_path / "run"
    for judge, message in cases:
        with pytest.raises(InputError, match=message):
            runs.run(exact_config(lambda config, judge=judge: config.judges.safety.update(judge)), workdir)
        stages = load(workdir / "run.json")["stages"]
        assert {name: one["status"] for name, one in stages.items()} == {
            "reference": "done",
            "data": "running",
        }
