"""What a fingerprint covers, and digests of files."""

import hashlib
from typing import Any

import pytest

import alignjax
from alignjax.stages.fingerprints import file_digest, file_digests, fingerprint

GIVEN: dict[str, Any] = {
    "name": "dual",
    "version": 1,
    "settings": {"margin": 1.0, "beta": 0.1},
    "inputs": {"scores": "ab"},
}


def test_a_fingerprint_is_the_digest_of_all_that_is_given():
    # The JSON text written out, keys in order.
    text = (
        '{"inputs": {"scores": "ab"}, "settings": {"beta": 0.1, "margin": 1.0}, '
        '"stage": "dual", "version": 1}'
    )
    assert fingerprint(**GIVEN) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "policy"},
        {"version": 2},
        {"settings": {"margin": 1.5, "beta": 0.1}},
        {"settings": {"margin": 1.0}},
        {"settings": {"margin": 1.0, "beta": None}},
        {"inputs": {"scores": "ac"}},
        {"inputs": {"samples": "ab"}},
        {"inputs": {}},
    ],
)
def test_every_part_counts(change):
    assert fingerprint(**GIVEN | change) != fingerprint(**GIVEN)


SAME: Any = {"beta": 0.1, "margin": 1.0}


def test_the_order_of_settings_does_not_count():
    assert fingerprint(**(GIVEN | {"settings": SAME})) == fingerprint(**GIVEN)


def test_a_release_of_the_package_alone_changes_nothing(monkeypatch):
    before = fingerprint(**GIVEN)
    monkeypatch.setattr(alignjax, "__version__", "999.0")
    assert fingerprint(**GIVEN) == before


@pytest.fixture
def folders(tmp_path):
    """folders(a={"file": "text"}) writes folders of files."""

    def write(**given):
        for folder, files in given.items():
            for name, text in files.items():
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return tmp_path

    return write


def test_a_digest_is_of_content_not_of_place(folders):
    root = folders(a={"x/file": "1"}, b={"x/file": "1"})
    assert file_digest(root / "a") == file_digest(root / "b")
    assert file_digest(root / "a" / "x" / "file") == hashlib.sha256(b"1").hexdigest()


@pytest.mark.parametrize(
    "files", [{"x/file": "2"}, {"y/file": "1"}, {"x/file": "1", "more": ""}, {"x/file": "1", "x/more": ""}]
)
def test_a_digest_of_a_folder_covers_names_and_content_of_all_files(folders, files):
    root = folders(a={"x/file": "1"}, b=files)
    assert file_digest(root / "a") != file_digest(root / "b")


def test_digests_of_outputs_are_by_path_in_order(folders):
    root = folders(policy={"best/b": "2", "best/a": "1"}, other={"file": "3"})
    (root / "dual.json").write_text("4")
    found = file_digests(root, ["policy", "dual.json"])
    assert list(found) == ["dual.json", "policy/best/a", "policy/best/b"]
    assert found["policy/best/a"] == hashlib.sha256(b"1").hexdigest()


def test_files_larger_than_a_block_are_read_whole(tmp_path):
    content = bytes(range(256)) * 2**15  # 8 MiB, two blocks
    (tmp_path / "large").write_bytes(content + b"end")
    assert file_digest(tmp_path / "large") == hashlib.sha256(content + b"end").hexdigest()
