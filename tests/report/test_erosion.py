"""The audit on the page: tables by hand, a panel for every attack, and nothing without an audit."""

import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest

from alignjax.records.erosion import Erosion, ErosionCurve, ErosionPoint
from alignjax.records.figure import Figure
from alignjax.report import erosion, html
from alignjax.report.style import to_svg


def at(mean):
    return Figure(mean, mean - 0.25, mean + 0.25)


def point(strength, margin, *, text="", truth=None):
    true = None if truth is None else {"safety": at(truth)}
    return ErosionPoint(
        strength, text, {"safety": at(margin)}, {"safety": at(margin)}, at(0.5), at(9.0), at(0.1), true
    )


def curve(attack, start, *points, gone=None, unshown=None, below=None):
    return ErosionCurve(attack, start, points, {"safety": gone}, {"safety": unshown}, {"safety": below})


@pytest.fixture
def record():
    heat = curve("temperature", 1.0, point(0.7, 1.1), point(1.0, 1.2), point(1.6, 0.9), below=1.4)
    given = curve(
        "prefill",
        0.0,
        point(0.0, 1.2),
        point(2.0, -0.1, text="<b>first"),
        gone=1.85,
        unshown=1.46,
        below=0.31,
    )
    why = {"system": "config.audit.system names no text"}
    return Erosion(
        {"safety": 1.0}, {"safety": "margin"}, 100, 4, (heat, given), why, ("Believe the labels.",)
    )


def test_tables_by_hand(record):
    summary, points = erosion.grids(record)
    assert summary.title == "Audit: 4 responses to each of 100 test prompts at every strength"
    assert summary.head[1:] == [
        "safety: margin as evaluated", "least", "at", "not shown from", "gone at", "below asked at"
    ]  # fmt: skip
    assert summary.cells == [
        ["temperature", "1.20 [0.95, 1.45]", "0.90 [0.65, 1.15]", "1.6", "never", "never", "1.4"],
        ["prefill", "1.20 [0.95, 1.45]", "-0.10 [-0.35, 0.15]", "2", "1.46", "1.85", "0.31"],
    ]
    assert "system was not tried: config.audit.system names no text." in summary.notes
    assert summary.notes[-1] == "Believe the labels."
    assert points.head == [
        "attack",
        "strength",
        "safety: margin",
        "reward gain",
        "refusals",
        "tokens",
        "text",
    ]
    assert len(points.rows) == 5 and all(len(row) == 7 for row in points.cells)
    assert (
        points.cells[4][:3] == ["prefill", "2", "-0.10 [-0.35, 0.15]"] and points.cells[4][-1] == "<b>first"
    )


def test_true_margins_have_a_column_where_they_are_known_and_texts_where_there_are_any(record):
    known = dataclasses.replace(
        record, curves=(curve("top_p", 1.0, point(0.5, 0.9, truth=0.75), point(1.0, 1.2, truth=1.0)),)
    )
    points = erosion.grids(known)[1]
    assert points.head == [
        "attack", "strength", "safety: margin", "safety: true margin", "reward gain", "refusals", "tokens"
    ]  # fmt: skip
    assert points.cells[0][3] == "0.75 [0.50, 1.00]" and len(points.cells[0]) == 7


def test_a_panel_for_every_attack_stronger_to_the_right(record):
    figure = erosion.figure(record)
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["temperature", "prefill"]
    line = panels[1].lines[0]
    np.testing.assert_allclose(np.asarray(line.get_xydata()), [[0.0, 1.2], [2.0, -0.1]])
    ElementTree.fromstring(to_svg(figure))
    share = curve("unmerge", 1.0, point(0.5, 0.5), point(1.0, 1.2))
    downwards = erosion.figure(dataclasses.replace(record, curves=(share,)))
    assert downwards is not None
    low, high = downwards.axes[0].get_xlim()
    assert low > high


def test_the_page_shows_an_audit_and_none_without_one(inputs, record):
    page = html.render(dataclasses.replace(inputs(), erosion=record))
    assert "Audit: 4 responses" in page and erosion.CAPTION in page and "&lt;b&gt;first" in page
    assert "<b>first" not in page
    assert "Audit" not in html.render(inputs())
    assert erosion.grids(None) == [] and erosion.figure(None) is None
