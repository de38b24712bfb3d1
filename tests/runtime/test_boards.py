"""Boards: packages that are not here stand in as modules that write down what they are told."""

import sys
import types

import pytest

from alignjax.errors import InputError
from alignjax.runtime import metrics
from alignjax.runtime.boards import TensorBoard, open_boards

ACCOUNT = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """fake("wandb") puts a module in the package's place; what it is told, in order."""
    for name in ACCOUNT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def make(kind, fails=""):
        told = []

        def init(**options):
            if fails:
                raise RuntimeError(fails)
            told.append(("init", options))
            return types.SimpleNamespace(define_metric=lambda *a, **k: told.append(("define", a, k)))

        module = types.ModuleType(kind)
        module.__dict__.update(
            init=init, log=lambda values: told.append(("log", values)), finish=lambda: told.append("finish")
        )
        monkeypatch.setitem(sys.modules, kind, module)
        return told

    return make


def write(folder, kinds):
    """Two stages' numbers, one of which is not finite."""
    with metrics.MetricsWriter(folder, boards=open_boards(kinds, folder, {"seed": 3})) as writer:
        writer.write("reward", 1, {"loss": 0.5, "eval_loss": float("nan")})
        writer.write("reward", 2, {"loss": 0.25})
        writer.rewind("policy", 0)
        writer.write("policy", 1, {"rewards/margins": 2.0})


def test_weights_and_biases_gets_the_same_numbers_by_the_same_names(fake, tmp_path):
    told = fake("wandb")
    write(tmp_path / "run", ["wandb"])
    (_, options), *rest = told
    assert options["project"] == "alignjax" and options["name"] == "run" and options["config"] == {"seed": 3}
    assert options["resume"] == "allow" and len(options["id"]) == 16
    assert options["dir"] == str(tmp_path / "run")
    assert rest == [
        ("define", ("reward/*",), {"step_metric": "reward/step"}),
        ("log", {"reward/loss": 0.5, "reward/step": 1}),
        ("log", {"reward/loss": 0.25, "reward/step": 2}),
        ("define", ("policy/*",), {"step_metric": "policy/step"}),
        ("log", {"policy/rewards/margins": 2.0, "policy/step": 1}),
        "finish",
    ]
    assert len(metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_nobody_is_asked_for_an_account(fake, tmp_path, monkeypatch):
    def mode():
        told = fake("wandb")
        open_boards(["wandb"], tmp_path, {})
        return told[0][1]["mode"]

    assert mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert mode() == "online"
    (tmp_path / "netrc").unlink()
    told = fake("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    open_boards(["wandb"], tmp_path, {})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    open_boards(["wandb"], tmp_path, {})
    assert [options["mode"] for _, options in told] == ["online", "disabled"]


def test_several_at_once_and_none(fake, tmp_path):
    told = fake("trackio")
    write(tmp_path / "run", ["trackio", "tensorboard"])
    (_, options), *rest = told
    assert options["project"] == "alignjax" and options["name"].startswith("run-") and "mode" not in options
    assert rest[0] == ("log", {"reward/loss": 0.5, "reward/step": 1}) and rest[-1] == "finish"
    assert {path.name for path in (tmp_path / "run" / "tensorboard").iterdir()} == {"reward", "policy"}
    write(tmp_path / "none", [])
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["metrics.jsonl"]
    assert isinstance(open_boards(["tensorboard"], tmp_path, {})[0], TensorBoard)


def test_two_folders_of_one_name_are_two_runs_and_one_folder_is_one(fake, tmp_path):
    for kind in ("wandb", "trackio"):
        told = fake(kind)
        for folder in ("a/run", "b/run", "a/run"):
            open_boards([kind], tmp_path / folder, {})
        first, other, again = (options["id" if kind == "wandb" else "name"] for _, options in told)
        assert first == again != other


def test_a_package_that_is_not_there_or_does_not_start(fake, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(
        InputError, match=r"config\.log_to: trackio cannot be imported .*; pip install trackio"
    ):
        open_boards(["trackio"], tmp_path, {})
    fake("wandb", fails="no network")
    with pytest.raises(
        InputError, match=r"config\.log_to: wandb does not start \(no network\); leave it out"
    ):
        open_boards(["wandb"], tmp_path, {})
