"""Rules of the house that no linter knows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alignjax

PACKAGE = Path(alignjax.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in MODULES]
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
# What nobody should have to install, and what would take the accelerator's memory.
FOREIGN = {"torch", "tensorflow", "trl", "peft"}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def body_lines(function):
    """Lines from `def` to the end, the docstring not counted."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    last = function.end_lineno or function.lineno
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return last - function.lineno + 1 - docstring


def test_there_are_modules():
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_modules_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: body_lines(f) for f in functions if body_lines(f) > MOST_LINES_OF_A_FUNCTION}
    # pecan.py is read from top to bottom like the paper's box: one function, many stages.
    assert not long or path.name in ("pecan.py", "mocan.py"), long


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_no_foreign_framework(path):
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    assert not found & FOREIGN


def test_importing_starts_no_device():
    # On a pod a backend that starts on import hangs, or takes the accelerator from another process.
    code = (
        "import sys, alignjax, alignjax.dual, alignjax.config, alignjax.models, alignjax.policy\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
        "assert not {'torch', 'tensorflow', 'transformers'} & set(sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert ended.returncode == 0 and not ended.stdout, ended.stderr


def test_all_commands_can_be_imported_together():
    # Commands share names of flags, and absl has one table of them a process.
    commands = [path.stem for path in PACKAGE.glob("*.py") if "cli.run(" in path.read_text(encoding="utf-8")]
    assert {"train", "sample", "score", "solve", "evaluate", "export"} <= set(commands)
    for name in commands:
        __import__(f"alignjax.{name}")
