"""HTML pages of the room: jinja2 templates with escaping on, and atomic writes."""

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import markupsafe

from alignjax.report.csv_links import csv_uri
from alignjax.report.visible import visible


class Script(NamedTuple):
    """A script of the page.

    Attributes:
      text: what stands in its element.
      digest: by which the content security policy of the page allows it, and no other.
    """

    text: markupsafe.Markup
    digest: str


def slug(title: str) -> str:
    """A heading as the name of an anchor or a file: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def render(template: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """A page from one of this folder's templates; equal values give equal text.

    All text is escaped: prompts and responses are whatever a model wrote. The page loads nothing from
    elsewhere, and runs nothing but the scripts named here, whose digests stand in its security policy.

    Args:
      template: its file name.
      scripts: file names under assets/.
      values: what the template shows; a name that it uses and that is missing here is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alignjax", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = [_script(environment, name) for name in scripts]
    return environment.get_template(template).render(scripts=found, csv_uri=csv_uri, slug=slug, **values)


def _script(environment: jinja2.Environment, name: str) -> Script:
    assert environment.loader is not None
    text = environment.loader.get_source(environment, f"assets/{name}")[0].replace("\r\n", "\n")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Script(markupsafe.Markup(text), f"sha256-{digest}")


def _visible(value: Any) -> Any:
    """A text with escapes for what would act on the page; mark-up is made by this package and stays."""
    return visible(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


def write(path: Path, text: str) -> Path:
    """Writes a UTF-8 file atomically; its folder is made where it is missing.

    Unlike `runtime.files.write_text` it may be called by one process of several.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read it; a report is there to be shown
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
