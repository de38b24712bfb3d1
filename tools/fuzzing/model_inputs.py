"""Hostile weights, configurations and templates of models, and adapters."""

import json
import random
import struct
from pathlib import Path
from typing import Any

from tools.fuzzing import bases
from tools.fuzzing.mutations import hostile, json_text, mutated_bytes, mutated_json
from tools.fuzzing.writing import MARK, write_file, write_files, write_options

_ESCAPES = (
    "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARK', 'w') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ '%s'|format(messages.__class__) }}",
    "{{ raise_exception.__globals__ }}",
)
_FRAGMENTS = (
    "{{ 1/0 }}",
    "{{ '%100000000d'|format(1) }}",
    "{{ 'x' * 10**10 }}",
    "{{ 9**9**9 }}",
    "{{ undefined.a.b }}",
    "{% for i in range(10**9) %}a{% endfor %}",
    "{{ range(10**12)|list }}",
    "{{ messages|tojson(indent=10**9) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 'a'.center(10**10) }}",
    "{{ raise_exception('\x1b[31m') }}",
    "{{ '\\ud83d' }}",
    "\0",
    "\u202e",
    "{{",
    "{% if",
    "{{ strftime_now('%Y' * 1000) }}",
    "{{ strftime_now(3) }}",
    "{{ messages[5].content }}",
    "{{ messages[0]['role'] * 3 }}",
    "{{ bos_token + 1 }}",
    "{% generation %}a{% endgeneration %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% break %}",
    "{{ (" * 200,
    "{{ messages|map(attribute='content')|join }}",
    "</s>",
    "<s>",
    "{{ 0|round(10**9) }}",
)
_ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
_MODEL_FIELDS: tuple[tuple[str, Any], ...] = (
    *(("num_hidden_layers", n) for n in (10**12, 2**31, 10**6, 0)),
    ("eos_token_id", [124]),
    ("eos_token_id", [-1]),
    ("eos_token_id", [257, 10**30]),
    ("architectures", 5),
    ("architectures", [5]),
    ("architectures", [[]]),
    ("vocab_size", 10**12),
    ("hidden_size", 10**9),
    ("intermediate_size", 2**62),
    ("head_dim", 10**15),
    ("rope_theta", 10**400),
    ("rms_norm_eps", 10**400),
    ("rms_norm_eps", 1e300),
    ("num_key_value_heads", 10**400),
    ("rope_scaling", {"rope_type": "yarn", "factor": 10**400}),
    ("rope_scaling", {"rope_type": ["a"]}),
    (
        "rope_scaling",
        {
            "rope_type": "llama3",
            "factor": 1e-320,
            "low_freq_factor": 1,
            "high_freq_factor": 1,
            "original_max_position_embeddings": 10**300,
        },
    ),
    ("layer_types", 5),
    ("layer_types", [{}]),
    ("sliding_window", "x"),
    ("quantization_config", [1]),
    ("max_position_embeddings", 10**400),
    ("tie_word_embeddings", "no"),
    ("auto_map", {"AutoConfig": "own.Own"}),
    ("num_labels", "x"),
    ("id2label", 3),
    ("score_type", []),
    ("pad_token_id", 10**12),
    ("normalizer_type", {}),
    ("hidden_act", []),
    ("model_type", ["llama"]),
    ("model_type", "gemma3"),
    ("layer_norm_eps", -1),
    ("score_dim", {}),
)


def make_safetensors(rng: random.Random, folder: Path) -> None:
    """A model folder whose weights are hostile, or the index that names them."""
    files = dict(bases.model_folder() if rng.random() < 0.7 else bases.score_folder(_layout(rng)))
    write_options(folder, score="score_type" in files["config.json"].decode())
    content = files.pop("model.safetensors")
    write_files(folder, files)
    kind = rng.random()
    if kind < 0.4:
        content = mutated_bytes(rng, content)
    elif kind < 0.8:
        content = _safetensors(rng, content)
    else:
        index = {"metadata": {}, "weight_map": {n: "part.safetensors" for n in _header(content)}}
        (folder / "part.safetensors").write_bytes(content)
        write_file(folder, "model.safetensors.index.json", json_text(rng, mutated_json(rng, index)))
        return
    (folder / "model.safetensors").write_bytes(content)


def _layout(rng: random.Random) -> str:
    return rng.choice(["safe_rlhf", "classification"])


def _header(content: bytes) -> Any:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size])


