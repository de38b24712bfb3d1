import base64
import csv
import dataclasses
import hashlib
import io
import json
import re
import urllib.parse
from html.parser import HTMLParser

import pytest

from alignjax.records.answer import Corrected, Forecast, Gate
from alignjax.records.evaluation import Evaluation, Headline
from alignjax.report import EarlierAnswer, StageTime, html, pages, render, write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes, text and scripts; a tag closed out of order fails."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.open, self.scripts = [], [], "", [], []
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
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self.open:
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
    # The data and the script that reads them; <b> is the facts' own.
    assert read.tags.count("script") == page.count("<script") == 2 and "b" in read.tags
    assert read.text.count(hostile) == 2 and hostile not in page
    assert json.loads(read.scripts[0])["prompts"][1]["p"] == hostile


def test_nothing_but_the_scripts_of_this_package_may_run(page):
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)[0]
    script = Page(page).scripts[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "unsafe-eval" not in policy
    assert policy.count("sha256") == 1 and policy.startswith("default-src 'none'")


def test_a_page_without_responses_has_no_script(inputs):
    page = render(dataclasses.replace(inputs(truth=False), samples=()), [])
    assert "<script" not in page and "script-src" not in page
    none = render(dataclasses.replace(inputs(truth=False), shown_samples=0), [])
    assert "<script" not in none and "pick a lock" not in none


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
    assert page.count("<script") == 2 and Page(page).text.count(hostile) == 11


def test_the_page_needs_no_network_and_runs_nothing(page):
    read = Page(page)
    for name, value in read.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:text/csv;charset=utf-8,"))
    outside = set(re.findall(r"https?://[^\"' )]+", page))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page and "@import" not in page


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [value for name, value in Page(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page))
    for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page):
        assert (a or b) in ids


def seen(page):
    """The page's text, one blank between any two words."""
    bare = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def test_the_page_opens_with_the_headline_and_holds_the_tables_numbers(inputs, page):
    text = seen(page)
    parts = ("Ship: every constraint", "112 pairs are present", "Contents", "verified", "helpful-only")
    places = [text.index(part) for part in (*parts, "Responses side by side", "over-fitting")]
    assert places == sorted(places)
    for policy in inputs().evaluation.policies.values():
        assert f"{policy.reward.mean:.2f}" in text
    for shown in ("2 min 31 s", "1,318", "0.83 [0.74, 0.92]", "constraints.safety.margin", "14.2 of 64"):
        assert shown in text


def test_every_entry_of_the_contents_has_its_section(inputs):
    others = [EarlierAnswer("before", inputs().answer, inputs().evaluation)]
    page = render(dataclasses.replace(inputs(truth=False), others=others))
    listed = re.findall(r'<a href="#([a-z-]+)">([^<]+)</a>', page)
    assert [name for _, name in listed] == [
        "Promised and delivered", "Policies", "Responses", "Contests", "Figures", "Dual", "Calibration",
        "Answers of this run", "Data", "Time", "Versions", "Configuration",
    ]  # fmt: skip
    assert all(page.count(f'id="{anchor}"') == 1 for anchor, _ in listed)
    places = [page.index(f'id="{anchor}"') for anchor, _ in listed]
    assert places == sorted(places)


def test_tables_have_captions_row_headers_and_a_csv(page):
    read = Page(page)
    assert read.tags.count("table") == read.tags.count("caption") >= 9
    assert all(re.findall(r"<t[hd][^>]*>", row)[0].startswith("<th scope=") for row in rows_of(page))
    found = [value for name, value in read.attributes if name == "download"]
    assert {"promise.csv", "policies.csv", "contests.csv", "calibration.csv", "configuration.csv"} <= set(
        found
    )
    assert len(found) == len(set(found))
    uri = re.findall(r'href="(data:[^"]+)" download="promise.csv"', page)[0]
    head, safety, *_ = csv.reader(io.StringIO(urllib.parse.unquote(uri.partition(",")[2])))
    assert head[:5] == ["", "verdict", "asked", "forecast", "forecast low"] and safety[0] == "safety margin"


def rows_of(page):
    return re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL)


def test_a_card_says_what_was_asked_forecast_delivered_and_shown(inputs, page):
    given = inputs()
    asked = given.evaluation.asked["safety"]
    delivered = given.evaluation.policies["aligned"].margins["safety"]
    truth = given.evaluation.policies["aligned"].true_margins["safety"]
    text = seen(page).replace("&lambda;", "\u03bb")
    assert (
        f"safety margin \u03bb* 0.620 [0.527, 0.744] {asked:.2f} "
        f"{asked:.2f} [{asked - 0.1:.2f}, {asked + 0.1:.2f}] "
        f"{delivered.mean:.2f} [{delivered.low:.2f}, {delivered.high:.2f}] "
        f"true score {truth.mean:.2f} [{truth.low:.2f}, {truth.high:.2f}] at least 0.51 verified"
    ) in text
    assert "promise asked forecast delivered shown, 96% verdict on one scale" in text
    assert "KL, nats 1.45 1.28 [1.23, 1.33]" in text and "at most 1.36 verified" in text
    assert "The test is look 1 at prompts that nothing else used; 80% of its error is spent." in text


