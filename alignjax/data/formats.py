"""Layouts of preference rows beside pairs: each is turned into rows of prompt, chosen and rejected.

- ranked: several replies to one prompt with a score or a rank (UltraFeedback: `completions` with
  `overall_score`; Nectar: `answers` with `rank`). Every two replies of different score make a pair.
- messages: a conversation with the better reply, and the worse one as a text (`rejected_response`); or a
  conversation before the reply in `conversations` (LLaMA-Factory).
- instruction: `instruction` and `input` in place of a prompt.
- pairs: all others; `alignjax.data.records` reads them.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.data.rows import Row, RowError

RESPONSES = (
    *(("response_0", "response_1"), ("response_a", "response_b"), ("response1", "response2")),
    *(("human_ref_A", "human_ref_B"), ("chosen", "rejected")),
)
"""Names of two responses that a label column decides between; the first two that a row has."""
PROMPTS = ("prompt", "history", "context", "question")
"""Names of the prompt, where a row has no column "prompt"; the first that it has."""
_SCORES = ("overall_score", "score", "rating")


class Laid(NamedTuple):
    """What a row was taken for.

    Attributes:
      format: pairs, ranked, messages or instruction.
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
      RowError: the row has another format than the one wanted, or holds single labelled responses.
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
        _refuse_single_labels(row)
        found = Laid("pairs", [row])
    if wanted not in ("auto", found.format):
        raise RowError(f"{row.where}: is of the format {found.format}, not {wanted}; give format=auto.")
    return found


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
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row.error(f"{place}.{name}", "must be a number; fix it or remove the line.")
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


def _refuse_single_labels(row: Row) -> None:
    values = row.values
    if any(name in values for name in ("chosen", "rejected", "response_0")):
        return
    if "completion" in values and "label" in values:
        raise row.error(
            "completion",
            "is a single response with a label (KTO), not a pair; join two responses to each prompt as "
            "chosen and rejected.",
            "single_responses",
        )
    if "response" in values and "is_safe" in values:
        raise row.error(
            "response",
            "is a single response with is_safe (BeaverTails), not a pair; use PKU-SafeRLHF, or join a safe "
            "and an unsafe response to each prompt as chosen and rejected.",
            "single_responses",
        )
