import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignjax.data.files import read_rows
from alignjax.errors import InputError

ROWS = [
    {"prompt": "é", "chosen": "a\nb", "rejected": "b, c"},
    {"prompt": "q", "chosen": "x", "rejected": "y"},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def save(folder, name):
    """A file of ROWS in the format of its name."""
    path, table = folder / name, pa.Table.from_pylist(ROWS)
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=1)
    elif name.endswith((".arrow", ".feather")):
        new = pa.ipc.new_file if name.endswith(".feather") else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        csv = 'prompt,chosen,rejected\né,"a\nb","b, c"\nq,x,y\n'
        content = {".csv": csv, ".tsv": csv.replace(", ", "; ").replace(",", "\t").replace("; ", ", ")}
        plain = content.get(Path(name).suffix, json.dumps(ROWS, indent=1) if ".json." in name + "." else "")
        raw = plain.encode() or LINES
        pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd}
        path.write_bytes(pack.get(path.suffix, bytes)(raw))
    return path


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("p.jsonl", (":1", ":2")),
        ("p.json", (", row 1", ", row 2")),
        ("p.csv", (":2", ":4")),  # the first row has a line break in a text
        ("p.tsv", (":2", ":4")),
        ("p.parquet", (", row 1", ", row 2")),
        ("p.arrow", (", row 1", ", row 2")),
        ("p.feather", (", row 1", ", row 2")),
        ("p.jsonl.gz", (":1", ":2")),
        ("p.jsonl.xz", (":1", ":2")),
        ("p.jsonl.bz2", (":1", ":2")),
        ("p.jsonl.zst", (":1", ":2")),
        ("p.json.gz", (", row 1", ", row 2")),
    ],
)
def test_every_format_gives_the_same_rows_and_their_places(tmp_path, name, places):
    path = save(tmp_path, name)
    assert list(read_rows(path)) == [(f"{path}{place}", row) for place, row in zip(places, ROWS, strict=True)]
    assert len(list(read_rows(path, limit=1))) == 1


def test_folders_globs_and_home(tmp_path, monkeypatch):
    for name in ("train-00001-of-2.parquet", "train-00000-of-2.parquet", "dataset_info.json", "README.md"):
        (save if name.endswith("parquet") else lambda folder, name: (folder / name).write_text("x"))(
            tmp_path, name
        )
    places = [where for where, _ in read_rows(tmp_path)]
    assert [Path(where).name for where in places] == [
        f"train-0000{i}-of-2.parquet, row {j}" for i in (0, 1) for j in (1, 2)
    ]
    assert len(list(read_rows(f"{tmp_path}/train-*1-of-2.parquet"))) == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(list(read_rows("~"))) == 4
    save(tmp_path, "test-00000-of-1.parquet")
    with pytest.raises(InputError, match=r"several splits \(test, train\); name one"):
        list(read_rows(tmp_path))
    with pytest.raises(InputError, match="no file has such a name"):
        list(read_rows(f"{tmp_path}/*.nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="this folder holds no JSON Lines"):
        list(read_rows(tmp_path / "empty"))


def test_a_folder_of_splits_is_its_training_split(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        save(tmp_path / split, "data-00000-of-00001.arrow")
        (tmp_path / split / "cache-0123.arrow").write_text("of `datasets`, not rows")
        (tmp_path / split / "state.json").write_text("{}")
    assert [Path(where).parent.name for where, _ in read_rows(tmp_path)] == ["train", "train"]
    assert [Path(where).parent.name for where, _ in read_rows(tmp_path / "test")] == ["test", "test"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test"]}')
    with pytest.raises(InputError, match=r"has no split named train \(it has: test\); name one, as"):
        list(read_rows(tmp_path))
    (tmp_path / "dataset_dict.json").write_text("[]")
    with pytest.raises(InputError, match="dataset_dict.json: lists no splits"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.zip", b"PK\x03\x04rest", "is a ZIP archive or a workbook; unpack it"),
        ("p.pkl", b"\x80\x04\x95", "is a pickle, which can run code"),
        ("p.tar", b"p.jsonl".ljust(257, b"\0") + b"ustar\0", "is a tar archive"),
        ("p.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("p.parquet", b"PAR1 and nothing else PAR1", "is damaged or of a kind that pyarrow cannot read"),
        ("p.parquet", b"text", "is not a parquet file, or is damaged"),
        ("p.feather", b"ARROW1\0\0" + b"\xff" * 60, "is damaged or of a kind"),
        ("p.jsonl.xz", b"\xfd7zXZ\0damaged", "is a damaged xz file"),
        ("p.jsonl.bz2", b"BZh9damaged...", "is a damaged bzip2 file"),
        ("p.jsonl.zst", b"\x28\xb5\x2f\xfddamaged", "is a damaged zstd file"),
        ("p.json", b"[1]", ", row 1: is a single value, must be a JSON object"),
        ("p.json", b'[{"a": 1},\n{]', ":2: is not JSON"),
        ("p.csv", b"a,b\n1,2,3\n", ":2: has 3 fields and the header 2; quote texts that hold commas"),
        ("p.csv", b"a,a\n1,2\n", ":1: two columns have one name"),
        ("p.csv", b"a,b\n1,\xff\n", ":2: is not UTF-8"),
        ("p.csv", b"a\n\"[{'role': 'user'}]\"\n", ':2: "a" is a list as Python prints it'),
    ],
)
def test_what_is_not_read_is_named(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_rows(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name)) and expected in str(caught.value)


def test_addresses_are_not_fetched():
    with pytest.raises(InputError, match="is an address, and nothing is downloaded"):
        list(read_rows("https://example.org/p.jsonl"))


def test_messages_in_csv_and_types_of_parquet(tmp_path):
    (tmp_path / "p.csv").write_text('prompt\n"[{""role"": ""user"", ""content"": ""x""}]"\n')
    assert next(read_rows(tmp_path / "p.csv"))[1] == {"prompt": [{"role": "user", "content": "x"}]}
    table = pa.table({"day": pa.array([0], pa.date32()), "image": [b"x"], "score": [float("nan")]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert next(read_rows(tmp_path / "p.parquet"))[1] == {"day": "1970-01-01", "score": None}
