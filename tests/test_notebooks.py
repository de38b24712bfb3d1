"""Every notebook runs from its first cell to its last, and the stored outputs belong to the stored cells."""

import ast
import importlib
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from alignjax.config import from_mapping

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "run_notebooks.py"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUNS = ("pecan_tpu", "mocan_tpu")
MOST_BYTES = 400_000
# How the suite compiles, and where it keeps what is compiled: see tests/conftest.py.
COMPILING = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
# Folders and addresses of one machine.
PRIVATE = re.compile(r"(?<![\w.])/(home|root|tmp|work|content|usr|opt|Users|private)/|\b\d+\.\d+\.\d+\.\d+\b")
# A few steps of everything, as in tests/end_to_end.
TRAINING = {"epochs": 1.0, "batch_size": 32, "evals": 2, "log_every": 1, "warmup_steps": 0}
DRAWS = {"num_prompts": 8, "num_samples": 4, "max_new_tokens": 8}
SHORT = {
    "bootstrap": 100,
    "confidence": None,  # a guard does not settle on so few responses
    "lora.rank": 2,
    "reference_examples": 320,
    "data.num_pairs": 96,
    "data.num_held_out": 96,
    "accept_uninformative": True,
    **{f"{stage}.{field}": x for stage in ("reference", "align") for field, x in TRAINING.items()},
    **{f"{stage}.{field}": x for stage in ("sampling", "evaluation") for field, x in DRAWS.items()},
}
OF_METHOD = {
    "pecan_tpu": {
        "constraints.safety.margin": 0.1,
        **{f"prealign.{field}": x for field, x in TRAINING.items()},
    },
    "mocan_tpu": {
        "constraints.safety.margin": 0.02,
        "baselines.single": False,
        "baselines.lams": [0.5],
        **{f"score_training.{field}": x for field, x in TRAINING.items()},
    },
}


def run_tool(path, output, **parameters):
    kept = ("PATH", "HOME", "PYTHONPATH", *COMPILING)
    environment = {key: value for key, value in os.environ.items() if key.startswith(kept)}
    return subprocess.run(
        [sys.executable, TOOL, path, f"--output={output}", f"--parameters={json.dumps(parameters)}"],
        capture_output=True,
        text=True,
        env={**environment, "JAX_PLATFORMS": "cpu"},
        check=False,
    )


