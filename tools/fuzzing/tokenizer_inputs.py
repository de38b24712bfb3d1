"""Hostile tokenizers, in a folder and in a GGUF file."""

import json
import random
from pathlib import Path
from typing import Any

from tools.fuzzing import bases
from tools.fuzzing.mutations import json_text, mutated_bytes, mutated_json
from tools.fuzzing.writing import MARK_CODE, write_file, write_files, write_options

_NUMBERS = (0, 1, 2, 3, 5, 124, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


_ARCHITECTURES = (
    "qwen2",
    "qwen3",
    "phi3",
    "gemma",
    "gemma2",
    "gemma3",
    "olmo2",
    "granite",
    "cohere2",
    "exaone4",
)
_EXTRA = (
    *(("attention.sliding_window", 4), ("attention.key_length", 4), ("rope.dimension_count", 4)),
    *(("rope.scaling.type", 8), ("rope.scaling.factor", 6), ("rope.scaling.original_context_length", 4)),
    *(("rope.scaling.attn_factor", 6), ("rope.scaling.yarn_beta_fast", 6), ("attn_logit_softcapping", 6)),
    *(("final_logit_softcapping", 6), ("expert_count", 4), ("vocab_size", 4), ("rope.freq_base", 6)),
)


def make_gguf(rng: random.Random, folder: Path) -> None:
    """A GGUF file with hostile metadata, tensors that lie, or damaged bytes."""
    write_options(folder)
    meta = bases.gguf_meta(rng.choice(["gpt2", "llama"]))
    for _ in range(rng.randint(0, 3)):
        place = rng.randrange(len(meta))
        name, kind, value = meta[place]
        action = rng.random()
        if action < 0.15:
            del meta[place]
        elif action < 0.2:
            meta.insert(place, meta[place])
        elif action < 0.3:
            meta[place] = (
                rng.choice(["", "llama.expert_count", "llama.rope.scaling.type", "\0", name[:-1]]),
                kind,
                value,
            )
        elif kind == 9:
            meta[place] = (name, kind, _odd_list(rng, *value))
        else:
            meta[place] = (name, *_odd_value(rng, kind))
    if rng.random() < 0.4:
        name, kind = rng.choice(_EXTRA)
        usual: dict[int, Any] = {4: 8, 6: 2.0, 7: 1, 8: rng.choice(["yarn", "linear", "longrope"])}
        value = (kind, usual[kind]) if rng.random() < 0.4 else _odd_value(rng, kind)
        meta.append((f"llama.{name}", *value))
    if rng.random() < 0.4:
        arch = rng.choice(_ARCHITECTURES)
        meta = [
            (
                name.replace("llama.", f"{arch}."),
                kind,
                arch if name == "general.architecture" and kind == 8 else value,
            )
            for name, kind, value in meta
        ]
    content = bases.gguf_bytes(rng, meta, lies=rng.random() < 0.3)
    if rng.random() < 0.25:
        content = mutated_bytes(rng, content)
    (folder / "model.gguf").write_bytes(content)


def _odd_value(rng: random.Random, kind: int) -> tuple[int, Any]:
    """Another value of the type, or a value of another type."""
    kind = kind if rng.random() < 0.5 else rng.choice([0, 4, 5, 6, 7, 8, 9, 10, 11, 12])
    if kind == 8:
        return kind, rng.choice(
            [b"\xff\xfe", b"", b"\0", b"llama", b"gpt2", b"qwen2", b"mamba", b"a" * 10**5, b"{{ 1/0 }}"]
        )
    if kind == 9:
        return kind, _odd_list(rng, 8, ["a", "b"])
    if kind in (6, 12):
        return kind, rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e-38, 3e38, 0.5])
    most = {0: 255, 5: 2**31 - 1, 7: 1}.get(kind, 2**32 - 1)
    value = min(rng.choice(_NUMBERS), most)
    return kind, -value if kind in (
        5,
        11,
    ) and rng.random() < 0.3 else 2**63 if kind == 10 and value == 5 else value


def _odd_list(rng: random.Random, of: int, items: list[Any]) -> tuple[int, list[Any]]:
    items = list(items)
    action = 0.0 if of == 9 else rng.random()
    if action < 0.2:
        return rng.choice(
            [(8, []), (4, [1, 2]), (6, [float("nan")] * len(items)), (9, [(8, ["a"])]), (7, [1] * len(items))]
        )
    if action < 0.4:
        return of, items[: rng.randrange(len(items) + 1)]
    if action < 0.6:
        return of, items * rng.choice([2, 300])
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(items)) if items else 0
        odd = (
            [b"\xff", b"", b"a b c", b"a", b"\0", b"<s>", "\u2581".encode() * 400]
            if of == 8
            else [0, 1, 3, 100]
        )
        items[place : place + 1] = [rng.choice(odd)]
    return of, items


