"""The solve command: what it prints, what it refuses and with which status."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from alignjax import cli
from alignjax import solve as command
from alignjax.dual import Asked
from alignjax.errors import InputError
from alignjax.scores.table import ScoreTable, write_table

# One prompt, r = 0, g in {0, 1}, beta 1: the weight of g = 1 is sigma(lam), see tests/dual/test_solve.py.
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


@pytest.mark.parametrize("asked", ["--margin=safety=0.25", "--level=safety=0.75", "--fraction=safety=0.5"])
def test_json_by_hand(run, coin, asked):
    status, output, errors = run(f"--scores={coin}", "--beta=1", asked, "--json")
    assert status == 0 and errors == "" and output.count("\n") == 1
    found = json.loads(output)
    kind, value = asked[2:].split("=safety=")
    whole = {"margin": None, "level": None, "fraction": None} | {kind: float(value)} | {"margin": 0.25}
    assert found["asked"] == {"safety": whole}
    expected = {
        "lam": {"safety": np.log(3)},
        "margins": {"safety": 0.25},
        "utilities": {"safety": 0.75},
        "reachable": {"safety": 0.5},
        "ess": {"median": 1.6, "least": 1.6},
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-8)
    assert found["kl"] == pytest.approx(KL) and found["reward"] == 0
    assert found["objective"] == pytest.approx(np.log(2) - 0.75 * np.log(3))
    assert found["feasible"] is True and found["certificate"] is None
    assert found["iterations"] > 0 and found["error"] < 1e-10
    assert found["reference"] == {"reward": 0.0, "utilities": {"safety": 0.5}}
    assert (found["names"], found["num_prompts"], found["num_samples"], found["beta"]) == (
        ["safety"],
        1,
        2,
        1.0,
    )


def test_text(run, coin):
    status, output, errors = run(f"--scores={coin}", "--beta=1", "--margin=safety=0.25")
    assert status == 0 and errors == ""
    table = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    assert table["constraint"] == ["lambda", "asked", "margin", "largest", "reference", "level"]
    assert table["safety"] == ["1.0986", "0.25", "0.25", "0.5", "0.5", "0.75"]
    assert "1 prompts, 2 responses, beta 1." in output
    assert f"KL                 {KL:.5g} nats a prompt" in output
    assert "meets every margin" in output and "saturated" in output  # 1.6 effective samples


def test_two_constraints_one_free_of_charge(run, scales):
    """The reward brings more than help=full asks: lambda 0; safety asks to give some of it back."""
    arguments = (f"--scores={scales}", "--beta=1", "--margin=help=full=-0.5", "--margin=safety=-0.25")
    status, output, _ = run(*arguments, "--json")
    found = json.loads(output)
    assert status == 0 and found["names"] == ["safety", "help=full"]
    # The weight of g1 must be 1/4: sigma(lam - 4) = 1/4, lam = 4 - log 3.
    assert found["lam"] == pytest.approx({"safety": 4 - np.log(3), "help=full": 0.0}, abs=1e-8)
    assert found["reward"] == pytest.approx(3.0)
    _, output, _ = run(*arguments)
    assert "No price for help=full: the reward and the other constraints alone bring its margin." in output
    assert "raises the mean reward by 1 " in output


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


def test_infeasible(run, coin):
    status, output, errors = run(f"--scores={coin}", "--beta=1", "--margin=safety=0.75")
    assert status == 3 and output == "" and errors.count("\n") == 1
    assert "safety: asked 0.75, the largest margin that can be met alone is 0.5" in errors


def test_infeasible_together_and_as_json(run, scales):
    arguments = ("--margin=safety=0.1", "--margin=help=full=0.1", "--json")
    status, output, errors = run(f"--scores={scales}", "--beta=1", *arguments)
    assert status == 3 and errors.count("\n") == 1 and "together: " in errors
    found = json.loads(output)
    assert found["feasible"] is False and found["reachable"] == {"safety": 0.5, "help=full": 0.5}
    predicted = ("lam", "margins", "utilities", "reward", "kl", "objective", "ess")
    assert all(found[name] is None for name in predicted)
    # <d, g> is d1 or d2, so that max - mean is |d1 - d2| / 2: below d1 / 10 + d2 / 10 it is a proof.
    d = found["certificate"]
    assert abs(d["safety"] - d["help=full"]) / 2 < 0.1 * (d["safety"] + d["help=full"])


BAD = {
    "no beta": (["--margin=safety=1"], "--beta is missing; give --beta=..."),
    "beta 0": (["--beta=0", "--margin=safety=1"], "--beta: is 0.0; must be a finite number above 0."),
    "beta nan": (["--beta=nan", "--margin=safety=1"], "--beta: is nan; must be a finite number above 0."),
    "beta text": (["--beta=x"], "flag --beta=x: could not convert string to float: 'x'; see --help."),
    "nothing": (
        ["--beta=1"],
        "nothing is asked of its constraint 'safety'; give each constraint one of --margin",
    ),
    "unknown": (
        ["--beta=1", "--level=safety=0", "--fraction=tact=0.5"],
        "--fraction=tact=0.5: {scores} has no constraint 'tact', it has safety; correct the name.",
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
        "--margin=safety: must be a constraint's name and a number; write",
    ),
    "no name": (["--beta=1", "--margin==1"], "--margin==1: must be a constraint's name and a number"),
    "word": (["--beta=1", "--margin=safety=high"], "--margin=safety=high: 'high' is not a number."),
    "nan": (["--beta=1", "--level=safety=nan"], "--level=safety=nan: 'nan' is not finite."),
    "fraction 1": (
        ["--beta=1", "--fraction=safety=1"],
        "--fraction=safety=1: must lie between 0 and 1, it is a share",
    ),
    "fraction 0": (["--beta=1", "--fraction=safety=0"], "--fraction=safety=0: must lie between 0 and 1"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_options_are_one_line_and_status_2(run, coin, arguments, message):
    status, output, errors = run(f"--scores={coin}", *arguments)
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


def test_parse_asked():
    asked = command.parse_asked({"margin": ["a=1", "b=c=-2e1"], "fraction": ["d=0.5"]})
    assert asked == {"a": Asked(margin=1.0), "b=c": Asked(margin=-20.0), "d": Asked(fraction=0.5)}
    with pytest.raises(InputError, match="--level=x: must be a constraint's name"):
        command.parse_asked({"level": ["x"]})


def test_as_a_program(coin):
    arguments = [f"--scores={coin}", "--beta=1", "--margin=safety=0.75"]
    done = subprocess.run(
        [sys.executable, "-m", "alignjax.solve", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 3 and done.stdout == "" and "Traceback" not in done.stderr
    assert "the largest margin that can be met alone is 0.5" in done.stderr.splitlines()[-1]
