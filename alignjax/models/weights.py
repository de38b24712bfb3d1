"""The tensors of model files: names, shapes, and the conversion to and from the stacked parameter tree."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array
from jax.sharding import Sharding

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.families import FAMILIES
from alignjax.models.layers import norm_widths
from alignjax.models.lora import projection_sizes
from alignjax.runtime.mesh import array_of_parts
from alignjax.runtime.processes import to_host

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
    "attn_post_norm": "post_attention_norm",
    "mlp_post_norm": "post_ffw_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}
# The tensors of files that hold several projections, and their names in a GGUF file.
_GGUF_FUSED = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
_GGUF_TOP = {"embedding": "token_embd", "final_norm": "output_norm", "head": "output"}
_NUMPY = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Rows(NamedTuple):
    """Which rows of a tensor that holds several projections are a leaf's.

    Projections follow each other; with `heads` above 1 this is so within each head's share of the tensor.
    """

    start: int  # where the leaf would begin if heads were 1
    total: int
    heads: int = 1

    def of(self, tensor: np.ndarray, count: int) -> np.ndarray:
        """The leaf's `count` rows."""
        by_head = tensor.reshape(self.heads, self.total // self.heads, *tensor.shape[1:])
        first, size = self.start // self.heads, count // self.heads
        return by_head[:, first : first + size].reshape(count, *tensor.shape[1:])


class Slot(NamedTuple):
    """One leaf of the parameter tree and the tensors that it is made of."""

    path: tuple[str, ...]  # in the tree
    names: tuple[str, ...]  # in the file, one for each entry of `stack`
    shape: tuple[int, ...]  # of each tensor in the file, or of the part of it that is this leaf's
    stack: tuple[int, ...] = ()  # the leaf's first dimensions: (L,) by layer, (L, E) also by expert
    transposed: bool = False  # the file holds a matrix as [out, in], the tree as [in, out]
    rows: Rows | None = None  # of the dimension `out`; None: the whole tensor

    @property
    def out_axis(self) -> int:
        """The dimension `out` of a tensor in the file."""
        return 0 if self.transposed else len(self.shape) - 1

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of each tensor in the file."""
        if self.rows is None:
            return self.shape
        return tuple(self.rows.total if i == self.out_axis else n for i, n in enumerate(self.shape))


def projection_modules(config: DecoderConfig) -> dict[str, tuple[str, ...]]:
    """The modules of one layer of a Hugging Face model that hold its projections.

    Args:
      config: the decoder's shape.

    Returns:
      Name of the module, such as "self_attn.q_proj" -> the projections whose rows it holds, in their order.
    """
    family, sizes = FAMILIES[config.architecture], projection_sizes(config)
    joined = {part for parts in family.fused.values() for part in parts}
    single = {family.projections[part]: (part,) for part in sizes if part not in joined}
    return single | dict(family.fused)


def slots(config: DecoderConfig, *, gguf: bool = False) -> list[Slot]:
    """All leaves of a decoder's parameter tree, with the names of their tensors in a file.

    Args:
      config: the decoder's shape.
      gguf: names of a GGUF file; False: of a Hugging Face folder.

    Returns:
      The leaves.
    """
    family, sizes = FAMILIES[config.architecture], projection_sizes(config)
    top = _GGUF_TOP if gguf else family.top_names
    prefix = "blk" if gguf else family.layer_prefix
    of_layer = dict(_GGUF_PARTS) if gguf else {**family.projections, **family.norm_names}
    hidden, layers = config.hidden_size, config.num_layers
    rows: dict[str, Rows] = {}
    for name, parts in family.fused.items():
        of_layer |= dict.fromkeys(parts, _GGUF_FUSED[name] if gguf else name)
        starts = list(itertools.accumulate((sizes[part][1] for part in parts), initial=0))
        heads = config.num_heads if family.fused_by_head else 1
        rows |= {part: Rows(start, starts[-1], heads) for part, start in zip(parts, starts[:-1], strict=True)}
    result = [
        Slot(("embedding",), (f"{top['embedding']}.weight",), (config.vocab_size, hidden)),
        Slot(("final_norm", "scale"), (f"{top['final_norm']}.weight",), (hidden,)),
    ]
    if config.norm_bias:
        result.append(Slot(("final_norm", "bias"), (f"{top['final_norm']}.bias",), (hidden,)))
    if config.learned_positions:
        name = f"{family.top_names['position_embedding']}.weight"
        result.append(Slot(("position_embedding",), (name,), (config.max_positions, hidden)))
    if not config.tie_embeddings:
        shape = (config.vocab_size, hidden)
        result.append(Slot(("head",), (f"{top['head']}.weight",), shape, transposed=True))

    def add(part: str, leaf: str, suffix: str, shape: tuple[int, ...]) -> None:
        names = tuple(f"{prefix}.{i}.{of_layer[part]}.{suffix}" for i in range(layers))
        transposed = len(shape) == 2 and not family.stored_in_out
        path = ("layers", part, leaf)
        result.append(Slot(path, names, shape, (layers,), transposed, rows.get(part)))

    biased = dict.fromkeys("qkv", config.qkv_bias) | {"o": config.o_bias}
    biased |= dict.fromkeys(("gate", "up", "down"), config.mlp_bias)
    for part, (fan_in, out) in sizes.items():
        add(part, "kernel", "weight", (fan_in, out) if family.stored_in_out else (out, fan_in))
        if biased[part]:
            add(part, "bias", "bias", (out,))
    for part, width in norm_widths(config).items():
        add(part, "scale", "weight", (width,))
        if config.norm_bias:
            add(part, "bias", "bias", (width,))
    return result + (_expert_slots(config) if config.num_experts else [])


def check_number(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuses a config that claims far more tensors than there are, before their names take all memory.

    Args:
      config: the decoder's shape.
      shapes: name -> shape of every tensor in the file.
      where: the file or folder, for messages.

    Raises:
      InputError: there are fewer tensors than layers, or than matrices of experts.
    """
    if config.num_layers * max(1, 3 * config.num_experts) > len(shapes):
        experts = f" of {config.num_experts} experts" if config.num_experts else ""
        raise InputError(
            f"{where}: the config has {config.num_layers} layers{experts}, the weights have only "
            f"{len(shapes)} tensors; the file is incomplete, or the config is of another model."
        )


def _expert_slots(config: DecoderConfig) -> list[Slot]:
    """The leaves of `Experts`; each expert has its own tensors in a file."""
    family, layers, count = FAMILIES[config.architecture], config.num_layers, config.num_experts
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    prefixes = [f"{family.layer_prefix}.{i}" for i in range(layers)]
    routers = tuple(f"{prefix}.{family.expert_names['router']}.weight" for prefix in prefixes)
    result = [Slot(("layers", "experts", "router"), routers, (count, hidden), (layers,), True)]
    for part, shape in shapes.items():
        own = family.expert_names[part]
        names = tuple(f"{prefix}.{own.format(e)}.weight" for prefix in prefixes for e in range(count))
        result.append(Slot(("layers", "experts", part), names, shape, (layers, count), True))
    return result


def assemble(
    wanted: list[Slot],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[..., np.ndarray],
    *,
    dtype: str,
    ignore: Callable[[str], bool],
    where: str,
    shardings: Any = None,
    finish: Callable[[tuple[str, ...], Array], dict[str, Array]] | None = None,
) -> Any:
    """Makes the parameter tree from the tensors of a file, which are read one at a time to save memory.

    On a mesh the host holds one tensor and one device's part of a leaf; tensors are read once for each part.

    Args:
      wanted: from `slots`.
      shapes: name -> shape of every tensor in the file.
      read: name -> the tensor; name and a slice -> these rows of it (only asked where a tensor is several
        leaves).
      dtype: of the result, "float32" or "bfloat16".
      ignore: name -> whether a tensor may be in the file without being wanted.
      where: the file or folder, for messages.
      shardings: sharding of each leaf, a tree like the result; None: the default device.
      finish: (path, leaf) -> the leaves that take its place, by name; called as soon as a leaf is read, so
        that a smaller form of the weights is all that is ever held. None: they stay as they are.

    Returns:
      The tree, as of `init_params`.

    Raises:
      InputError: a tensor is missing, has the wrong shape, or is unknown.
    """
    expected = {name: slot.tensor_shape for slot in wanted for name in slot.names}
    check_tensors(expected, shapes, ignore=ignore, where=where)
    tree: dict[str, Any] = {}
    for slot in wanted:
        node = tree
        for key in slot.path[:-1]:
            node = node.setdefault(key, {})
        sharding = functools.reduce(lambda branch, key: branch and branch[key], slot.path, shardings)
        leaf = _read_leaf(slot, read, _NUMPY[dtype], sharding)
        node |= {slot.path[-1]: leaf} if finish is None else finish(slot.path, leaf)
    return tree


def _read_leaf(
    slot: Slot, read: Callable[..., np.ndarray], dtype: np.dtype, sharding: Sharding | None
) -> Array:
    one = slot.shape[::-1] if slot.transposed else slot.shape
    shape = (*slot.stack, *one)

    def tensor_of(name: str) -> np.ndarray:
        rows = slot.rows
        if rows is None:
            return read(name)
        if slot.out_axis == 0 and rows.heads == 1:
            return read(name, slice(rows.start, rows.start + slot.shape[0]))  # only these are read
        out_first = np.moveaxis(read(name), slot.out_axis, 0)
        return np.moveaxis(rows.of(out_first, slot.shape[slot.out_axis]), 0, slot.out_axis)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        stack, index = index[: len(slot.stack)], index[len(slot.stack) :]
        names = np.asarray(np.array(slot.names).reshape(slot.stack)[stack])
        values = np.empty((*names.shape, *(s.stop - s.start for s in index)), dtype)
        for at in np.ndindex(names.shape):
            tensor = tensor_of(str(names[at]))
            values[at] = (tensor.T if slot.transposed else tensor)[index]
        return values

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
      Name and tensor, in the dtype of the parameters; int8 weights in that of the embedding.
    """
    tensors: dict[tuple[str, ...], list[Slot]] = {}
    for slot in slots(config):
        tensors.setdefault(slot.names, []).append(slot)
    for names, parts in tensors.items():
        # Several leaves in one tensor: in the order of their rows.
        parts.sort(key=lambda slot: slot.rows.start if slot.rows else 0)
        arrays = [_in_file(slot, params) for slot in parts]
        for i, name in enumerate(names):
            one = arrays[0][i] if len(arrays) == 1 else _joined(parts, [array[i] for array in arrays])
            yield name, np.ascontiguousarray(one)


def _joined(parts: list[Slot], arrays: list[np.ndarray]) -> np.ndarray:
    """The tensor that holds several leaves; the inverse of `Rows.of` for all of them."""
    axis, rows = parts[0].out_axis, parts[0].rows
    heads = 1 if rows is None else rows.heads
    out_first = [np.moveaxis(array, axis, 0) for array in arrays]
    by_head = [x.reshape(heads, len(x) // heads, *x.shape[1:]) for x in out_first]
    joined = np.concatenate(by_head, axis=1)
    return np.moveaxis(joined.reshape(-1, *joined.shape[2:]), 0, axis)


def _in_file(slot: Slot, params: Any) -> np.ndarray:
    """A leaf on the host as its tensors are in a file: [number of tensors, ...]."""
    node = functools.reduce(lambda node, key: node[key], slot.path[:-1], params)
    array = to_host(node[slot.path[-1]])
    if array.dtype == np.int8:  # rounded weights are written as the numbers that they stand for
        array = (array * to_host(node["kernel_scale"])[:, None, :]).astype(params["embedding"].dtype)
    array = array.reshape(len(slot.names), *array.shape[len(slot.stack) :])
    return array.swapaxes(1, 2) if slot.transposed else array


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
