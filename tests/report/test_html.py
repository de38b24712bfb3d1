import dataclasses
import re
from html.parser import HTMLParser

import pytest

from alignjax.report import ReportInputs, html, render, sections, write_report

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
    record = {"python": hostile, "stages": {hostile: {"seconds": 1.0}}}
    texts = {"title": hostile, "findings": [hostile], "config": {hostile: hostile}, "run": record}
    given = dataclasses.replace(inputs(), **texts, counts={hostile: {hostile: 1}}, frontier=None, metrics=())
    page = render(given)
    assert "<script" not in page and Page(page).text.count(hostile) >= 7


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
    asked = inputs().evaluation["asked"]["safety"]
    assert f"asked margin {asked:.2f}" in " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for policy in inputs().evaluation["policies"].values():
        assert f"{policy['reward']['mean']:.2f}" in text
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
    plain = dataclasses.replace(inputs(truth=False), frontier=None, metrics=(), scores={}, calibration={})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(html.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(plain, tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_several_constraints_have_a_verdict_and_panels_each(inputs):
    given = dataclasses.replace(
        inputs(("safety", "honesty"), truth=False), scores={}, metrics=(), calibration={}
    )
    names = [plate.name for plate in html.plates(given)]
    assert names == [
        "dual-safety",
        "margin-safety",
        "dual-honesty",
        "margin-honesty",
        "plane-safety",
        "plane-honesty",
        "wins",
    ]
    page = render(given)
    assert page.count('class="card verdict') == 2 and "honesty-only" in page


def test_nothing_but_a_title_still_makes_a_page():
    page = render(ReportInputs(title="empty", dual={}, evaluation={}))
    read = Page(page)
    assert "figure" not in read.tags and "table" not in read.tags and "h1" in read.tags


@pytest.mark.parametrize(
    "missing", ["dual", "config", "run", "calibration", "counts", "metrics", "scores", "samples"]
)
def test_any_part_can_be_missing(inputs, missing):
    empty = () if missing in ("metrics", "samples") else {}
    given = dataclasses.replace(inputs(truth=False), **{missing: empty}, frontier=None)
    assert "None" not in Page(render(given, [])).text.replace("None", "", 3)  # the configuration's own None
    assert isinstance(html.plates(dataclasses.replace(given, metrics=(), scores={}, calibration={})), list)


def test_missing_estimates_are_dashes(inputs):
    given = inputs(truth=False)
    given.evaluation["policies"]["aligned"]["margins"]["safety"] = None
    given.evaluation["predicted"]["margins"] = {}
    given = dataclasses.replace(given, frontier=None, metrics=(), scores={}, calibration={}, config={})
    page = render(given)
    assert "not measured" in page and ">None" not in page


def test_strip_places_estimates_on_one_scale(inputs):
    verdict = html.tables.verdicts(inputs().evaluation)[0]
    strip = sections.strip(verdict)
    assert strip is not None and strip.asked is not None
    assert [bar[0] for bar in strip.bars] == ["promised", "delivered", "true"]
    assert all(0 <= strip.zero < low <= mean <= high <= 100 for _, low, mean, high in strip.bars)


DURATIONS = {0.42: "0.4 s", 59.96: "1 min 00 s", 151: "2 min 31 s", 3599.6: "1 h 00 min", 7380: "2 h 03 min"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations(seconds, text):
    assert sections.duration(seconds) == text
