"""A configuration that may lack what only a run needs: files."""

from typing import Any


def filled(values: dict[str, Any]) -> dict[str, Any]:
    """The configuration with names in place of the files that are not named yet.

    A plan opens no file but the model's config.json, and only where its name is given.
    """
    data = values.get("data") or {}
    if data.get("world") is not None:
        return values
    sources = {
        name: source if source.get("path") else {**source, "path": "not-named.jsonl"}
        for name, source in (data.get("sources") or {}).items()
    }
    model = values.get("model") or {}
    model = model if model.get("path") else {**model, "path": "not-named"}
    return values | {"data": {**data, "sources": sources}, "model": model}
