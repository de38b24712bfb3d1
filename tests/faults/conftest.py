"""Commands as a user types them, in this process: what they print and the status they exit with."""

import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from absl import flags
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import alignjax
from alignjax.models import DecoderConfig, Model, init_params, save_pretrained

PACKAGE = Path(alignjax.__file__).parent


@pytest.fixture(autouse=True, scope="session")
def _one_device(one_device: None) -> None:
    """Every run of these tests."""


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def _own_flags() -> dict[str, flags.Flag]:
    """Flags that commands of this package have defined; absl has one table of flags a process."""
    names = [n for n in flags.FLAGS if n.startswith("config") or "alignjax" in str(_module(n))]
    return {name: flags.FLAGS[name] for name in names}


def _module(name: str) -> str | None:
    return flags.FLAGS.find_module_defining_flag(name)


@pytest.fixture
def command(monkeypatch, capsys) -> Command:
    """command("train", "--config=...") runs the module as `python -m alignjax.train --config=...` does."""

    def run(name: str, *arguments: object) -> Outcome:
        path = str(PACKAGE / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        before, parsed = _own_flags(), flags.FLAGS.is_parsed()
        for flag in before:
            delattr(flags.FLAGS, flag)
        sys.modules.pop("config_config", None)  # where ml_collections keeps the last configuration file
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(path, run_name="__main__")
        finally:
            for flag in _own_flags():
                delattr(flags.FLAGS, flag)
            for flag, value in before.items():
                flags.FLAGS[flag] = value
            if not parsed:
                flags.FLAGS.unparse_flags()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def refusal(command) -> Callable[..., str]:
    """refusal("train", "--config=...") is the one line on standard error of a command with status 2."""

    def run(name: str, *arguments: object) -> str:
        ended = command(name, *arguments)
        assert ended.status == 2, ended
        # A bar of progress is no message; in a terminal it is drawn over.
        (line,) = [text for text in ended.err.splitlines() if text and "%|" not in text]
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
