"""The text of a compiled program, parsed into instructions, with the iteration count of every loop.

XLA's own cost analysis counts the body of a loop once, and a decoder is a loop over layers.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_ITEM = {"pred": 1, "s4": 0.5, "u4": 0.5, "token": 0, "opaque": 0, "bf16": 2, "f16": 2, "key": 8}
_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,<=]*)\](\{[^}]*\})?")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Part(NamedTuple):
    """One array of a value: its bytes, and whether it lies in the chip's main memory."""

    size: float
    main: bool


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: unique in the program.
      parts: the arrays of its value; a tuple has several.
      opcode: as XLA writes it.
      operands: names.
      inside: the text between the parentheses.
      rest: the text after the operands.
      root: whether its value is the result of the computation.
    """

    name: str
    parts: tuple[Part, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    @property
    def size(self) -> float:
        """Bytes of the value."""
        return sum(part.size for part in self.parts)

    @property
    def main_size(self) -> float:
        """Bytes of the value that lie in main memory."""
        return sum(part.size for part in self.parts if part.main)


class Loop(NamedTuple):
    """Names of the computations of a `while`, and its iterations; None where they depend on data."""

    body: str
    condition: str
    trips: int | None


class Module(NamedTuple):
    """A compiled program: its computations by name, and the name of the one that runs."""

    computations: dict[str, list[Instruction]]
    entry: str


def parse(text: str) -> Module:
    """Parses the text of `compiled.as_text()`."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
            continue
        found = _LINE.match(line)
        if found is not None and current is not None:
            current.append(_instruction(found[2], found[3], bool(found[1])))
    return Module(computations, entry)


def loop_of(module: Module, instruction: Instruction) -> Loop:
    """The loop of a `while`; its iterations as the compiler noted them, or read from its condition."""
    attributes = dict(re.findall(r"(body|condition)=%?([\w.\-]+)", instruction.rest))
    noted = _TRIPS.search(instruction.rest)
    trips = (
        int(noted[1]) if noted is not None else _compared(module, attributes["condition"], attributes["body"])
    )
    return Loop(attributes["body"], attributes["condition"], trips)


def branches_of(instruction: Instruction) -> list[str]:
    """Computations of a `conditional`, which runs one of them."""
    listed = _BRANCHES.search(instruction.rest)
    if listed is not None:
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return re.findall(r"(?:true_computation|false_computation)=%?([\w.\-]+)", instruction.rest)


def called_by(instruction: Instruction) -> list[str]:
    """Computations that a fusion, call or asynchronous start runs once."""
    return re.findall(r"(?:calls|called_computations=\{)=?%?([\w.\-]+)", instruction.rest) or (
        re.findall(r"to_apply=%?([\w.\-]+)", instruction.rest) if instruction.opcode == "call" else []
    )


def group_size(instruction: Instruction, devices: int) -> int:
    """Number of devices in one group of a collective."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", instruction.rest)
    if listed is not None:
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=", instruction.rest)
    if counted is not None:
        return int(counted[1].split(",")[-1])
    return devices


def _instruction(name: str, text: str, root: bool) -> Instruction:
    kind, after = _split_type(text)
    opcode, _, after = after.partition("(")
    inside, rest = _split_paren(after)
    operands = tuple(_NAME.findall(inside))
    return Instruction(name, tuple(_parts(kind)), opcode.strip(), operands, inside, rest, root)


def _split_type(text: str) -> tuple[str, str]:
    """The type and the text after it; the type of a tuple contains spaces."""
    if not text.startswith("("):
        kind, _, after = text.partition(" ")
        return kind, after
    inside, after = _split_paren(text[1:])
    return inside, after


def _split_paren(text: str) -> tuple[str, str]:
    """The text before the closing parenthesis and the text after it."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:place], text[place + 1 :]
    return text, ""


def _parts(kind: str) -> Iterator[Part]:
    for dtype, dims, layout in _ARRAY.findall(kind):
        sides = [int(side.lstrip("<=")) for side in dims.split(",") if side]
        space = re.search(r"S\((\d+)\)", layout or "")
        yield Part(math.prod(sides) * _item_size(dtype), space is None or space[1] == "0")


def _item_size(dtype: str) -> float:
    if dtype in _ITEM:
        return _ITEM[dtype]
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits is not None else 0


def _compared(module: Module, condition: str, body: str) -> int | None:
    """Iterations of a loop that counts up from 0 while i < N, if its condition is only that comparison.

    The step is what the body adds to i: loops that the compiler unrolled count by more than 1.
    """
    lines = module.computations.get(condition, [])
    bounds = [number for line in lines if (number := _constant(line)) is not None]
    compared = [line for line in lines if line.opcode in ("compare", "fusion")]
    counters = [line for line in lines if line.opcode == "get-tuple-element"]
    if len(bounds) != 1 or len(compared) != 1 or len(counters) != 1:
        return None
    place = re.search(r"index=(\d+)", counters[0].rest)
    return -(-bounds[0] // (1 if place is None else _step(module, body, int(place[1]))))


def _step(module: Module, body: str, place: int) -> int:
    """What a loop's body adds to the counter at a place of its tuple; 1 where that cannot be read."""
    lines = {line.name: line for line in module.computations.get(body, [])}
    roots = [line for line in lines.values() if line.root and line.opcode == "tuple"]
    line = lines.get(roots[0].operands[place]) if roots and place < len(roots[0].operands) else None
    step = 0
    while line is not None and line.opcode in ("add", "copy", "bitcast"):
        operands = [lines[name] for name in line.operands if name in lines]
        added = [number for one in operands if (number := _constant(one)) is not None]
        step += added[0] if line.opcode == "add" and added else 0
        line = next((one for one in operands if _constant(one) is None), None)
    return step or 1


def _constant(line: Instruction) -> int | None:
    """The number of a constant."""
    found = re.fullmatch(r"\d+", line.inside.strip()) if line.opcode == "constant" else None
    return None if found is None else int(found[0])
