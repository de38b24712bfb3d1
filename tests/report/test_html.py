import dataclasses
import re
from html.parser import HTMLParser

import pytest

from alignjax.records.answer import Conservative, Corrected, Ends, Intervals, SolverState
from alignjax.records.evaluation import Evaluation
from alignjax.report import EarlierAnswer, StageTime, html, pages, render, sections, tables, write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text; a tag closed out of order fails."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def drawn_once():
    return {}


@pytest.fixture
def page(inputs, drawn_once):
    if "page" not in drawn_once:
        drawn_once["page"] = render(inputs())
    return drawn_once["page"]


def test_text_of_a_model_is_never_markup(page, hostile):
    read = Page(page)
    assert "script" not in read.tags and "b" in read.tags  # the facts' own <b>
    assert "<script" not in page and read.text.count(hostile) == 2


def test_titles_findings_names_and_config_are_escaped_as_well(inputs, hostile):
    given = dataclasses.replace(
        inputs(),
        title=hostile,
        findings=[hostile],
        config={hostile: hostile},
        environment={"python": hostile},
        stages=[StageTime(hostile, 1.0, None)],
        counts={hostile: {hostile: 1}},
    )
    page = render(given, [])
    # Twice each: title and heading, name and value of the configuration, name and key of the count.
    # Once each: finding, version and stage. Two more are in the samples.
    assert "<script" not in page and Page(page).text.count(hostile) == 11


def test_the_page_needs_no_network_and_runs_nothing(page):
    read = Page(page)
    for name, value in read.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
    outside = set(re.findall(r"https?://[^\"' )]+", page))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page and "@import" not in page


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [value for name, value in Page(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page))
    for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page):
        assert (a or b) in ids


def test_the_page_opens_with_the_verdict_and_holds_the_tables_numbers(inputs, page):
    text = " ".join(Page(page).text.split())
    assert text.index("kept within its interval") < text.index("Policies") < text.index("Figures")
    asked = inputs().evaluation.asked["safety"]
    assert f"asked margin {asked:.2f}" in " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for policy in inputs().evaluation.policies.values():
        assert f"{policy.reward.mean:.2f}" in text
    for shown in ("2 min 31 s", "1,318", "0.83 [0.74, 0.92]", "constraints.safety.margin", "14.2 of 64"):
        assert shown in text


def test_equal_inputs_give_equal_bytes(inputs, page):
    assert render(inputs()) == page


def test_files_are_written_and_stale_figures_removed(inputs, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "dual-honesty.svg").write_text("old")
    (tmp_path / "figures" / "mine.svg").write_text("kept")
    path = write_report(inputs(), tmp_path)
    assert path == tmp_path / "report.html"
    names = {p.name for p in (tmp_path / "figures").iterdir()}
    drawn = {
        "dual-safety",
        "margin-safety",
        "plane-safety",
        "plane-true-safety",
        "scores",
        "wins",
        "training",
        "reliability",
    }
    assert names == {"mine.svg", *(f"{name}.svg" for name in drawn)}
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "figures"}
    assert all((tmp_path / "figures" / name).read_text().startswith("<?xml") for name in names - {"mine.svg"})


