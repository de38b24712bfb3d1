"""Reads an input as the commands read it; all that may come out is an InputError."""

import contextlib
import io
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import alignjax
from alignjax import cli, runs, score, solve
from alignjax.config import ModelSettings, from_mapping
from alignjax.data.cleaning import clean
from alignjax.data.files import read_rows
from alignjax.data.records import DataSource, read_pairs, read_prompt_rows
from alignjax.data.tokenize import template_for, tokenize_pairs, tokenize_prompts
from alignjax.errors import InputError
from alignjax.evaluation.human_labels import read_labels
from alignjax.evaluation.judges import by_verdicts
from alignjax.models import load_pretrained, load_score_model
from alignjax.policy.encoding import make_encoder, prompt_ids, response_ids
from alignjax.policy.sampling import end_ids
from alignjax.records import read_record
from alignjax.records.answer import DualAnswer
from alignjax.runtime.arrays import read_npz
from alignjax.runtime.line_log import LineLog
from alignjax.runtime.metrics import read_metrics
from alignjax.scores.lookup import read_lookup
from alignjax.scores.table import read_table
from alignjax.stages.ledger import read_ledger
from tools.fuzzing import bases
from tools.fuzzing.writing import OPTIONS, write_options

_CONFIGS = Path(alignjax.__file__).parents[1] / "configs"
_TEXTS = ("hello there", "", "\u202e \0 é \U0001f600", "a" * 300, "<s>x</s>", "{prompt} {{ 1 }}")
_MODEL = ModelSettings()


class Refused(Exception):
    """Every reader of an input refused it; the message is the last one's line."""


def _each(*readers: Callable[[], Any]) -> None:
    """Calls all; raises Refused if all of them refuse."""
    refusals = []
    for read in readers:
        try:
            read()
        except InputError as error:
            refusals.append(str(error))
    if len(refusals) == len(readers):
        raise Refused(refusals[-1])


def _options(folder: Path) -> dict[str, Any]:
    return json.loads((folder / OPTIONS).read_text())


def _input(folder: Path, *names: str) -> Path:
    return next(folder / name for name in names if (folder / name).exists())


def read_preferences(folder: Path) -> None:
    """Rows, as pairs, as prompts and as what `score` reads, and what remains of them as tokens."""
    (path,) = folder.glob("rows.*")
    options = _options(folder)["source"]
    options["categories"] = tuple(options["categories"])
    source = DataSource(str(path), **options)
    tokenizer = bases.byte_tokenizer()
    template, lengths = template_for(tokenizer, _MODEL), {"max_length": 64, "max_prompt_length": 40}

    def pairs() -> None:
        kept, _ = clean(read_pairs(source, "safety", strict=False))
        tokenize_pairs(tokenizer, template, kept, **lengths)

    def prompts() -> None:
        rows = read_prompt_rows(str(path), ["category"])
        tokenize_prompts(tokenizer, template, [row.prompt for row in rows], max_prompt_length=40)

    def lines() -> None:
        for where, row in read_rows(path):
            score._lines_of(where, row)

    _each(pairs, prompts, lines)


def _use(model: Any, path: Path, kwargs: str = "") -> None:
    """Texts to tokens and back, as `sample` and `score` do."""
    ends = end_ids(model)
    encoder = make_encoder(model, str(path), template_kwargs=kwargs)
    for text in _TEXTS:
        row = {"prompt": text or "x", "response": text}
        prompt_ids(encoder, row, "f:1")
        ids = response_ids(encoder, row, "response", "f:1")
        if model.tokenizer is not None:
            model.tokenizer.decode([i for i in ids.tolist() if i not in ends], skip_special_tokens=True)


def read_model(folder: Path) -> None:
    """A model folder, a score model or a GGUF file, and its tokenizer."""
    options = _options(folder)
    path = folder / "model.gguf" if (folder / "model.gguf").exists() else folder

    def read() -> None:
        if options.get("score"):
            load_score_model(path)
            return
        model = load_pretrained(path)
        if model.tokenizer is None:
            raise InputError(f"{path}: has no tokenizer, which nothing here reads without.")
        _use(model, path, options.get("kwargs", ""))

    _each(read)


def read_adapter(folder: Path) -> None:
    """A PEFT folder as the model, and as an adapter on its base."""
    _each(lambda: load_pretrained(folder), lambda: load_pretrained(folder / "model", adapter=folder))


class _Accepted(Exception):
    """The configuration was accepted."""


