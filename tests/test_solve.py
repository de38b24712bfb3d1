"""The solve command: what it prints, what it refuses and with which status."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from scipy.special import expit

from alignjax import cli, dual
from alignjax import solve as command
from alignjax.records.calibration import CalibrationRecord, Curve
from alignjax.records.units import Rate
from alignjax.runtime.arrays import write_npz
from alignjax.runtime.files import write_record
from alignjax.scores.table import ScoreTable, write_table

# One prompt, r = 0, g in {0, 1}, beta 1: the weight of g = 1 is sigma(lam), see tests/dual/test_solver.py.
# Half the largest margin, 1/2, is 1/4: lam = log 3, KL = 3/4 log(3/2) + 1/4 log(1/2), ess = 1.6.
COIN = ScoreTable(np.zeros((1, 2)), np.array([[[0.0], [1.0]]]), ("safety",))
KL = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
# g2 = 1 - g1: raising one lowers the other. r = 4 g2.
SCALES = ScoreTable(np.array([[0.0, 4.0]]), np.array([[[1.0, 0.0], [0.0, 1.0]]]), ("safety", "help=full"))

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def coin(tmp_path: Path) -> str:
    path = tmp_path / "coin.npz"
    write_table(path, COIN)
    return str(path)


@pytest.fixture
def scales(tmp_path: Path) -> str:
    path = tmp_path / "scales.jsonl"
    write_table(path, SCALES)
    return str(path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Calls the command in this process: status, standard output, standard error."""
    before = set(flags.FLAGS)
    command._define_flags()
    added = set(flags.FLAGS) - before

    def call(*arguments: str) -> tuple[int, str, str]:
        for name in added:
            flags.FLAGS[name].unparse()  # or a repeated flag would keep the values of the call before
        with pytest.raises(SystemExit) as ended:
            cli.run(command._main, ["solve", *arguments], required=["scores"])
        assert isinstance(ended.value.code, int)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    yield call
    flags.FLAGS.unparse_flags()
    for name in added:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize("asked", ["--margin=safety=0.25", "--level=safety=0.75", "--rate=safety=0.75"])
def test_json_by_hand(run, coin, asked):
    status, output, errors = run(f"--scores={coin}", "--beta=1", asked, "--json")
    assert status == 0 and errors == "" and output.count("\n") == 1
    found = json.loads(output)
    kind, value = asked[2:].split("=safety=")
    whole = dict.fromkeys(("margin", "level", "fraction", "rate")) | {kind: float(value)} | {"margin": 0.25}
    assert found["asked"] == {"safety": whole}
    assert found["lam"]["safety"] == pytest.approx(np.log(3), rel=1e-8)
    assert found["reachable"] == {"safety": 0.5}
    # Of two responses halves of one are all that a bias can be taken from: the gate is closed.
    assert found["gate"]["open"] is False and found["gate"]["share"] == 1.0
    assert found["predicted"] == found["forecast"]["tilt"]
    predicted = found["forecast"]["draw_k"]
    means = {"margins": 0.25, "utilities": 0.75}
    for name, mean in means.items():
        assert predicted[name]["safety"]["mean"] == pytest.approx(mean, rel=1e-8)
    assert predicted["ess"] == pytest.approx({"median": 1.6, "least": 1.6, "num_samples": 2, "saturated": 1})
    assert predicted["kl"]["mean"] == pytest.approx(KL) and predicted["reward"]["mean"] == 0
    assert found["solver"]["objective"] == pytest.approx(np.log(2) - 0.75 * np.log(3))
    assert found["feasible"] is True and found["certificate"] is None
    assert found["solver"]["iterations"] > 0 and found["solver"]["error"] < 1e-10
    assert found["reference"] == {"reward": 0.0, "utilities": {"safety": 0.5}}
    assert (found["names"], found["num_prompts"], found["num_samples"], found["beta"]) == (
        ["safety"],
        1,
        2,
        1.0,
    )


def test_fraction_is_of_the_tilt_to_the_constraint_alone(run, coin):
    """At beta 1 that has sigma(1) - 1/2; half of it is asked."""
    margin = (1 / (1 + np.exp(-1)) - 0.5) / 2
    status, output, errors = run(f"--scores={coin}", "--beta=1", "--fraction=safety=0.5", "--json")
    found = json.loads(output)
    assert (status, errors) == (0, "")
    asked = {"margin": pytest.approx(margin), "level": None, "fraction": 0.5, "rate": None}
    assert found["asked"]["safety"] == asked
    assert found["lam"]["safety"] == pytest.approx(np.log((0.5 + margin) / (0.5 - margin)), rel=1e-8)


