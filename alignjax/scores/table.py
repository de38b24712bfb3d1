"""The score table."""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class ScoreTable(NamedTuple):
    rewards: np.ndarray
    utilities: np.ndarray
    names: tuple[str, ...]
    mask: np.ndarray | None = None


def read_table(path: Path) -> ScoreTable:
    with np.load(path) as f:
        return ScoreTable(f["rewards"], f["utilities"], tuple(str(n) for n in f["names"]), None)


def write_table(path: Path, table: ScoreTable) -> None:
    np.savez(path, rewards=table.rewards, utilities=table.utilities, names=np.array(table.names))