_CLASSES = (
    "LlamaTokenizer",
    "BertTokenizer",
    "T5Tokenizer",
    "GPT2Tokenizer",
    "Qwen2Tokenizer",
    "TokenizersBackend",
    "PreTrainedTokenizerFast",
    "LlamaTokenizerFast",
    "ByT5Tokenizer",
    "MistralCommonTokenizer",
    "os.system",
    "Own",
)
_REGEXES = ("(a+)+$", "(a|aa)+$", "a{1000}{1000}", "(?<=a)", "(", "", "\\p{Foo}", "(.*.*.*.*.*.*)x")
# Fields of tokenizer.json of the right types.
_TOKENIZER_FIELDS: tuple[tuple[str, Any], ...] = (
    *(("normalizer", {"type": "Replace", "pattern": {"Regex": regex}, "content": ""}) for regex in _REGEXES),
    *(
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False})
        for r in _REGEXES
    ),
    ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a" * 1000}] * 1000}),
    *(
        (
            "padding",
            {
                "strategy": {"Fixed": n},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            },
        )
        for n in (10**4, 10**9, 2**62)
    ),
    *(
        ("truncation", {"direction": "Left", "max_length": n, "strategy": "LongestFirst", "stride": s})
        for n, s in ((0, 0), (1, 5), (2**62, 1), (3, 3))
    ),
    (
        "post_processor",
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"x": {"id": "x", "ids": [10**6], "tokens": ["x"]}},
        },
    ),
    ("post_processor", {"type": "BertProcessing", "sep": ["</s>", 999], "cls": ["<s>", 2**32 - 1]}),
    ("decoder", {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9}),
    ("decoder", {"type": "WordPiece", "prefix": "", "cleanup": True}),
    (
        "model",
        {"type": "Unigram", "unk_id": 5, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": True},
    ),
    ("model", {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]], "byte_fallback": False}),
    ("model", {"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0], ["", 1e308]], "byte_fallback": True}),
    (
        "model",
        {
            "type": "WordPiece",
            "unk_token": "none",
            "continuing_subword_prefix": "",
            "vocab": {"a": 0},
            "max_input_chars_per_word": 0,
        },
    ),
    ("model", {"type": "WordLevel", "vocab": {"a": 2**32 - 1}, "unk_token": "none"}),
    ("model", {"type": "WordLevel", "vocab": {}, "unk_token": ""}),
    ("model", {"type": "BPE", "vocab": {"a": 0, "b": 7}, "merges": [["a", "b"]], "unk_token": "none"}),
    (
        "model",
        {"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"], ["a", "a"]], "dropout": 7.0},
    ),
)
_ADDED = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": True, "special": True}


def _typed_tokenizer(rng: random.Random, value: Any) -> None:
    """Changes fields of a tokenizer.json to others of their types, in place."""
    for _ in range(rng.randint(1, 2)):
        if rng.random() < 0.2:
            token = {
                "id": rng.choice([0, 3, 10**6, 2**32 - 1]),
                "content": rng.choice(["", "a", "<s>", "\0"]),
            }
            value["added_tokens"].append(_ADDED | token)
        else:
            name, field = rng.choice(_TOKENIZER_FIELDS)
            value[name] = field


def make_tokenizers(rng: random.Random, folder: Path) -> None:
    """A model folder with hostile files of its tokenizer, some with code of their own."""
    write_options(folder)
    files = dict(bases.model_folder(rng.choice(["byte", "word"])))
    write_files(folder, files)
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
    for name in rng.sample(names, rng.choice([1, 1, 1, 2]), counts=[4, 2, 1, 1]):
        value = json.loads(files.get(name, b'{"pad_token": "<pad>", "<s>": 3}'))
        if name == "tokenizer.json" and rng.random() < 0.6:
            _typed_tokenizer(rng, value)
        changed = mutated_json(rng, value, most=2) if rng.random() < 0.5 else value
        if name == "tokenizer_config.json" and isinstance(changed, dict) and rng.random() < 0.4:
            changed["tokenizer_class"] = rng.choice(_CLASSES)
        write_file(folder, name, json_text(rng, changed))
    if rng.random() < 0.1:
        own = {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"], "AutoConfig": "own.Own"}}
        for name in ("tokenizer_config.json", "config.json"):
            write_file(folder, name, json.dumps(json.loads(files[name]) | own | {"tokenizer_class": "Own"}))
        write_file(folder, "own.py", MARK_CODE + "\nclass Own: pass\n")
    if rng.random() < 0.15:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(rng.randbytes(rng.choice([0, 5, 900])))
        if rng.random() < 0.5:
            write_file(folder, "vocab.json", json_text(rng, mutated_json(rng, {"a": 0, "b": 1, "ab": 2})))
            write_file(folder, "merges.txt", rng.choice(["#version: 0.2\na b\n", "a b c\n", "\0", ""]))
