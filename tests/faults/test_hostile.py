"""Files that claim too much, by name: one line each, before time or memory is spent."""

import gzip
import json
import struct
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from alignjax.data.files import read_rows
from alignjax.data.records import read_pairs
from alignjax.errors import InputError, printable
from alignjax.models import load_pretrained
from alignjax.report import pages
from alignjax.runtime.files import write_text
from alignjax.scores.lookup import read_lookup
from tools.fuzz import SECONDS
from tools.fuzzing import bases


@pytest.fixture
def refused(model):
    """The line of `load_pretrained` for the folder."""

    def run(path=model):
        start = time.monotonic()
        with pytest.raises(InputError) as error:
            load_pretrained(path)
        assert time.monotonic() - start < SECONDS
        return str(error.value)

    return run


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "num_experts_per_tok": 2,
    "num_hidden_layers": 10_000,
    "sliding_window": None,
}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": 5000}, "has 5000 layers, the weights have only"),
        (MIXTRAL | {"num_local_experts": 30_000}, "has 10000 layers of 30000 experts"),
        ({"vocab_size": 10**400}, "vocab_size"),
        ({"eos_token_id": [258]}, "eos_token_id"),
        ({"eos_token_id": [-1]}, "eos_token_id"),
        ({"architectures": 5}, "architectures"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10**400}}, "rope_theta"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
    ],
)
def test_a_models_config(refused, model, fields, part):
    change(model / "config.json", **fields)
    line = refused()
    assert "model" in line and part in line and len(line) < 1000


def test_an_end_beyond_the_vocabulary(refused, model):
    (model / "generation_config.json").write_text('{"eos_token_id": [257, 400]}')
    assert 'generation_config.json: field "eos_token_id" is [257, 400], must be below vocab_size' in refused()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"vocab_size": ' + "9" * 5000 + "}"])
def test_a_config_that_python_cannot_parse(refused, model, text):
    (model / "config.json").write_text(text)
    assert "config.json: not valid JSON" in refused()


@pytest.mark.parametrize("names", [[5], ["../other.safetensors"], ["a" * 5000], [[]], ["\ud83d"]])
def test_an_index_that_names_no_files(refused, model, names):
    (model / "model.safetensors").unlink()
    index = {"weight_map": {str(i): name for i, name in enumerate(names)}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is no file name; download the index again" in refused()


def changed_meta(name: str, kind: int, value: object) -> bases.Meta:
    meta = [row for row in bases.gguf_meta("llama") if row[0] != name]
    return [*meta, (name, kind, value)]


TOKENS = dict((name, value) for name, _, value in bases.gguf_meta("llama"))["tokenizer.ggml.tokens"][1]


@pytest.mark.parametrize(
    ("name", "kind", "value", "part"),
    [
        ("llama.block_count", 4, 2**31, "block_count is 2147483648, must be a whole number from 1 to 4096"),
        ("llama.embedding_length", 8, "many", "embedding_length is 'many', must be a whole number"),
        ("llama.rope.freq_base", 6, float("nan"), "rope.freq_base is nan, must be a positive number"),
        ("tokenizer.ggml.eos_token_id", 4, 124, "eos_token_id is 124, must be a token id below 124"),
        ("tokenizer.ggml.tokens", 9, (8, [b"\xff", *TOKENS[1:]]), "not a readable GGUF file"),
        ("tokenizer.ggml.scores", 9, (6, [0.0]), "scores has 1 entries for 124 tokens"),
        ("tokenizer.ggml.scores", 9, (8, ["a"] * 124), "scores must be a list of float values"),
        ("tokenizer.chat_template", 4, 3, "chat_template is 3, must be a text"),
    ],
)
def test_metadata_of_a_gguf_file(refused, tmp_path, name, kind, value, part):
    content = bases.gguf_bytes(bases.random.Random(0), changed_meta(name, kind, value), lies=False)
    (tmp_path / "m.gguf").write_bytes(content)
    assert part in refused(tmp_path / "m.gguf")


def test_a_gguf_list_longer_than_the_file(refused, tmp_path):
    # gguf's own reader follows such a list beyond the end of the file, one value at a time.
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    field = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**63)
    (tmp_path / "m.gguf").write_bytes(start + field)
    assert "m.gguf: not a readable GGUF file (it claims 9223372036854775808 bytes" in refused(
        tmp_path / "m.gguf"
    )


def test_a_tokenizer_with_code_of_its_own_is_not_run_and_asks_nothing(refused, model, monkeypatch):
    (model / "own.py").write_text(f'open({str(model / "RAN")!r}, "w").close()\nclass Own: pass\n')
    own = {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    change(model / "tokenizer_config.json", **own)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert "transformers cannot load the tokenizer" in refused() and not (model / "RAN").exists()


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}),
        ("decoder", {"type": "Strip", "content": "a", "start": 10**9, "stop": 0}),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "aaaa"}] * 9}),
    ],
)
def test_a_tokenizer_whose_steps_are_too_large(refused, model, name, field):
    change(model / "tokenizer.json", **{name: field})
    assert f"tokenizer.json: the {name} has too many steps" in refused()


def test_a_tokenizer_that_panics(refused, model):
    broken = {"type": "BPE", "vocab": {"a": 0, "b": 7}, "merges": [["a", "b"]], "unk_token": "none"}
    change(model / "tokenizer.json", model=broken, added_tokens=[])
    assert "transformers cannot load the tokenizer" in refused()


