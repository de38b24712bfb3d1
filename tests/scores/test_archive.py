"""Archives that unpack to far more than their size, and scores at the ends of float64."""

import zipfile

import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.scores.table import ScoreTable, read_table, write_table


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("rewards.npy", "w") as out:
        block = bytes(2**24)
        for _ in range(65):  # 65 * 16 MiB, more than 1 GiB
            out.write(block)
    assert path.stat().st_size < 4e6
    with pytest.raises(InputError, match=r"bomb.npz: unpacks to 1\.1 GB from 1\.\d MB; save it uncompressed"):
        read_table(path)


@pytest.mark.parametrize("name", ["t.npz", "t.jsonl"])
def test_scores_too_large_to_sum(tmp_path, name):
    good = ScoreTable(np.full((1, 2), 1e15), np.full((1, 2, 1), -1e15), ("safety",))
    write_table(tmp_path / name, good)
    assert read_table(tmp_path / name).rewards.max() == 1e15
    with pytest.raises(InputError, match=r"rewards has scores beyond 1e\+15, which cannot be summed exactly"):
        write_table(tmp_path / name, good._replace(rewards=np.array([[1e200, 1.0]])))
    with pytest.raises(InputError, match=r"utilities of 'safety' has scores beyond"):
        write_table(tmp_path / name, good._replace(utilities=np.full((1, 2, 1), -1e16)))