def texts(cell):
    """What a cell shows as text."""
    for output in cell.get("outputs", ()):
        yield output.get("text", "")
        yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def num_images(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", ()))


def by_id(notebook):
    return {cell.id: cell for cell in notebook.cells}


@pytest.fixture(scope="module")
def pecan_run(tmp_path_factory):
    """The folder of a run that two notebooks make: the second finds every stage done."""
    return tmp_path_factory.mktemp("pecan") / "run"


# mocan_tpu has the cells of pecan_tpu and one figure more, and its run takes a minute.
SLOW = [pytest.param(p, marks=pytest.mark.slow if p.stem == "mocan_tpu" else ()) for p in NOTEBOOKS]


@pytest.mark.parametrize("path", SLOW, ids=lambda path: path.stem)
def test_runs_whole(path, tmp_path, pecan_run):
    workdir = pecan_run if path.stem in ("pecan_tpu", "pecan_kaggle") else tmp_path / "run"
    of_method = OF_METHOD.get(path.stem.replace("kaggle", "tpu"))
    changes = {**SHORT, **of_method} if of_method else {}
    parameters = {"WORKDIR": str(workdir), "CHANGES": changes} if changes else {}
    done = run_tool(path, tmp_path / "out.ipynb", **parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    stored, ran = (nbformat.read(p, as_version=4) for p in (path, tmp_path / "out.ipynb"))
    assert [(cell.id, cell.source) for cell in ran.cells] == [(cell.id, cell.source) for cell in stored.cells]
    assert [num_images(cell) for cell in ran.cells] == [num_images(cell) for cell in stored.cells]
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    if path.stem in RUNS:
        check_run(by_id(ran), workdir, changes)
    if path.stem == "pecan_kaggle":
        headline = json.loads((workdir / "evaluation.json").read_text())["headline"]
        assert headline["sentence"] in "".join(texts(by_id(ran)["report"]))


def check_run(cells, workdir, changes):
    """What the notebook shows is what the run's folder holds."""
    config = json.loads((workdir / "config.json").read_text())
    for field, value in changes.items():
        node = config
        for name in field.split("."):
            node = node[name]
        assert node == value, field
    answer = json.loads((workdir / "dual.json").read_text())
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    asked = changes["constraints.safety.margin"]
    assert answer["asked"]["safety"]["margin"] == evaluation["asked"]["safety"] == asked
    certificate = "".join(texts(cells["certificate"]))
    # Of so few responses nothing can be said of the tilt, and the page shows draw-K.
    gate_open, policy = answer["gate"]["open"], "tilt" if answer["gate"]["open"] else "draw_k"
    assert ("Forecast: the tilted policy" if gate_open else "The gate is closed") in certificate
    lines = [line.split() for line in certificate.splitlines()]
    rows = {words[0]: words[1:] for words in lines if words}
    shown = dict(zip(rows["constraint"], rows["safety"], strict=True))
    assert float(shown["lambda"]) == pytest.approx(answer["lam"]["safety"], rel=1e-4, abs=1e-12)
    assert float(shown["asked"]) == asked
    predicted = answer["forecast"][policy]["margins"]["safety"]["mean"]
    assert float(shown["margin"]) == pytest.approx(predicted, rel=1e-4, abs=1e-12)
    achieved = evaluation["policies"]["aligned"]["margins"]["safety"]["mean"]
    assert f" {achieved:.2f} [" in "".join(texts(cells["audit"]))
    responses = "".join(texts(cells["samples"]))
    policies = [name for name in evaluation["policies"] if not name.startswith("lambda=")]
    assert {"reference", "aligned"} <= set(policies)
    for policy in policies:
        lines = (workdir / "evaluation_samples" / f"{policy}.jsonl").read_text().splitlines()
        first = next(row for row in map(json.loads, lines) if row["sample"] == 0)
        assert " ".join(first["response"].split()) in responses.replace("&#x27;", "'"), policy


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_name_of_the_package_that_a_notebook_uses_is_there(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    trees = [ast.parse(source) for source in code]
    imported = {}  # name in the notebook -> the object
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("alignjax"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                imported[alias.asname or alias.name] = getattr(module, alias.name)
    assert imported
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            assert hasattr(imported[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_and_are_of_these_cells(path):
    spec = importlib.util.spec_from_file_location("run_notebooks", TOOL)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert path.stat().st_size < MOST_BYTES
    # Fails where outputs are older than the code; run: python tools/run_notebooks.py notebooks/NAME.ipynb
    assert stored.metadata["outputs_of"] == tool.digest(stored)
    assert set(stored.metadata) == {"colab", "kernelspec", "language_info", "outputs_of"}
    assert stored.metadata.language_info == {"name": "python"}
    shown = "".join(text for cell in stored.cells for text in texts(cell))
    assert shown and not PRIVATE.findall(shown + "".join(cell.source for cell in stored.cells))
    kinds = {output.output_type for cell in stored.cells for output in cell.get("outputs", ())}
    assert kinds <= {"stream", "display_data"}
    assert all(set(cell.metadata) <= {"tags"} for cell in stored.cells)
    assert sum(map(num_images, stored.cells)) >= 1


@pytest.mark.parametrize("name", RUNS)
def test_cells_that_need_paths_run_what_they_say(name, monkeypatch, capsys):
    """With paths filled in; `run` and the process of the plan are replaced by recorders."""
    monkeypatch.chdir(ROOT)
    method = name.removesuffix("_tpu")
    cells = by_id(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4))
    runs, plans = [], []
    status = 0

    def plan(command, **options):
        plans.append((command, options["env"]))
        return subprocess.CompletedProcess(command, status, "what the plan says", "")

    known = {"os": os, "sys": sys, "Path": Path}
    exec(cells["imports"].source, known)
    known |= {
        "run": lambda *given: runs.append(given) or SimpleNamespace(table="what the run says"),
        "subprocess": SimpleNamespace(run=plan),
    }
    own, published = (
        re.sub(r'(path"?:|_PATH =) ""', r'\1 "somewhere"', cells[cell].source)
        for cell in ("own", "published")
    )
    exec(own, known)
    exec(published, known)
    assert "what the plan says" in capsys.readouterr().out
    status = 4
    exec(published, known)
    assert "Nothing was run: the plan ended with status 4" in capsys.readouterr().out
    (own, own_folder), (published, published_folder) = runs
    assert (own_folder, published_folder) == (Path(f"runs/{method}-own"), Path(f"runs/{method}-alpaca-7b"))
    assert {own.method, published.method} == {method}
    for config in (own, published):
        assert config.model.path == "somewhere" and config.align.checkpoint_every
        assert {source.path for source in config.data.sources.values()} == {"somewhere"}
    assert own.constraints["safety"].fraction == 0.3
    # The paper's: beta 0.1, LoRA of rank 8, length 512, 1,000 prompts x 128 responses, 2 x 8 pairs a step.
    sampling, align = published.sampling, published.align
    assert (published.beta, published.lora.rank, published.model.max_length) == (0.1, 8, 512)
    assert (sampling.num_prompts, sampling.num_samples) == (1000, 128)
    assert (align.batch_size, align.accumulate, align.epochs) == (2, 8, 3.0)
    command, environment = plans[0]
    assert command[1:3] == ["-m", "alignjax.plan"] and environment["JAX_PLATFORMS"] == "cpu"
    assert command[3:] == [f"--config=configs/{method}.py:alpaca-7b", "--topology=v5e:1x1"]


def test_the_session_of_kaggle_plans_runs_and_says_how_to_resume(monkeypatch, tmp_path, capsys):
    """With paths filled in; processes are replaced by a recorder."""
    cells = by_id(nbformat.read(ROOT / "notebooks" / "pecan_kaggle.ipynb", as_version=4))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "run.json").touch()
    started, statuses, stopped = [], [0, 75, 4], []

    def start(command, *, env, **options):
        started.append((command, env))
        status = statuses.pop(0)
        return SimpleNamespace(
            stdout=["what it says\n"], wait=lambda: status, terminate=lambda: stopped.append(1)
        )

    known = {
        "os": os,
        "sys": sys,
        "Path": Path,
        "subprocess": SimpleNamespace(PIPE=-1, STDOUT=-2, Popen=start),
    }
    parameters = re.sub(r'(_PATH|PREVIOUS) = ""', r'\1 = "before"', cells["parameters"].source)
    for source in (parameters, cells["command"].source, cells["plan"].source, cells["run"].source):
        exec(source, known)
    said = capsys.readouterr().out
    assert said.count("what it says") == 2 and "set PREVIOUS to its copy of runs/pecan-kaggle" in said
    assert (tmp_path / "runs/pecan-kaggle/run.json").exists()  # what an earlier session left
    (plan, planned), (train, _) = started
    assert planned["JAX_PLATFORMS"] == "cpu" and not stopped
    settings = train[4:-1]
    assert plan == [*train[:3], "plan", *settings, "--topology=kaggle", "--mean_length=16+75"]
    assert (train[3], settings[0], train[-1]) == ("train", "pecan:alpaca-7b", "--workdir=runs/pecan-kaggle")
    exec(cells["plan"].source, known)
    exec(cells["run"].source, known)
    assert "Nothing was run: the plan does not fit." in capsys.readouterr().out and len(started) == 3
    assert settings[1:] == [f"--config.{field}={value}" for field, value in known["fields"].items()]
    values = runpy.run_path(str(ROOT / "configs" / "pecan.py"))["get_config"]("alpaca-7b")
    values.update_from_flattened_dict(known["fields"])
    config = from_mapping(values.to_dict())
    assert (config.model.weights, config.mesh.data, config.mesh.fsdp) == ("int8", 8, 1)
    assert {source.path for source in config.data.sources.values()} == {config.model.path} == {"before"}
    for training in (config.prealign, config.align):
        assert (training.batch_size, training.accumulate, training.checkpoint_every) == (8, 2, 50)


@pytest.mark.parametrize(
    ("source", "parameters", "message"),
    [
        ("1 / 0", {}, "ZeroDivisionError"),
        ("import warnings; warnings.warn('not quite')", {}, "cell given wrote to standard error"),
        ("print('well')", {"WORKDIR": "x"}, "has no cell with the tag `parameters`"),
    ],
)
def test_what_does_not_run_is_not_stored(source, parameters, message, tmp_path):
    cell = nbformat.v4.new_code_cell(source, id="given")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "in.ipynb")
    done = run_tool(tmp_path / "in.ipynb", tmp_path / "out.ipynb", **parameters)
    assert done.returncode == 1 and message in done.stderr
    assert not (tmp_path / "out.ipynb").exists()
