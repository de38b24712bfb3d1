"""Merging adapters: in float32, rounded once, and what rounding loses by hand."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.export import _merged, export
from alignjax.models import Lora


def _params(kernel: float, dtype: str) -> dict:
    layers = {"q": {"kernel": jnp.full((1, 2, 2), kernel, dtype)}, "norm": {"scale": jnp.ones((1, 2), dtype)}}
    return {"embedding": jnp.ones((3, 2), dtype), "layers": layers}


def _adapter(product: float) -> Lora:
    pair = {"a": jnp.ones((1, 2, 1)), "b": jnp.full((1, 1, 2), product / 2)}
    return Lora(params={"layers": {"q": pair}}, scale=2.0, dropout=0.0)


def test_what_bfloat16_loses_by_hand():
    # Between 1 and 2 bfloat16 has steps of 2^-7. 1 + 2^-8 lies halfway and goes to the even neighbour, 1: all
    # of the adapter is lost. 1 + 3 * 2^-9 goes to 1 + 2^-7: a third of it, 2^-9, is gained.
    for added, stored, lost in ((2**-8, 1.0, 1.0), (3 * 2**-9, 1 + 2**-7, 1 / 3)):
        params, found = _merged(_params(1.0, "bfloat16"), _adapter(added), "")
        assert found == pytest.approx(lost, rel=1e-6)
        kernel = params["layers"]["q"]["kernel"]
        assert kernel.dtype == jnp.bfloat16 and (np.asarray(kernel, np.float32) == stored).all()


def test_float32_loses_nothing_of_a_bfloat16_run():
    params, lost = _merged(_params(1.0, "bfloat16"), _adapter(2**-8), "float32")
    assert lost == 0.0 and (np.asarray(params["layers"]["q"]["kernel"]) == 1 + 2**-8).all()
    assert {str(params["embedding"].dtype), str(params["layers"]["norm"]["scale"].dtype)} == {"float32"}


def test_without_an_adapter_only_the_type_changes():
    params, lost = _merged(_params(1.0, "float32"), None, "bfloat16")
    assert lost is None and params["layers"]["q"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "--dtype=float16: must be float32 or bfloat16"),
        ({"dtype": "float32", "adapter_only": True}, "an adapter is written in float32; leave --dtype out"),
    ],
)
def test_options_refused(tmp_path: Path, options, message):
    with pytest.raises(InputError, match=message):
        export(tmp_path, tmp_path / "out", **{"adapter_only": False} | options)
