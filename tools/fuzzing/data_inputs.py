"""Hostile rows, tables, labels, score tables, configurations and records."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from tools.fuzzing import bases
from tools.fuzzing.mutations import hostile, json_text, mutated_bytes, mutated_json
from tools.fuzzing.writing import MARK_CODE, write_file, write_options


def _rows(rng: random.Random, base: Any = bases.ROWS) -> list[Any]:
    rows = [rng.choice(base) for _ in range(rng.randint(1, 6))]
    return [mutated_json(rng, row) if rng.random() < 0.6 else row for row in rows]


def _source(rng: random.Random) -> dict[str, Any]:
    """Columns of a source, mostly the defaults."""
    labels = (
        "",
        "",
        "label",
        "better_response_id",
        "labels",
        "overall_preference",
        "winner_model_a",
        "a.0.b",
    )
    return {
        "label": rng.choice(labels),
        "label_means": rng.choice(("auto", "auto", "first", "second", "strength")),
        "format": rng.choice(("auto", "auto", "auto", "pairs", "ranked", "messages", "instruction")),
        "chosen": rng.choice(("chosen", "chosen", "response_0", "messages.0.content")),
        "categories": rng.choice(([], ["category"])),
    }


def make_jsonl(rng: random.Random, folder: Path) -> None:
    """Rows as JSON Lines, or as an array."""
    write_options(folder, source=_source(rng))
    rows = _rows(rng)
    if rng.random() < 0.15:
        return write_file(folder, "rows.json", json_text(rng, rows))
    lines = [json_text(rng, row) for row in rows]
    text = rng.choice(["\n", "\n", "\r\n", "\n\n", "\r", "\x0b"]).join(lines)
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        content = mutated_bytes(rng, content)
    elif rng.random() < 0.1:
        content = text.encode(rng.choice(["utf-16", "utf-32", "latin-1"]), "replace")
    (folder / "rows.jsonl").write_bytes(content)


def make_tables(rng: random.Random, folder: Path) -> None:
    """Rows as Parquet, Arrow or CSV, or compressed; and small files that unpack to large ones."""
    write_options(folder, source=_source(rng))
    kind = rng.choice(
        ("parquet", "parquet", "arrow", "stream", "feather", "csv", "tsv", "gz", "xz", "bz2", "zst")
    )
    if kind in ("gz", "xz", "bz2", "zst"):
        content = "\n".join(json_text(rng, row) for row in _rows(rng)).encode("utf-8", "surrogatepass")
        if rng.random() < 0.08:  # little that unpacks to much: one endless line, or millions of them
            unit = rng.choice([b" ", b"[", b"a", b"\n", b'{"prompt": "' + b"a" * 1000])
            content += unit * (rng.choice([10**6, 3 * 10**8]) // len(unit))
        packed, name = _packed(kind, content), f"rows.jsonl.{kind}"
    elif kind in ("csv", "tsv"):
        packed, name = (
            _csv(rng, "," if kind == "csv" else "\t").encode("utf-8", "surrogatepass"),
            f"rows.{kind}",
        )
    else:
        packed, name = _table(rng, kind), f"rows.{'arrow' if kind == 'stream' else kind}"
    (folder / name).write_bytes(mutated_bytes(rng, packed) if rng.random() < 0.5 else packed)


def _packed(kind: str, content: bytes) -> bytes:
    if kind == "zst":
        out = pa.BufferOutputStream()
        with pa.CompressedOutputStream(out, "zstd") as stream:
            stream.write(content)
        return out.getvalue().to_pybytes()
    return {"gz": lambda c: gzip.compress(c, 1), "xz": lzma.compress, "bz2": bz2.compress}[kind](content)


def _csv(rng: random.Random, delimiter: str) -> str:
    rows = [row for row in _rows(rng) if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["prompt"]
    lines = [delimiter.join(names)]
    for row in rows:
        cells = [row.get(name, "") for name in names]
        texts = [cell if isinstance(cell, str) else json.dumps(cell) for cell in cells]
        quoted = [f'"{text.replace(chr(34), chr(34) * 2)}"' if rng.random() < 0.9 else text for text in texts]
        lines.append(delimiter.join(quoted))
    return rng.choice(["\n", "\r\n", "\r"]).join(lines)


def _table(rng: random.Random, kind: str) -> bytes:
    rows = [row for row in _rows(rng, bases.ROWS[:2]) if isinstance(row, dict)]
    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, UnicodeError, OverflowError, ValueError):
        table = pa.Table.from_pylist([json.loads(json.dumps(bases.ROWS[0]))])
    if rng.random() < 0.15:
        odd = [
            pa.scalar(b"x"),
            pa.scalar(3.5),
            pa.scalar(None),
            pa.scalar(10**17, pa.timestamp("s")),
            pa.scalar(-(2**62), pa.duration("us")),
            pa.scalar({"a": [b"1"]}),
            pa.scalar(10**6, pa.date32()),
        ]
        column = rng.choice(odd)
        table = table.append_column("odd", pa.repeat(column, table.num_rows))
    if rng.random() < 0.05:
        long = pa.repeat(pa.scalar("a" * rng.choice([10**4, 10**5])), 2000)
        table = pa.table({name: long for name in ("prompt", "chosen", "rejected")})
    try:
        return _table_bytes(rng, kind, table)
    except pa.ArrowException:  # a time that the format cannot hold
        return _table_bytes(rng, kind, pa.table({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]}))


def _table_bytes(rng: random.Random, kind: str, table: pa.Table) -> bytes:
    out = io.BytesIO()
    if kind == "parquet":
        codec = rng.choice(["snappy", "zstd", "gzip", "none"])
        pq.write_table(table, out, compression=codec)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, out, compression=rng.choice(["lz4", "zstd", "uncompressed"]))
    else:
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue()


def make_labels(rng: random.Random, folder: Path) -> None:
    """Human labels, verdicts of judges, scores by text."""
    write_options(folder)
    base: tuple[Any, ...] = (
        {"prompt": "p", "response": "r", "safety": True, "reward": 0.5},
        {"prompt": "p", "chosen": "a", "rejected": "b", "dimension": "safety"},
        {"prompt": "p", "response_0": "a", "response_1": "b", "safety": 1},
        {"prompt": "p", "first": "aligned", "second": "reference", "winner": 0.5},
        {
            "prompt": [{"role": "user", "content": "p"}],
            "response": "r",
            "reward": 1.5,
            "utilities": {"safety": 2},
        },
    )
    rows = [
        mutated_json(rng, row) if rng.random() < 0.5 else row
        for row in [rng.choice(base)] * rng.randint(1, 4)
    ]
    content = "\n".join(json_text(rng, row) for row in rows).encode("utf-8", "surrogatepass")
    (folder / "labels.jsonl").write_bytes(mutated_bytes(rng, content) if rng.random() < 0.15 else content)


def make_records(rng: random.Random, folder: Path) -> None:
    """The records of a run's folder, its log of metrics and an array of its cache."""
    write_options(folder)
    stage = {
        "status": "done",
        "fingerprint": "f",
        "version": 1,
        "settings": {},
        "inputs": [],
        "outputs": {"a": "b"},
    }
    ledger = {"format": 1, "stages": {"data": stage}, "answers": {}, "environment": {}, "sha256": "x"}
    for name, value in (("dual.json", bases.dual_record()), ("run.json", ledger)):
        write_file(folder, name, json_text(rng, mutated_json(rng, value) if rng.random() < 0.8 else value))
    line = {"stage": "align", "step": 3, "loss": 0.5}
    lines = [json_text(rng, mutated_json(rng, line) if rng.random() < 0.5 else line) for _ in range(3)]
    write_file(folder, "metrics.jsonl", "\n".join(lines) + rng.choice(["\n", ""]))
    (folder / "log.jsonl").write_bytes(
        mutated_bytes(rng, b"\n".join(text.encode("utf-8", "replace") for text in lines))
    )
    out = io.BytesIO()
    np.savez(out, scores=np.zeros(5))
    (folder / "cache.npz").write_bytes(mutated_bytes(rng, out.getvalue()))


