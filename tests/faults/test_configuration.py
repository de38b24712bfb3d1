"""A configuration that cannot be: refused before anything is loaded, with the field named."""

import pathlib

import pytest

import alignjax
from alignjax import runs

CONFIG = pathlib.Path(alignjax.__file__).parents[1] / "configs" / "pecan.py"


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    """What should be refused and is not fails at once instead of training."""

    def run(config, workdir, **options):
        raise AssertionError("the configuration was accepted")

    monkeypatch.setattr(runs, "run", run)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["--config.betta=1"], ["betta"]),
        (["--config.align.lerning_rate=1"], ["lerning_rate"]),
        (["--config.constraints.harm.margin=1"], ["harm"]),
        (["--config.seed=many"], ["seed", "many"]),
        (["--config.lora.rank=2.5"], ["rank", "2.5"]),
        (["--config.model.remat=perhaps"], ["remat", "perhaps"]),
        (["--config.beta=0"], ["config.beta: is 0.0, must be greater than 0"]),
        (["--config.beta=-1"], ["config.beta: is -1.0, must be greater than 0"]),
        (["--config.beta=nan"], ["config.beta: is nan, must be a finite number"]),
        (["--config.beta=None"], ["config.beta: is None"]),
        (["--config.beta=1e300"], ["config.beta: is 1e+300, must be at most 1000000000.0"]),
        (["--config.nothing=None"], ["config.nothing: no such field"]),
        (["--config.nothing.below=None"], ["config.nothing.below: no such field"]),
        (
            ["--config.constraints.safety.level=1", "--config.constraints.safety.margin=1"],
            ["config.constraints.safety: give margin or level, not both"],
        ),
        (
            ["--config.constraints.safety.margin=None"],
            ["config.constraints.safety: give one of margin, level, fraction"],
        ),
        (["--config.data.world=mars"], ["config.data.world: is 'mars', must be assistant or enumerable"]),
        (["--config.model.dtype=float16"], ["config.model.dtype: is 'float16'"]),
        (["--config.lam=-1"], ["config.lam: is -1.0, must be at least 0"]),
        (["--config.data.num_pairs=1"], ["config.data.num_pairs: is 1"]),
        (["--config.align.warmup_steps=-1"], ["config.align.warmup_steps: is -1"]),
        (["--config.lora.targets=('q','z')"], ["config.lora.targets: is", "must be some of q, k, v, o"]),
        (["--config.prealign.patience=0"], ["config.prealign.patience: is 0"]),
        (["--config.lora.alpha=0"], ["config.lora.alpha: is 0.0"]),
        (["--config.reference_examples=0"], ["config.reference_examples: is 0"]),
        (["--config.shown_samples=-1"], ["config.shown_samples: is -1"]),
        (["--config.align.epochs=inf"], ["config.align.epochs: is inf, must be a finite number"]),
        (["--config.align.loss.name=dpoo"], ["config.align.loss.name: is 'dpoo', must be one of dpo, cdpo"]),
        (
            ["--config.prealign.loss.label_smoothing=0.1"],
            ["config.prealign.loss.label_smoothing: is 0.1, but dpo does not take it"],
        ),
        (["--config.relabel.max_pairs=2"], ["config.relabel: only mocan reads it"]),
        (["--config.constraints.safety.rate=1"], ["config.constraints.safety.rate: is 1.0, must be less"]),
        (["--config.constraints.safety.tail.cost=1"], ["safety.tail: give share and cost; share is missing"]),
        (["--config.constraints.safety.groups.rate.benign=2"], ["groups.rate.benign: is 2.0, must be less"]),
        (["--config.constraints.safety.groups.rat=0.9"], ["safety.groups.rat: ", "did you mean rate?"]),
        (["--config.data.sources.honesty.pth=x"], ["honesty.pth: ", "did you mean path?"]),
        (["--config.confidence=1"], ["config.confidence: is 1.0, must be less than 1"]),
        (["--config.score_model.signs=True"], ["config.score_model: only mocan reads it"]),
        (["--config.sampling.num_samples=1e9"], ["config.sampling.num_samples=1e9: must be a whole number"]),
        (["--config.sampling.num_samples=1000000000"], ["config.sampling.num_samples", "lower it"]),
        (["--config.lora.rank=1000000000"], ["config.lora.rank", "lower it"]),
        (["--config.bootstrap=1000000000"], ["config.bootstrap", "lower it"]),
        (["--config.seed=99999999999999999999"], ["config.seed", "lower it"]),
        (["--config.seed=None"], ["config.seed: is None"]),
        (["--config.seed=5", "--config.seed=None"], ["config.seed: is None"]),
        (["--config.seed=None", "--config.seed=-5"], ["config.seed: is -5, must be at least 0"]),
    ],
)
def test_a_field(refusal, tmp_path, overrides, parts):
    line = refusal("train", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", *overrides)
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--config is missing", "--config=configs/pecan.py"]),
        ([f"--config={CONFIG}:huge"], ["no preset 'huge'", "choose from tiny, enumerable"]),
        (["--config=nowhere/pecan.py"], ["nowhere/pecan.py"]),
        ([f"--config={CONFIG}", "--wokdir=x"], ["wokdir", "--help"]),
        ([f"--config={CONFIG}", "more"], ["unexpected argument 'more'"]),
        ([f"--config={CONFIG}:smollm2-135m"], ["config.data.sources.reward.path: is missing"]),
        (
            [
                f"--config={CONFIG}:smollm2-135m",
                *(f"--config.data.sources.{n}.path=x" for n in ("reward", "safety")),
            ],
            ["config.model.path: is missing", "Hugging Face folder"],
        ),
        (
            [
                f"--config={CONFIG}:smollm2-135m",
                *(f"--config.data.sources.{n}.path=x" for n in ("reward", "safety")),
                "--config.model.path=meta-llama/Llama-3-8B",
            ],
            ["meta-llama/Llama-3-8B: no such folder", "not downloaded", "hf download meta-llama/Llama-3-8B"],
        ),
        ([f"--config={CONFIG}:own"], ["config.data.sources.reward.path: is missing"]),
        (
            [
                f"--config={CONFIG}:own",
                *(f"--config.data.sources.{n}.path=x" for n in ("reward", "safety")),
                "--config.model.path=nowhere",
            ],
            ["nowhere: no such file or folder"],
        ),
        (
            [f"--config={CONFIG}", "--config.log_to=tensorbord"],
            ["config.log_to: is 'tensorbord', must be some"],
        ),
    ],
)
def test_the_command_line(refusal, tmp_path, arguments, parts):
    line = refusal("train", f"--workdir={tmp_path / 'run'}", *arguments)
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def get_config(:\n", ["invalid syntax"]),
        ("import nothing_of_that_name\n", ["nothing_of_that_name"]),
        ("x = 1\n", ["get_config"]),
        ("def get_config():\n    return 1 / 0\n", ["division by zero"]),
        ("def get_config():\n    return undefined_name\n", ["undefined_name"]),
        ("def get_config():\n    return {'method': 'pecan'}['seed']\n", ["seed"]),
        (
            "import ml_collections as m\ndef get_config():\n    return m.ConfigDict({'method': 'pecan'})\n",
            ["config.constraints: is empty"],
        ),
    ],
)
def test_a_file_of_the_users_own(refusal, tmp_path, text, parts):
    (tmp_path / "own.py").write_text(text)
    line = refusal("train", f"--config={tmp_path / 'own.py'}", f"--workdir={tmp_path / 'run'}")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("name", ["train", "sample", "score", "evaluate", "export"])
