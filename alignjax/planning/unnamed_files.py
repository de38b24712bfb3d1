"""Stand-ins for files that a configuration does not name yet."""

from typing import Any


def with_placeholder_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The configuration with placeholder paths for the model and the data sets that it does not name.

    A run needs these files; a plan reads none of them but the model's config.json, and that one only where
    its path is given.

    Args:
      values: nested mapping, as `ConfigDict.to_dict()` gives it.

    Returns:
      The same mapping, changed only where a path is empty; unchanged for an embedded world.
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