def test_text(run, coin):
    status, output, errors = run(f"--scores={coin}", "--beta=1", "--margin=safety=0.25")
    assert status == 0 and errors == ""
    table = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    # One prompt is every resample: the intervals have no width.
    head = ["lambda", "low", "high", "asked", "margin", "low", "high", "largest", "reference", "level"]
    assert table["constraint"] == head
    row = ["1.0986", "1.0986", "1.0986", "0.25", "0.25", "0.25", "0.25", "0.5", "0.5", "0.75"]
    assert table["safety"] == row
    assert "1 prompts, 2 responses, beta 1." in output
    assert f"KL                 at most {KL:.5g} [{KL:.5g}, {KL:.5g}] nats a prompt" in output
    assert "2 times what is asked can be met together" in output
    assert "95% intervals; they hold which prompts were drawn" in output
    # Two responses show nothing of the tilt, and nothing is called met.
    assert "The gate is closed: nothing can be said of the tilted policy." in output
    assert "draws 2 responses from the reference and keeps one by its weight" in output
    assert "meets" not in output and "of the prompts have fewer than 2 effective samples" in output


def test_text_without_intervals(run, coin):
    status, output, _ = run(f"--scores={coin}", "--beta=1", "--margin=safety=0.25", "--resamples=0")
    table = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    assert status == 0
    assert table["constraint"] == ["lambda", "asked", "margin", "largest", "reference", "level"]
    assert table["safety"] == ["1.0986", "0.25", "0.25", "0.5", "0.5", "0.75"]
    assert f"KL                 at most {KL:.5g} nats a prompt" in output and "\nmany samples" not in output


def test_two_constraints_one_free_of_charge(run, scales):
    """The reward brings more than help=full asks: lambda 0; safety asks to give some of it back."""
    arguments = (f"--scores={scales}", "--beta=1", "--margin=help=full=-0.5", "--margin=safety=-0.25")
    status, output, _ = run(*arguments, "--json")
    found = json.loads(output)
    assert status == 0 and found["names"] == ["safety", "help=full"]
    # The weight of g1 must be 1/4: sigma(lam - 4) = 1/4, lam = 4 - log 3.
    assert found["lam"] == pytest.approx({"safety": 4 - np.log(3), "help=full": 0.0}, abs=1e-8)
    assert found["forecast"]["draw_k"]["reward"]["mean"] == pytest.approx(3.0)
    _, output, _ = run(*arguments)
    assert "safety: the mean utility falls by at most 0.25." in output
    assert "raises the mean reward by 1, " in output


def test_padding_is_left_out(run, coin, tmp_path):
    wide = ScoreTable(
        np.array([[np.nan, 0.0, 0.0]]),
        np.array([[[np.nan], [0.0], [1.0]]]),
        ("safety",),
        np.array([[False, True, True]]),
    )
    path = tmp_path / "wide.npz"
    write_table(path, wide)
    one, other = (
        json.loads(run(f"--scores={p}", "--beta=1", "--level=safety=0.75", "--json")[1]) for p in (coin, path)
    )
    assert other["lam"] == pytest.approx(one["lam"]) and other["num_samples"] == 2


def conflict(n: int = 40, k: int = 16) -> ScoreTable:
    """A table with texts, on which safety costs reward."""
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(n, k))
    utilities = rng.normal(size=(n, k, 1)) - 0.7 * rewards[..., None]
    texts = tuple(tuple(f"response {i} {j}" for j in range(k)) for i in range(n))
    ids = tuple(f"p{i}" for i in range(n))
    return ScoreTable(rewards, utilities, ("safety",), prompt_ids=ids, responses=texts)


