"""No command of README.md and docs/ escapes: each block is run in a folder made for it, or parsed.

`data`, `solve`, `export`, `sample`, `score` and `evaluate` are run as they stand. Of `train` the command of
README.md for a model of one's own is run, shrunken; the others go through everything that `train` does with a
command line. Every setting, flag, file and extra that a page names must be there.
"""

import ast
import dataclasses
import importlib
import re
import shlex
import shutil
import subprocess
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from absl import flags

import alignjax
from alignjax import __main__ as door
from alignjax import cli, dual, runs
from alignjax import config as config_package
from alignjax.config import Config
from alignjax.planning import targets

ROOT = Path(alignjax.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "benchmarks" / "README.md", *sorted((ROOT / "launch").rglob("README.md"))]
LANGUAGES = ("sh", "python", "json", "text", "bibtex", "dockerfile")
COMMAND = re.compile(r"\s*(\$ )?(python\d? |pip |alignjax |--config|\.ci/run)")
SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
RUN = ("data", "solve", "export", "sample", "score", "evaluate", "compare")
# With arguments that are not ours to check; of the last ones only launch/ speaks.
TOOLS = ("basedpyright", "cd", "git", "lint-imports", "mkdocs", "ruff", "source", "tmux")
CLOUD = ("gcloud", "kubectl", "sacct", "scancel", "tail", "xpk")
OWN = ("--config.model.path=path/to/model", "--config.data.sources.reward.path=helpful.jsonl")
OWN += ("--config.data.sources.safety.path=safe.jsonl",)


class Block(NamedTuple):
    """A fenced block of a page, and where it begins."""

    place: str
    language: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    """Fenced blocks; what is not in one is yielded with the language "outside"."""
    fence, begin, language, held, outside = "", 0, "", [], []
    name = str(page.relative_to(ROOT))
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        opening = re.fullmatch(r"\s*(```+)(.*)", line)
        if fence and line.strip() == fence:
            yield Block(f"{name}:{begin}", language, "\n".join(held))
            fence, held = "", []
        elif fence:
            held.append(line)
        elif opening:
            fence, language, begin = opening[1], opening[2].strip(), number
        else:
            outside.append(line)
    assert not fence, f"{name}:{begin} has no end"
    yield Block(name, "outside", "\n".join(outside))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(block: Block) -> Iterator[list[str]]:
    """The words of every command of a block; of arguments alone, of a whole `train` with them."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|", ";"):
                words.append(word)
            elif words:
                assigned = [w for w in words if not re.match(r"[A-Za-z_]+=", w)]  # of the environment
                if assigned:
                    yield _train(words) if words[0].startswith("--") else assigned
                words = []


def _train(arguments: list[str]) -> list[str]:
    method = "mocan" if any(".scores." in word or ".relabel." in word for word in arguments) else "pecan"
    return ["python", "-m", "alignjax.train", f"--config={method}:smollm2-135m", *OWN, *arguments]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The command of alignjax that words run, and its arguments; None: another program."""
    if words[0] == "alignjax":
        name, *rest = words[1:]
        if name in ("train", "plan") and rest and not rest[0].startswith("-"):
            rest[0] = f"--config={rest[0]}"
        return name, rest
    if words[:2] == ["python", "-m"] and words[2].startswith("alignjax."):
        return words[2].removeprefix("alignjax."), words[3:]
    return None


def is_run(item: tuple[str, str, list[str]]) -> bool:
    """Whether a command is run and not only read; some have tests of their own, and take longer."""
    _, name, given = item
    dialled = name in ("sample", "export")
    asked = dialled and any(word.startswith(("--margin=", "--rate=", "--best_of=")) for word in given)
    return name in RUN and not asked and not any(word.startswith("--audit") for word in given)


COMMANDS = [
    (block.place, words) for block in BLOCKS if block.language == "sh" for words in commands_of(block)
]
OURS = [(place, *found) for place, words in COMMANDS if (found := ours(words)) is not None]
OTHERS = [(place, words) for place, words in COMMANDS if ours(words) is None]
PARSED = [item for item in OURS if not is_run(item)]
# One command may stand on several pages.
RAN = list({(name, *given): (place, name, given) for place, name, given in filter(is_run, OURS)}.values())


def label(value: Any) -> str | None:
    return value if isinstance(value, str) else None


