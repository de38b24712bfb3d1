"""Renders chat templates in a process of its own, whose memory is limited; see `templates`.

A template is a program that came with a model. It runs here in jinja2's sandbox, and the process that started
this one ends it when a conversation takes too long. It is run as a script and imports nothing of alignjax, so
that it starts in a fraction of a second.

Requests are lines of JSON on standard input; each gets one line of JSON a conversation on standard output,
{"text": ...} or {"error": ...}.
"""

import contextlib
import datetime
import json
import resource
import sys
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_MEMORY = 2**30  # bytes of address space; jinja2 and Python take less than a tenth of it
_MOST_TEXT = 10_000_000  # characters of one conversation


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}, which marks what an assistant wrote, and shows its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the tags."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment(date: datetime.date) -> ImmutableSandboxedEnvironment:
    """What Hugging Face gives a chat template, with a fixed date as today's.

    Args:
      date: what `strftime_now` formats.
    """
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    found.filters["tojson"] = _to_json
    found.globals["raise_exception"] = _refuse
    found.globals["strftime_now"] = date.strftime
    return found


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> dict[str, str]:
    """One conversation as text, or the error that stopped the template.

    Args:
      template: compiled.
      variables: its names, `messages` among them.
    """
    try:
        text = template.render(variables)
    except MemoryError:
        return {"error": "it needs more than 1 GB of memory"}
    except Exception as error:  # a template can raise anything
        return {"error": " ".join(str(error).split())[:300] or type(error).__name__}
    if len(text) > _MOST_TEXT:
        return {"error": f"it makes a text of {len(text)} characters; at most {_MOST_TEXT} are allowed"}
    return {"text": text}


def answers(line: str) -> list[dict[str, str]]:
    """The answers to one request, in order.

    Args:
      line: JSON with the fields template, date, variables and conversations.
    """
    request = json.loads(line)
    conversations = request["conversations"]
    try:
        date = datetime.date.fromisoformat(request["date"])
        template = environment(date).from_string(request["template"])
    except MemoryError:
        return [{"error": "it needs more than 1 GB of memory"}] * len(conversations)
    except Exception as error:  # not only TemplateSyntaxError: also RecursionError, OverflowError
        return [{"error": " ".join(str(error).split())[:300]}] * len(conversations)
    dated = {"date_string": date.strftime("%d %b %Y")} | request["variables"]
    return [rendered(template, dated | {"messages": messages}) for messages in conversations]


def main() -> None:
    """Answers requests until standard input ends."""
    # Some systems do not let a process lower this limit; the time limit holds there.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        for answer in answers(line):
            sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
