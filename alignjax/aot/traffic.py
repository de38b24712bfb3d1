"""Bytes that a compiled program moves on one chip: through its main memory, and to other chips."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from alignjax.aot.hlo import Instruction, Module, branches_of, called_by, group_size, loop_of

# Opcode of a collective -> bytes that one of g devices sends, per byte of the larger of operand and result.
_SENT = {
    "all-gather": lambda g: (g - 1) / g,
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "ragged-all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda _: 1.0,
    "collective-broadcast": lambda _: 1.0,
}
# These move nothing: they name existing values, or end an operation that is counted at its start.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "while", "conditional", "call", "opt-barrier", "async-update", "custom-call-done",
}  # fmt: skip

_FORMS = ("bitcast", "copy", "convert")


@dataclasses.dataclass
class Traffic:
    """Bytes of one run of a program on one chip.

    Attributes:
      memory: read from and written to main memory.
      sent: to other chips, by kind of collective.
      unknown_loops: loops whose iterations are neither in the program nor given; their body is counted once.
    """

    memory: float = 0.0
    sent: dict[str, float] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    def add(self, other: "Traffic", times: float = 1.0) -> None:
        """Adds the bytes of another program, `times` times."""
        self.memory += times * other.memory
        for kind, size in other.sent.items():
            self.sent[kind] = self.sent.get(kind, 0.0) + times * size
        self.unknown_loops += other.unknown_loops


def traffic_of(module: Module, *, devices: int, trips: Sequence[float] = ()) -> Traffic:
    """Bytes that a program moves.

    Every instruction reads its operands and writes its value. Of an operand that a fusion only slices, the
    slices count; of one that it updates in place, the update; values in the chip's fast memory do not count.

    Args:
      module: the compiled program.
      devices: number of devices that it runs on.
      trips: iterations of the loops whose end depends on data, the outermost first, one for each level.

    Returns:
      Bytes of one chip. Of the branches of a conditional, the one that moves most is counted.
    """
    return _of_computation(module, module.entry, devices, list(trips))


def _of_computation(module: Module, name: str, devices: int, trips: Sequence[float]) -> Traffic:
    total = Traffic()
    lines = module.computations.get(name, [])
    values, channels = {line.name: line for line in lines}, set[str]()
    for line in lines:
        if line.opcode == "while":
            total.add(*_of_loop(module, line, devices, trips))
            continue
        if line.opcode == "conditional":
            options = [_of_computation(module, one, devices, trips) for one in branches_of(line)]
            total.add(max(options, key=lambda t: (t.memory, sum(t.sent.values())), default=Traffic()))
            continue
        if line.opcode == "call":
            for one in called_by(line):
                total.add(_of_computation(module, one, devices, trips))
            continue
        total.add(Traffic(_moved(module, line, values)))
        for one, around in _with_fused(module, line, values):
            channel = re.search(r"channel_id=(\d+)", one.rest)
            # A collective that spans several fusions is written in each of them, under one channel.
            if channel is None or channel[1] not in channels:
                total.add(Traffic(sent=_sent(one, around, devices)))
            channels |= set() if channel is None else {channel[1]}
    return total


def _with_fused(
    module: Module, line: Instruction, values: Mapping[str, Instruction]
) -> Iterator[tuple[Instruction, Mapping[str, Instruction]]]:
    """An instruction and the instructions fused into it, each with the values of its computation."""
    yield line, values
    for name in called_by(line):
        inner = {one.name: one for one in module.computations.get(name, [])}
        for one in inner.values():
            yield from _with_fused(module, one, inner)


def _of_loop(
    module: Module, line: Instruction, devices: int, trips: Sequence[float]
) -> tuple[Traffic, float]:
    loop = loop_of(module, line)
    if loop.trips is not None:
        return _of_computation(module, loop.body, devices, trips), loop.trips
    body = _of_computation(module, loop.body, devices, trips[1:])
    body.unknown_loops += 0 if trips else 1
    return body, trips[0] if trips else 1.0


def _sent(line: Instruction, values: Mapping[str, Instruction], devices: int) -> dict[str, float]:
    kind = line.opcode.removesuffix("-start")
    if kind not in _SENT or line.opcode.endswith("-done"):
        return {}
    operands = sum(values[name].size for name in line.operands if name in values)
    # The start of an asynchronous collective returns its operand beside its result.
    result = max((part.size for part in line.parts), default=0.0) if line.opcode != kind else line.size
    return {kind: max(operands, result) * _SENT[kind](group_size(line, devices))}


def _moved(module: Module, line: Instruction, values: Mapping[str, Instruction]) -> float:
    """Bytes of main memory that one instruction reads and writes."""
    operands = [values.get(name) for name in line.operands]
    sizes = [0.0 if one is None else one.main_size for one in operands]
    match line.opcode:
        case opcode if opcode in _FREE or opcode.endswith("-done"):
            return 0.0
        case "dynamic-slice" | "slice" | "gather":
            return (sizes[0] > 0) * line.size + line.main_size
        case "dynamic-update-slice":
            return 2 * sizes[1] if len(sizes) > 1 else 0.0
        case "scatter":
            return 2 * sizes[-1]
        case "fusion":
            return _of_fusion(module, line, sizes)
        case "copy-start":  # returns (copy, operand, a flag)
            return sizes[0] + line.parts[0].size * line.parts[0].main
        case "slice-start":  # returns (operand, slice, a flag)
            return line.parts[1].size * ((sizes[0] > 0) + line.parts[1].main)
        case "custom-call" if "AllocateBuffer" in line.rest:
            return 0.0
        case opcode if opcode.endswith("-start"):
            return sum(sizes) + max((p.size for p in line.parts if p.main), default=0.0)
    return sum(sizes) + line.main_size


def _of_fusion(module: Module, line: Instruction, sizes: Sequence[float]) -> float:
    """Bytes that a fusion reads of its operands and writes of its value."""
    inner = module.computations.get(called_by(line)[0], []) if called_by(line) else []
    read = sum(_read_of(module, inner, place, size) for place, size in enumerate(sizes) if size)
    aliases = _aliases(inner)
    by_name = {one.name: one for one in inner}
    roots = [one for one in inner if one.root]
    root = by_name.get(aliases.get(roots[0].name, roots[0].name)) if roots else None
    return read + _written(root, line, by_name, aliases)


def _read_of(module: Module, inner: Sequence[Instruction], place: int, size: float) -> float:
    """Bytes that a fused computation reads of its operand number `place`, which has `size` bytes."""
    parameters = [one for one in inner if one.opcode == "parameter" and one.inside.strip() == str(place)]
    names = {one.name: size for one in parameters}  # every form of the operand, and its size
    read = 0.0
    for use in inner:
        if use.operands and use.operands[0] in names and _is_form(module, use):
            names[use.name] = use.size
            continue
        for at, name in enumerate(use.operands):
            if name in names:
                read += _read_by(module, use, at, names[name]) * size / names[name]
    return min(size, read)


def _is_form(module: Module, use: Instruction) -> bool:
    """Whether an instruction within a fusion only renames, converts or lays out its operand anew.

    Within a fusion that is done to the elements that are read, so that of a form that is sliced the slice
    counts. int8 weights are an example, whose tiles are laid out anew before a layer is taken from its stack.
    """
    if use.opcode == "fusion" and called_by(use):
        inside = module.computations.get(called_by(use)[0], [])
        return all(one.opcode == "parameter" or one.opcode in _FORMS for one in inside)
    return use.opcode in _FORMS


def _read_by(module: Module, use: Instruction, place: int, size: float) -> float:
    """Bytes that one instruction within a fusion reads of an operand of `size` bytes."""
    if place == 0 and use.opcode in ("dynamic-slice", "slice", "gather"):
        return use.size
    if place == 0 and use.opcode == "dynamic-update-slice":
        return 0.0  # in place
    if use.opcode == "fusion" and called_by(use):
        return _read_of(module, module.computations.get(called_by(use)[0], []), place, size)
    return size


def _written(
    root: Instruction | None,
    line: Instruction,
    by_name: Mapping[str, Instruction],
    aliases: Mapping[str, str],
) -> float:
    """Bytes that a fusion writes to main memory; of an update in place, only the update."""
    if root is None:
        return line.main_size
    sources = root.operands if root.opcode == "tuple" else (root.name,)
    total = 0.0
    for part, name in zip(line.parts, sources, strict=False):
        if not part.main:
            continue
        source = by_name.get(aliases.get(name, name))
        update = None
        if source is not None and source.opcode == "dynamic-update-slice":
            update = by_name.get(source.operands[1])
        total += part.size if update is None else update.size
    return total


def _aliases(inner: Sequence[Instruction]) -> dict[str, str]:
    """For each bitcast, the value that it renames."""
    found: dict[str, str] = {}
    for one in inner:
        if one.opcode == "bitcast" and one.operands:
            found[one.name] = found.get(one.operands[0], one.operands[0])
    return found
