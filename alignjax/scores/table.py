"""The score table: every response's reward and utilities, as `.npz` arrays or as JSON Lines.

`.npz` holds rewards [N, K], utilities [N, K, m], names [m] and, if prompts have different numbers of
responses, mask [N, K] bool; categories [N] where prompts have them. `.jsonl` (also `.jsonl.gz`) holds one
response per line, "category" where its prompt has one:

    {"prompt_id": "p7", "category": "theft", "response": "...", "reward": -1.2, "utilities": {"safety": 1.3}}
"""

import gzip
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.files import read_json_lines
from alignjax.errors import InputError
from alignjax.runtime.files import write_bytes
from alignjax.scores.archive import load_arrays

_ARRAYS = ("rewards", "utilities", "names")
_OPTIONAL = ("mask", "categories")
_SHAPES = "rewards [N, K], utilities [N, K, m], names [m]"
# Sums of squares of N K scores stay far from the ends of float64, and a difference of 1 is still exact.
_LARGEST = 1e15


class ScoreTable(NamedTuple):
    """Scores of N prompts with K responses each, for m constraints.

    Attributes:
      rewards: [N, K] float32 or float64.
      utilities: [N, K, m] float32 or float64; higher is safer.
      names: names of the m constraints.
      mask: [N, K] bool, True where a response exists; None: all exist. Scores under False may be nan.
      prompt_ids: N ids, or None. `.jsonl` keeps them, `.npz` does not.
      responses: [N][K] texts, None for a response without text; None if there are no texts. `.jsonl` keeps
        them, `.npz` does not.
      categories: of the N prompts, None for one without; None if no prompt has one.
    """

    rewards: np.ndarray
    utilities: np.ndarray
    names: tuple[str, ...]
    mask: np.ndarray | None = None
    prompt_ids: tuple[str | int, ...] | None = None
    responses: tuple[tuple[str | None, ...], ...] | None = None
    categories: tuple[str | None, ...] | None = None


class _Line(NamedTuple):
    category: str | None
    reward: float
    utilities: tuple[float, ...]
    response: str | None


def read_table(path: str | Path) -> ScoreTable:
    """Reads a score table.

    Args:
      path: `.npz`, `.jsonl` or `.jsonl.gz`.

    Returns:
      The table. From JSON Lines it is float64, with prompts in order of first appearance, and with a mask
      only if prompts have different numbers of responses.

    Raises:
      InputError: the file is missing or damaged, or a score cannot be used; the message says where.
    """
    path = Path(path)
    table = _read_npz(path) if _is_npz(path) else _read_json_lines(path)
    _check(table, str(path))
    return table