def read_run_config(folder: Path) -> None:
    """A run's config.json, or a command line of `train`."""
    options = _options(folder)
    if "flags" in options:
        _each(lambda: _train(options["method"], options["flags"]))
    else:
        _each(lambda: from_mapping(runs.read_json(folder / "config.json")), lambda: runs.read_config(folder))


def _train(method: str, overrides: list[str]) -> None:
    """`python -m alignjax.train` up to the run itself."""

    def accept(*_: Any, **__: Any) -> None:
        raise _Accepted

    before = {
        name: flags.FLAGS[name]
        for name in flags.FLAGS
        if name.startswith(("config", "workdir", "redo", "distr"))
    }
    for name in before:
        delattr(flags.FLAGS, name)
    sys.modules.pop("config_config", None)
    kept, argv, error = runs.run, sys.argv, io.StringIO()
    status: Any = 0
    try:
        runs.run = accept  # type: ignore[assignment]
        sys.argv = ["train.py", f"--config={_CONFIGS / method}.py", *overrides]
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(Path(alignjax.__file__).with_name("train.py")), run_name="__main__")
    except _Accepted:
        pass
    except SystemExit as ended:
        status = ended.code
    finally:
        runs.run, sys.argv = kept, argv
        for name in [n for n in flags.FLAGS if n.startswith(("config", "workdir", "redo", "distr"))]:
            delattr(flags.FLAGS, name)
        for name, flag in before.items():
            flags.FLAGS[name] = flag
        flags.FLAGS.unparse_flags()
    if status == cli.EXIT_INPUT:
        lines = [line for line in error.getvalue().splitlines() if line]
        if len(lines) != 1:
            raise RuntimeError(f"{len(lines)} lines on standard error: {lines[:3]}")
        raise InputError(lines[0])
    if status:
        raise RuntimeError(f"status {status}")


def read_scores(folder: Path) -> None:
    """A score table, the answer that it gives, and its scores by text."""
    path = _input(folder, "scores.npz", "scores.jsonl")
    options = _options(folder)

    def answer() -> None:
        read_table(path)
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            solve.solve(path, beta=options["beta"], asked=options["asked"], as_json=True, num_resamples=0)
        json.loads(shown.getvalue())

    readers: list[Callable[[], Any]] = [answer]
    if path.suffix == ".jsonl":
        readers += [lambda: read_lookup(path, "reward"), lambda: read_lookup(path, "safety")]
    _each(*readers)


def read_label_files(folder: Path) -> None:
    """Human labels, verdicts, scores by text."""
    path = folder / "labels.jsonl"
    _each(
        lambda: read_labels(str(path), ["reward", "safety"]),
        lambda: by_verdicts(str(path), ["p"], ["reference", "aligned"]),
        lambda: read_lookup(path, "reward"),
        lambda: read_lookup(path, "safety"),
    )


def read_records(folder: Path) -> None:
    """What a run's folder says of itself."""
    LineLog(folder / "log.jsonl").read()  # it leaves out what is damaged
    with np.errstate(all="ignore"):
        _each(
            lambda: read_record(DualAnswer, folder / "dual.json"),
            lambda: runs.answer_name(folder),
            lambda: read_ledger(folder),
            lambda: read_metrics(folder / "metrics.jsonl"),
            lambda: read_npz(folder / "cache.npz"),
        )


READERS: dict[str, Callable[[Path], None]] = {
    "jsonl": read_preferences,
    "tables": read_preferences,
    "safetensors": read_model,
    "gguf": read_model,
    "tokenizers": read_model,
    "templates": read_model,
    "configs": read_model,
    "run_configs": read_run_config,
    "scores": read_scores,
    "adapters": read_adapter,
    "labels": read_label_files,
    "records": read_records,
}


def warm_up(folder: Path) -> None:
    """Reads valid files, so that what is imported or compiled once takes no input's time.

    Args:
      folder: where they are made; it is removed.
    """
    (folder / "model").mkdir(parents=True)
    for files, place in ((bases.model_folder(), folder / "model"), (bases.adapter_folder(), folder)):
        for name, content in files.items():
            (place / name).write_bytes(content)
    write_options(folder / "model")
    write_options(folder, beta=0.5, asked={"margin": ["safety=0.1"]}, method="pecan", flags=[])
    (folder / "scores.npz").write_bytes(bases.table_bytes())
    read_model(folder / "model")
    for read in (read_adapter, read_scores, read_run_config):
        read(folder)
    shutil.rmtree(folder)
