from absl import flags

from alignjax.config.usage import usage

DOCUMENT = """Says one thing.

    command --with=this      stays as it is
    command --with=that --and=many --other=options --that=do --not=fit --into=one --line=of --eighty=columns

A paragraph that is much longer than a line of a terminal of eighty columns is wrapped at them, wherever it
was cut before.
"""


def defined():
    values = flags.FlagValues()
    flags.DEFINE_string("output", "", "File to write.", flag_values=values)
    flags.DEFINE_bool("greedy", False, "Take the most probable token.", flag_values=values)
    flags.DEFINE_integer("a_name_that_is_too_long", 4, "Of the preview.", flag_values=values)
    flags.DEFINE_multi_string("margin", [], "NAME=X: a margin.", flag_values=values)
    return [values[name] for name in values]


def test_document_flags_and_statuses_in_eighty_columns():
    lines = usage(DOCUMENT, defined()).splitlines()
    assert max(map(len, lines)) < 80
    assert lines[:3] == ["Says one thing.", "", "    command --with=this      stays as it is"]
    assert lines[4] == "        --into=one --line=of --eighty=columns"
    wide = usage(DOCUMENT, defined(), width=119).splitlines()
    assert 100 < max(map(len, wide)) < 120 and len(wide) < len(lines)
    text = "\n".join(lines)
    assert "  --[no]greedy         Take the most probable token." in lines
    assert "  --output=            File to write." in lines
    assert "  --margin=...         NAME=X: a margin." in lines
    assert "  --a_name_that_is_too_long=\n                       Of the preview. (4)" in text
    assert text.index("--a_name") < text.index("--[no]greedy") < text.index("--output")
    assert text.endswith("the same command goes on")
