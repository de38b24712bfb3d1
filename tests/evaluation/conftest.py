"""Files that judges are read from."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """module("def f(...): ...") makes a judge of that code; it is called the_judge:f."""

    def write(code: str) -> str:
        (tmp_path / "the_judge.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "the_judge", raising=False)
        return "the_judge:f"

    return write


@pytest.fixture
def verdicts(tmp_path: Path) -> Callable[..., str]:
    """verdicts(row, row) writes a file of verdicts."""

    def write(*rows: object) -> str:
        path = tmp_path / "verdicts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
