"""Arrays in files that notice damage: nothing but an InputError comes of a damaged one."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.runtime.arrays import read_npz, write_npz

ARRAYS = {
    "logps": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "file": np.asfortranarray(np.arange(6.0).reshape(2, 3)),  # a name that numpy.savez cannot take
    "names": np.array(["safety", "é\u2028"]),
    "mask": np.zeros((0, 4), bool),
    "one": np.array(-3),
}


@pytest.fixture
def path(tmp_path):
    write_npz(tmp_path / "cache" / "a.npz", **ARRAYS)
    return tmp_path / "cache" / "a.npz"


def test_round_trip_in_equal_bytes_and_for_other_readers(path, tmp_path):
    found = read_npz(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    write_npz(tmp_path / "b.npz", **ARRAYS)
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["a.npz"]
    with np.load(path) as other:
        np.testing.assert_array_equal(other["logps"], ARRAYS["logps"])
        assert set(other) == set(ARRAYS)


def test_what_the_format_cannot_hold(tmp_path):
    for array in (np.array([None]), np.zeros(2, ml_dtypes.bfloat16)):
        with pytest.raises(ValueError, match="'x' has type .*; convert it"):
            write_npz(tmp_path / "a.npz", x=array)
    assert not list(tmp_path.iterdir())


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"a\.npz: is missing"):
        read_npz(tmp_path / "a.npz")


def refused(path):
    with pytest.raises(InputError) as caught:
        read_npz(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged (") and message.endswith(
        "remove it to have it computed again."
    )
    return message


def test_an_array_exchanged_by_another_program(path):
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{name: a for name, a in arrays.items() if name != "file"})
    assert "does not fit its digest" in refused(path)
    np.savez(path, logps=ARRAYS["logps"])
    assert "does not fit its digest" in refused(path)
    np.savez_compressed(path, **{name: a for name, a in arrays.items() if name != "file"})
    assert "not an uncompressed array" in refused(path)


def test_every_cut_and_every_changed_byte(path):
    content = path.read_bytes()
    for size in range(0, len(content), 11):
        path.write_bytes(content[:size])
        refused(path)
    rng = np.random.default_rng(0)
    unseen = 0
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            found = read_npz(path)
        except InputError:
            continue
        unseen += 1  # a byte of the zip directory that says nothing about the arrays, as a time of writing
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
    assert unseen < len(content) / 4


def forged(path, **members):
    """A file with a digest that fits, whatever its members hold."""
    from alignjax.runtime import arrays

    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = f"sha256 {arrays._digest(members)}".encode()
        for name, member in members.items():
            archive.writestr(name + ".npy", member)


HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 1000), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000, ), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1, ), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, ), }",
    "{'descr': 'nothing', 'fortran_order': False, 'shape': (1, ), }",
    "{'descr': [('a', '<f4', (3,))], 'fortran_order': False, 'shape': ('1', ), }",
    "{'descr': '<f4'}",
    "(" * 5000,
    "[" * 300 + "]" * 300,
    "'",
    "{1: 2, [3]: 4}",
    "__import__('os')",
    "\x00",
    "",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_forged_array(tmp_path, header, version):
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    start = b"\x93NUMPY" + bytes([version, 0]) + size + header.encode("latin1")
    forged(tmp_path / "a.npz", x=start + bytes(16))
    refused(tmp_path / "a.npz")


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 24))
    assert "claims more than the file holds" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", np.random.default_rng(0).bytes(100))
    assert "not an uncompressed array" in refused(path)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), bytes(1000), b"\x93NUMPY\x01\x00"])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz")
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    (tmp_path / "a.npz").write_bytes(file.getvalue())
    refused(tmp_path / "a.npz")
