"""Tables as CSV in links."""

import csv
import io
import urllib.parse

import pytest

from alignjax.report.csv_links import csv_uri


def read(uri):
    kind, _, text = uri.partition(",")
    assert kind == "data:text/csv;charset=utf-8"
    return list(csv.reader(io.StringIO(urllib.parse.unquote(text))))


def test_estimates_are_three_columns_and_all_else_is_as_it_stands():
    uri = csv_uri(
        ["policy", "reward", "note"],
        [["reference", "-0.50", 'a "quoted", one'], ["aligned", "1.05 [0.93, 1.17]", "two\nlines"]],
    )
    assert read(uri) == [
        ["policy", "reward", "reward low", "reward high", "note"],
        ["reference", "-0.50", "", "", 'a "quoted", one'],
        ["aligned", "1.05", "0.93", "1.17", "two\nlines"],
    ]


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-cmd", "@sum", "\tx", "-1+2"])
def test_no_cell_is_a_formula(cell):
    assert read(csv_uri([cell], [[cell]])) == [["'" + cell]] * 2


@pytest.mark.parametrize("cell", ["-", "-0.35", "+1.2", "1,318", "-1e-05", "3.2e-10", "12%", ""])
def test_numbers_stay_numbers(cell):
    assert read(csv_uri(["x"], [["a" if not cell else cell]]))[1] == ["a" if not cell else cell]


def test_nothing_in_it_can_end_an_attribute():
    uri = csv_uri(['"<script>'], [["'\" & <b>"]])
    assert not set(uri) & set("\"'<>& \n")
