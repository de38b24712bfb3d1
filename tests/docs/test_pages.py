"""Links of README.md and docs/, the site's contents, and the front-door files."""

import ast
import dataclasses
import pkgutil
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

import alignjax
from alignjax import dual
from alignjax.config import Config

ROOT = Path(alignjax.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "launch").rglob("README.md"))
PAGES += [ROOT / "benchmarks" / "README.md"]
SITE = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`", text)


def anchors(page: Path) -> set[str]:
    """What GitHub and the site call the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = prose(page)
    for link in re.findall(r"\]\(([^()\s]+)\)", text) + re.findall(r"src(?:set)?=\"([^\"]+)\"", text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_contents():
    listed = set(re.findall(r"([\w/-]+\.md)$", SITE, flags=re.MULTILINE))
    docs = {path.name for path in (ROOT / "docs").glob("*.md")}
    launch = {name_of(path) for path in (ROOT / "launch").rglob("README.md")}
    assert listed == docs | launch | {"benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md"}


def test_the_reference_has_every_public_name_and_no_other():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: (\S+)$", page, flags=re.MULTILINE)
    assert len(set(listed)) == len(listed) > 40
    for path in listed:
        assert pkgutil.resolve_name(path).__doc__, path
    functions = {name for name in alignjax.__all__ if callable(getattr(alignjax, name))}
    elsewhere = {"response_logps": "alignjax.policy.response_logps"}
    assert {elsewhere.get(name, f"alignjax.{name}") for name in functions} <= set(listed)
    solvers = {name for name in dual.__all__ if name.startswith(("solve", "reachable", "finite", "boot"))}
    assert len(solvers) == 6 and {f"alignjax.dual.{name}" for name in solvers} <= set(listed)


def test_what_to_cite():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["title"], cited["version"]) == ("alignjax", alignjax.__version__)
    (paper,) = cited["references"]
    assert paper["title"].startswith("One-Shot Safety Alignment") and len(paper["authors"]) == 6
    assert {"type": "other", "value": "arXiv:2405.19544"}.items() <= paper["identifiers"][0].items()


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'; .ci/run builds the site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", f"--site-dir={tmp_path}"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(https?:[^\"\s>]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?stylesheet[^>]*href=\"?(https?:[^\"\s>]+)", text)
        assert not loaded, (page, loaded)


def parts(kind: Any) -> set[type]:
    """The dataclasses that a setting's type is made of."""
    if dataclasses.is_dataclass(kind):
        found = [parts(hint) for hint in typing.get_type_hints(kind).values()]
        return {typing.cast(type, kind)}.union(*found)
    return set().union(*(parts(argument) for argument in typing.get_args(kind)))


def test_the_page_of_settings_has_every_part_of_the_configuration():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    listed = {pkgutil.resolve_name(path) for path in re.findall(r"^::: (\S+)$", page, flags=re.MULTILINE)}
    assert len(parts(Config)) > 20
    assert parts(Config) <= listed


def test_the_house_of_the_design_stands():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    house = page.partition("    alignjax/\n")[2].partition("## The arrows")[0]
    named = re.findall(r"^ {6}(\S+(?: \S+\.py)*)", house, flags=re.MULTILINE)
    paths = [path for line in named for path in line.split()]
    assert len(paths) > 25
    assert not [path for path in paths if not (ROOT / "alignjax" / path).exists()]
    rooms = {f"{path.parent.name}/" for path in (ROOT / "alignjax").glob("*/__init__.py")}
    assert rooms <= set(paths)


# In a line of docs/troubleshooting.md: words in capitals, numbers, names, and what is left out.
FILLED = re.compile(
    r"\.\.\.|run\.json|[A-Z_]{2,}(?:\.jsonl)?|\bN\b|[\d.]+|config\.[\w.]+|\"\w+\"|\[\w+]|\(process .*"
    r"|safety|judges\.\S+|mocan|pecan|None| or "
)


def said() -> list[str]:
    """Every text of the package's code; what is filled in is a NUL."""
    texts = []
    for module in (ROOT / "alignjax").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            values = [part.value if isinstance(part, ast.Constant) else "\0" for part in parts]
            if any(isinstance(value, str) and value != "\0" for value in values):
                texts.append(" ".join("".join(map(str, values)).split()))
    return texts


def test_the_lines_that_troubleshooting_explains_are_said():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = re.findall(r"\| the line says \|.*\n\| --- .*\n((?:\|.*\n)+)", page)
    texts, checked = said(), 0
    for row in "".join(tables).splitlines():
        for line in re.findall(r"`([^`]+)`", row.split(" | ")[0]):
            parts = FILLED.split(line)
            parts = [part for raw in parts if len(part := raw.strip(" :;,.()=-")) > 7]
            for part in parts:
                assert any(part in text for text in texts), f"{line}: nothing says {part!r}"
                checked += 1
    assert checked > 25
