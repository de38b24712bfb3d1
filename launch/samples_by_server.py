"""Draws the reference's samples from a server, for `config.sampling.responses`.

    python launch/samples_by_server.py --prompts=WORKDIR/unsampled.jsonl --output=responses.jsonl
        [--url=http://localhost:8000/v1] [--model=NAME] [--concurrency=16] [--retries=8] [--extra=JSON]

The server has the completions of OpenAI's interface, as vLLM, SGLang and SGL-JAX have, and the reference's
weights. Prompts are sent as token ids, so that the model is shown what a run would show it. The number of
responses, temperature, top_p and the largest number of new tokens are those of the run, which its file names.

Responses are appended to --output as they come. The same command continues after an interruption, and draws
what is still missing. A key is read from the environment, OPENAI_API_KEY. Needs only Python.

Status 0: all responses are there. 2: something cannot be used, in one line. 75: stopped by a signal, with all
responses saved. 1: the server answered, but some responses are still missing; run it again.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

# Servers take what a request leaves out from the model's generation_config.json, such as a top_k that would
# narrow the distribution. vLLM also returns the tokens; without them a text is tokenized again by the run.
EXTRA = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be gone after a while
LONGEST_WAIT = 60.0  # seconds between two tries
SAY_EVERY = 10.0  # seconds between two lines about the progress


class Refused(Exception):
    """What cannot be used, in one line."""


class Wanted(NamedTuple):
    """A prompt and how to draw from it.

    Attributes:
      prompt: as the run's files have it, a text or messages.
      missing: number of responses that are still missing.
      request: fields of a request, without the number of responses.
    """

    prompt: Any
    missing: int
    request: dict[str, Any]


class Server(NamedTuple):
    """Where requests go.

    Attributes:
      url: up to and with /v1.
      key: sent as a bearer token; empty: none.
      retries: tries after the first that fails in passing.
      timeout: seconds of one request.
    """

    url: str
    key: str
    retries: int
    timeout: float


def key_of(prompt: Any) -> str:
    """The same for equal prompts."""
    return json.dumps(prompt, ensure_ascii=False, sort_keys=True)


def rows_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with its place; Refused: one of them cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: cannot be read ({error}).") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise Refused(
                    f"{path}:{number}: is not JSON ({error}); correct or remove the line."
                ) from None
            if not isinstance(row, dict):
                raise Refused(f"{path}:{number}: is not a JSON object; correct or remove the line.")
            rows.append((f"{path}:{number}", row))
    return rows


def drop_torn_line(path: Path) -> None:
    """Removes an unfinished last line, which an interruption left."""
    if path.exists() and (written := path.read_bytes()) and not written.endswith(b"\n"):
        path.write_bytes(written[: written.rfind(b"\n") + 1])
        print(f"{path}: the unfinished last line was removed", file=sys.stderr)


def read_wanted(prompts: Path, output: Path, model: str, extra: dict[str, Any]) -> list[Wanted]:
    """What is still missing from the output; Refused: a line of a file cannot be used."""
    there: collections.Counter[str] = collections.Counter()
    if output.exists():
        there.update(key_of(row.get("prompt")) for _, row in rows_of(output))
    wanted = []
    fields = {"num_samples": int, "max_new_tokens": int, "temperature": (int, float), "top_p": (int, float)}
    for where, row in rows_of(prompts):
        ids = row.get("prompt_ids")
        if "prompt" not in row or not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise Refused(f'{where}: needs "prompt" and "prompt_ids"; give the unsampled.jsonl of a run.')
        for name, kind in fields.items():
            if not isinstance(row.get(name), kind):
                raise Refused(f'{where}: "{name}" must be a number; give the unsampled.jsonl of a run.')
        # The file says what was missing when it was written, of as many responses as were there then.
        count = row["num_samples"] + row.get("num_given", 0) - there[key_of(row["prompt"])]
        settings = {name: row[name] for name in ("temperature", "top_p")}
        length = {"max_tokens": row["max_new_tokens"]}
        request = {"model": model, "prompt": ids} | length | settings | extra
        if count > 0:
            wanted.append(Wanted(row["prompt"], count, request))
    return wanted


def ask(server: Server, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The server's answer to a request; Refused: it has none, or only errors."""
    url = server.url.rstrip("/") + path
    headers = {"Content-Type": "application/json"}
    if server.key:
        headers["Authorization"] = f"Bearer {server.key}"
    data = None if body is None else json.dumps(body).encode()
    problem = ""
    for attempt in range(server.retries + 1):
        if attempt:
            print(f"{url}: {problem}; trying again", file=sys.stderr)
            time.sleep(min(2.0 ** (attempt - 1), LONGEST_WAIT))
        try:
            request = urllib.request.Request(url, data, headers)
            with urllib.request.urlopen(request, timeout=server.timeout) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            problem = f"status {error.code}: {' '.join(error.read(2000).decode(errors='replace').split())}"
            if error.code not in PASSING:
                raise Refused(f"{url}: {problem}") from None
        except (OSError, ValueError) as error:  # no connection, a timeout, an answer that broke off
            problem = " ".join(str(error).split())
        else:
            if not isinstance(found, dict):
                raise Refused(f"{url}: the answer is not a JSON object; is this a server of completions?")
            return found
    raise Refused(f"{url}: no answer after {server.retries + 1} tries ({problem}).")