def make_run_configs(rng: random.Random, folder: Path) -> None:
    """A run's config.json, or overrides of the command line."""
    method = rng.choice(["pecan", "mocan"])
    config = bases.run_config(method)
    if rng.random() < 0.6:
        write_options(folder)
        return write_file(folder, "config.json", json_text(rng, mutated_json(rng, config)))
    names = bases.names_of(config)
    flags = []
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(names) + rng.choice(["", "", "", "", ".more", "[0]", ".", "x"])
        value = hostile(rng)
        text = value if isinstance(value, str) else json.dumps(value)
        flags.append(f"--{name}={text[:2000]}".replace("\0", "%"))
    write_options(
        folder, flags=[rng.choice(["", "", "", "no"]).join(["--", f[2:]]) for f in flags], method=method
    )


def make_scores(rng: random.Random, folder: Path) -> None:
    """A score table, as arrays or as lines."""
    scales = (1.0, 1.0, 1.0, 1e200, 1e-300, 1e15, 1e-30, 1e300)
    write_options(
        folder,
        beta=rng.choice([0.5, 0.5, 0.5, 1e300, 5e-324, 1e-30, 1e30]),
        asked=rng.choice(
            [
                {"margin": ["safety=0.1"]},
                {"level": ["safety=1e300"]},
                {"fraction": ["safety=0.5"]},
                {"margin": ["safety=5e-324"]},
                {"rate": ["safety=0.9"]},
                {"tail": ["safety=0.05:2"]},
                {"groups": ["safety=0.1"]},
            ]
        ),
    )
    if rng.random() < 0.4:
        rows = bases.table_rows()
        scale = rng.choice(scales)
        for row in rows:
            row["reward"] *= scale
        if rng.random() < 0.7:
            place = rng.randrange(len(rows))
            rows[place] = mutated_json(rng, rows[place])
        return write_file(folder, "scores.jsonl", "\n".join(json_text(rng, row) for row in rows))
    arrays: dict[str, Any] = dict(bases.table_arrays())
    for _ in range(rng.randint(0, 2)):
        name = rng.choice(list(arrays))
        arrays[name] = _odd_array(rng, arrays[name])
    if arrays["rewards"].dtype.kind == "f":
        with np.errstate(all="ignore"):
            arrays["rewards"] = arrays["rewards"] * rng.choice(scales)
    if rng.random() < 0.2:
        arrays[rng.choice(["mask", "categories"])] = _odd_array(rng, np.ones((6, 8), bool))
    (folder / "scores.npz").write_bytes(_npz(rng, arrays))


