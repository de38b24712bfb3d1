"""Turns the 260,032-parameter story model of llama2.c into a Hugging Face folder.

    python tools/stories260k.py SOURCE_FOLDER OUTPUT_FOLDER

SOURCE_FOLDER holds stories260K.bin (llama2.c's format, version 0) and tok512.bin.
"""

import sys
from pathlib import Path

import numpy as np

from alignjax.errors import InputError
from alignjax.models import DecoderConfig, Model, save_pretrained
from alignjax.models.gguf_file import unpermute
from alignjax.models.tokenizer import mark_special, scored_bpe, wrap
from alignjax.models.weights import assemble, slots

_BOS, _EOS = 1, 2
_CONTROL, _NORMAL = 3, 1
# Parts of a layer in the order of the file, under their names in a Hugging Face folder.
_ORDER = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",  # w1
    "mlp.down_proj",  # w2
    "mlp.up_proj",  # w3
)


def read_model(folder: Path) -> Model:
    """The model in `folder`, with its tokenizer; rope turned from neighbouring pairs to halves."""
    file = folder / "stories260K.bin"
    raw = file.read_bytes()
    dim, mlp, layers, heads, kv_heads, vocab, length = (int(n) for n in np.frombuffer(raw, "<i4", count=7))
    config = DecoderConfig(
        architecture="llama",
        vocab_size=abs(vocab),
        hidden_size=dim,
        intermediate_size=mlp,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim // heads,
        norm_eps=1e-5,
        rope_theta=10000.0,
        tie_embeddings=vocab > 0,
        max_positions=length,
        bos_id=_BOS,
        eos_ids=(_EOS,),
    )
    if not config.tie_embeddings:
        raise InputError(f"{file}: has an output head of its own; this reader is for the tied stories260K.")
    shapes = {name: slot.shape for slot in slots(config) for name in slot.names}
    order = ["model.embed_tokens.weight"]
    order += [f"model.layers.{i}.{part}.weight" for part in _ORDER for i in range(layers)]
    order += ["model.norm.weight"]
    values, start, tensors = np.frombuffer(raw, "<f4", offset=28), 0, {}
    for name in order:
        size = int(np.prod(shapes[name]))
        tensors[name] = values[start : start + size].reshape(shapes[name])
        start += size
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensors[name] = unpermute(tensors[name], heads if "q_proj" in name else kv_heads)
    tables = length * config.head_dim  # cosines and sines, which are computed here
    if start + tables != values.size:
        raise InputError(f"{file}: has {values.size} numbers, its header promises {start + tables}.")
    params = assemble(
        slots(config), shapes, tensors.__getitem__, dtype="float32", ignore=lambda _: False, where=str(file)
    )
    return Model(params=params, config=config, tokenizer=read_tokenizer(folder / "tok512.bin", abs(vocab)))


def read_tokenizer(file: Path, size: int):
    """llama2.c's tokenizer: int32 longest, then float32 score, int32 length and bytes of each token."""
    raw, at = file.read_bytes(), 4
    pieces, scores = [], []
    for _ in range(size):
        scores.append(float(np.frombuffer(raw, "<f4", 1, at)[0]))
        length = int(np.frombuffer(raw, "<i4", 1, at + 4)[0])
        pieces.append(raw[at + 8 : at + 8 + length].decode("utf-8").replace(" ", "\u2581"))
        at += 8 + length
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    tokenizer = scored_bpe(pieces, scores, "<unk>", prefix_space=True)
    mark_special(tokenizer, pieces, [_CONTROL] * 3 + [_NORMAL] * (size - 3))
    return wrap(tokenizer, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    save_pretrained(read_model(Path(sys.argv[1])), sys.argv[2])