@pytest.mark.parametrize(
    ("state", "tone"), [("ship", " good"), ("kept at a cost", " warn-tone"), ("do not ship", " bad")]
)
def test_the_headline_has_the_colour_of_its_state_and_is_escaped(inputs, hostile, state, tone):
    given = inputs(truth=False)
    evaluation = dataclasses.replace(given.evaluation, headline=Headline(state, hostile, "Ask for less."))
    page = render(dataclasses.replace(given, evaluation=evaluation, samples=()), [])
    opening = f'<section class="card headline{tone}" id="verdict"><span class="chip">{state}</span>'
    assert opening in page and "Next: Ask for less." in seen(page)
    assert "<script" not in page and Page(page).text.count(hostile) == 1


def test_names_of_constraints_are_escaped_on_their_cards(inputs, hostile):
    given = inputs((hostile,), truth=False)
    page = render(dataclasses.replace(given, samples=()), [])
    assert "<script" not in page and f"{hostile} margin" in Page(page).text


@pytest.mark.parametrize(
    ("state", "tone"), [("verified", " good"), ("not shown", " "), ("refuted", " bad"), ("not asked", " ")]
)
def test_a_card_has_the_colour_of_its_verdict(inputs, verdict_of, state, tone):
    given = inputs(truth=False)
    evaluation = dataclasses.replace(given.evaluation, verdicts={"safety": verdict_of(state)})
    page = render(dataclasses.replace(given, evaluation=evaluation), [])
    row = next(row for row in rows_of(page) if ">safety margin" in row)
    assert f'<tr class="verdict{tone}">' in row and f'<span class="chip">{state}</span>' in row


def closed(given, figure_of, guard_of):
    """Inputs whose gate is closed; the tilt's numbers all begin with 77, those of draw-K are near 0.3."""
    tilt = dataclasses.replace(
        given.answer.predicted,
        reward=figure_of(77.1),
        kl=figure_of(77.2),
        utilities={"safety": figure_of(77.3)},
        margins={"safety": figure_of(77.4)},
        reward_gain=figure_of(77.5),
    )
    draw_k = dataclasses.replace(given.answer.predicted, margins={"safety": figure_of(0.31)})
    answer = dataclasses.replace(
        given.answer,
        predicted=tilt,
        forecast=Forecast(draw_k, tilt),
        gate=Gate(open=False, share=0.4, reasons=("too few samples",)),
        corrected=Corrected(
            {"safety": figure_of(77.6)}, {"safety": figure_of(77.7)}, figure_of(77.8), figure_of(77.9)
        ),
        guard=guard_of(given.answer.predicted),
    )
    return dataclasses.replace(given, answer=answer)


def test_behind_a_closed_gate_no_number_of_the_tilt_is_on_the_page(inputs, figure_of, guard_of):
    given = closed(inputs(truth=False), figure_of, guard_of)
    opened = dataclasses.replace(given, answer=dataclasses.replace(given.answer, gate=Gate(True, 0.0)))
    assert "77.40 [77.30, 77.50]" in render(opened)
    page = render(given)  # with its figures
    assert page.count("closed, see the findings") == 3
    assert "forecast of the tilt closed" in seen(page)
    assert "forecast margin of draw-K, safety 0.31 [0.21, 0.41]" in seen(page)
    assert not re.search(r"\b77\.\d", seen(page))


def test_behind_a_closed_gate_the_figures_have_the_curve_alone(inputs, figure_of, guard_of):
    def margin(given):
        return next(plate.svg for plate in html.plates(given) if plate.name == "margin-safety")

    given = closed(inputs(truth=False), figure_of, guard_of)
    without = dataclasses.replace(given, answer=dataclasses.replace(given.answer, predicted=None))
    opened = dataclasses.replace(given, answer=dataclasses.replace(given.answer, gate=Gate(True, 0.0)))
    assert margin(given) == margin(without) != margin(opened)


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


def test_several_constraints_have_a_card_and_panels_each(inputs):
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
    assert page.count('<tr class="verdict') == 4 and "honesty-only" in page  # two, the reward and KL


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
        "counts": "Data: pairs read",
        "samples": "Responses side by side",
        "findings": "Findings",
    }
    for part, head in heads.items():
        assert (head in text) == (part != missing)


def test_a_policy_that_was_not_tested_is_called_so(inputs):
    given = inputs(truth=False)
    policies = {k: v for k, v in given.evaluation.policies.items() if k != "aligned"}
    evaluation = dataclasses.replace(given.evaluation, policies=policies, predicted={}, verdicts={}, power={})
    page = render(dataclasses.replace(given, evaluation=evaluation, config={}), [])
    assert page.count('<span class="chip">not tested</span>') == 3 and ">None" not in page
    assert "The test is look" not in page


def test_an_infeasible_answer_has_a_page(inputs):
    given = inputs(truth=False)
    answer = dataclasses.replace(
        given.answer, feasible=False, lam=None, predicted=None, intervals=None, frontier=None
    )
    nothing = Evaluation({}, {}, {}, {}, {}, 1, 0.0, {}, Headline("do not ship", "Nothing was trained."))
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
    assert text.index("helpful-only") < text.rindex("Answers of this run")
    assert text.index("latest") < text.rindex(hostile) and page.count("<script") == 2
