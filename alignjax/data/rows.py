"""One row of a source of data: its columns, checked one by one."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from alignjax.errors import InputError

NO_CATEGORY = "none"
"""The category of a row whose object of categories has none that is true."""


class Message(NamedTuple):
    """One turn of a conversation: role is user, assistant or system."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""A text stands for one turn of the user."""


class RowError(InputError):
    """A row that cannot be used; `kind` is the count under which it is dropped where rows may be dropped."""

    def __init__(self, message: str, kind: str = "malformed"):
        super().__init__(message)
        self.kind = kind


# What a message or a row may hold beside its text that changes what a model sees, and that no prompt keeps.
_NOT_KEPT = ("tool_calls", "tools", "reasoning_content", "chat_template_kwargs", "function_call", "functions")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


class Row:
    """One row of a source; its checks raise errors that name file, line and column."""

    def __init__(self, where: str, values: Mapping[str, Any]):
        self.where, self.values = where, values

    def error(self, column: str, problem: str, kind: str = "malformed") -> RowError:
        """What is wrong with a column, to be raised; `kind` is the count of such rows."""
        return RowError(f'{self.where}: "{column}" {problem}', kind)

    def refuse_what_is_not_kept(self) -> None:
        """Refuses a row with tools, tool calls or reasoning, which would be lost in silence."""
        self._refuse(self.values, "")

    def _refuse(self, values: Mapping[str, Any], place: str) -> None:
        for name in _NOT_KEPT:
            if values.get(name):
                raise self.error(
                    f"{place}{name}",
                    "cannot be handed to the chat template, and without it the row says something else; "
                    "remove the line, or the field if it does not matter.",
                    "unsupported",
                )

    def has(self, column: str) -> bool:
        """Whether the row has a column; "a.b" is field b of the object in a, "a.0" item 0 of a list."""
        return bool(column) and self._find(column) is not None

    def get(self, column: str) -> Any:
        """The value of a column that must be there."""
        found = self._find(column)
        if found is None:
            raise self.missing(column)
        return found[0]

    def missing(self, column: str) -> RowError:
        """The error of a column that is not there; it names those that are."""
        there = ", ".join(self.values) or "none"
        text = f"is missing; the row's columns are {there}. Name the right one."
        labels = [name for name in self.values if name.endswith("response_id")]
        if labels:  # SafeRLHF's columns, whose label has to be named
            text += f" If a column says which response is better: label={' or label='.join(labels)}."
        return self.error(column, text)

    def _find(self, column: str) -> tuple[Any] | None:
        """The value in a tuple of one, since it may be None; a column of the whole name has precedence."""
        if column in self.values:
            return (self.values[column],)
        value: Any = self.values
        for part in column.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        return (value,)

    def text(self, column: str, value: Any) -> str:
        """A value that must be text, or a list of content parts that are all text."""
        if is_parts(value):
            value = "".join(part["text"] for part in value)
        if not isinstance(value, str):
            raise self.error(column, f"is {kind_of(value)}, must be text; fix it or remove the line.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(column, "holds half of a surrogate pair; fix it or remove the line.") from error
        return value

    def messages(self, column: str, value: list[Any]) -> tuple[Message, ...]:
        """A list that must hold at least one message and nothing else."""
        if not value:
            raise self.error(column, "is an empty list of messages; fill it or remove the line.")
        return tuple(self.message(f"{column}.{i}", item) for i, item in enumerate(value))

    def message(self, column: str, value: Any) -> Message:
        """One message: {"role", "content"}, or {"from", "value"} as ShareGPT writes it."""
        names = next(
            (
                names
                for names in (("role", "content"), ("from", "value"))
                if isinstance(value, Mapping) and all(name in value for name in names)
            ),
            None,
        )
        if names is None:
            raise self.error(column, 'must be a message {"role": .., "content": ..}; fix it.')
        self._refuse(value, f"{column}.")
        role = self.text(f"{column}.{names[0]}", value[names[0]])
        return Message(_ROLES.get(role, role), self.text(f"{column}.{names[1]}", value[names[1]]))

    def safe(self) -> tuple[bool, bool] | None:
        """Whether each response is safe; None where the row does not say."""
        columns = ("is_response_0_safe", "is_response_1_safe")
        if not all(self.has(column) for column in columns):
            return None
        first, second = (self.get(column) for column in columns)
        for column, value in zip(columns, (first, second), strict=True):
            if value is not None and value not in (0, 1):
                raise self.error(
                    column, f"is {kind_of(value)}, must be true or false; fix it or remove the line."
                )
        return None if first is None or second is None else (bool(first), bool(second))

    def categories(self, columns: Iterable[str]) -> dict[str, str]:
        """The category by column; a column that the row lacks, or leaves empty, is not in the result.

        An object of true and false stands for the first of its names that is true, or for `NO_CATEGORY`.
        """
        found = {column: self._category(column) for column in columns if self.has(column)}
        return {column: category for column, category in found.items() if category}

    def _category(self, column: str) -> str:
        value = self.get(column)
        if value is None:
            return ""
        if isinstance(value, str):
            return self.text(column, value).strip()
        if not isinstance(value, Mapping) or not all(isinstance(item, bool) for item in value.values()):
            what = "an object of other values" if isinstance(value, Mapping) else kind_of(value)
            raise self.error(
                column,
                f"is {what}, must be a category: text, or an object of names with true or false; fix it.",
            )
        return next((str(name) for name, holds in value.items() if holds), NO_CATEGORY)


def is_parts(value: Any) -> bool:
    """Whether a value is a list of content parts, each of them text."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in value
        )
    )


def kind_of(value: Any) -> str:
    """A value's type in JSON's terms, with the value itself if it is short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    return {str: "a text", list: "a list"}.get(type(value), "an object")
