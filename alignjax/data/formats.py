"""Layouts of preference rows beside pairs: each is turned into rows of prompt, chosen and rejected.

- ranked: several replies to one prompt with a score or a rank (UltraFeedback: `completions` with
  `overall_score`; Nectar: `answers` with `rank`). Every two replies of different score make a pair.
- messages: a conversation with the better reply, and the worse one as a text (`rejected_response`); or a
  conversation before the reply in `conversations` (LLaMA-Factory).
- messages too: prompt and two responses that are JSON texts of lists, one text a turn (LMSYS Arena).
- instruction: `instruction` and `input` in place of a prompt.
- singles: one response with a label; `alignjax.data.singles` makes pairs of these.
- pairs: all others; `alignjax.data.records` reads them.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.data.rows import Row, RowError

RESPONSES = (
    *(("response_0", "response_1"), ("response_a", "response_b"), ("response1", "response2")),
    *(("human_ref_A", "human_ref_B"), ("conversation_a", "conversation_b"), ("chosen", "rejected")),
)
"""Names of two responses that a label column decides between; the first two that a row has."""
PROMPTS = ("prompt", "history", "context", "question")
"""Names of the prompt, where a row has no column "prompt"; the first that it has."""
_LABELS = ("label", "labels", "winner", "winner_model_a", "preference", "overall_preference", "choice")
_SCORES = ("overall_score", "score", "rating")


class Laid(NamedTuple):
    """What a row was taken for.

    Attributes:
      format: pairs, ranked, messages, instruction or singles.
      rows: rows with prompt, chosen and rejected.
    """

    format: str
    rows: list[Row]


def lay_out(row: Row, wanted: str) -> Laid:
    """Turns a row of any known layout into pairs.

    Args:
      row: as it was read.
      wanted: the format that the row must have; auto: any.

    Raises:
      RowError: the row has another format than the one wanted.
    """
    values = row.values
    replies = next((name for name in ("completions", "answers") if _is_ranked(values.get(name))), "")
    if replies:
        found = Laid("ranked", _ranked(row, replies))
    elif isinstance(values.get("messages"), list) and "rejected_response" in values:
        found = Laid("messages", [_with(row, _of_messages(row))])
    elif isinstance(values.get("conversations"), list) and "chosen" in values and "prompt" not in values:
        found = Laid("messages", [_with(row, {"prompt": values["conversations"]})])
    elif "instruction" in values and "chosen" in values and "prompt" not in values:
        found = Laid("instruction", [_with(row, {"prompt": _instruction(row)})])
    else:
        found = _turns_as_text(row) or Laid("pairs", [row])
    if wanted not in ("auto", found.format):
        raise other_format(row, found.format, wanted)
    return found


def other_format(row: Row, found: str, wanted: str) -> RowError:
    """The error of a row of another format than the one asked for, to be raised."""
    return RowError(f"{row.where}: is of the format {found}, not {wanted}; give format=auto.")


def _with(row: Row, values: Mapping[str, Any]) -> Row:
    return Row(row.where, {**row.values, **values})


def _is_ranked(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and ("response" in item or "answer" in item) for item in value)
    )


def _ranked(row: Row, column: str) -> list[Row]:
    replies = row.values[column]
    prompt = row.values.get("prompt", row.values.get("instruction"))
    if prompt is None:
        raise row.missing("prompt")
    scored = [(_score(row, f"{column}.{i}", reply), reply) for i, reply in enumerate(replies)]
    texts = [
        (score, reply.get("response", reply.get("answer"))) for score, reply in scored if score is not None
    ]
    pairs = [
        (first, second) if first[0] > second[0] else (second, first)
        for first, second in itertools.combinations(texts, 2)
        if first[0] != second[0]
    ]
    if not pairs:
        raise row.error(column, "has no two replies of different score or rank.", "unlabelled")
    rest = {name: value for name, value in row.values.items() if name != column}
    return [Row(row.where, rest | {"prompt": prompt, "chosen": a[1], "rejected": b[1]}) for a, b in pairs]


def _score(row: Row, place: str, reply: Mapping[str, Any]) -> float | None:
    """Higher is better; None: it has none."""
    name = next((name for name in (*_SCORES, "rank") if name in reply), "")
    if not name:
        raise row.error(place, "has neither a score (overall_score, score, rating) nor a rank; add it.")
    value = reply[name]
    if value is None:
        return None
    # JSON has whole numbers that no float holds, and readers of it take NaN.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise row.error(f"{place}.{name}", "must be a finite number; fix it or remove the line.")
    return -float(value) if name == "rank" else float(value)  # rank 1 is the best


def _of_messages(row: Row) -> dict[str, Any]:
    messages: Sequence[Any] = row.values["messages"]
    if not messages or row.message(f"messages.{len(messages) - 1}", messages[-1]).role != "assistant":
        raise row.error("messages", "must end with the assistant's better reply; fix it.")
    return {
        "prompt": list(messages[:-1]),
        "chosen": [messages[-1]],
        "rejected": row.values["rejected_response"],
    }


def _instruction(row: Row) -> str:
    parts = [row.text(name, row.values[name]) for name in ("instruction", "input") if row.values.get(name)]
    return "\n".join(parts)


def _turns_as_text(row: Row) -> Laid | None:
    """A row whose prompt and responses are JSON texts of their turns; None: it is no such row."""
    names = next((names for names in RESPONSES if all(name in row.values for name in names)), None)
    if names is None:
        return None
    asked, first, second = (_texts(row.values.get(name)) for name in ("prompt", *names))
    if not asked or not len(asked) == len(first) == len(second):
        return None
    if first[:-1] != second[:-1]:
        raise row.error(names[0], "and the other response differ before their last turn.", "unshared")
    turns = [
        {"role": role, "content": text}
        for pair in itertools.zip_longest(asked, first[:-1])
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ][:-1]
    return Laid("messages", [_with(row, {"prompt": turns, names[0]: first[-1], names[1]: second[-1]})])


def refuse_unnamed_label(row: Row) -> None:
    """Refuses a row of two responses between which a label decides, where no label is named.

    Args:
      row: is read without a label.

    Raises:
      RowError: names the columns that may be the label.
    """
    names = next((names for names in RESPONSES if all(name in row.values for name in names)), None)
    if names is None or "chosen" in row.values:
        return
    labels = [name for name in row.values if name in _LABELS or name.endswith("_id")]
    named = f"; this row has {', '.join(labels)}" if labels else ""
    raise row.error(
        names[0], f"and {names[1]} need the column that says which of them is better: give label={named}."
    )


def _texts(value: Any) -> list[Any]:
    """The items of a JSON text of a list; empty: it is none. An item may be null, as where no reply came."""
    if not isinstance(value, str) or not value.startswith("["):
        return []
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return items if all(item is None or isinstance(item, str) for item in items) else []
