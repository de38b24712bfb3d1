"""Commands as a user types them, in this process: what they print and the status they exit with."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignjax.models import DecoderConfig, Model, init_params, save_pretrained


@pytest.fixture(autouse=True, scope="session")
def _one_device(one_device: None) -> None:
    """Every run of these tests."""


@pytest.fixture
def refusal(command) -> Callable[..., str]:
    """refusal("train", "--config=...") is the one line on standard error of a command with status 2."""

    def run(name: str, *arguments: object) -> str:
        ended = command(name, *arguments)
        assert ended.status == 2, ended
        # A bar of progress is no message; in a terminal it is drawn over.
        (line,) = [text for text in ended.err.splitlines() if text and not re.search(r": \d+/\d+[ ,]", text)]
        return line

    return run


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, ids 0 to 255; begin 256, end 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def good_model(tmp_path_factory) -> Path:
    """A Hugging Face folder of a random Llama of a few thousand weights with a byte tokenizer."""
    config = DecoderConfig("llama", 258, 8, 16, 1, 2, 1, 4, max_positions=64, bos_id=256, eos_ids=(257,))
    folder = tmp_path_factory.mktemp("good") / "model"
    save_pretrained(Model(init_params(jax.random.key(0), config), config, byte_tokenizer()), folder)
    return folder


@pytest.fixture
def model(good_model, tmp_path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(good_model, tmp_path / "model"))


@pytest.fixture
def lines(tmp_path) -> Callable[..., Path]:
    """lines("pairs.jsonl", row, ...) writes a JSON Lines file; a text is a line as it stands."""

    def write(name: str, *rows: object) -> Path:
        file = tmp_path / name
        text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        file.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
        return file

    return write


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path) -> None:
    """Nothing is read from or written to the folder pytest was started in."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def unwritable(tmp_path) -> Path:
    """A place that nobody can write to: its parent is a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


@pytest.fixture
def locked(tmp_path):
    """A folder without permission to write."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        folder.chmod(0o700)
        pytest.skip("this user may write anywhere (root), so that no folder is locked")
    yield folder
    folder.chmod(0o700)
