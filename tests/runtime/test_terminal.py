"""Colour and broken lines: on a terminal alone."""

import io
import sys

import pytest

from alignjax.runtime import terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    assert terminal.painted("Ship", "good", Terminal()) == "\x1b[32mShip\x1b[0m"
    assert terminal.painted("Ship", "good", io.StringIO()) == "Ship"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.painted("Ship", "good", Terminal()) == "Ship"
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert terminal.painted("Ship", "good", Terminal()) == "Ship"


def test_a_long_line_is_broken_at_words_and_keeps_its_indentation():
    line = "  one two three four five six seven a/long/path/that/is/never/broken.json"
    assert terminal.fitted(line, Terminal()).splitlines() == [
        "  one two three four five six",
        "    seven",
        "    a/long/path/that/is/never/broken.json",
    ]
    assert terminal.fitted(line, io.StringIO()) == line
    assert terminal.fitted("  short,   as it is", Terminal()) == "  short,   as it is"


def test_stages_are_bold_and_findings_stand_out(monkeypatch, capsys):
    for line in ("stage 1 of 2: data", "  finding: few pairs", "  reward: pairs 4"):
        terminal.say(line)
    assert capsys.readouterr().out == "stage 1 of 2: data\n  finding: few pairs\n  reward: pairs 4\n"
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    for line in ("stage 1 of 2: data", "  finding: few pairs", "  reward: pairs 4"):
        terminal.say(line)
    bold, warn, plain = screen.getvalue().splitlines()
    assert bold == "\x1b[1mstage 1 of 2: data\x1b[0m" and warn == "\x1b[33m  finding: few pairs\x1b[0m"
    assert plain == "  reward: pairs 4"