def test_intervals_guard_plot_and_preview(run, tmp_path):
    table = conflict()
    scores, plot, preview = (str(tmp_path / name) for name in ("t.jsonl", "answer.svg", "preview.jsonl"))
    write_table(scores, table)
    arguments = (f"--scores={scores}", "--beta=0.5", "--margin=safety=0.5", "--resamples=200")
    status, output, errors = run(*arguments, "--json")
    plain = json.loads(output)
    assert (status, errors) == (0, "")
    ends, lam = plain["intervals"]["lam"]["safety"], plain["lam"]["safety"]
    assert ends["low"] < lam < ends["high"]
    for figure in (plain["predicted"]["margins"]["safety"], plain["predicted"]["reward"]):
        assert figure["low"] < figure["mean"] < figure["high"]
    assert plain["intervals"]["feasible_share"] == 1 and plain["guard"] is None
    assert plain["holds"] == ["which prompts were drawn"]
    assert plain["multiple"] == pytest.approx(plain["reachable"]["safety"] / 0.5)
    # Few samples understate what the tilt reaches; the policy that keeps one of 16 draws has what was asked.
    draw_k, corrected = plain["forecast"]["draw_k"]["margins"]["safety"], plain["corrected"]
    assert draw_k["mean"] == pytest.approx(0.5) and plain["predicted"]["margins"]["safety"]["mean"] > 0.5
    assert corrected["margins"]["safety"]["mean"] > 0.5
    assert corrected["lam"]["safety"]["mean"] < lam
    shown = plain["prompts"]["safety"]
    assert shown["least"][0]["margin"] == shown["quartiles"][0]
    assert shown["most"][0]["margin"] == shown["quartiles"][-1]
    assert shown["least"][0]["prompt"] in (table.prompt_ids or ())

    extra = ("--conservative", f"--plot={plot}", f"--preview={preview}", "--preview_samples=50", "--json")
    status, output, errors = run(*arguments, *extra)
    guarded = json.loads(output)
    assert (status, errors) == (0, "")
    assert guarded["lam"]["safety"] > plain["lam"]["safety"]
    guard = guarded["guard"]
    room = guard["room"]["safety"]
    assert room > abs(guard["bias"]["safety"]) > 0 and guard["low"]["safety"] == pytest.approx(0.5)
    assert guarded["predicted"]["margins"]["safety"]["mean"] == pytest.approx(0.5 + room)
    assert guard["plain"]["lam"] == pytest.approx(plain["lam"])
    svg = Path(plot).read_text()
    assert all(text in svg for text in ("Dual function, safety", "Predicted margin, safety", "asked 0.50"))
    rows = [json.loads(line) for line in Path(preview).read_text().splitlines()]
    assert len(rows) == 40 * 50
    # What was drawn has the mean of the draw-K forecast, to within four standard errors of the draws.
    drawn = np.array([row["utilities"]["safety"] for row in rows]).reshape(40, 50)
    error = np.sqrt(np.mean(drawn.var(axis=1, ddof=1)) / 2000)
    expected = guarded["forecast"]["draw_k"]["utilities"]["safety"]["mean"]
    assert drawn.mean() == pytest.approx(expected, abs=4 * error)
    where = {text: (i, k) for i, texts in enumerate(table.responses or ()) for k, text in enumerate(texts)}
    for row in rows[::97]:
        i, k = where[row["response"]]
        assert row["prompt_id"] == f"p{i}" and row["reward"] == table.rewards[i, k]


def test_calibration_of_a_run_widens_the_intervals(run, tmp_path):
    """A coefficient known to one part in ten: lambda of twice the utility is half as large."""
    write_table(tmp_path / "t.npz", conflict())
    record = calibration()
    write_record(tmp_path / "calibration.json", record)
    arguments = (
        f"--scores={tmp_path}/t.npz",
        "--beta=0.5",
        "--margin=safety=0.5",
        "--resamples=400",
        "--json",
    )
    plain, drawn, alone = (
        json.loads(run(*arguments, *more)[1])
        for more in (
            (),
            (f"--calibration={tmp_path}/calibration.json",),
            (f"--calibration={tmp_path}/calibration.json", "--population"),
        )
    )
    assert plain["lam"] == drawn["lam"] == alone["lam"]
    assert drawn["holds"] == ["which prompts were drawn", "how the scores were calibrated"]
    width = [
        found["intervals"]["lam"]["safety"]["high"] - found["intervals"]["lam"]["safety"]["low"]
        for found in (plain, drawn, alone)
    ]
    assert width[1] > width[0] and width[1] > width[2] > 0
    # The margin at a fixed tilt is 0.5 times a factor of mean 1 and standard deviation 1/10.
    draw_k = alone["forecast"]["draw_k"]
    margin = draw_k["margins"]["safety"]
    assert margin["low"] == pytest.approx(0.5 * (1 - 0.196), abs=0.03)
    assert margin["high"] == pytest.approx(0.5 * (1 + 0.196), abs=0.03)
    assert draw_k["kl"]["low"] == pytest.approx(draw_k["kl"]["high"])
    write_record(tmp_path / "other.json", dataclasses.replace(record, dimensions=("reward", "tact")))
    status, _, errors = run(*arguments, f"--calibration={tmp_path}/other.json")
    assert status == 2 and "is of the constraints tact, " in errors and errors.count("\n") == 1


