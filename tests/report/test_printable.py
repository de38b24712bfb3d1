from alignjax.report.printable import clipped, printable


def test_what_acts_on_a_terminal_is_an_escape():
    assert printable("a\nb\tc\rd") == r"a\nb\tc\rd"
    assert printable("\x1b[31m\x00\x7f\x9b") == r"\x1b[31m\x00\x7f\x9b"
    assert printable("\u202e\u2028\ud83d\U000e0001") == r"\u202e\u2028\ud83d\U000e0001"
    assert printable("caf\u00e9 \u4f60 \U0001f600") == "caf\u00e9 \u4f60 \U0001f600"


def test_long_texts_are_clipped_with_a_count():
    assert clipped("abcdef", 6) == "abcdef"
    assert clipped("abc\ndefg", 4) == "ab [4 characters] fg"
