"""Tokenizers read without weights: of folders, of PEFT folders by their base, and of GGUF files."""

import json

import gguf
import pytest

from alignjax.errors import InputError
from alignjax.models.tokenizer_alone import read_tokenizer


def test_folders(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "peft").mkdir()
    base = json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    (tmp_path / "peft" / "adapter_config.json").write_text(base)
    for name in ("base", "peft"):
        assert read_tokenizer(tmp_path / name).get_vocab() == tiny_tokenizer.get_vocab()


def test_gguf(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", "</s>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_tokenizer(tmp_path / "m.gguf").encode("abb", add_special_tokens=False) == [2, 1]


def test_what_holds_none(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"x")
    (tmp_path / "x.gguf").write_bytes(b"x" * 100)
    for name, message in (("none", "no such"), ("x.bin", "not a model"), ("x.gguf", "not a readable GGUF")):
        with pytest.raises(InputError, match=message):
            read_tokenizer(tmp_path / name)
    with pytest.raises(InputError, match="holds no tokenizer"):
        read_tokenizer(tmp_path)


def test_a_damaged_header_is_refused_as_for_the_whole_model(tmp_path):
    # One field, a list that claims 2^62 values: read one by one they would never end.
    field = b"\x01\0\0\0\0\0\0\0a" + (9).to_bytes(4, "little") + (0).to_bytes(4, "little")
    counts = (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    damaged = b"GGUF" + (3).to_bytes(4, "little") + counts + field + (2**62).to_bytes(8, "little")
    (tmp_path / "m.gguf").write_bytes(damaged)
    with pytest.raises(InputError, match=r"m.gguf: not a readable GGUF file \(it claims"):
        read_tokenizer(tmp_path / "m.gguf")
