"""Token ids of conversations as TRL makes them for DPO, for tests/data/goldens/templates.json.

Run with TRL 1.16 and transformers 5.23, which alignjax itself does not need:

    python tools/make_template_goldens.py tests/data/goldens/templates.json

The tokenizer has one token for each byte, ids 0 to 255, and then the special tokens of the file.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# One template in the style of each family.
_TURNS = "{% for m in messages %}"
_CHATML = (
    _TURNS + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA = (
    "{{ bos_token }}" + _TURNS + "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}" + _TURNS + "{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
_QWEN = (
    _TURNS + "{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}" + _TURNS + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}"
    "{{ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_FAMILIES: dict[str, dict[str, Any]] = {
    "chatml": {"template": _CHATML, "bos": None, "eos": "<|endoftext|>", "kwargs": {}},
    "llama3": {"template": _LLAMA, "bos": "<s>", "eos": "<|eot_id|>", "kwargs": {}},
    "mistral": {"template": _MISTRAL, "bos": "<s>", "eos": "</s>", "kwargs": {}},
    "qwen3": {"template": _QWEN, "bos": None, "eos": "<|im_end|>", "kwargs": {}},
    "qwen3 without thoughts": {
        **{"template": _QWEN, "bos": None, "eos": "<|im_end|>"},
        "kwargs": {"enable_thinking": False},
    },
    "gemma": {"template": _GEMMA, "bos": "<s>", "eos": "</s>", "kwargs": {}},
}
_SPECIAL = [
    *("<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"),
]
_ADDED = ["<think>", "</think>"]
_ROWS = [
    {"prompt": [["user", "Capital of France?"]], "chosen": "Paris.", "rejected": "I won't say."},
    {
        "prompt": [["user", "Hi"], ["assistant", "Hello!"], ["user", "And 2+2?"]],
        "chosen": " 4 \n",
        "rejected": "5, Zo\u00eb",
    },
]


def _tokenizer(family: dict[str, Any]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    backend.add_tokens([AddedToken(t, normalized=False) for t in _ADDED])
    special = {"eos_token": family["eos"]} | ({"bos_token": family["bos"]} if family["bos"] else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=family["template"], **special)


def _ids(family: dict[str, Any], row: dict[str, Any]) -> list[list[int]]:
    """Prompt, chosen and rejected, as `DPOTrainer` prepares a conversational row."""
    from trl.trainer.dpo_trainer import (  # pyright: ignore[reportMissingImports]  # of another environment
        _tokenize,
        common_prefix_length,
    )

    tokenizer = _tokenizer(family)

    def whole(reply: str) -> list[int]:
        turns = [*row["prompt"], ["assistant", reply]]
        shown = [{"role": role, "content": text} for role, text in turns]
        return _tokenize(tokenizer, shown, **family["kwargs"])["input_ids"]

    shown = [{"role": role, "content": text} for role, text in row["prompt"]]
    prompt = _tokenize(tokenizer, shown, add_generation_prompt=True, **family["kwargs"])["input_ids"]
    replies = [whole(row["chosen"]), whole(row["rejected"])]
    length = min(common_prefix_length(prompt, reply) for reply in replies)
    return [prompt[:length], *(reply[length:] for reply in replies)]


def main() -> None:
    """Writes the file named on the command line."""
    found = {
        "special": _SPECIAL,
        "added": _ADDED,
        "rows": _ROWS,
        "families": {
            name: {**family, "ids": [_ids(family, row) for row in _ROWS]}
            for name, family in _FAMILIES.items()
        },
    }
    Path(sys.argv[1]).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
