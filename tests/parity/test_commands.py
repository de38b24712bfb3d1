"""`score` and greedy `sample`, as a user calls them, against transformers on torch."""

import json
from pathlib import Path

import numpy as np
import pytest

from alignjax.sample import sample
from alignjax.score import score

GOLDENS = Path(__file__).parent / "goldens"
NAMES = sorted(p.name for p in GOLDENS.iterdir())
# Every model compiles its own programs: of the families that differ in a few options, the suite takes one.
_SLOW = ("granite", "llama_biased", "qwen3_biased", "seed_oss")
MODELS = [pytest.param(n, marks=pytest.mark.slow if n in _SLOW else ()) for n in NAMES]


def golden(name):
    return json.loads((GOLDENS / name / "golden.json").read_text())


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", MODELS)
def test_score_of_a_response_of_100_tokens(name, tmp_path):
    numbers = golden(name)
    given = {"prompt_ids": numbers["prompt_ids"], "response_ids": numbers["response_ids"]}
    # A shorter line in the same batch is padded; it must not disturb the other.
    other = {"prompt_ids": numbers["prompt_ids"], "response_ids": numbers["response_ids"][:7]}
    lines = write_lines(tmp_path / "in.jsonl", given, other)
    score(str(GOLDENS / name), lines, str(tmp_path / "out.jsonl"))
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert first["num_tokens"] == 100 and second["num_tokens"] == 7
    np.testing.assert_allclose(first["logps"], numbers["response_logp"], atol=1e-3, rtol=0)
    assert second["logps"] > first["logps"]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_sample_gives_the_same_64_ids(name, tmp_path):
    numbers = golden(name)
    prompts = write_lines(tmp_path / "in.jsonl", {"prompt_ids": numbers["prompt_ids"]})
    sample(str(GOLDENS / name), prompts, str(tmp_path / "out.jsonl"), greedy=True, max_new_tokens=64)
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["response_ids"] == numbers["greedy_ids"]
