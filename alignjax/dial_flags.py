"""The flags that turn the dial of a finished run: what is asked of its constraints."""

from collections.abc import Sequence

from absl import flags

from alignjax.asked_flags import number_of, share_of
from alignjax.errors import InputError
from alignjax.workflow.dialling import Wanted

_HELP = {
    "margin": "NAME=X, with --workdir: mean score NAME at least X above the reference's.",
    "rate": "NAME=X, with --workdir: mean probability of a safe response at least X.",
    "multiplier": "NAME=X, with --workdir: the multiplier of NAME; nothing is solved.",
}


def define_flags() -> None:
    """Defines --margin, --rate and --multiplier; each may be given for several constraints."""
    for kind, text in _HELP.items():
        flags.DEFINE_multi_string(kind, [], text)


def wanted_of(
    margins: Sequence[str] = (), rates: Sequence[str] = (), multipliers: Sequence[str] = ()
) -> Wanted:
    """What the flags ask.

    Args:
      margins: texts NAME=NUMBER.
      rates: the same; numbers in (0, 1).
      multipliers: the same; numbers of at least 0.

    Raises:
      InputError: a text that the flag does not take, or a number out of range.
    """
    return Wanted(_numbers("margin", margins), _numbers("rate", rates), _numbers("multiplier", multipliers))


def _numbers(kind: str, texts: Sequence[str]) -> dict[str, float]:
    found = dict[str, float]()
    for text in texts:
        flag, (name, separator, number) = f"--{kind}={text}", text.rpartition("=")
        if not separator or not name:
            raise InputError(f"{flag}: must be a constraint's name and a number; write --{kind}=NAME=NUMBER.")
        if name in found:
            raise InputError(f"{flag}: {name!r} is asked for already by --{kind}={name}={found[name]:g}.")
        found[name] = _number(kind, number, flag)
    return found


def _number(kind: str, text: str, flag: str) -> float:
    if kind == "rate":
        return share_of(text, flag, "it is a probability")
    value = number_of(text, flag)
    if kind == "multiplier" and value < 0:
        raise InputError(f"{flag}: must be at least 0, it multiplies a utility.")
    return value
