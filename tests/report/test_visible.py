"""Text that would act on a page or a file instead of being read."""

import pytest

from alignjax.report.visible import cut, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("windows\r\nlines", "windows\nlines"),
        ("back\rwards", "back\\rwards"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("\u202eevil\u202c", "\\u202eevil\\u202c"),
        ("\u2066isolate\u2069", "\\u2066isolate\\u2069"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("next\u2028line", "next\\u2028line"),
        ("half \ud800 of a pair", "half \\ud800 of a pair"),
        ("\U000e0041tag", "\\U000e0041tag"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\U0001f469\u200d\U0001f52c", "\U0001f469\u200d\U0001f52c"),
        ("\u65e5\u672c\u3000\u8a9e, caf\u00e9", "\u65e5\u672c\u3000\u8a9e, caf\u00e9"),
    ],
)
def test_what_acts_is_an_escape_and_what_people_write_stays(text, shown):
    assert visible(text) == shown
    shown.encode()  # a file in UTF-8 can hold it


def test_a_long_text_is_cut_and_the_rest_counted():
    assert cut("abcdef", 6) == ("abcdef", 0)
    assert cut("abcdef", 4) == ("abcd", 2)
    assert cut("\u202eabc", 2) == ("\\u202ea", 2)  # characters of the text itself, not of its escapes