LONG = "a" * 100_000


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.parquet", "rows.feather"])
def test_a_small_file_that_unpacks_to_much(tmp_path, name, monkeypatch):
    for module in ("files", "tables"):
        monkeypatch.setattr(f"alignjax.data.{module}.SMALL", 2**20)
    path = tmp_path / name
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 300_000, 6))
    else:
        table = pa.table({"prompt": pa.repeat(pa.scalar(LONG), 200)})
        write = pq.write_table if name.endswith("parquet") else pyarrow.feather.write_feather
        write(table, path, compression="zstd")
    with pytest.raises(InputError, match="unpacks to more than 100 times its size"):
        for _ in read_rows(path):
            pass


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("alignjax.data.files._LONGEST_LINE", 2**20)
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "a"}\n' + b" " * 2**21)
    with pytest.raises(InputError, match=r"rows.jsonl:2: is longer than 1 MiB"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_blank_lines_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("alignjax.data.files._MOST_BLANK", 10)
    (tmp_path / "rows.jsonl").write_text("\n" * 9 + '{"a": 1}' + "\n \n" * 9)
    rows = read_rows(tmp_path / "rows.jsonl")
    assert next(rows)[1] == {"a": 1}
    with pytest.raises(InputError, match=r"rows.jsonl:21: more than 10 blank lines"):
        next(rows)


def test_an_array_is_read_item_by_item(tmp_path):
    (tmp_path / "rows.json").write_text('[{"a": 1},\n {"a": 2},, {}]')
    rows = read_rows(tmp_path / "rows.json")
    assert [next(rows)[1], next(rows)[1]] == [{"a": 1}, {"a": 2}]
    with pytest.raises(InputError, match=r"rows.json:2: is not JSON after 2 rows"):
        next(rows)


@pytest.mark.parametrize("text", ["[] x", "[{}", "[{} {}]", "[{},]", "["])
def test_an_array_that_is_not_whole(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(InputError, match="is not JSON after"):
        list(read_rows(tmp_path / "rows.json"))


def test_a_file_without_a_usable_row_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("alignjax.data.records._MOST_UNUSABLE", 10)
    (tmp_path / "rows.jsonl").write_text("{}\n" * 11)
    with pytest.raises(InputError, match="none of the first 10 rows can be used; the first: .*rows.jsonl:1"):
        read_pairs(str(tmp_path / "rows.jsonl"), strict=False)


def test_a_score_that_no_float_holds(tmp_path):
    (tmp_path / "s.jsonl").write_text(json.dumps({"prompt": "p", "response": "r", "reward": 10**400}))
    with pytest.raises(InputError, match=r"s.jsonl:1: \"reward\" is 10+.* must be a finite number"):
        read_lookup(tmp_path / "s.jsonl", "reward")


@pytest.mark.parametrize(
    ("scale", "flags", "part"),
    [
        (1.0, ["--beta=5e-324", "--margin=safety=0.1"], "Give beta in the units of the scores, at least"),
        (1e-300, ["--beta=1e-300", "--margin=safety=1e-301"], "too little to compute with"),
        (1e200, ["--beta=1e200", "--margin=safety=1e199"], "has scores beyond 1e+15"),
        (1.0, ["--beta=1e400", "--margin=safety=0.1"], "--beta: is inf"),
    ],
)
def test_scores_and_beta_far_from_one(refusal, tmp_path, scale, flags, part):
    rng = np.random.default_rng(0)
    rewards, utilities = rng.normal(size=(8, 4)) * scale, rng.normal(size=(8, 4, 1)) * scale
    np.savez(tmp_path / "s.npz", rewards=rewards, utilities=utilities, names=np.array(["safety"]))
    assert part in refusal("solve", f"--scores={tmp_path / 's.npz'}", "--resamples=0", *flags)


def test_a_table_that_unpacks_to_much(refusal, tmp_path, monkeypatch):
    monkeypatch.setattr("alignjax.scores.archive._UNPACKED", 2**20)
    np.savez_compressed(tmp_path / "s.npz", rewards=np.zeros(2 * 10**6), names=np.array(["safety"]))
    line = refusal("solve", f"--scores={tmp_path / 's.npz'}", "--beta=1", "--margin=safety=0.1")
    assert "unpacks to 0.0 GB from" in line


def test_what_a_file_holds_cannot_act_on_the_terminal():
    error = InputError("f: is \x1b[31m\0\u202e \ud83d\nx" + "a" * 5000 + " end")
    line = str(error)
    assert line.isprintable() and line.startswith(r"f: is \x1b[31m\x00\u202e \ud83d xa") and len(line) < 1600
    assert "characters left out" in line and line.endswith("a end")
    assert printable("é 中") == "é 中"


def test_a_page_shows_controls_as_escapes(tmp_path):
    odd = "a\0b\x1b[31m \u202edc\ud83d <b>\n\té \U0001f469\u200d\U0001f680"
    page = pages.render("base.html", title=odd, scripts=())
    assert r"a\x00b\x1b[31m \u202edc\ud83d &lt;b&gt;" in page and "é \U0001f469\u200d\U0001f680" in page
    assert not {"\0", "\x1b", "\u202e", "\ud83d"} & set(page)


def test_half_of_a_surrogate_pair_is_written_as_json_writes_it(tmp_path):
    row = {"note": "\ud83d é"}
    write_text(tmp_path / "o.jsonl", json.dumps(row, ensure_ascii=False))
    assert json.loads((tmp_path / "o.jsonl").read_text(encoding="utf-8")) == row


def test_a_limit_of_memory_under_which_the_compiler_would_abort(refusal, tmp_path, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _: (2 * 10**9, 2 * 10**9))
    line = refusal("solve", f"--scores={tmp_path / 's.npz'}", "--beta=1", "--margin=safety=0.1")
    assert "1.9 GiB of address space (ulimit -v)" in line and "raise the limit" in line
