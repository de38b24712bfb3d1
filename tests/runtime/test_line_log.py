"""Finished work that a killed run continues from: what is read back of whole, torn and changed lines."""

import json
import logging
import os

import pytest

from alignjax.runtime.line_log import LineLog

RECORDS = [{"prompt": i, "text": "a\u2028\r\n\x85é", "logps": [0.1 * i, -1e-300]} for i in range(4)]


@pytest.fixture
def path(tmp_path):
    log = LineLog(tmp_path / "cache" / "part.jsonl")
    assert log.read() == []
    log.append(RECORDS[0])
    log.append(*RECORDS[1:3])
    return log.path


@pytest.fixture
def warnings(caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_round_trip_in_json_lines(path):
    assert LineLog(path).read() == RECORDS[:3]
    LineLog(path).append(RECORDS[3])
    assert LineLog(path).read() == RECORDS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["record"] for line in lines] == RECORDS
    assert {len(line["crc"]) for line in lines} == {8}
    LineLog(path).append()
    assert LineLog(path).read() == RECORDS


def test_a_last_line_cut_off_anywhere_is_left_out_and_replaced(path, warnings):
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for size in range(len(lines[0]) + len(lines[1]), len(content)):
        path.write_bytes(content[:size])
        log = LineLog(path)
        assert log.read() == RECORDS[:2]
        log.append(RECORDS[3])
        assert log.read() == [*RECORDS[:2], RECORDS[3]]
    assert warnings() == []


def test_a_changed_line_is_left_out_with_those_after_it(path, warnings):
    lines = path.read_bytes().splitlines(keepends=True)
    for place in range(len(lines[1]) - 1):
        changed = bytearray(lines[1])
        changed[place] ^= 1
        path.write_bytes(lines[0] + changed + lines[2])
        assert LineLog(path).read() == RECORDS[:1]
    assert set(warnings()) <= {
        f"{path}:2: the line was changed after it was written; {count} lines, from this one on, are left out "
        "and their work is done again."
        for count in (2, 3)  # three where the change is a line's end
    }
    assert len(warnings()) == len(lines[1]) - 1
    log = LineLog(path)
    log.append(RECORDS[3])
    assert log.read() == [RECORDS[0], RECORDS[3]]


def test_a_removed_line_takes_nothing_with_it(path, warnings):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    assert LineLog(path).read() == [RECORDS[0], RECORDS[2]]
    assert warnings() == []


def test_other_files(tmp_path, warnings):
    path = tmp_path / "other"
    for content in (b"\xff\xfe\n", b'{"prompt_id": 1}\n', b"\n\n\n", b"{}"):
        path.write_bytes(content)
        assert LineLog(path).read() == []
    assert len(warnings()) == 3


def test_a_write_that_fails_names_the_file_and_is_repaired(path, monkeypatch):
    log = LineLog(path)
    log.append(RECORDS[3])
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        # Half of the line reaches the disk before it is full.
        def half(*_args, **_options):
            with open(path, "ab", buffering=0) as file:
                file.write(whole[:20])
            raise OSError(28, os.strerror(28))

        patch.setattr(
            "builtins.open", lambda *a, _open=open, **k: _open(*a, **k) if a[1] != "ab" or k else half()
        )
        with pytest.raises(OSError, match="No space left on device: .*part.jsonl"):
            log.append(RECORDS[0])
    assert path.read_bytes() == whole + whole[:20]
    log.append(RECORDS[0])
    assert log.read() == [*RECORDS, RECORDS[0]]


def test_numbers_that_json_cannot_hold(path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        LineLog(path).append({"x": float("nan")})