def _odd_array(rng: random.Random, array: np.ndarray) -> Any:
    array = np.atleast_1d(array)
    dtypes: list[Any] = [
        "float16",
        "int8",
        "complex64",
        "bool",
        "U3",
        "S3",
        "datetime64[s]",
        ">f8",
        "longdouble",
    ]
    changes: list[Callable[[], Any]] = [
        lambda: array.reshape(-1),
        lambda: array[..., None],
        lambda: array[:0],
        lambda: array[:3],
        lambda: np.array(3.0),
        lambda: np.zeros((0, 5)),
        lambda: np.full((6, 8), np.nan),
        lambda: np.full((6, 8, 1), 1e308),
        lambda: np.array([["safety"] * 8] * 6),
        lambda: np.array(["a", "a"]),
        lambda: np.array(["\ud83d\0"]),
        lambda: np.full((6,), "theft"),
        lambda: array == array,
        lambda: np.zeros((6, 8), bool),
        lambda: np.array([{}, 1], object),
        lambda: _poked(rng, array),
        lambda: np.array([""]),
        lambda: array.reshape(len(array), -1)[:, :1],
    ]
    if rng.random() < 0.25 and array.dtype.kind == "f":
        return array.astype(rng.choice(dtypes))
    return rng.choice(changes)()


def _poked(rng: random.Random, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f" or not array.size:
        return array
    changed = array.copy()
    changed.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e308, -1e16, 5e-324])
    return changed


class _Runs:
    """Writes the mark when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, (MARK_CODE,)


def _npz(rng: random.Random, arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    choice = rng.random()
    if choice < 0.05:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(rng.choice(["rewards.npy", "names.npy"]), pickle.dumps(_Runs()))
        return out.getvalue()
    if choice < 0.1:
        arrays["names"] = np.array([_Runs()], object)
    if choice > 0.985:
        arrays["mask"] = np.zeros(rng.choice([10**7, 3 * 10**8]), bool)
    (np.savez_compressed if rng.random() < 0.3 or choice > 0.985 else np.savez)(out, **arrays)
    content = out.getvalue()
    if choice < 0.4:
        return mutated_bytes(rng, content)
    if choice < 0.5:
        return content.replace(
            b"'shape': (6, 8)", rng.choice([b"'shape': (9,9,)", b"'shape': (-1,8)", b"'shape': 1/0  #"])
        )
    return content
