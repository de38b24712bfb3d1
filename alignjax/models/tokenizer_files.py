"""Writes tokenizers so that transformers 4 and 5 read them."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes seconds, and only tokenizers need it
    from transformers import PreTrainedTokenizerBase

_CONFIG, _FAST = "tokenizer_config.json", "tokenizer.json"


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Writes a tokenizer's files.

    transformers 5 names its class TokenizersBackend, which version 4 does not know, and lists extra special
    tokens under a name for which version 4 expects an object. PreTrainedTokenizerFast and the older name of
    the list are read by both, and mean what tokenizer.json says. Without a list of the inputs, version 4
    makes token types, which decoders refuse.

    Args:
      tokenizer: of a model.
      folder: an existing folder.
    """
    tokenizer.save_pretrained(str(folder))
    config = folder / _CONFIG
    if not (folder / _FAST).is_file() or not config.is_file():
        return  # a tokenizer that only its own class can read
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    fields.setdefault("model_input_names", ["input_ids", "attention_mask"])
    for name in ("is_local", "local_files_only"):  # how this one was loaded
        fields.pop(name, None)
    if isinstance(extra := fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = extra
        del fields["extra_special_tokens"]
    config.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def with_pad(tokenizer: "PreTrainedTokenizerBase", where: str) -> tuple["PreTrainedTokenizerBase", int]:
    """A tokenizer whose pad token is not its EOS, and the id of that token.

    A classifier of transformers reads the last token that is not padding: if EOS were the pad token, it would
    read the one before it.

    Args:
      tokenizer: not changed.
      where: the folder to write, for messages.

    Raises:
      InputError: the tokenizer has no special token besides its EOS.
    """
    eos = tokenizer.eos_token
    added = [t.content for _, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special]
    ids = tokenizer.get_vocab()
    for token in (tokenizer.pad_token, tokenizer.unk_token, *added):
        if isinstance(token, str) and token != eos and token in ids:
            copied = copy.deepcopy(tokenizer)
            copied.pad_token = token
            return copied, ids[token]
    raise InputError(
        f"{where}: the tokenizer has no special token other than its end token, which cannot be padding in "
        'layout "classification"; add a pad token to the tokenizer.'
    )
