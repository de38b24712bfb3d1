"""The reference's samples from a file in place of the sampler."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import pytest

import alignjax
from alignjax.config import from_mapping
from alignjax.data.tokenize import Template
from alignjax.errors import InputError
from alignjax.runtime.log import Log
from alignjax.stages import Work
from alignjax.workflow import scoring
from alignjax.workflow.given_samples import require_given
from alignjax.workflow.groundwork import Data
from alignjax.workflow.setup import make_setup

PROMPTS = ["a b", "b c"]


@pytest.fixture
def asked():
    spec = importlib.util.spec_from_file_location(
        "pecan_config", Path(alignjax.__file__).parents[1] / "configs" / "pecan.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("enumerable")
    config.sampling.update({"num_prompts": 2, "num_samples": 2, "max_new_tokens": 3})
    return from_mapping(config.to_dict())


def stage_of(config, reference, said, folder=None):
    unscored = None if folder is None else folder / "unscored.jsonl"
    setup = make_setup(config, devices=jax.devices()[:1], log=Log(said.append), unscored=unscored)
    pairs = cast(Any, SimpleNamespace(train_prompts=PROMPTS))
    return scoring.samples(setup, reference, Data(pairs, Template("plain", "{prompt}")))


def with_file(config, path):
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, responses=str(path)))


def test_the_file_is_used_counted_and_part_of_what_determines_the_stage(asked, reference, tmp_path):
    path, said = tmp_path / "given.jsonl", []
    lines = [{"prompt": prompt, "response": text} for prompt in PROMPTS for text in ("c", "d e f", "a")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = stage_of(with_file(asked, path), reference, said)
    drawn = stage.compute(Work("", None))
    assert drawn.texts == [["c", "d e f"], ["c", "d e f"]]
    assert [one.response_ids.tolist() for one in drawn.flat] == [[3, 0], [4, 5, 6]] * 2
    assert said[-3:] == [
        f"  4 responses of {path}",
        "  2 not used: 2 beyond 2 a prompt, 0 to other prompts",
        "  2 were cut to 3 tokens",
    ]
    assert not stage.programs()  # nothing is sampled, and a plan compiles no sampler
    moved = tmp_path / "moved.jsonl"
    path.rename(moved)
    assert stage_of(with_file(asked, moved), reference, said).settings == stage.settings
    moved.write_text(moved.read_text() + json.dumps(lines[0]) + "\n")
    assert stage_of(with_file(asked, moved), reference, said).settings != stage.settings
    assert stage_of(asked, reference, said).settings != stage.settings


def test_a_file_with_too_few_lists_what_is_missing(asked, reference, tmp_path):
    path = tmp_path / "given.jsonl"
    path.write_text('{"prompt": "a b", "response": "c"}\n')
    stage = stage_of(with_file(asked, path), reference, [], tmp_path)
    with pytest.raises(InputError, match="fewer than 2 responses to 2 of 2 prompts"):
        stage.compute(Work("", None))
    listed = [json.loads(line) for line in (tmp_path / "unsampled.jsonl").read_text().splitlines()]
    assert [line["num_samples"] for line in listed] == [1, 2]
    # The stage `data`, which comes before any training, refuses the same file with the same list.
    (tmp_path / "unsampled.jsonl").unlink()
    config = with_file(asked, path)
    setup = make_setup(config, devices=jax.devices()[:1], unscored=tmp_path / "unscored.jsonl")
    with pytest.raises(InputError, match="fewer than 2 responses to 2 of 2 prompts"):
        require_given(setup, reference, Template("plain", "{prompt}"), PROMPTS)
    assert [json.loads(x) for x in (tmp_path / "unsampled.jsonl").read_text().splitlines()] == listed
    path.write_text(path.read_text() * 2 + '{"prompt": "b c", "response": "c"}\n' * 2)
    require_given(setup, reference, Template("plain", "{prompt}"), PROMPTS)
    path.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(InputError, match="does not exist, and so has fewer than 2 responses to 2 of 2"):
        require_given(setup, reference, Template("plain", "{prompt}"), PROMPTS)
    (tmp_path / "elsewhere.jsonl").rename(path)
    require_given(setup, reference, Template("plain", "{prompt}"), PROMPTS)
    assert not (tmp_path / "unsampled.jsonl").exists()
