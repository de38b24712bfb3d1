"""From a mapping (a ConfigDict, or JSON) to a checked `Config`, back, and to what determines a result."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax.config.checks import check
from alignjax.config.fields import affects_result, method_of
from alignjax.config.settings import METHODS, Config
from alignjax.errors import InputError
from alignjax.records.codec import decode, encode


def from_mapping(values: Mapping[str, Any]) -> Config:
    """Checks a resolved ConfigDict and freezes it.

    Args:
      values: nested mapping, as `ConfigDict.to_dict()` or `to_mapping` gives it. Fields that it lacks have
        their defaults.

    Returns:
      The configuration.

    Raises:
      InputError: an unknown field, one that only the other method reads, a wrong type, a value out of range,
        or an impossible combination.
    """
    if isinstance(values, Mapping) and values.get("method") in METHODS:
        for name in values:
            if only_method(name) not in (None, values["method"]):
                raise InputError(
                    f"config.{name}: only {only_method(name)} reads it, and config.method is "
                    f"{values['method']}; remove it."
                )
    config = decode(Config, values, "config")
    check(config)
    return config


def only_method(name: str) -> str | None:
    """The only method that reads a field at the top of the configuration; None: both, or no such field."""
    return next((method_of(field) for field in dataclasses.fields(Config) if field.name == name), None)


def to_mapping(config: Config) -> dict[str, Any]:
    """The configuration as JSON, with the fields that its method reads; the inverse of `from_mapping`."""
    return {field.name: encode(getattr(config, field.name)) for field in _fields_of(config)}


def determining(settings: Any) -> Any:
    """What determines a result: `encode` without the fields of `affects_result=False`, at every depth.

    Args:
      settings: a settings dataclass, a mapping or tuple of them, or a plain value.

    Returns:
      A JSON value. Of a whole `Config` it has only the fields that its method reads.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        kept = [field.name for field in _fields_of(settings) if affects_result(field)]
        return {name: determining(getattr(settings, name)) for name in kept}
    if isinstance(settings, Mapping):
        return {str(key): determining(value) for key, value in settings.items()}
    if isinstance(settings, tuple | list):
        return [determining(value) for value in settings]
    return encode(settings)


def _fields_of(settings: Any) -> "list[dataclasses.Field[Any]]":
    """A dataclass's fields; of a `Config` those that its method reads."""
    fields = dataclasses.fields(settings)
    if not isinstance(settings, Config):
        return list(fields)
    return [field for field in fields if method_of(field) in (None, settings.method)]
