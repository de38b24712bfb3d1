"""Makes room in a configuration file's ConfigDict for what a command line sets.

A ConfigDict flag sets fields that are there, to values of the type that they have. A command line may also
name a constraint, a source, a score or a judge that the file lacks, and ask for something in another way than
the file does.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from ml_collections.config_flags import config_path

from alignjax.config.asking import WAYS_TO_ASK
from alignjax.config.fields import method_of
from alignjax.config.presets import entry_of, fields_of
from alignjax.config.reading import only_method
from alignjax.config.settings import Config
from alignjax.errors import InputError, did_you_mean

_SWITCHES = ("true", "t", "1", "false", "f", "0")  # as absl reads a flag that is on or off
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


class _Override(typing.NamedTuple):
    """One argument of the command line.

    Attributes:
      path: names from the top of the configuration down to a field.
      text: what follows the sign of equality; None: nothing does.
    """

    path: tuple[str, ...]
    text: str | None


def make_room(config: ConfigDict, argv: Sequence[str]) -> list[str]:
    """Prepares a configuration for the overrides of a command line, in place.

    Fields of the settings that the file leaves out are added at their defaults, with the tables' entries that
    the command line names. Where it asks something of a constraint, what the file asks of this constraint in
    another way is taken back. Names that no setting has are left alone, to be refused by the flag.

    Args:
      config: as the file gives it.
      argv: the command line.

    Returns:
      What was taken back, a sentence for each constraint.
    """
    tables: Any = config
    said = list[str]()
    overrides = [found for arg in argv if (found := _override(arg)) is not None]
    with config.unlocked():
        for override in overrides:
            _add(tables, Config, override.path, override.text, tables.get("method"))
        asked: dict[str, set[tuple[str, ...]]] = {}
        for override in overrides:
            table, *below = override.path
            if table == "constraints" and len(below) > 1 and tuple(below[1:]) != ("groups", "column"):
                asked.setdefault(below[0], set()).add(tuple(below[1:3]))
        for name, ways in asked.items():
            if taken := _take_back(tables.constraints[name], ways):
                used = " and ".join(dict.fromkeys(way[0] for way in ways))
                said.append(
                    f"constraints.{name}: the command line's {used} takes the place of "
                    f"{' and '.join(taken)} in the configuration file"
                )
    return said


def refuse_unknown(config: ConfigDict, argv: Sequence[str]) -> None:
    """Refuses overrides of fields that a configuration does not have, once there is room for those it may.

    Args:
      config: as `make_room` leaves it.
      argv: the command line.

    Raises:
      InputError: with the whole name, and the nearest one that is there.
    """
    for override in (found for arg in argv if (found := _override(arg)) is not None):
        node: Any = config
        for depth, name in enumerate(override.path):
            if not _is_table(node):
                break  # a part of a value, which its own type knows
            if name not in node:
                if depth == 0 and only_method(name):
                    break  # the flag's failure says which method reads it
                table = ".".join(["config", *override.path[:depth]])
                near = did_you_mean(name, node) or f"{table} has {', '.join(sorted(node))}; "
                raise InputError(f"{table}.{name}: no such field; {near}see the configuration file.")
            node = node[name]


def _override(argument: str) -> _Override | None:
    match = _OVERRIDE.fullmatch(argument)
    if match is None:
        return None
    try:
        path = config_path.split(match[1])
    except ValueError:  # the flag refuses it
        return None
    return _Override(path, match[2]) if all(isinstance(name, str) for name in path) else None


def _add(node: Any, kind: Any, path: Sequence[str], text: str | None, method: str | None) -> None:
    """Adds what is missing on the way to one field of the settings `kind`, of which `node` is the table."""
    name, *rest = path
    field = {field.name: field for field in dataclasses.fields(kind)}.get(name)
    if field is None or method_of(field) not in (None, method):
        return
    hint = typing.get_type_hints(kind)[name]
    if name not in node:
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        node[name] = entry_of(hint, made)
    if hint == bool | str:
        _add_switch_or_name(node, name, text)
    elif isinstance(hint, types.UnionType):
        if any(typing.get_origin(option) is Mapping for option in typing.get_args(hint)):
            _add_number_or_table(node, name, rest, text)
    if isinstance(hint, types.UnionType):
        return
    below: Any = node[name]
    if not rest or not _is_table(below):
        return
    if dataclasses.is_dataclass(hint):
        _add(below, hint, rest, text, method)
    elif typing.get_origin(hint) is Mapping:
        item = typing.get_args(hint)[1]
        if rest[0] not in below:
            below[rest[0]] = fields_of(item())
        if rest[1:] and _is_table(below[rest[0]]):
            _add(below[rest[0]], item, rest[1:], text, method)


def _is_table(value: Any) -> bool:
    return isinstance(value, ConfigDict)


def _add_number_or_table(node: Any, name: str, rest: Sequence[str], text: str | None) -> None:
    """Makes a field hold a number, or a table of numbers: what the command line writes into it."""
    is_table = _is_table(node[name])
    wants_table = bool(rest) or (text is not None and text.lstrip().startswith("{"))
    if is_table != wants_table:
        del node[name]
        node[name] = ConfigDict() if wants_table else placeholder(float)
    if rest and rest[0] not in node[name]:
        node[name][rest[0]] = placeholder(float)


def _add_switch_or_name(node: Any, name: str, text: str | None) -> None:
    """Makes a field hold a switch or a name: what the command line writes into it, --noconfig... included."""
    is_switch = text is None or text.lower() in _SWITCHES
    del node[name]
    node[name] = placeholder(bool if is_switch else str)


def _take_back(constraint: Any, ways: set[tuple[str, ...]]) -> list[str]:
    """Empties the ways to ask that a command line does not use, of a constraint for which it uses some.

    Args:
      constraint: its table.
      ways: names of the fields that are set, with the field below where there is one.

    Returns:
      What is emptied and held a value, as `margin 1.0`.
    """
    taken = list[str]()
    used = {way[0] for way in ways} & set(WAYS_TO_ASK)
    if not used or not _is_table(constraint):
        return taken
    for way in [way for way in WAYS_TO_ASK if way in constraint]:
        below: Any = constraint[way]
        if not _is_table(below):
            if way not in used:
                taken += [f"{way} {below}"] if below is not None else []
                _empty(constraint, way)
            continue
        for field in sorted(set(below) - {"column"}):
            # A tail is asked by two fields together, groups by one of three.
            if not (way in used if way == "tail" else (way, field) in ways):
                taken += [f"{way}.{field} {below[field]}"] if below[field] is not None else []
                _empty(below, field)
    return taken


def _empty(node: Any, name: str) -> None:
    del node[name]  # with the type that it had
    node[name] = placeholder(float)
