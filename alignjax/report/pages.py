"""HTML pages of the room: jinja2 templates with escaping on, and atomic writes."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """A page from one of this folder's templates; equal values give equal text.

    All text is escaped: prompts and responses are whatever a model wrote. The page runs no script and loads
    nothing from elsewhere.

    Args:
      template: its file name.
      values: what the template shows; a name that it uses and that is missing here is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alignjax", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def write(path: Path, text: str) -> Path:
    """Writes a UTF-8 file atomically; its folder is made where it is missing.

    Unlike `runtime.files.write_text` it may be called by one process of several.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read it; a report is there to be shown
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
