"""The rotary embedding of a GGUF file: part of it is in the metadata, part in tensors."""

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np

from alignjax.errors import InputError
from alignjax.models.rope import Rope, RopeScaling, rope_stretch
from alignjax.models.rope_config import read_rope, rope_parameters

_LLAMA3 = "rope_freqs.weight"
_LONGROPE = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
ROPE_TENSORS = (_LLAMA3, *_LONGROPE.values())
# Metadata that changes llama.cpp's YaRN, and the values that leave it as it is.
_YARN_DEFAULTS = {
    "attn_factor": (1.0,),
    "yarn_attn_factor": (1.0,),
    "yarn_ext_factor": (1.0, -1.0),
    "yarn_log_multiplier": (0.0,),
}


def gguf_rope(
    meta: Mapping[str, Any],
    tensors: Container[str],
    read: Callable[[str], np.ndarray],
    *,
    theta: float,
    width: int,
    head_dim: int,
    max_positions: int,
    where: str,
) -> Rope:
    """Reads the rotary embedding as if it stood in a config.json.

    Args:
      meta: name -> value of the metadata.
      tensors: the names of the file's tensors.
      read: name -> a tensor's values, one row.
      theta: the base.
      width: entries of a head that are rotated.
      head_dim: H.
      max_positions: the context length.
      where: the file, for messages.

    Returns:
      The embedding.

    Raises:
      InputError: a scaling that is not supported, or a number that is missing or cannot be used.
    """
    prefix = f"{meta['general.architecture']}.rope.scaling."
    scaling = {name.removeprefix(prefix): value for name, value in meta.items() if name.startswith(prefix)}
    if width != head_dim and meta["general.architecture"] != "phi3":
        raise InputError(f"{where}: rope rotates only a part of each head, which is not supported.")
    kind = scaling.get("type", "none")
    rope = rope_parameters(Rope(theta, None, width), head_dim=head_dim)
    rope["original_max_position_embeddings"] = scaling.get("original_context_length")
    if _LONGROPE["short_factor"] in tensors:
        rope |= {"rope_type": "longrope", "attention_factor": _decimal(scaling.get("attn_factor"))}
        for name, tensor in _LONGROPE.items():
            rope[name] = [_decimal(x) for x in read(tensor).tolist()] if tensor in tensors else None
    elif kind == "yarn":
        for name, allowed in _YARN_DEFAULTS.items():
            if scaling.get(name, allowed[0]) not in allowed:
                raise InputError(f"{where}: {prefix}{name} is {scaling[name]!r}, which is not supported.")
        rope |= {"rope_type": "yarn"} | {name: scaling[name] for name in ("factor",) if name in scaling}
        rope |= {name: scaling.get(f"yarn_{name}") for name in ("beta_fast", "beta_slow")}
    elif kind == "linear":
        rope |= {"rope_type": "linear", "factor": scaling.get("factor")}
    elif kind != "none":
        raise InputError(f'{where}: rope scaling "{kind}" is not supported; use none, linear or yarn.')
    elif _LLAMA3 in tensors:
        return Rope(theta, _llama3(read(_LLAMA3), theta, width, where), width)
    return read_rope(rope, head_dim=head_dim, max_positions=max_positions, where=where)


def _decimal(value: Any) -> Any:
    """Numbers are stored as float32: seven digits recover the intended one."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _llama3(divisors: np.ndarray, theta: float, width: int, where: str) -> RopeScaling:
    """Llama 3.1's scaling, of which a file holds only the divisor of each frequency.

    The largest is the factor. The other constants are the same in all released models, which is checked.
    """
    usable = divisors.shape == (width // 2,) and bool(np.all((divisors >= 0.5) & (divisors < 1e6)))
    scaling = RopeScaling(kind="llama3", factor=float(divisors.max()) if usable else 1.0)
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    ours = np.array([f / rope_stretch(f, scaling) for f in plain])
    if not usable or not np.allclose(ours, divisors, rtol=1e-4):
        raise InputError(
            f"{where}: {_LLAMA3} is not Llama 3's scaling of rope, which is the only one supported."
        )
    return scaling