def _safetensors(rng: random.Random, content: bytes) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header, data = _header(content), bytearray(content[8 + size :])
    if rng.random() < 0.3:
        # Not finite, or so large that sums overflow.
        place = 4 * rng.randrange(len(data) // 4)
        data[place : place + 4] = struct.pack("<f", rng.choice([float("nan"), float("inf"), 3e38]))
    elif rng.random() < 0.3:
        name = rng.choice([name for name in header if name != "__metadata__"])
        field = rng.choice(["dtype", "shape", "data_offsets"])
        header[name][field] = {
            "dtype": rng.choice(["F16", "BF16", "I64", "BOOL", "F8_E4M3", "X", "F64"]),
            "shape": rng.choice([[], [0], [2**40, 2**40], [-1], [1], header[name]["shape"][::-1]]),
            "data_offsets": rng.choice([[0, 0], [0, 2**63], [5, 1], [0, len(data)]]),
        }[field]
    else:
        header = mutated_json(rng, header)
    text = json_text(rng, header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", rng.choice([len(text)] * 5 + [2**63, 0, len(text) + 9])) + text + bytes(data)


def make_configs(rng: random.Random, folder: Path) -> None:
    """A folder of a model or a score model with a hostile config.json or generation_config.json."""
    score = rng.random() < 0.3
    files = dict(bases.score_folder(_layout(rng)) if score else bases.model_folder())
    write_options(folder, score=score)
    write_files(folder, files)
    fields = json.loads(files["config.json"])
    if rng.random() < 0.4:
        for name, value in rng.sample(_MODEL_FIELDS, rng.randint(1, 2)):
            fields[name] = value
    else:
        fields = mutated_json(rng, fields)
    if isinstance(fields, dict) and rng.random() < 0.2:
        names = (
            "Qwen2",
            "Qwen3",
            "Gemma",
            "Gemma2",
            "Gemma3",
            "Mistral",
            "Granite",
            "Phi3",
            "Olmo2",
            "Cohere2",
            "Mixtral",
        )
        fields["architectures"] = [rng.choice(names) + rng.choice(["ForCausalLM", "ModelForScore"])]
    write_file(folder, "config.json", json_text(rng, fields))
    if rng.random() < 0.2:
        generation = {"eos_token_id": rng.choice([[257], [400], -1, "a", [[1]], 10**400, None])}
        write_file(folder, "generation_config.json", json_text(rng, mutated_json(rng, generation)))


def make_templates(rng: random.Random, folder: Path) -> None:
    """A model folder whose chat template is hostile."""
    write_options(folder, kwargs=json.dumps(hostile(rng)) if rng.random() < 0.2 else "")
    files = dict(bases.model_folder())
    write_files(folder, files)
    parts = [bases.CHATML[i : i + 12] for i in range(0, len(bases.CHATML), 12)]
    template = bases.CHATML
    for _ in range(rng.randint(1, 3)):
        pool = (
            _FRAGMENTS
            if rng.random() < 0.8
            else tuple(e.replace("MARK", str(folder / MARK)) for e in _ESCAPES)
        )
        fragment = rng.choice(pool) if rng.random() < 0.985 else _ENDLESS
        action = rng.random()
        if action < 0.5:
            place = rng.choice(
                [0, len(template), template.find("{{ m['content']"), rng.randrange(len(template) + 1)]
            )
            template = template[:place] + fragment + template[place:]
        elif action < 0.7:
            template = fragment
        elif action < 0.85:
            template = "".join(rng.choice(parts) for _ in range(rng.randint(1, 12)))
        else:
            start = rng.randrange(len(template) + 1)
            template = template[:start] + template[start + rng.randint(1, 20) :]
    if rng.random() < 0.1:
        config = json.loads(files["tokenizer_config.json"]) | {"chat_template": hostile(rng)}
        (folder / "chat_template.jinja").unlink()
        return write_file(folder, "tokenizer_config.json", json.dumps(config))
    return write_file(folder, "chat_template.jinja", template)


def make_adapters(rng: random.Random, folder: Path) -> None:
    """A PEFT folder that is hostile, beside its base."""
    (folder / "model").mkdir()
    write_options(folder)
    write_files(folder / "model", bases.model_folder())
    files = bases.adapter_folder()
    content = files["adapter_model.safetensors"]
    fields = json.loads(files["adapter_config.json"])
    odd = [
        ("rank_pattern", {"(" * 500: 2}),
        ("rank_pattern", {"(a+)+$": 10**400}),
        ("alpha_pattern", {"x": "y"}),
        ("r", 10**9),
        ("rank_pattern", {"(.*.*.*.*)*(.*)*z": 1}),
        ("lora_dropout", "x"),
        ("lora_dropout", 7),
        ("layers_to_transform", 5),
        ("lora_alpha", 1e308),
        ("lora_alpha", 5e-324),
        ("r", 0.5),
        ("modules_to_save", "x"),
        ("lora_dropout", float("nan")),
        ("base_model_name_or_path", "\0"),
        ("base_model_name_or_path", "a" * 5000),
        ("init_lora_weights", []),
    ]
    if rng.random() < 0.3:
        fields |= dict([rng.choice(odd)])
    elif rng.random() < 0.7:
        fields = mutated_json(rng, fields)
    if rng.random() < 0.4:
        content = mutated_bytes(rng, content) if rng.random() < 0.5 else _safetensors(rng, content)
    write_file(folder, "adapter_config.json", json_text(rng, fields))
    (folder / "adapter_model.safetensors").write_bytes(content)