def test_text_of_an_open_gate(run, tmp_path):
    """A tilt so weak that 16 responses a prompt show it."""
    write_table(tmp_path / "t.npz", conflict())
    arguments = (f"--scores={tmp_path}/t.npz", "--beta=2", "--resamples=200")
    status, output, _ = run(*arguments, "--margin=safety=0.3")
    assert status == 0 and "meets what is asked on average, without a guard" in output
    status, output, _ = run(*arguments, "--margin=safety=0.3", "--conservative")
    assert status == 0 and "meets what is asked with confidence 0.95" in output and " guard" in output
    assert "prompts            safety: margin" in output and "95% intervals; they hold" in output
    status, output, _ = run(*arguments, "--margin=safety=-5")
    assert status == 0 and "Asked of safety: the mean utility falls by at most 5." in output
    assert "safety: the multiplier is 0, because the reward alone brings what is asked." in output


def test_margin_near_the_limit_is_a_warning(run, tmp_path):
    write_table(tmp_path / "t.npz", conflict())
    arguments = (f"--scores={tmp_path}/t.npz", "--beta=0.5", "--margin=safety=2", "--resamples=200")
    status, output, _ = run(*arguments)
    assert status == 0 and "Warning: What is asked is 0.9668 of the most that can be met" in output
    assert "of the resamples the margins cannot be met" in output and "infinite" in output
    status, output, errors = run(*arguments, "--conservative")
    assert status == 3 and "can be met on average but not with confidence 0.95 (safety: asked" in errors


def test_preview_takes_texts_from_a_file(run, coin, tmp_path):
    lines = [{"prompt": "toss", "response": text, "sample": i} for i, text in enumerate(("tail", "head"))]
    texts, preview = tmp_path / "r.jsonl", tmp_path / "p.jsonl"
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = (f"--scores={coin}", "--beta=1", "--margin=safety=0.25", "--resamples=0")
    files = (f"--preview={preview}", f"--responses={texts}")
    status, _, errors = run(*arguments, *files, "--preview_samples=400")
    assert (status, errors) == (0, "")
    rows = [json.loads(line) for line in preview.read_text().splitlines()]
    # 3/4 of the weight is on heads.
    assert all(row["prompt"] == "toss" and row["prompt_id"] == 0 for row in rows)
    assert sum(row["response"] == "head" for row in rows) == pytest.approx(300, abs=35)
    for content, message in {
        "": "holds 0 lines",
        json.dumps(lines[0]) + "\n": "holds 1 lines, ",
        '{"prompt": "toss"}\n' * 2: 'r.jsonl:1: "response" is missing or no text; add it.',
        '{"prompt": "a", "response": ""}\n{"prompt": "b", "response": ""}\n': "r.jsonl:2: begins a new",
    }.items():
        texts.write_text(content)
        status, _, errors = run(*arguments, *files)
        assert status == 2 and errors.count("\n") == 1 and message in errors


def test_infeasible(run, coin):
    status, output, errors = run(f"--scores={coin}", "--beta=1", "--margin=safety=0.75")
    assert status == 3 and output == "" and errors.count("\n") == 1
    assert "safety: asked 0.75, the largest margin that can be met alone is 0.5" in errors


def test_infeasible_together_and_as_json(run, scales):
    arguments = ("--margin=safety=0.1", "--margin=help=full=0.1", "--json")
    status, output, errors = run(f"--scores={scales}", "--beta=1", *arguments)
    assert status == 3 and errors.count("\n") == 1 and "together: " in errors
    assert "all at once 0 of what is asked can be met" in errors
    found = json.loads(output)
    assert found["feasible"] is False and found["reachable"] == {"safety": 0.5, "help=full": 0.5}
    absent = ("lam", "predicted", "intervals", "corrected", "frontier", "prompts")
    assert all(found[name] is None for name in absent)
    # <d, g> is d1 or d2, so that max - mean is |d1 - d2| / 2: below d1 / 10 + d2 / 10 it is a proof.
    d = found["certificate"]
    assert abs(d["safety"] - d["help=full"]) / 2 < 0.1 * (d["safety"] + d["help=full"])