@pytest.fixture(scope="module")
def readme_train() -> list[str]:
    """The arguments of README.md's `train` for a model of one's own."""
    found = [given for place, name, given in OURS if place.startswith("README.md") and name == "train"]
    own = [given for given in found if set(OWN) <= set(given) and "--workdir=runs/mine" in given]
    assert own, f"README.md has no train with {' '.join(OWN)} --workdir=runs/mine"
    return own[0]


def module_of(name: str) -> str:
    """As the fixture `command` takes it."""
    assert name in door.COMMANDS, f"no command {name}"
    return "data/__main__" if name == "data" else name


def test_commands_are_in_blocks_of_a_known_language():
    assert len(PAGES) > 15 and len(COMMANDS) > 50 and len(PARSED) > 12 and len(RAN) > 12
    for block in BLOCKS:
        assert block.language in (*LANGUAGES, "outside"), f"{block.place}: a fence of {block.language!r}"
        if block.language not in ("sh", "python"):
            text = SPAN.sub("", block.text)
            commands = [line for line in text.splitlines() if COMMAND.match(line)]
            assert not commands, f"{block.place}: {commands[0]!r} is not in a block of sh"


def test_the_command_for_a_model_of_ones_own_is_run(place):
    # 5: after a few steps on a random model the test shows nothing.
    assert place.status in (0, 5)
    assert place.config.model.path == "path/to/model"
    assert {s.path for s in place.config.data.sources.values()} == {"helpful.jsonl", "safe.jsonl"}


@pytest.mark.parametrize(("where", "name", "given"), RAN, ids=label)
def test_it_runs(where, name, given, place, command, monkeypatch):
    monkeypatch.chdir(place.folder)
    if name == "export":  # does not overwrite
        (output,) = (word.partition("=")[2] for word in given if word.startswith("--output="))
        shutil.rmtree(output, ignore_errors=True)
    ended = command(module_of(name), *given)
    # A random model's policy is not verified, and not every margin can be asked of its scores.
    of_run = any(word.startswith("--scores=runs/") for word in given)
    also = {"evaluate": (5,), "solve": (3,) if of_run else ()}.get(name, ())
    assert ended.status in (0, *also), ended.err
    for flag, file in (word.split("=", 1) for word in given if "=" in word):
        if flag in ("--output", "--plot", "--preview"):
            assert Path(file).exists(), file


@pytest.mark.parametrize(("where", "name", "given"), PARSED, ids=label)
def test_it_is_read_to_the_end_of_its_configuration(where, name, given, place, command, monkeypatch):
    """As the command itself does it, up to where a run, or a compilation, would begin."""
    read: list[Any] = []

    def stop(first: Any, *rest: Any, **options: Any) -> None:
        read.append(first)
        raise SystemExit(0)

    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(runs, "run", stop)
    monkeypatch.setattr(targets, "devices", stop)
    monkeypatch.setattr(targets, "compile_only", lambda: None)
    if "--help" in given:
        assert "exit status" in command(module_of(name), *given).out
        return
    if name not in ("train", "plan"):
        flags_only(monkeypatch)
    ended = command(module_of(name), *given)
    assert ended.status == 0, ended.err
    if name in ("train", "plan"):
        assert isinstance(read[0], Config if name == "train" else targets.Target)


def flags_only(patch: pytest.MonkeyPatch) -> None:
    """Commands end once their flags are read."""
    real = cli.run
    patch.setattr(cli, "run", lambda main, *args, **options: real(lambda: None, *args, **options))


@pytest.mark.parametrize(("where", "words"), OTHERS, ids=label)
def test_other_programs(where, words, tmp_path):
    program, *rest = words
    if program.startswith("launch/"):
        bash = ["bash", str(ROOT / program), "--dry_run", *rest]
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        ended = subprocess.run(bash, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0 and "mine" in ended.stdout, ended.stderr
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for word in rest for found in re.findall(r"\[(.*)]", word) for name in found.split(",")]
        assert set(named) <= set(extras)
    elif program.startswith("python") and rest[0] == "-m":
        assert rest[1] in ("pytest", "venv")
    elif program == "python":
        scripts = [path for path in (ROOT / rest[0]).parent.glob(f"{Path(rest[0]).stem}*.py")]
        assert ROOT / rest[0] in scripts, f"{where}: no {rest[0]}"
        script = "".join(path.read_text(encoding="utf-8") for path in scripts)
        for word in (word for word in rest[1:] if word.startswith("--")):
            assert word.partition("=")[0].removeprefix("--") in script, f"{rest[0]} has no {word}"
        assert all((ROOT / word).exists() for word in rest[1:] if "/" in word and "=" not in word)
    else:
        known = (*TOOLS, *CLOUD) if where.startswith("launch/") else TOOLS
        assert program in known or (ROOT / program).is_file(), f"{where}: what is {program}?"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: b.place)