def test_help_is_no_failure(command, name):
    ended = command(name, "--help")
    assert ended.status == 0 and "python -m alignjax." in ended.out and not ended.err


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("sample", [], "--prompts is missing"),
        ("sample", ["--prompts=p", "--output=o", "--max_new_tokens=4"], "--model"),
        ("sample", ["--model=m", "--prompts=p", "--output=o"], "--max_new_tokens is missing"),
        ("sample", ["--model=m", "--prompts=p", "--output=o", "--max_new_tokens=many"], "many"),
        (
            "sample",
            ["--model=m", "--prompts=p", "--output=o", "--max_new_tokens=0"],
            "--max_new_tokens: is 0",
        ),
        ("sample", ["--modell=m"], "modell"),
        ("score", ["--model=m"], "--input is missing"),
        ("score", ["--model=m", "--input=i", "--output=o", "--reference=r"], "--beta is missing"),
        ("score", ["--model=m", "--input=i", "--output=o", "--reference=r", "--beta=0"], "--beta: is 0.0"),
        (
            "score",
            ["--model=m", "--input=i", "--output=o", "--reward_model=r", "--reference=q", "--beta=1"],
            "--reward_model",
        ),
        ("evaluate", [], "--workdir is missing"),
        ("export", ["--workdir=w"], "--output is missing"),
    ],
)
def test_flags_of_the_other_commands(refusal, name, arguments, part):
    assert part in refusal(name, *arguments)
