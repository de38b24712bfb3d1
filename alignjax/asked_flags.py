"""What the flags of `alignjax.solve` ask of each constraint of a score table."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags

from alignjax.config import ConstraintSettings, GroupSettings, TailSettings
from alignjax.errors import InputError

COLUMN = "category"  # of score tables
_GROUPS = {"groups": "margin", "group_level": "level", "group_rate": "rate"}
_SHARES = {"fraction": "it is a share of the margin of the tilt to it alone", "rate": "it is a probability"}
_HELP = {
    "margin": "NAME=X: mean utility at least X above the reference's.",
    "level": "NAME=X: mean utility at least X.",
    "fraction": "NAME=X: share, in (0, 1), of the margin of its own tilt.",
    "rate": "NAME=X: mean probability of a safe response at least X.",
    "tail": "NAME=SHARE:COST: mean cost (-utility) of the worst SHARE.",
    "groups": "NAME=X, NAME=CATEGORY:X,CATEGORY:X: margins by category.",
    "group_level": "As --groups, for levels.",
    "group_rate": "As --groups, for rates.",
}
KINDS = tuple(_HELP)
CHOICE = f"give each constraint one of {', '.join(f'--{kind}' for kind in KINDS)}"


class Request(NamedTuple):
    """What a flag asks of a constraint, and the flag as it was written."""

    settings: ConstraintSettings
    flag: str


def define_flags() -> None:
    """Defines the flags; each may be given for several constraints."""
    for kind, text in _HELP.items():
        flags.DEFINE_multi_string(kind, [], text)


def parse_asked(asked: Mapping[str, Sequence[str]]) -> dict[str, Request]:
    """What the flags ask, by constraint.

    Args:
      asked: by flag, "margin" to "group_rate", texts NAME=NUMBER or as the flag has it.

    Raises:
      InputError: a text that the flag does not take, a number out of range, a constraint given twice.
    """
    parsed: dict[str, Request] = {}
    for kind in KINDS:
        for text in asked.get(kind, ()):
            flag = f"--{kind}={text}"
            name, separator, value = text.rpartition("=")
            if not separator or not name:
                what = "SHARE:COST" if kind == "tail" else "NUMBER"
                raise InputError(
                    f"{flag}: must be a constraint's name and what is asked; write --{kind}=NAME={what}."
                )
            if name in parsed:
                raise InputError(f"{flag}: {name!r} is asked for already by {parsed[name].flag}; {CHOICE}.")
            parsed[name] = Request(_settings(kind, value, flag), flag)
    return parsed


def _settings(kind: str, text: str, flag: str) -> ConstraintSettings:
    """What one flag asks of its constraint."""
    if kind in _GROUPS:
        numbers = {_GROUPS[kind]: _by_category(kind, text, flag)}
        return ConstraintSettings(groups=dataclasses.replace(GroupSettings(COLUMN), **numbers))
    if kind == "tail":
        share, separator, cost = text.partition(":")
        if not separator:
            raise InputError(f"{flag}: must be a share and a cost; write --tail=NAME=SHARE:COST.")
        part = share_of(share, flag, "it is a share of the responses")
        return ConstraintSettings(tail=TailSettings(part, number_of(cost, flag)))
    value = share_of(text, flag, _SHARES[kind]) if kind in _SHARES else number_of(text, flag)
    return dataclasses.replace(ConstraintSettings(), **{kind: value})


def _by_category(kind: str, text: str, flag: str) -> float | dict[str, float]:
    """One number for every category, or CATEGORY:NUMBER,CATEGORY:NUMBER."""

    def one(number: str) -> float:
        return share_of(number, flag, _SHARES["rate"]) if kind == "group_rate" else number_of(number, flag)

    if ":" not in text:
        return one(text)
    numbers: dict[str, float] = {}
    for part in text.split(","):
        category, separator, number = part.rpartition(":")
        if not separator or not category or category in numbers:
            raise InputError(
                f"{flag}: {part!r} is no category with its number, or the category was there before; write "
                f"--{kind}=NAME=CATEGORY:NUMBER,CATEGORY:NUMBER."
            )
        numbers[category] = one(number)
    return numbers


def share_of(text: str, flag: str, why: str) -> float:
    """A flag's number in (0, 1); `why` says what it is.

    Raises:
      InputError: the text is no such number.
    """
    value = number_of(text, flag)
    if not 0 < value < 1:
        raise InputError(f"{flag}: must lie between 0 and 1, {why}.")
    return value


def number_of(text: str, flag: str) -> float:
    """A flag's finite number.

    Raises:
      InputError: the text is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{flag}: {text!r} is not a number.") from None
    if not math.isfinite(value):
        raise InputError(f"{flag}: {text!r} is not finite.")
    return value
