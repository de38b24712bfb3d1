import zlib

import jax
import numpy as np

from alignjax.runtime.log import Log
from alignjax.runtime.seeds import Seeds


def test_every_purpose_has_its_own_seed():
    seeds = Seeds(7)
    assert seeds.seed("pairs") == zlib.crc32(b"7/pairs") >> 1
    assert (
        len({Seeds(root).seed(name) for root in (0, 1, 7) for name in ("pairs", "held-out", "train a")}) == 9
    )
    assert all(0 <= Seeds(root).seed("x") < 2**31 for root in range(200))
    expected = jax.random.key_data(jax.random.key(seeds.seed("sample")))
    np.testing.assert_array_equal(jax.random.key_data(seeds.key("sample")), expected)


class Recorder:
    """Stands for a MetricsWriter."""

    def __init__(self):
        self.calls = []

    def write(self, *args):
        self.calls.append(("write", *args))

    def rewind(self, *args):
        self.calls.append(("rewind", *args))


def test_a_log_passes_lines_on_to_its_metrics_or_drops_them():
    recorder = Recorder()
    log = Log(lambda line: None, recorder)  # pyright: ignore[reportArgumentType]
    log.write("policy", 3, {"loss": 0.5})
    log.rewind("policy", 2)
    assert recorder.calls == [("write", "policy", 3, {"loss": 0.5}), ("rewind", "policy", 2)]
    Log(lambda line: None).write("policy", 3, {"loss": 0.5})
    Log(lambda line: None).rewind("policy", 2)
