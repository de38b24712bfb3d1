"""Hostile files by hypothesis: each is accepted, or refused in one line. `tools/fuzz.py` runs many more."""

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignjax.config import Config, from_mapping
from alignjax.errors import InputError
from alignjax.models import config_from_hf
from tools.fuzz import FAULT, KINDS, Ended, Task, make, read
from tools.fuzzing import bases
from tools.fuzzing.inputs import MAKERS
from tools.fuzzing.readers import READERS
from tools.fuzzing.writing import write_options

SETTINGS = settings(derandomize=True, deadline=None, database=None)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MODEL_FIELDS = (
    *("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_theta"),
    *("rope_parameters", "rope_scaling", "max_position_embeddings", "tie_word_embeddings", "bos_token_id"),
    *("eos_token_id", "attention_bias", "mlp_bias", "sliding_window", "layer_types", "quantization_config"),
)
SOURCE = {"label": "", "label_means": "auto", "format": "auto", "chosen": "chosen", "categories": []}


def read_files(kind: str, **files: bytes) -> Ended:
    """Reads files, named with _ for a dot, as an input of this kind."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_options(folder, source=SOURCE, beta=0.5, asked={"margin": ["safety=0.1"]})
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_bytes(content)
        return read(kind, folder)


def test_every_kind_has_a_maker_and_a_reader():
    assert set(KINDS) == set(MAKERS) == set(READERS)


@pytest.mark.parametrize("kind", KINDS)
@settings(SETTINGS, max_examples=12)
@given(number=st.integers(0, 2**31))
def test_changed_files(kind, number):
    with tempfile.TemporaryDirectory() as made:
        ended = read(kind, make(Task(kind, 7, number), Path(made)))
    assert ended.outcome != FAULT, ended.detail


@pytest.mark.parametrize(
    ("kind", "name", "start"),
    [
        ("jsonl", "rows_jsonl", b""),
        ("tables", "rows_parquet", b"PAR1"),
        ("tables", "rows_arrow", b"ARROW1"),
        ("tables", "rows_csv", b"prompt,chosen,rejected\n"),
        ("tables", "rows_gz", b"\x1f\x8b\x08"),
        ("gguf", "model_gguf", b"GGUF\x03\0\0\0"),
        ("scores", "scores_npz", b"PK\x03\x04"),
        ("labels", "labels_jsonl", b'{"prompt": "p", "response": '),
    ],
)
@settings(SETTINGS, max_examples=40)
@given(content=st.binary(max_size=60))
def test_any_bytes(kind, name, start, content):
    ended = read_files(kind, **{name: start + content})
    assert ended.outcome != FAULT, ended.detail


@settings(SETTINGS, max_examples=60)
@given(
    row=st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "messages", "completions"]), VALUES)
)
def test_any_row(row):
    ended = read_files("jsonl", rows_jsonl=json.dumps(row).encode())
    assert ended.outcome != FAULT, ended.detail


@settings(SETTINGS, max_examples=150)
@given(name=st.sampled_from(MODEL_FIELDS), value=VALUES)
def test_any_field_of_a_models_config(name, value):
    fields = json.loads(bases.model_folder()["config.json"])
    try:
        config_from_hf(fields | {name: value})
    except InputError as error:
        assert str(error).isprintable()


@settings(SETTINGS, max_examples=150)
@given(name=st.sampled_from([field.name for field in dataclasses.fields(Config)]), value=VALUES)
def test_any_field_of_a_configuration(name, value):
    try:
        from_mapping(bases.run_config("mocan") | {name: value})
    except InputError as error:
        assert str(error).isprintable()


def test_code_of_an_input_does_not_run_and_a_fault_is_seen(monkeypatch):
    def reader(folder: Path) -> None:
        (folder / "CODE_RAN").touch()

    def breaks(folder: Path) -> None:
        raise KeyError(folder.name)

    monkeypatch.setitem(READERS, "jsonl", reader)
    assert read_files("jsonl", rows_jsonl=b"{}") == Ended(FAULT, "code of the input was run")
    monkeypatch.setitem(READERS, "jsonl", breaks)
    assert read_files("jsonl", rows_jsonl=b"{}").outcome == FAULT