def write_table(path: str | Path, table: ScoreTable) -> None:
    """Writes a score table atomically: a reader sees the old file or the new one, never a part.

    Equal tables give equal bytes. `.npz` holds arrays and categories, without prompt ids and texts. `.jsonl`
    omits responses that the mask excludes, and numbers the prompts if the table has no ids.

    Args:
      path: `.npz`, `.jsonl` or `.jsonl.gz`; its folder is made if it is missing.
      table: the scores.

    Raises:
      InputError: scores that `read_table` would refuse, or a path that cannot be written.
    """
    path = Path(path)
    is_npz = _is_npz(path)
    rewards, utilities = (
        _floats(table.rewards, f"{path}: rewards"),
        _floats(table.utilities, f"{path}: utilities"),
    )
    table = table._replace(rewards=rewards, utilities=utilities)
    _check(table, str(path))
    if is_npz:
        content = _npz_bytes(table)
    else:
        content = _json_lines(table).encode()
        content = gzip.compress(content, mtime=0) if path.suffix == ".gz" else content
    try:
        write_bytes(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the path.") from error


def _is_npz(path: Path) -> bool:
    if path.suffix == ".npz":
        return True
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(
            f"{path}: is not named like a score table; it must end in .npz, .jsonl or .jsonl.gz."
        )
    return False


def _read_npz(path: Path) -> ScoreTable:
    arrays = load_arrays(path, (*_ARRAYS, *_OPTIONAL))
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise InputError(f'{path}: has no array "{missing[0]}", only {held}; save {_SHAPES}.')
    names = arrays["names"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise InputError(
            f"{path}: names is {names.dtype} of shape {names.shape}, must be a list of texts; "
            'save names=np.array(["safety", ...]).'
        )
    rewards, utilities = (_floats(arrays[name], f"{path}: {name}") for name in ("rewards", "utilities"))
    return ScoreTable(
        rewards,
        utilities,
        tuple(str(name) for name in names),
        arrays.get("mask"),
        categories=_categories(arrays.get("categories"), path),
    )


def _categories(array: np.ndarray | None, path: Path) -> tuple[str | None, ...] | None:
    """Categories of an archive, where an empty text stands for none."""
    if array is None:
        return None
    if array.dtype.kind != "U" or array.ndim != 1:
        raise InputError(
            f"{path}: categories is {array.dtype} of shape {array.shape}, must be a text for each prompt; "
            'save categories=np.array(["theft", ...]), "" for a prompt without one.'
        )
    return _known(str(category) or None for category in array)


def _known(categories: Iterable[str | None]) -> tuple[str | None, ...] | None:
    """The categories of prompts; None where no prompt has one."""
    found = tuple(categories)
    return found if any(category is not None for category in found) else None


def _floats(array: np.ndarray, where: str) -> np.ndarray:
    """Float32 and float64 unchanged, in native byte order; other numbers as float64."""
    if array.dtype.kind not in "iuf":
        raise InputError(f"{where} is {array.dtype}, must be numbers; save it as float32 or float64.")
    return array.astype(np.float32 if array.dtype.kind == "f" and array.dtype.itemsize == 4 else np.float64)


def _read_json_lines(path: Path) -> ScoreTable:
    prompts: dict[str | int, list[_Line]] = {}
    names: tuple[str, ...] = ()
    first = ""
    for where, row in read_json_lines(path):
        if not first:
            first, names = where, _names(row, where)
        line = _Line(
            _text(row, "category", where) or None,
            _number(row, "reward", where),
            _utilities(row, names, where, first),
            _text(row, "response", where),
        )
        lines = prompts.setdefault(_prompt_id(row, where), [])
        if lines and lines[0].category != line.category:
            raise InputError(
                f'{where}: "category" is {_shown(line.category)}, but {_shown(lines[0].category)} in an '
                "earlier line of the same prompt; give all its lines the same."
            )
        lines.append(line)
    if not first:
        raise InputError(f"{path}: holds no lines; write one response per line.")
    longest = max(len(lines) for lines in prompts.values())
    shape = (len(prompts), longest)
    rewards, utilities = np.full(shape, np.nan), np.full((*shape, len(names)), np.nan)
    mask = np.zeros(shape, bool)
    for i, lines in enumerate(prompts.values()):
        rewards[i, : len(lines)] = [line.reward for line in lines]
        utilities[i, : len(lines)] = [line.utilities for line in lines]
        mask[i, : len(lines)] = True
    texts = [tuple(line.response for line in lines) for lines in prompts.values()]
    padded = tuple(row + (None,) * (longest - len(row)) for row in texts)
    given = any(text is not None for row in texts for text in row)
    return ScoreTable(
        rewards,
        utilities,
        names,
        None if mask.all() else mask,
        tuple(prompts),
        padded if given else None,
        _known(lines[0].category for lines in prompts.values()),
    )


def _names(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    utilities = _field(row, "utilities", where)
    if not isinstance(utilities, dict) or not utilities:
        raise InputError(
            f'{where}: "utilities" is {_shown(utilities)}, must be an object of numbers by constraint; '
            'write "utilities": {"safety": 1.3}.'
        )
    return tuple(utilities)


def _utilities(row: Mapping[str, Any], names: tuple[str, ...], where: str, first: str) -> tuple[float, ...]:
    here = _names(row, where)
    if here != names and set(here) != set(names):
        raise InputError(
            f"{where}: has constraints {', '.join(here)}, but {first} has {', '.join(names)}; "
            "give every line the same."
        )
    return tuple([_number(row["utilities"], name, where) for name in names])


def _number(row: Mapping[str, Any], name: str, where: str) -> float:
    value = row.get(name)
    if type(value) is float and math.isfinite(value):  # nearly always; a table has one for every response
        return value
    value = _field(row, name, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f'{where}: "{name}" is {_shown(value)}, must be a number.')
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(
            f'{where}: "{name}" is {number}, must be finite; repair the score or remove the line.'
        )
    return number


def _prompt_id(row: Mapping[str, Any], where: str) -> str | int:
    value = _field(row, "prompt_id", where)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f'{where}: "prompt_id" is {_shown(value)}, must be a text or an integer.')
    return value


def _text(row: Mapping[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f'{where}: "{name}" is {_shown(value)}, must be a text.')
    return value


def _field(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise InputError(f'{where}: has no "{name}"; add it.')
    return row[name]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check(table: ScoreTable, where: str) -> None:
    """Refuses shapes, names, a mask or values that cannot be used."""
    rewards, utilities, names, mask = table[:4]
    if rewards.ndim != 2 or 0 in rewards.shape:
        raise InputError(
            f"{where}: rewards has shape {rewards.shape}, must be [prompts, responses], both at least 1."
        )
    if utilities.ndim != 3 or utilities.shape[:2] != rewards.shape or utilities.shape[2] == 0:
        raise InputError(
            f"{where}: utilities has shape {utilities.shape}, must be rewards' shape {rewards.shape} and one "
            "column for each constraint; stack them on the last axis."
        )
    if len(names) != utilities.shape[2]:
        raise InputError(
            f"{where}: has {len(names)} names for {utilities.shape[2]} columns of utilities; give as many."
        )
    bad_names = [name for i, name in enumerate(names) if not name.strip() or name in names[:i]]
    if bad_names:
        raise InputError(
            f"{where}: name {bad_names[0]!r} is empty or given twice; give each constraint its own name."
        )
    if mask is not None:
        if mask.dtype != np.bool_ or mask.shape != rewards.shape:
            raise InputError(
                f"{where}: mask is {mask.dtype} of shape {mask.shape}, must be bool of rewards' shape "
                f"{rewards.shape}; save True where a response exists."
            )
        if not mask.any(axis=1).all():
            row = int(np.argmin(mask.any(axis=1)))
            raise InputError(
                f"{where}: prompt {row} has no response, because its mask is all False; remove the prompt."
            )
    if table.categories is not None and len(table.categories) != len(rewards):
        raise InputError(
            f"{where}: has {len(table.categories)} categories for {len(rewards)} prompts; give one each."
        )
    present = np.ones(rewards.shape, bool) if mask is None else mask
    _check_finite(rewards[..., None], present, ("rewards",), where)
    _check_finite(utilities, present, tuple(f"utilities of {name!r}" for name in names), where)


def _check_finite(values: np.ndarray, present: np.ndarray, columns: tuple[str, ...], where: str) -> None:
    bad = ~np.isfinite(values) & present[..., None]
    if bad.any():
        prompt, sample, column = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{where}: {columns[column]} is {values[prompt, sample, column]} at prompt {prompt}, "
            f"sample {sample} ({int(bad.sum())} such values in all); repair the scores or mask these samples."
        )
    large = (np.abs(np.where(present[..., None], values, 0.0)) > _LARGEST).any(axis=(0, 1))
    if large.any():
        raise InputError(
            f"{where}: {columns[int(np.argmax(large))]} has scores beyond {_LARGEST:.0e}, which cannot be "
            "summed exactly; divide the scores by a constant, and beta with those of the reward."
        )


def _npz_bytes(table: ScoreTable) -> bytes:
    arrays = {
        "rewards": np.ascontiguousarray(table.rewards),
        "utilities": np.ascontiguousarray(table.utilities),
        "names": np.array(table.names, dtype=np.str_),
    }
    if table.mask is not None:
        arrays["mask"] = np.ascontiguousarray(table.mask)
    if table.categories is not None:
        arrays["categories"] = np.array([category or "" for category in table.categories], dtype=np.str_)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _json_lines(table: ScoreTable) -> str:
    prompts, samples = table.rewards.shape
    lines = []
    for i in range(prompts):
        for k in range(samples):
            if table.mask is not None and not table.mask[i, k]:
                continue
            row: dict[str, Any] = {"prompt_id": i if table.prompt_ids is None else table.prompt_ids[i]}
            if table.categories is not None and table.categories[i]:
                row["category"] = table.categories[i]
            if table.responses is not None and table.responses[i][k] is not None:
                row["response"] = table.responses[i][k]
            row["reward"] = float(table.rewards[i, k])
            row["utilities"] = dict(zip(table.names, table.utilities[i, k].tolist(), strict=True))
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)