def test_python_compiles_and_its_names_are_there(block):
    tree = ast.parse(block.text)
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                known[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            assert hasattr(known[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


def test_the_dual_of_the_readme_runs():
    blocks = [b for b in BLOCKS if b.language == "python" and b.place.startswith("README.md")]
    (text,) = (block.text for block in blocks if "dual.solve(" in block.text)
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {
        "rewards": rng.normal(size=(30, 16)),
        "utilities": rng.normal(scale=2.0, size=(30, 16, 1)),
        "lams": np.array([[0.0], [1.0]]),
        "key": jax.random.key(0),
    }
    exec(compile(text, "README.md", "exec"), names)
    solution = names["solution"]
    assert bool(solution.feasible) and solution.margins[0] == pytest.approx(1.0, abs=1e-3)
    # The same lambda by hand: where the mean utility under softmax((r + lam g) / beta) is 1 above the mean.
    tilt = dual.tilt(solution.lam, names["rewards"], names["utilities"], beta=0.1)
    scores = (names["rewards"] + float(solution.lam[0]) * names["utilities"][..., 0]) / 0.1
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(tilt, weights / weights.sum(axis=1, keepdims=True), atol=1e-4)


def spans() -> Iterator[tuple[str, str]]:
    """Code within the text of README.md and docs/."""
    for block in BLOCKS:
        if block.language == "outside" and not block.place.startswith(("launch", "benchmarks")):
            for found in SPAN.finditer(block.text):
                yield block.place, " ".join(found[1].split())


def below(hint: Any, name: str) -> list[Any]:
    """The types that a field or entry of a type may have; none: there is no such field."""
    if isinstance(hint, types.UnionType):
        return [kind for option in typing.get_args(hint) for kind in below(option, name)]
    if typing.get_origin(hint) is Mapping:
        return [typing.get_args(hint)[1]]
    if not dataclasses.is_dataclass(hint):
        return []
    hints = typing.get_type_hints(hint)
    chosen = hints.values() if name == "*" else [hints[name]] if name in hints else []
    return list(chosen)


def test_every_setting_that_a_page_names_is_there():
    checked = 0
    for page, span in spans():
        for found in re.finditer(r"(?<![\w/.])config\.([\w.*]+[\w*])", span):
            path = found[1].split(".")
            if path[0] in ("FIELD", "json", "py") or hasattr(config_package, path[0]):
                continue
            kinds: list[Any] = [Config]
            for name in path:
                kinds = [kind for hint in kinds for kind in below(hint, name)]
            assert kinds, f"{page}: config.{found[1]}"
            checked += 1
    assert checked > 60


def test_every_flag_that_a_page_names_is_there(command):
    """Commands and flags within the text, whose values may be words for any."""
    known: dict[str, set[str]] = {}
    for name in door.COMMANDS:
        text = command(module_of(name), "--help").out
        known[name] = set(re.findall(r"^  --(?:\[no\])?(\w+)", text, flags=re.MULTILINE)) | {"help"}
    every = set().union(*known.values())
    assert len(every) > 50 and flags.FLAGS is not None
    checked = 0
    for page, span in spans():
        words = span.split()
        found = ours(words) if words[0] == "alignjax" or words[:2] == ["python", "-m"] else None
        if found is not None and found[0] not in ("COMMAND", "--help", "--version"):
            assert found[0] in known, f"{page}: {span}"
        elif found is not None or not span.startswith("--"):
            continue
        allowed = every if found is None else known[found[0]]
        for word in words:
            flag = word.partition("=")[0]
            if flag.startswith("--") and not flag.startswith("--config.") and page != "CONTRIBUTING.md":
                name = flag.removeprefix("--").rstrip(":")
                stands_for_any = not name or name.isupper()
                assert stands_for_any or {name, name.removeprefix("no")} & allowed, f"{page}: {flag}"
                checked += 1
    assert checked > 30


def test_every_configuration_that_a_page_names_is_there():
    for page, span in spans():
        for name, preset in re.findall(r"configs/(\w+)\.py(?::([\w-]+))?", span):
            assert (ROOT / "configs" / f"{name}.py").is_file(), f"{page}: {span}"
            assert not preset or f'"{preset}"' in (ROOT / "alignjax/config/presets.py").read_text(), span