# Two categories with safety scores of their own scale, and one prompt without.
def by_category() -> ScoreTable:
    table = conflict(41)
    categories = ("theft",) * 16 + ("fraud",) * 24 + (None,)
    scale = np.where(np.arange(41) < 16, 1.0, 0.4)[:, None, None]
    return table._replace(utilities=table.utilities * scale, categories=categories)


def test_groups_are_each_solved_alone(run, tmp_path):
    """Categories share no prompts: the tilt of each is that of its own rows, lambda(x) = lambda_c / p_c."""
    table = by_category()
    path, preview = str(tmp_path / "t.jsonl"), tmp_path / "p.jsonl"
    write_table(path, table)
    options = (f"--scores={path}", "--beta=0.5", "--resamples=0", "--json")
    status, output, errors = run(*options, "--groups=safety=theft:0.5,fraud:0.2", f"--preview={preview}")
    found = json.loads(output)
    assert (status, errors) == (0, "") and found["names"] == ["safety[theft]", "safety[fraud]"]
    assert found["units"]["safety[fraud]"]["share"] == pytest.approx(24 / 41)
    for category, rows, margin in (("theft", slice(0, 16), 0.5), ("fraud", slice(16, 40), 0.2)):
        name, share = f"safety[{category}]", (rows.stop - rows.start) / 41
        alone = dual.solve(table.rewards[rows], table.utilities[rows], beta=0.5, margins=np.array([margin]))
        assert found["lam"][name] / share == pytest.approx(float(alone.lam[0]), rel=1e-6)
        assert found["forecast"]["draw_k"]["margins"][name]["mean"] == pytest.approx(margin, rel=1e-6)
    assert found["warnings"][0] == "safety: 1 of 41 prompts have no category; nothing is asked of them."
    rows = [json.loads(line) for line in preview.read_text().splitlines()]
    assert {tuple(row["utilities"]) for row in rows} == {("safety",)}  # the table's own scores
    status, output, _ = run(*options, "--group_level=safety=0.1")
    found = json.loads(output)
    assert status == 0 and found["names"] == ["safety[fraud]", "safety[theft]"]
    assert found["asked"]["safety[theft]"]["level"] == 0.1
    assert found["forecast"]["draw_k"]["utilities"]["safety[theft]"]["mean"] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--groups=safety=murder:1", "no prompt has the category 'murder'; the prompts have fraud, theft"),
        ("--groups=tact=1", "--groups=tact=1: "),
        ("--rate=safety=0.9", "the utilities of 'safety' are no probabilities, they go from "),
        ("--group_rate=safety=theft:0.9", "give the --calibration of a run whose pairs say which responses"),
    ],
)
def test_groups_and_rates_that_cannot_be_asked(run, tmp_path, flag, message):
    write_table(tmp_path / "t.npz", by_category())
    status, output, errors = run(f"--scores={tmp_path}/t.npz", "--beta=0.5", flag)
    assert (status, output, errors.count("\n")) == (2, "", 1) and message in errors


def test_groups_need_categories(run, coin):
    status, _, errors = run(f"--scores={coin}", "--beta=1", "--groups=safety=0.1")
    assert status == 2 and errors.startswith(f"--groups=safety=0.1: {coin} has no categories; add")


def calibration(**changes: Any) -> CalibrationRecord:
    """Safety's coefficient is 2 with standard deviation 0.2, the reward's is known."""
    record = CalibrationRecord(
        kind="joint",
        dimensions=("reward", "safety"),
        matrix=np.array([[1.0, 0.0], [0.0, 2.0]]),
        covariances=np.stack([np.zeros((2, 2)), np.diag([0.0, 0.04])]),
        unexplained=None,
        slopes={},
        num_held_out={},
        findings=(),
        stops=(),
        reliability={},
    )
    return dataclasses.replace(record, **changes)


