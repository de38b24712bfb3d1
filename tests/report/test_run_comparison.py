"""Several runs on one page: rows, cautions, the figure, and what is refused."""

import dataclasses
import re

import numpy as np
import pytest

from alignjax.records.answer import Asked, Gate
from alignjax.report import run_comparison
from alignjax.report.run_comparison import ComparedRun, write_run_comparison


@pytest.fixture
def run_of(inputs):
    """Makes a run that shares reference, scores and prompts with the others, unless it is told otherwise."""

    def make(name, names=("safety",), **changed):
        given = inputs(names)
        config = {"seed": 0, "beta": 0.5, "align": {"epochs": 2}}
        same = {"calibrated": True, "reference": "r", "scores": "s", "prompts": "p"}
        values = {"config": config, "environment": given.environment, **same, **changed}
        return ComparedRun(name, **{"answer": given.answer, "evaluation": given.evaluation, **values})

    return make


def test_every_run_has_a_row_of_what_its_policy_reaches(run_of):
    grid = run_comparison.glance([run_of("a"), run_of("b", ("honesty",))])
    assert grid.head == [
        "run", "verdict", "safety margin", "honesty margin", "reward gain", "KL, nats", "tokens", "refusals"
    ]  # fmt: skip
    assert [row[0] for row in grid.rows] == ["a", "b"]
    (_, one, first), (_, two, second) = grid.rows
    assert one != two and first[0] == "ship" and first[2] == "-" and second[1] == "-"
    assert first[4:] == ["1.30 [1.24, 1.36]", "21.40 [20.80, 22.00]", "0.12 [0.10, 0.14]"]


def test_each_promise_has_a_table_in_the_words_in_which_it_was_asked(run_of):
    level = run_of("b")
    asked = {"safety": Asked(margin=0.4, level=-0.6)}
    level = level._replace(answer=dataclasses.replace(level.answer, asked=asked))
    found = run_comparison.quantities([run_of("a"), level])
    assert [grid.title for grid in found] == ["Safety margin", "Safety level", "Reward gain", "KL, nats"]
    assert [[row[0] for row in grid.rows] for grid in found] == [["a"], ["b"], ["a", "b"], ["a", "b"]]
    assert found[0].head == [
        "run",
        "verdict",
        "asked",
        "multiplier",
        "forecast",
        "delivered",
        "shown",
        "true",
    ]
    assert found[0].rows[0][2][:3] == [
        "verified",
        f"{level.evaluation.asked['safety']:.2f}",
        "0.620 [0.527, 0.744]",
    ]
    assert found[1].rows[0][2][1] == "-0.60" and found[3].rows[0][2][-1] == "at most 1.36 (96%)"
    assert "multiplier" not in found[2].head


def test_a_forecast_behind_a_closed_gate_is_neither_shown_nor_drawn(run_of):
    one = run_of("a")
    shut = one._replace(answer=dataclasses.replace(one.answer, gate=Gate(open=False, share=0.5)))
    grid = run_comparison.quantities([shut, one._replace(name="b")])[0]
    assert [row[2][3] for row in grid.rows][0] == "closed" and "closed" not in grid.rows[1][2]
    assert any("closed" in note for note in grid.notes)
    counts = [
        sum(len(np.asarray(line.get_xdata())) > 2 for line in figure.axes[0].get_lines())
        for figure in (run_comparison.trade_off([shut], "safety"), run_comparison.trade_off([one], "safety"))
    ]
    assert counts == [0, 1]


def test_only_settings_and_versions_that_differ_are_listed(run_of):
    other = {"seed": 0, "beta": 0.25, "align": {"epochs": 2, "decay": 0.1}}
    grid = run_comparison.settings([run_of("a"), run_of("b", config=other)])
    assert grid is not None and grid.head == ["setting", "a", "b"]
    assert [(row[0], row[2]) for row in grid.rows] == [
        ("beta", ["0.5", "0.25"]),
        ("align.decay", ["-", "0.1"]),
    ]
    # seed, epochs; alignjax, python, platform, processes, jax, flax
    assert grid.notes[0].startswith("8 further settings and versions are the same")
    assert run_comparison.settings([run_of("a"), run_of("b")]) is None


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"scores": "t"}, "do not share their scores"),
        ({"reference": "t"}, "do not start from the same reference"),
        ({"prompts": "t"}, "not tested on the same prompts"),
        ({"calibrated": False}, "not fitted to labels"),
    ],
)
def test_what_keeps_numbers_from_being_compared_is_said(run_of, changed, part):
    assert run_comparison.cautions([run_of("a"), run_of("b")]) == []
    (said,) = run_comparison.cautions([run_of("a"), run_of("b", **changed)])
    assert part in said


def test_the_figure_has_each_run_where_its_policy_is_and_what_it_was_asked(run_of):
    runs = [run_of("a"), run_of("b")]
    figure = run_comparison.trade_off(runs, "safety")
    axes = figure.axes[0]
    assert axes.get_legend_handles_labels()[1] == ["reference", "a", "b"]
    aligned = runs[0].evaluation.policies["aligned"]
    at = [
        (float(np.asarray(x.get_xdata())[0]), float(np.asarray(x.get_ydata())[0])) for x in axes.get_lines()
    ]
    assert at.count((aligned.margins["safety"].mean, aligned.reward_gain.mean)) == 2
    asked = runs[0].answer.asked["safety"].margin
    assert sum(x == asked for x, _ in at) == 2
    # The forecast is measured from the reference, as the points are.
    answer = runs[0].answer
    curve = next(line for line in axes.get_lines() if len(np.asarray(line.get_xdata())) > 2)
    np.testing.assert_allclose(
        np.asarray(curve.get_ydata()), answer.frontier.reward - answer.reference.reward
    )
    assert axes.get_xlabel() == "safety margin (logits of labels)"


def test_a_run_without_the_constraint_is_not_in_its_figure(run_of):
    figure = run_comparison.trade_off([run_of("a"), run_of("b", ("honesty",))], "safety")
    assert figure.axes[0].get_legend_handles_labels()[1] == ["reference", "a"]


def test_the_page_is_one_file_that_loads_nothing_and_escapes_names(run_of, hostile, tmp_path):
    path = tmp_path / "new" / "runs.html"
    assert write_run_comparison([run_of(hostile), run_of("b", config={"seed": hostile})], path) == path
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "Ship: every constraint is kept." in page
    assert "default-src 'none'" in page and not re.findall(
        r"\b(?:src|href)=\"https?:|@import|<img|<link", page
    )
    assert page.count("<svg") == 1 and "looked 2 times" in page
    anchors = re.findall(r'href="#([a-z0-9-]+)"', page)
    assert len(anchors) >= 5 and all(f'id="{one}"' in page for one in anchors)


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_or_too_many(run_of, count, tmp_path):
    with pytest.raises(ValueError, match=f"{count} runs were given; give 2 to 8"):
        write_run_comparison([run_of(str(i)) for i in range(count)], tmp_path / "x.html")


def test_every_run_has_a_mark_of_its_own():
    colours, markers = zip(*run_comparison._MARKS, strict=True)
    assert len(set(colours)) == len(set(markers)) == run_comparison.MOST == 8


def test_the_console_fits_its_width(run_of):
    text = run_comparison.console([run_of("x" * 60), run_of("b", reference="t")], 80)
    table, caution = text.rsplit("\n\n", 1)
    assert all(len(line) <= 80 for line in table.splitlines()) and "same reference" in caution
