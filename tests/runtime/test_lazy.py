"""Names that are imported on first use: of a package made here."""

import sys

import pytest

from alignjax.runtime.lazy import lazy_names


def test_names_are_imported_once_and_listed(tmp_path, monkeypatch):
    package = tmp_path / "sleepy"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from alignjax.runtime.lazy import lazy_names\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'value': 'sleepy.deep', 'whole': 'sleepy.whole'})\n"
    )
    (package / "deep.py").write_text("value = object()\n")
    (package / "whole.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import sleepy  # pyright: ignore[reportMissingImports]

    try:
        assert "sleepy.deep" not in sys.modules
        assert {"value", "whole"} <= set(dir(sleepy))
        value = sleepy.value
        assert value is sys.modules["sleepy.deep"].value
        assert vars(sleepy)["value"] is value
        assert sleepy.whole is sys.modules["sleepy.whole"]
        with pytest.raises(AttributeError, match="module 'sleepy' has no attribute 'valu'"):
            _ = sleepy.valu
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sleepy"]:
            del sys.modules[name]


def test_a_package_that_is_not_being_imported_is_refused():
    with pytest.raises(KeyError):
        lazy_names("no_such_package", {})
