"""Files that judges are read from, and answers of the dual that say what was asked."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from alignjax.records.answer import Asked, DualAnswer, EffectiveSamples, Gate, Predicted, Reference
from alignjax.records.figure import Figure
from alignjax.records.units import Unit


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


def at(mean: float) -> Figure:
    """An estimate, give or take 1."""
    return Figure(mean, mean - 1, mean + 1)


def dual_answer(
    asked: Mapping[str, Asked], *, units: Mapping[str, Unit] | None = None, gate: Gate | None = None
) -> DualAnswer:
    """A feasible answer; it predicts reward 3, gain -0.5, KL 0.5 (at most 1.5), utilities 2, margins 1."""
    names = tuple(asked)
    predicted = Predicted(
        reward=at(3.0),
        kl=at(0.5),
        utilities=dict.fromkeys(names, at(2.0)),
        margins=dict.fromkeys(names, at(1.0)),
        reward_gain=at(-0.5),
        ess=EffectiveSamples(4.0, 2.0, 8, 0.0),
    )
    return DualAnswer(
        names=names, beta=1.0, confidence=0.95, num_prompts=2, num_samples=4, num_resamples=3,
        holds=("prompts",), asked=asked, reference=Reference(0.0, dict.fromkeys(names, 0.0)),
        reachable=dict.fromkeys(names, 2.0), multiple=2.0, solved=True, feasible=True, certificate=None,
        certificate_reachable=None, guard=None, lam=dict.fromkeys(names, 0.7), predicted=predicted,
        intervals=None, corrected=None, frontier=None, prompts=None, solver=None, warnings=(), gate=gate,
        units=units or {name: Unit(name) for name in names},
    )  # fmt: skip


@pytest.fixture
def answer_of() -> Callable[..., DualAnswer]:
    """Makes a feasible answer of what was asked, by constraint."""
    return dual_answer
