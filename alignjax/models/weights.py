"""The tensors of model files: names, shapes, and the conversion to and from the stacked parameter tree."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array
from jax.sharding import Sharding

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.lora import projection_sizes
from alignjax.runtime.mesh import array_of_parts
from alignjax.runtime.processes import to_host

HF_PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_HF_NORMS = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
_GGUF_PARTS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "attn_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}
_HF_TOP = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
_GGUF_TOP = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight"}
_NUMPY = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Slot(NamedTuple):
    """One leaf of the parameter tree and the tensors that it is made of."""

    path: tuple[str, ...]  # in the tree
    names: tuple[str, ...]  # in the file; one per layer for a stacked leaf, else one
    shape: tuple[int, ...]  # of each tensor in the file
    stacked: bool
    transposed: bool  # files hold matrices as [out, in], the tree as [in, out]


def slots(config: DecoderConfig, *, gguf: bool = False) -> list[Slot]:
    """All leaves of a decoder's parameter tree, with the names of their tensors in a file.

    Args:
      config: the decoder's shape.
      gguf: names of a GGUF file; False: of a Hugging Face folder.

    Returns:
      The leaves.
    """
    top = _GGUF_TOP if gguf else _HF_TOP
    hidden = config.hidden_size
    result = [
        Slot(("embedding",), (top["embedding"],), (config.vocab_size, hidden), False, False),
        Slot(("final_norm", "scale"), (top["final_norm"],), (hidden,), False, False),
    ]
    if not config.tie_embeddings:
        result.append(Slot(("head",), (top["head"],), (config.vocab_size, hidden), False, True))

    def add(part: str, leaf: str, suffix: str, shape: tuple[int, ...]) -> None:
        part_name = _GGUF_PARTS[part] if gguf else {**HF_PROJECTIONS, **_HF_NORMS}[part]
        prefix = "blk" if gguf else "model.layers"
        names = tuple(f"{prefix}.{i}.{part_name}.{suffix}" for i in range(config.num_layers))
        result.append(Slot(("layers", part, leaf), names, shape, True, len(shape) == 2))

    biased = dict.fromkeys("qkv", config.qkv_bias) | {"o": config.o_bias}
    biased |= dict.fromkeys(("gate", "up", "down"), config.mlp_bias)
    for part, (fan_in, out) in projection_sizes(config).items():
        add(part, "kernel", "weight", (out, fan_in))
        if biased[part]:
            add(part, "bias", "bias", (out,))
    for part in ("attn_norm", "mlp_norm"):
        add(part, "scale", "weight", (hidden,))
    if config.qk_norm:
        for part in ("q_norm", "k_norm"):
            add(part, "scale", "weight", (config.head_dim,))
    return result


def assemble(
    wanted: list[Slot],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    *,
    dtype: str,
    ignore: Callable[[str], bool],
    where: str,
    shardings: Any = None,
) -> Any:
    """Makes the parameter tree from the tensors of a file, which are read one at a time to save memory.

    On a mesh the host holds one tensor and one device's part of a leaf; tensors are read once for each part.

    Args:
      wanted: from `slots`.
      shapes: name -> shape of every tensor in the file.
      read: name -> the tensor.
      dtype: of the result, "float32" or "bfloat16".
      ignore: name -> whether a tensor may be in the file without being wanted.
      where: the file or folder, for messages.
      shardings: sharding of each leaf, a tree like the result; None: the default device.

    Returns:
      The tree, as of `init_params`.

    Raises:
      InputError: a tensor is missing, has the wrong shape, or is unknown.
    """
    expected = {name: slot.shape for slot in wanted for name in slot.names}
    check_tensors(expected, shapes, ignore=ignore, where=where)
    tree: dict[str, Any] = {}
    for slot in wanted:
        node = tree
        for key in slot.path[:-1]:
            node = node.setdefault(key, {})
        sharding = functools.reduce(lambda branch, key: branch and branch[key], slot.path, shardings)
        node[slot.path[-1]] = _read_leaf(slot, read, _NUMPY[dtype], sharding)
    return tree


def _read_leaf(
    slot: Slot, read: Callable[[str], np.ndarray], dtype: np.dtype, sharding: Sharding | None
) -> Array:
    one = slot.shape[::-1] if slot.transposed else slot.shape
    shape = (len(slot.names), *one) if slot.stacked else one

    def part(index: tuple[slice, ...]) -> np.ndarray:
        layers, index = (index[0], index[1:]) if slot.stacked else (slice(None), index)
        names = slot.names[layers]
        size = (s.stop - s.start for s in index)
        values = np.empty((len(names), *size), dtype)
        for row, name in zip(values, names, strict=True):
            tensor = read(name)
            row[...] = (tensor.T if slot.transposed else tensor)[index]
        return values if slot.stacked else values[0]

    if sharding is None:
        return jnp.asarray(part(tuple(slice(0, size) for size in shape)))
    return array_of_parts(shape, sharding, part)


def check_tensors(
    expected: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    ignore: Callable[[str], bool],
    where: str,
) -> None:
    """Compares the tensors of a file with the expected ones.

    Args:
      expected: name -> shape of the tensors that must be there.
      shapes: name -> shape of every tensor in the file.
      ignore: name -> whether a tensor may be in the file without being expected.
      where: the file or folder, for messages.

    Raises:
      InputError: names the tensors that are missing, have the wrong shape, or are unknown.
    """
    if missing := [name for name in expected if name not in shapes]:
        raise InputError(
            f"{where}: {_some(missing)} missing; the file is incomplete, or the config is of another model."
        )
    if wrong := [n for n, shape in expected.items() if tuple(shapes[n]) != shape]:
        listed = [f"{n} is {list(shapes[n])}, must be {list(expected[n])}" for n in wrong]
        raise InputError(f"{where}: {_some(listed)}; the config and the weights are of different models.")
    if extra := [name for name in shapes if name not in expected and not ignore(name)]:
        raise InputError(
            f"{where}: {_some(extra)} unknown to this architecture; results would be wrong without them."
        )


def disassemble(config: DecoderConfig, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Divides the parameter tree into the tensors of a Hugging Face folder.

    Args:
      config: the decoder's shape.
      params: as `init_params` returns them.

    Yields:
      Name and tensor, in the dtype of the parameters.
    """
    for slot in slots(config):
        leaf = params
        for key in slot.path:
            leaf = leaf[key]
        array = to_host(leaf)
        for name, tensor in zip(slot.names, array if slot.stacked else array[None], strict=True):
            yield name, np.ascontiguousarray(tensor.T if slot.transposed else tensor)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
