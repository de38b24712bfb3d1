"""launch/samples_by_server.py against a server of this process, up to the run that reads its file."""

import importlib.util
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from alignjax.data.given_responses import Expected, read_given
from alignjax.data.tokenize import Template
from alignjax.data.worlds import world_for
from alignjax.errors import InputError

SCRIPT = Path(__file__).parents[2] / "launch" / "samples_by_server.py"
# Words a to f are ids 1 to 6; 0 ends a response.
PROMPTS = {"a b": [1, 2], "b c": [2, 3]}
IDS = [np.array(ids, np.int32) for ids in PROMPTS.values()]
EXPECTED = Expected([*PROMPTS], IDS, num_samples=3, max_new_tokens=4, temperature=0.5, top_p=0.75)
STOPPED = {"text": "c d", "finish_reason": "stop"}
CUT = {"text": "f f", "finish_reason": "length"}

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


def choices(*given: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"choices": given}


class Server(NamedTuple):
    """A server that answers as a test says, and what it was asked."""

    url: str
    answers: list[Answer]  # the first is for the first request, the last for all that follow
    asked: list[dict[str, Any]]
    keys: list[str | None]


@pytest.fixture
def server() -> Iterator[Server]:
    answers, asked, keys = list[Answer](), list[dict[str, Any]](), list[str | None]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "reference"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            keys.append(self.headers["Authorization"])
            self.reply(*(answers.pop(0) if len(answers) > 1 else answers[0])(body))

        def reply(self, status: int, value: Any) -> None:
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("localhost", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield Server(f"http://localhost:{httpd.server_port}/v1", answers, asked, keys)
        httpd.shutdown()
        thread.join()


@pytest.fixture
def script(monkeypatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("samples_by_server", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "samples_by_server", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    handler = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def draw(script, server, tmp_path, monkeypatch):
    """draw() runs the script once, with one request at a time, and returns its status."""

    def run(*flags: str) -> int:
        given = {"url": server.url, "prompts": tmp_path / "unsampled.jsonl", "output": tmp_path / "out.jsonl"}
        named = [f"--{name}={value}" for name, value in given.items()]
        monkeypatch.setattr(sys, "argv", ["samples_by_server", "--concurrency=1", *named, *flags])
        return script.main()

    return run


def read(folder: Path):
    """What a run makes of the file; it lists in unsampled.jsonl what is missing."""
    given, listed = folder / "out.jsonl", folder / "unsampled.jsonl"
    tokenizer = world_for("enumerable").tokenizer
    return read_given(str(given), EXPECTED, tokenizer, Template("plain", "{prompt}"), lacking=listed)


@pytest.fixture
def listed(tmp_path) -> Path:
    (tmp_path / "out.jsonl").touch()
    with pytest.raises(InputError, match="fewer than 3 responses to 2 of 2 prompts"):
        read(tmp_path)
    return tmp_path


def test_what_a_run_lists_is_drawn_as_it_asks_and_read(draw, server, listed, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with_ids = {**STOPPED, "token_ids": [3, 4, 0]}
    server.answers[:] = [lambda body: choices(with_ids, STOPPED, CUT), lambda body: choices(STOPPED)]
    assert draw() == 0
    # The second prompt's responses come one a request.
    assert [(body["prompt"], body["n"]) for body in server.asked] == [
        ([1, 2], 3),
        *(([2, 3], n) for n in (3, 2, 1)),
    ]
    how = {"model": "reference", "max_tokens": 4, "temperature": 0.5, "top_p": 0.75}
    # Nothing of the model's generation_config.json may narrow what is drawn from.
    whole = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
    assert all(how.items() | whole.items() <= {k: v for k, v in b.items() if k != "prompt"}.items()
               for b in server.asked)  # fmt: skip
    assert set(server.keys) == {"Bearer secret"}
    said = capsys.readouterr().out
    assert said.startswith("6 responses to 2 prompts in ") and said.endswith(
        "; 1 (16.7%) were cut by length\n"
    )
    found, counts = read(listed)
    assert counts._asdict() == {"used": 6, "cut": 0, "spare": 0, "elsewhere": 0}
    assert [one.response_ids.tolist() for one in found.flat] == [[3, 4, 0]] * 2 + [[6, 6]] + [[3, 4, 0]] * 3
    asked = len(server.asked)
    (listed / "unsampled.jsonl").write_text(json.dumps(line(0)) + "\n")
    assert draw() == 0 and len(server.asked) == asked  # nothing is missing
    assert "has all responses" in capsys.readouterr().out


def line(given: int, **changes: Any) -> dict[str, Any]:
    """Of unsampled.jsonl, where the file had `given` of three responses."""
    how = {"max_new_tokens": 4, "temperature": 1.0, "top_p": 1.0}
    counts = {"num_samples": 3 - given, "num_given": given}
    return {"prompt": "a b", "prompt_ids": [1, 2], **counts, **how, **changes}


def test_an_interrupted_file_is_continued(draw, server, listed, capsys):
    """The list may have been written before the first response came, or after it."""
    done = json.dumps({"prompt": "a b", "response": "c", "finish_reason": "stop"}) + "\n"
    for given in (0, 1):
        (listed / "out.jsonl").write_text(done + '{"prompt": "a b", "respo')
        (listed / "unsampled.jsonl").write_text(json.dumps(line(given)) + "\n")
        server.answers[:] = [lambda body: choices(*[STOPPED] * body["n"])]
        assert draw() == 0
        assert server.asked[-1]["n"] == 2
        assert "the unfinished last line was removed" in capsys.readouterr().err
        assert len((listed / "out.jsonl").read_text().splitlines()) == 3


def test_what_fails_in_passing_is_asked_again_and_what_is_unusable_counted(draw, server, listed, capsys):
    (listed / "unsampled.jsonl").write_text(json.dumps(line(0)) + "\n")
    empty = {"text": "", "finish_reason": "length"}
    server.answers[:] = [
        lambda body: (503, "loading"),
        lambda body: (200, "not JSON"),
        lambda body: choices(STOPPED, {"text": "c", "finish_reason": "abort"}, empty),
        lambda body: choices(*[STOPPED] * body["n"]),
    ]
    assert draw("--retries=2") == 1
    said = capsys.readouterr()
    assert "2 responses could not be used" in said.out and "status 503: loading; trying again" in said.err
    assert draw() == 0
    assert [body["n"] for body in server.asked] == [3, 3, 3, 2]


@pytest.mark.parametrize(
    ("answer", "rows", "flags", "message"),
    [
        ((400, "no such model"), [line(0)], (), "/completions: status 400: no such model\n"),
        ((500, "broken"), [line(0)], ("--retries=1",), "no answer after 2 tries (status 500: broken)"),
        ((200, {}), [line(0)], (), "the answer has no choices"),
        ((200, []), [line(0)], (), "the answer is not a JSON object"),
        ((200, {}), [{"prompt": "a b"}], (), 'unsampled.jsonl:1: needs "prompt" and "prompt_ids"'),
        ((200, {}), [line(0, top_p="all")], (), 'unsampled.jsonl:1: "top_p" must be a number'),
        ((200, {}), ["a b"], (), "unsampled.jsonl:1: is not a JSON object"),
        ((200, {}), [line(0)], ("--url=localhost:8000/v1",), "must begin with http:// or https://"),
        ((200, {}), [line(0)], ("--prompts=nowhere",), "nowhere: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_one_line(draw, server, listed, capsys, answer, rows, flags, message):
    server.answers[:] = [lambda body: answer]
    (listed / "unsampled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert draw(*flags) == 2
    *_, said = capsys.readouterr().err.splitlines(keepends=True)
    assert said.startswith("samples_by_server: ") and message in said
