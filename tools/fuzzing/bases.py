"""Valid files that are made hostile: rows, models, tokenizers, score tables, records of a run."""

import functools
import io
import random
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignjax import dual
from alignjax.config import from_mapping, to_mapping
from alignjax.models import (
    DecoderConfig,
    Model,
    init_lora,
    init_params,
    init_score_model,
    save_adapter,
    save_pretrained,
    save_score_model,
)
from alignjax.records import encode

Files = Mapping[str, bytes]
"""Content by name."""

CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
_TURN = {"role": "user", "content": "How do I pick a lock?"}
_REPLY = {"role": "assistant", "content": "With patience."}
_PAIR = {"prompt": "Where is Paris?", "chosen": "In France.", "rejected": "On the moon."}
ROWS: tuple[dict[str, Any], ...] = (
    _PAIR,
    _PAIR | {"category": "geography", "is_response_0_safe": True, "is_response_1_safe": False},
    {"prompt": [_TURN], "chosen": [_REPLY], "rejected": [_REPLY | {"content": "No."}]},
    {"chosen": [_TURN, _REPLY], "rejected": [_TURN, _REPLY | {"content": "Never."}]},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Bye"},
    {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
    {"history": "h", "human_ref_A": "a", "human_ref_B": "b", "labels": 1},
    {"prompt": "p", "response_a": "a", "response_b": "b", "winner_model_a": 1, "winner_tie": 0},
    {"context": [_TURN], "response1": "a", "response2": "b", "overall_preference": -2},
    {
        "instruction": "i",
        "completions": [{"response": t, "overall_score": s} for t, s in (("a", 1), ("b", 3.5), ("c", 2))],
    },
    {"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
    {"messages": [_TURN, _REPLY], "rejected_response": "No idea."},
    {
        "conversations": [{"from": "human", "value": "x"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    {"instruction": "i", "input": "n", "chosen": "a", "rejected": "b"},
    {"prompt": "p", "completion": "c", "label": True},
    {"prompt": "p", "response": "c", "is_safe": False},
    {"prompt": [{"type": "text", "text": "part"}], "chosen": "a", "rejected": "b", "label": 0.7},
    {"prompt": "p", "response": "c", "prompt_ids": [1, 2], "response_ids": [3]},
    {"prompt": [_TURN], "tools": [{"name": "f"}], "chosen": [_REPLY | {"tool_calls": []}], "rejected": "x"},
)


def byte_tokenizer(chat_template: str | None = CHATML) -> Any:
    """One token a byte, ids 0 to 255; begin 256, end 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=chat_template
    )


def word_tokenizer() -> Any:
    """Whole words, with a token for those that it does not know."""
    words = ["<unk>", "<s>", "</s>", "hello", "there", "Paris", "in", "France", "."]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@functools.cache
def _decoder() -> Model:
    config = DecoderConfig("llama", 258, 8, 16, 1, 2, 1, 4, max_positions=64, bos_id=256, eos_ids=(257,))
    return Model(init_params(jax.random.key(0), config), config, byte_tokenizer())


def _files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@functools.cache
def model_folder(tokenizer: str = "byte") -> Files:
    """A Hugging Face folder of a Llama of a few thousand weights."""
    model = _decoder()
    if tokenizer == "word":
        model = model.replace(tokenizer=word_tokenizer())
    with tempfile.TemporaryDirectory() as made:
        save_pretrained(model, Path(made) / "m")
        return _files_of(Path(made) / "m")


@functools.cache
def score_folder(layout: Any) -> Files:
    """A score model on the same decoder."""
    body = _decoder()
    scorer = init_score_model(jax.random.key(1), body, kind="reward")
    with tempfile.TemporaryDirectory() as made:
        save_score_model(scorer, Path(made) / "m", layout=layout)
        return _files_of(Path(made) / "m")


@functools.cache
def adapter_folder() -> Files:
    """A LoRA adapter for the same decoder, in PEFT's layout."""
    config = _decoder().config
    lora = init_lora(jax.random.key(2), config, rank=2, alpha=4.0, targets=("q", "v"))
    with tempfile.TemporaryDirectory() as made:
        save_adapter(lora, config, Path(made) / "a", base_model="model")
        return _files_of(Path(made) / "a")


Meta = list[tuple[str, int, Any]]
"""Name, GGUF's number of the type, value; of a list (type 9) the value is (type of its items, items)."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_TENSORS = {
    **{
        f"blk.0.attn_{n}.weight": s
        for n, s in (("q", (8, 8)), ("k", (4, 8)), ("v", (4, 8)), ("output", (8, 8)))
    },
    **{f"blk.0.ffn_{n}.weight": s for n, s in (("gate", (16, 8)), ("up", (16, 8)), ("down", (8, 16)))},
    **{name: (8,) for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")},
    "token_embd.weight": (124, 8),
    "output.weight": (124, 8),
}


def gguf_meta(kind: str) -> Meta:
    """The metadata of a small Llama with a tokenizer of the kind "gpt2" or "llama"."""
    letters = [chr(97 + i) for i in range(26)]
    tokens = ["<unk>", "<s>", "</s>", *letters, "ab", "abc", "\u2581", *(f"<x{i}>" for i in range(92))]
    rows: Meta = [
        ("general.architecture", 8, "llama"),
        *(
            (f"llama.{n}", 4, v)
            for n, v in (("block_count", 1), ("context_length", 64), ("embedding_length", 8))
        ),
        *((f"llama.{n}", 4, v) for n, v in (("feed_forward_length", 16), ("attention.head_count", 2))),
        ("llama.attention.head_count_kv", 4, 1),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        ("llama.rope.freq_base", 6, 10000.0),
        ("tokenizer.ggml.model", 8, kind),
        ("tokenizer.ggml.tokens", 9, (8, tokens)),
        ("tokenizer.ggml.token_type", 9, (5, [3 if i < 3 else 1 for i in range(len(tokens))])),
        *((f"tokenizer.ggml.{n}_token_id", 4, v) for n, v in (("unknown", 0), ("bos", 1), ("eos", 2))),
        ("tokenizer.chat_template", 8, CHATML),
    ]
    if kind == "gpt2":
        return [
            *rows,
            ("tokenizer.ggml.pre", 8, "smollm"),
            ("tokenizer.ggml.merges", 9, (8, ["a b", "ab c"])),
        ]
    return [*rows, ("tokenizer.ggml.scores", 9, (6, [-float(i) for i in range(len(tokens))]))]


def gguf_bytes(rng: random.Random, meta: Meta, *, lies: bool) -> bytes:
    """A GGUF file; with `lies` a count, a size, an offset or a type of its tensors is another."""
    out = io.BytesIO()
    values = np.random.default_rng(0)
    lie = rng.randrange(7) if lies else -1
    numbers = (0, 1, 3, 2**20, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)

    def true_or(number: int, which: int) -> int:
        return rng.choice(numbers) if lie == which else number

    out.write(b"GGUF" + struct.pack("<I", true_or(3, 0) % 2**32))
    out.write(struct.pack("<QQ", true_or(len(_TENSORS), 1), true_or(len(meta), 2)))
    for name, kind, value in meta:
        out.write(_gguf_text(name) + struct.pack("<I", kind) + _gguf_value(kind, value))
    offset, data = 0, bytearray()
    changed = rng.choice(list(_TENSORS))
    for name, shape in _TENSORS.items():
        here = lie if name == changed else -1
        dims = [rng.choice(numbers) if here == 3 else n for n in shape[::-1]]
        stored = rng.choice([1, 2, 8, 14, 30, 99]) if here == 4 else 0
        start = rng.choice(numbers) if here == 5 else offset
        out.write(_gguf_text(name) + struct.pack("<I", rng.choice([0, 5, 2**31]) if here == 6 else len(dims)))
        out.write(struct.pack(f"<{len(dims)}QIQ", *dims, stored, start))
        content = values.normal(size=shape).astype(np.float32).tobytes()
        data += content + bytes(-len(content) % 32)
        offset = len(data)
    return out.getvalue() + bytes(-out.tell() % 32) + bytes(data)


def _gguf_text(text: str | bytes) -> bytes:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content


def _gguf_value(kind: int, value: Any) -> bytes:
    if kind == 8:
        return _gguf_text(value)
    if kind == 9:
        of, items = value
        return struct.pack("<IQ", of, len(items)) + b"".join(_gguf_value(of, item) for item in items)
    return struct.pack("<" + _SCALARS[kind], value)


@functools.cache
def table_arrays() -> dict[str, np.ndarray]:
    """A score table of 6 prompts, 8 responses and one constraint."""
    rng = np.random.default_rng(3)
    rewards = rng.normal(size=(6, 8))
    utilities = -0.4 * rewards[..., None] + rng.normal(size=(6, 8, 1))
    return {"rewards": rewards, "utilities": utilities, "names": np.array(["safety"])}


def table_bytes() -> bytes:
    """The same table as an .npz file."""
    content, arrays = io.BytesIO(), table_arrays()
    np.savez(content, rewards=arrays["rewards"], utilities=arrays["utilities"], names=arrays["names"])
    return content.getvalue()


def table_rows() -> list[dict[str, Any]]:
    """The same table as lines."""
    arrays = table_arrays()
    return [
        {
            "prompt_id": i,
            "prompt": f"p{i}",
            "category": "theft" if i % 2 else "fraud",
            "response": f"r{k}",
            "reward": float(arrays["rewards"][i, k]),
            "utilities": {"safety": float(arrays["utilities"][i, k, 0])},
        }
        for i in range(3)
        for k in range(4)
    ]


@functools.cache
def dual_record() -> Any:
    """dual.json of that table."""
    arrays = table_arrays()
    found = dual.answer(
        arrays["rewards"], arrays["utilities"], names=("safety",), asked=[dual.Asked(0.1)], beta=0.5
    )
    return encode(found)


@functools.cache
def run_config(method: str) -> Any:
    """config.json of a run on files, with the fields that the method reads."""
    sources = {name: {"path": f"{name}.jsonl", "label": ""} for name in ("reward", "safety")}
    given = {"method": method, "constraints": {"safety": {"margin": 1.0}}}
    return to_mapping(from_mapping(given | {"data": {"sources": sources}, "model": {"path": "model"}}))


def names_of(config: Any, prefix: str = "config") -> Sequence[str]:
    """Every field of a configuration as the command line names it."""
    if not isinstance(config, dict) or not config:
        return [prefix]
    return [name for key, value in config.items() for name in names_of(value, f"{prefix}.{key}")]
