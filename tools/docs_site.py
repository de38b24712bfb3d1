"""What mkdocs.yml runs: the site also holds pages that are not in docs/, and the files that pages link to.

Links between pages are written for GitHub, from file to file. Here they are turned to where the site keeps
these files: those of docs/ at its top, all others under their path in the repository.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

# pip install -e '.[docs]'; nothing but the build of the site needs it.
from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<!\\)(\]\()([^()\s]+)(\))")
_FENCE = re.compile(r"\s*(```|~~~)")


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages of the contents that lie outside docs/, and every file that a page links to.

    Args:
      files: those of docs/.
      config: of mkdocs.yml.

    Returns:
      The same, with these.
    """
    for uri in _pages(config.nav):
        if files.get_file_from_path(uri) is None and (ROOT / uri).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri)))
    for page in list(files.documentation_pages()):
        for target in _targets(page):
            uri = _uri(target)
            if (ROOT / target).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turns the links of a page from the repository's layout to the site's.

    Args:
      markdown: the page's text.
      page: the page.
      config: of mkdocs.yml.
      files: of the site.

    Returns:
      The text, with links that MkDocs resolves. One that leads nowhere stays, and MkDocs warns of it.
    """
    folder = PurePosixPath(page.file.src_uri).parent

    def turned(match: re.Match[str]) -> str:
        target = _target(page.file, match[2])
        if target is None:
            return match[0]
        _, hash_, anchor = match[2].partition("#")
        return f"{match[1]}{os.path.relpath(_uri(target), folder)}{hash_}{anchor}{match[3]}"

    return "\n".join(_outside_fences(markdown, lambda line: _LINK.sub(turned, line)))


def on_page_content(html: str, *, page: Any, config: Any, files: Files) -> str:
    """Shows the sources of the page of settings unfolded, since their comments are its text.

    Args:
      html: of the page.
      page: the page.
      config: of mkdocs.yml.
      files: of the site.
    """
    folded = '<details class="mkdocstrings-source">'
    opened = folded.replace("<details", "<details open")
    return html.replace(folded, opened) if page.file.src_uri == "settings.md" else html


def _pages(nav: Any) -> list[str]:
    """Files that the contents name, in their order."""
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(item)]


def _targets(page: File) -> set[str]:
    """What the links of a page lead to, as paths in the repository."""
    found: set[str] = set()

    def note(match: re.Match[str]) -> str:
        found.update(filter(None, [_target(page, match[2])]))
        return match[0]

    _outside_fences(page.content_string, lambda line: _LINK.sub(note, line))
    return found


def _target(page: File, link: str) -> str | None:
    """The file in the repository that a relative link leads to; None: it leads elsewhere, or is an anchor."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    in_docs = (ROOT / "docs" / page.src_uri).is_file()
    here = PurePosixPath("docs" if in_docs else "", page.src_uri).parent
    target = os.path.normpath(here / path)
    return f"{target}/README.md" if (ROOT / target / "README.md").is_file() else target


def _uri(target: str) -> str:
    """Where the site keeps a file of the repository."""
    return "index.md" if target == "README.md" else target.removeprefix("docs/")


def _outside_fences(markdown: str, change: Any) -> list[str]:
    """The lines of a text, those outside of fenced code changed."""
    lines, fenced = [], False
    for line in markdown.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
        lines.append(line if fenced else change(line))
    return lines