def test_a_rate_of_a_calibration(run, tmp_path):
    """P(safe) = sigma(0.8 s - 0.5), whose intercept is known to 0.3: so is the logit of the rate reached."""
    table, rate = conflict(), Rate(0.8, -0.5, np.diag([0.0, 0.09]))
    write_table(tmp_path / "t.npz", table)
    write_record(tmp_path / "calibration.json", calibration(rates={"safety": rate}))
    arguments = (f"--scores={tmp_path}/t.npz", "--beta=0.5", "--rate=safety=0.5", "--resamples=400")
    known = f"--calibration={tmp_path}/calibration.json"
    status, output, errors = run(*arguments, known, "--json")
    found = json.loads(output)
    assert (status, errors) == (0, "")
    p = expit(0.8 * table.utilities - 0.5)
    weights = np.asarray(dual.tilt(np.array([found["lam"]["safety"]]), table.rewards, p, beta=0.5))
    assert np.mean(np.sum(weights * p[..., 0], axis=1)) == pytest.approx(0.5, abs=1e-6)
    assert found["units"]["safety"]["rate"]["slope"] == 0.8
    assert found["reference"]["utilities"]["safety"] == pytest.approx(p.mean())
    alone = json.loads(run(*arguments, known, "--population", "--json")[1])
    shown = alone["forecast"]["draw_k"]["utilities"]["safety"]
    # To first order the mean probability moves by E p (1 - p) times the intercept's 0.3.
    slope = np.mean(np.sum(weights * (p * (1 - p))[..., 0], axis=1))
    assert shown["high"] - shown["low"] == pytest.approx(2 * 1.96 * 0.3 * slope, rel=0.15)


def test_a_tail(run, tmp_path):
    """The worst tenth of the tilted policy costs what was asked."""
    table = conflict()
    write_table(tmp_path / "t.npz", table)
    arguments = (f"--scores={tmp_path}/t.npz", "--beta=0.5", "--resamples=0", "--json")
    status, output, errors = run(*arguments, "--tail=safety=0.1:1.8")
    found = json.loads(output)
    assert (status, errors) == (0, "")
    tail = found["units"]["safety"]["tail"]
    assert (tail["share"], tail["cost"]) == (0.1, 1.8)
    costs = -table.utilities[..., 0]
    u = -np.maximum(costs - tail["threshold"], 0.0) / 0.1
    weights = np.asarray(dual.tilt(np.array([found["lam"]["safety"]]), table.rewards, u[..., None], beta=0.5))
    order = np.argsort(-costs, axis=None)
    taken = np.diff(np.minimum(np.cumsum(weights.ravel()[order] / 40), 0.1), prepend=0.0)
    assert found["lam"]["safety"] > 0 and taken @ costs.ravel()[order] / 0.1 == pytest.approx(1.8, abs=0.02)
    status, _, errors = run(*arguments, "--tail=safety=0.1:-9")
    assert status == 3 and errors.count("\n") == 1


def test_a_calibration_that_is_not_linear_needs_the_scores_before_it(run, tmp_path):
    curve = Curve(np.array([0.0]), np.array([0.5, 1.5]), np.diag([0.0, 0.0, 0.0, 0.01]))
    record = calibration(matrix=np.diag([1.0, 0.0]), covariances=np.zeros((2, 2, 2)), curves=(None, curve))
    raw = conflict().utilities[..., 0]
    scores = np.where(raw < 0, 0.5, 1.5) * raw
    write_table(tmp_path / "t.npz", conflict()._replace(utilities=scores[..., None]))
    write_record(tmp_path / "calibration.json", record)
    known = f"--calibration={tmp_path}/calibration.json"
    arguments = (
        f"--scores={tmp_path}/t.npz",
        "--beta=0.5",
        "--margin=safety=0.3",
        "--resamples=200",
        "--json",
    )
    raws = np.stack([conflict().rewards, raw], axis=-1)
    write_npz(tmp_path / "scores_raw.npz", scores=raws)
    status, output, errors = run(*arguments, known, "--population")
    assert (status, errors) == (0, "")
    # Only the upper slope moves, by a standard deviation of 0.1.
    found = json.loads(output)
    weights = np.asarray(
        dual.tilt(np.array([found["lam"]["safety"]]), conflict().rewards, scores[..., None], beta=0.5)
    )
    phi = np.maximum(raw, 0.0)
    moves = np.mean(np.sum(weights * phi, axis=1)) - phi.mean()
    shown = found["forecast"]["draw_k"]["margins"]["safety"]
    assert shown["high"] - shown["low"] == pytest.approx(2 * 1.96 * 0.1 * moves, rel=0.15)
    write_npz(tmp_path / "scores_raw.npz", scores=raws + 1.0)
    status, _, errors = run(*arguments, known)
    assert status == 2 and "scores_raw.npz: does not hold the scores of" in errors
    (tmp_path / "scores_raw.npz").unlink()
    status, _, errors = run(*arguments, known)
    assert status == 2 and "scores_raw.npz: is missing" in errors and errors.count("\n") == 1