def test_a_failed_write_leaves_the_old_page(inputs, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    given = inputs(truth=False)
    plain = dataclasses.replace(given, answer=dataclasses.replace(given.answer, frontier=None))
    plain = dataclasses.replace(plain, metrics=(), scores={})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(pages.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(plain, tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_several_constraints_have_a_verdict_and_panels_each(inputs):
    given = dataclasses.replace(inputs(("safety", "honesty"), truth=False), scores={}, metrics=())
    drawn = html.plates(given)
    assert [plate.name for plate in drawn] == [
        "dual-safety",
        "margin-safety",
        "dual-honesty",
        "margin-honesty",
        "plane-safety",
        "plane-honesty",
        "wins",
        "reliability",
    ]
    page = render(given, drawn)
    assert page.count('class="card verdict') == 2 and "honesty-only" in page


@pytest.mark.parametrize(
    "missing", ["config", "environment", "stages", "counts", "metrics", "scores", "samples", "findings"]
)
def test_any_part_can_be_missing(inputs, missing):
    empty = {} if missing in ("config", "environment", "counts", "scores") else ()
    given = dataclasses.replace(inputs(truth=False), **{missing: empty})
    text = Page(render(given, [])).text
    assert text.count("None") == (0 if missing == "config" else 2)  # the configuration's own
    heads = {
        "config": "Configuration",
        "environment": "Versions",
        "stages": "Time by stage",
        "counts": "Data:",
        "samples": "Responses side by side",
        "findings": "Findings",
    }
    for part, head in heads.items():
        assert (head in text) == (part != missing)


def test_a_policy_that_was_not_evaluated_is_not_measured(inputs):
    given = inputs(truth=False)
    policies = {k: v for k, v in given.evaluation.policies.items() if k != "aligned"}
    evaluation = dataclasses.replace(given.evaluation, policies=policies, predicted={})
    page = render(dataclasses.replace(given, evaluation=evaluation, config={}), [])
    assert "not measured" in page and ">None" not in page


def test_an_infeasible_answer_has_a_page(inputs):
    given = inputs(truth=False)
    answer = dataclasses.replace(
        given.answer, feasible=False, lam=None, predicted=None, intervals=None, frontier=None
    )
    nothing = Evaluation({}, {}, {}, {})
    given = dataclasses.replace(given, answer=answer, evaluation=nothing, scores={}, config={}, metrics=())
    drawn = html.plates(given)
    assert [plate.name for plate in drawn] == ["reliability"]
    text = Page(render(given, drawn)).text
    assert "largest reachable margin, safety2.43" in text and "None" not in text


def test_which_uncertainties_the_intervals_hold_is_said(inputs):
    given = inputs(truth=False)
    text = Page(render(given, [])).text
    assert (
        "The 95% intervals of the prediction and of the multipliers hold the uncertainty about which prompts "
        "were drawn and how the scores were calibrated, and no other."
    ) in text
    none = dataclasses.replace(given, answer=dataclasses.replace(given.answer, holds=(), num_resamples=0))
    assert "The prediction and the multipliers have no intervals." in Page(render(none, [])).text


def test_earlier_answers_are_compared_on_the_page(inputs, hostile):
    given = inputs(truth=False)
    assert "Answers of this run" not in render(given, [])
    others = [EarlierAnswer(hostile, given.answer, given.evaluation)]
    page = render(dataclasses.replace(given, others=others), [])
    text = Page(page).text
    assert text.index("Policies") < text.index("Answers of this run")
    assert text.index("latest") < text.rindex(hostile) and "<script" not in page


def test_strip_places_estimates_on_one_scale(inputs):
    verdict = tables.verdicts(inputs().evaluation)[0]
    strip = sections.strip(verdict)
    assert strip is not None and strip.asked is not None
    assert [bar[0] for bar in strip.bars] == ["predicted", "achieved", "true"]
    assert all(0 <= strip.zero < low <= mean <= high <= 100 for _, low, mean, high in strip.bars)
    # Places are linear: the asked margin lies in the middle of its own prediction, 0.1 to each side.
    _, low, mean, high = strip.bars[0]
    assert mean == strip.asked and mean - low == pytest.approx(high - mean, abs=0.02)


def test_strip_of_nothing_measured():
    verdict = tables.Verdict("safety", 1.0, None, None, None, "not measured", "")
    assert sections.strip(verdict) is None


@pytest.mark.parametrize(
    ("lam", "interval", "text"),
    [
        (0.62, Ends(0.5, 0.75), "0.620 [0.500, 0.750]"),
        (0.62, Ends(0.5, None), "0.620 [0.500, infinite]"),
        (0.62, None, "0.620"),
        (None, None, "-"),
    ],
)
def test_a_multiplier_is_shown_with_its_interval(inputs, lam, interval, text):
    answer = dataclasses.replace(
        inputs().answer,
        lam=None if lam is None else {"safety": lam},
        intervals=None if interval is None else Intervals({"safety": interval}, 1.0),
    )
    assert sections.lam_text(answer, "safety") == text


def test_rows_of_the_dual(inputs, figure_of):
    answer = dataclasses.replace(
        inputs().answer,
        corrected=Corrected(
            {"safety": figure_of(0.7)}, {"safety": figure_of(0.4)}, figure_of(0.9), figure_of(1.2)
        ),
        conservative=Conservative({"safety": 0.051}, {"safety": 0.45}),
        solver=SolverState(12, None, 1.0),
    )
    assert sections.dual_rows(answer) == [
        ("lambda*, safety", "0.620 [0.527, 0.744]"),
        ("largest reachable margin, safety", "2.43"),
        ("predicted reward", "0.95 [0.85, 1.05]"),
        ("predicted KL, nats", "1.28 [1.23, 1.33]"),
        ("effective samples per prompt, median", "14.2 of 64"),
        ("lambda*, safety, corrected for finite samples", "0.700 [0.600, 0.800]"),
        ("predicted margin, safety, corrected for finite samples", "0.40 [0.30, 0.50]"),
        ("added to the safety margin, so that it holds with confidence 0.95", "0.051"),
        ("solver", "12 iterations, error not finite"),
    ]


def test_stages_have_their_share_of_the_longest():
    times = [StageTime("data", 1.5, None), StageTime("policy", 60.0, 2048.4), StageTime("dual", None, 10)]
    assert sections.stages(times) == [
        ("data", "1.5 s", "-", 2.5),
        ("policy", "1 min 00 s", "2,048", 100.0),
        ("dual", "-", "10", 0.0),
    ]
    assert sections.facts({"seed": 3}, {"devices": ["tpu:v5e"] * 4}, times) == [
        ("seed", "3"),
        ("time", "1 min 02 s"),
        ("peak memory", "2,048 MiB"),
        ("devices", "4 x tpu:v5e"),
    ]


DURATIONS = {0.42: "0.4 s", 59.96: "1 min 00 s", 151: "2 min 31 s", 3599.6: "1 h 00 min", 7380: "2 h 03 min"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations(seconds, text):
    assert sections.duration(seconds) == text
