"""Changes that make a valid file hostile: of a JSON value, of the JSON text, and of bytes."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

# What stands in for a value: other types, ends of ranges, numbers that no float holds, texts that hide.
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 5, 124, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, -(2**63)),
    *(10**12, 10**19, 10**400, -(10**400), 0.5, -0.0, 1e308, -1e308, 5e-324, 1e-300, 1e200),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud83d",
        "x \udc00",
        "\x1b[31mred\x1b[0m",
        "\u202eright to left",
        "\ufeff",
        "\n\n",
    ),
    *(
        "None",
        "true",
        "0",
        "-1",
        "1e400",
        "nan",
        "../../etc/passwd",
        "/dev/zero",
        "{prompt}",
        "{{ 1/0 }}",
        "é" * 300,
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1, "a"],
        [0] * 300,
        {"": 0},
        {"a": {"b": []}},
        [{"role": "user"}],
        "<s>",
        "</s>",
    ),
)
_LONG = 200_000  # characters of a long text


def hostile(rng: random.Random) -> Any:
    """A value from `HOSTILE`, or a long text, or a value deep within lists or objects."""
    choice = rng.random()
    if choice < 0.9:
        return copy.deepcopy(rng.choice(HOSTILE))
    if choice < 0.94:
        return rng.choice("a\0 ") * rng.choice([5_000, _LONG])
    value: Any = rng.choice(HOSTILE[:8])
    as_list = rng.random() < 0.5
    for _ in range(rng.choice([3, 60, 400])):
        value = [value] if as_list else {"a": value}
    return value


def mutated_json(rng: random.Random, value: Any, *, most: int = 3) -> Any:
    """A copy of a JSON value with one to `most` changes at random places.

    Args:
      rng: where the changes come from.
      value: a JSON value.
      most: number of changes.
    """
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, most)):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    """One change, made in place where the value is a table or a list."""
    place: Any = None
    node = value
    # A walk from the top ends at each step with a chance, so that all depths are changed.
    while isinstance(node, dict | list) and node and (place is None or rng.random() < 0.7):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        place, node = (node, key), node[key]
    if place is None:
        return hostile(rng)
    parent, key = place
    action = rng.random()
    if action < 0.55:
        parent[key] = hostile(rng)
    elif action < 0.7:
        del parent[key]
    elif action < 0.8:
        parent[key] = rng.choice([[node], {"a": node}, [node, node], str(node), {str(node)[:20]: node}])
    elif action < 0.9 and isinstance(parent, dict):
        others = list(parent)
        parent[key] = copy.deepcopy(parent[rng.choice(others)])
        if rng.random() < 0.3:
            parent[rng.choice(["", "\0", "extra", str(key) + "s", "a.b", "0"])] = hostile(rng)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        parent[key] = rng.choice([-node, node + 1, node - 1, node * 1000, node // 3, f"{node}"])
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(rng.choice(parent)))
        if rng.random() < 0.3:
            rng.shuffle(parent)
    else:
        parent[key] = hostile(rng)
    return value


def json_text(rng: random.Random, value: Any) -> str:
    """JSON of a value, with what JSON does not allow, such as NaN; now and then damaged."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8 or not _encodable(value))
    return damaged_text(rng, text) if rng.random() < 0.12 else text


def damaged_text(rng: random.Random, text: str) -> str:
    """A JSON text that is cut, doubled, deep or has a number too long to be read."""
    changes: list[Callable[[], str]] = [
        lambda: text[: rng.randint(0, len(text))],
        lambda: text + text,
        lambda: "[" * rng.choice([500, 3_000, 100_000]) + text,
        lambda: '{"a":' * rng.choice([500, 100_000]) + text,
        lambda: text.replace(":", ": " + "9" * 5000 + ",", 1),
        lambda: text.replace("{", '{"prompt": 1, "prompt": "twice", ', 1),
        lambda: text.replace('"', "'"),
        lambda: "\ufeff" + text,
        lambda: text.replace(" ", "\x0b", 2),
        lambda: text.replace(",", ",,", 1),
        lambda: "",
    ]
    return rng.choice(changes)()


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def mutated_bytes(rng: random.Random, data: bytes, *, most: int = 4) -> bytes:
    """Bytes with one to `most` changes: flips, cuts, insertions, and integers that claim too much."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not changed:
            return bytes(rng.randbytes(rng.randint(0, 64)))
        # The beginning of a file holds its header: half of the changes are there.
        most_place = len(changed) - 1
        place = rng.randint(0, min(most_place, 200) if rng.random() < 0.5 else most_place)
        action = rng.randrange(7)
        if action == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            changed[place] = rng.randrange(256)
        elif action == 2:
            del changed[place:]
        elif action == 3:
            del changed[place : place + rng.randint(1, 16)]
        elif action == 4:
            changed[place:place] = rng.randbytes(rng.randint(1, 16))
        elif action == 5:
            number = rng.choice([0, 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1, len(data), len(data) + 1])
            changed[place : place + 8] = struct.pack("<Q", number)
        else:
            other = rng.randrange(len(changed))
            changed[place : place + 8] = changed[other : other + 8]
    return bytes(changed)