BAD = {
    "no beta": (["--margin=safety=1"], "--beta is missing; give --beta=..."),
    "beta 0": (["--beta=0", "--margin=safety=1"], "--beta: is 0.0; must be a finite number above 0."),
    "beta nan": (["--beta=nan", "--margin=safety=1"], "--beta: is nan; must be a finite number above 0."),
    "beta text": (["--beta=x"], "--beta=x: must be a number; see --help."),
    "nothing": (
        ["--beta=1"],
        "nothing is asked of its constraint 'safety'; give each constraint one of --margin",
    ),
    "unknown": (
        ["--beta=1", "--level=safety=0", "--fraction=tact=0.5"],
        "--fraction=tact=0.5: {scores} has no constraint 'tact'; it has safety.",
    ),
    "twice": (
        ["--beta=1", "--margin=safety=1", "--margin=safety=1"],
        "--margin=safety=1: 'safety' is asked for already by --margin=safety=1; give each constraint one of",
    ),
    "two ways": (
        ["--beta=1", "--fraction=safety=0.5", "--level=safety=2"],
        "--fraction=safety=0.5: 'safety' is asked for already by --level=safety=2; give each constraint",
    ),
    "no number": (
        ["--beta=1", "--margin=safety"],
        "--margin=safety: must be a constraint's name and what is asked; write",
    ),
    "no name": (["--beta=1", "--margin==1"], "--margin==1: must be a constraint's name and what is asked"),
    "word": (["--beta=1", "--margin=safety=high"], "--margin=safety=high: 'high' is not a number."),
    "nan": (["--beta=1", "--level=safety=nan"], "--level=safety=nan: 'nan' is not finite."),
    "confidence": (
        ["--beta=1", "--margin=safety=0", "--confidence=1"],
        "--confidence: is 1.0; must lie between 0.5 and 1.",
    ),
    "resamples": (
        ["--beta=1", "--margin=safety=0", "--resamples=-1"],
        "--resamples: is -1; must be",
    ),
    "seed": (["--beta=1", "--margin=safety=0", "--seed=-1"], "--seed: is -1; must be at least 0."),
    "plot": (["--beta=1", "--margin=safety=0", "--plot=a.gif"], "--plot=a.gif: must end in .png, .svg."),
    "preview": (
        ["--beta=1", "--margin=safety=0", "--preview={folder}/p.jsonl"],
        "--preview: {scores} holds no responses; use a .jsonl table, or give --responses=FILE.jsonl.",
    ),
    "responses": (
        ["--beta=1", "--margin=safety=0", "--responses=a.jsonl"],
        "--responses is for --preview alone",
    ),
    "preview_samples": (
        ["--beta=1", "--margin=safety=0", "--preview={folder}/p.jsonl", "--preview_samples=0"],
        "--preview_samples: is 0; must be at least 1.",
    ),
    "fraction 1": (
        ["--beta=1", "--fraction=safety=1"],
        "--fraction=safety=1: must lie between 0 and 1, it is a share",
    ),
    "fraction 0": (["--beta=1", "--fraction=safety=0"], "--fraction=safety=0: must lie between 0 and 1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(run, coin, arguments, message, tmp_path):
    status, output, errors = run(f"--scores={coin}", *(a.format(folder=tmp_path) for a in arguments))
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert message.format(scores=coin) in errors


def test_bad_files_are_one_line_and_status_2(run, tmp_path):
    for name, message in {
        "a.npz": "cannot be read",
        "a.txt": "must end in .npz",
        "": "--scores is missing",
    }.items():
        path = str(tmp_path / name) if name else ""
        status, output, errors = run(f"--scores={path}", "--beta=1", "--margin=safety=1")
        assert (status, output, errors.count("\n")) == (2, "", 1) and message in errors


def test_as_a_program(coin):
    arguments = [f"--scores={coin}", "--beta=1", "--margin=safety=0.75"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "alignjax.solve", *arguments],
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 3 and done.stdout == "" and "Traceback" not in done.stderr
    assert "the largest margin that can be met alone is 0.5" in said[-1]
    # What it does not use it does not wait for.
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "jax" in imported
    assert not imported & {"matplotlib", "jinja2", "flax", "optax", "orbax", "transformers", "tensorflow"}