def only_model(server: Server) -> str:
    """The name of the server's model; Refused: it has several."""
    names = [one["id"] for one in ask(server, "/models").get("data", ())]
    if len(names) != 1:
        raise Refused(f"{server.url}: has {len(names)} models ({', '.join(names)}); name one by --model.")
    return names[0]


def line_of(prompt: Any, choice: dict[str, Any]) -> dict[str, Any] | None:
    """The line of one response; None: it cannot be used, such as one that is cut before any text."""
    text, reason, ids = choice.get("text"), choice.get("finish_reason"), choice.get("token_ids")
    if not isinstance(text, str) or reason not in ("stop", "length"):
        return None
    if isinstance(ids, list) and ids:
        return {"prompt": prompt, "response": text, "response_ids": ids, "finish_reason": reason}
    if reason == "length" and not text:
        return None
    return {"prompt": prompt, "response": text, "finish_reason": reason}


def draw(server: Server, wanted: Wanted) -> tuple[list[dict[str, Any]], int]:
    """Lines of responses to one prompt, and how many could not be used; Refused: as of `ask`."""
    lines: list[dict[str, Any]] = []
    missing, unusable = wanted.missing, 0
    while missing:  # some servers give one response a request
        choices = ask(server, "/completions", {**wanted.request, "n": missing}).get("choices", [])[:missing]
        if not choices:
            raise Refused(f"{server.url}: the answer has no choices; is this a server of completions?")
        found = [line_of(wanted.prompt, choice) for choice in choices]
        lines += [line for line in found if line is not None]
        unusable += found.count(None)
        missing -= len(choices)
    return lines, unusable


def draw_all(server: Server, wanted: list[Wanted], output: Path, concurrency: int) -> int:
    """Appends responses to all prompts to the output; returns the exit status. Refused: as of `ask`."""
    drawn = cut = unusable = 0
    said = time.monotonic()
    pool = concurrent.futures.ThreadPoolExecutor(concurrency)
    try:
        with output.open("a", encoding="utf-8") as file:
            asked = [pool.submit(draw, server, one) for one in wanted]
            for number, one in enumerate(concurrent.futures.as_completed(asked), start=1):
                lines, without_use = one.result()
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
                file.flush()
                drawn += len(lines)
                cut += sum(line["finish_reason"] == "length" for line in lines)
                unusable += without_use
                if time.monotonic() > said + SAY_EVERY:
                    said = time.monotonic()
                    print(f"{number:,} of {len(wanted):,} prompts", file=sys.stderr)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    share = f" ({cut / drawn:.1%})" if drawn else ""
    print(f"{drawn:,} responses to {len(wanted):,} prompts in {output}; {cut:,}{share} were cut by length")
    if unusable:
        print(
            f"{unusable:,} responses could not be used, and are missing; run the same command to draw others"
        )
    return 1 if unusable else 0


def parsed() -> argparse.Namespace:
    """The flags; a mistake in them ends the process with status 2."""
    parser = argparse.ArgumentParser(
        description="Draws samples from a server, for config.sampling.responses."
    )
    parser.add_argument("--prompts", type=Path, required=True, help="unsampled.jsonl of a run")
    parser.add_argument("--output", type=Path, required=True, help="JSON Lines to append responses to")
    parser.add_argument("--url", default="http://localhost:8000/v1", help="of the server, with /v1")
    parser.add_argument("--model", default="", help="name of the model; default: the only one it has")
    parser.add_argument("--concurrency", type=int, default=16, help="prompts that are asked at once")
    parser.add_argument("--retries", type=int, default=8, help="tries after the first that fails")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds of one request")
    parser.add_argument("--extra", type=json.loads, default=EXTRA, help=f"fields of requests, {EXTRA}")
    return parser.parse_args()


def main() -> int:
    """Entry point; returns the exit status."""
    given = parsed()
    if not given.url.startswith(("http://", "https://")):
        print(f"samples_by_server: --url={given.url}: must begin with http:// or https://", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = Server(given.url, os.environ.get("OPENAI_API_KEY", ""), given.retries, given.timeout)
    try:
        drop_torn_line(given.output)
        wanted = read_wanted(given.prompts, given.output, given.model, given.extra)
        if not wanted:
            print(f"{given.output}: has all responses that {given.prompts} asks for")
            return 0
        if not given.model:
            name = only_model(server)
            wanted = [one._replace(request={**one.request, "model": name}) for one in wanted]
        return draw_all(server, wanted, given.output, given.concurrency)
    except Refused as error:
        print(f"samples_by_server: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"samples_by_server: {given.output}: cannot be written ({error}).", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("progress saved; run the same command to resume", file=sys.stderr)
        return 75


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # requests that are under way would be waited for
