import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from alignjax.errors import InputError
from alignjax.models import init_params, load_pretrained, save_pretrained
from alignjax.models.placement import decoder_shardings
from alignjax.models.weights import assemble, check_tensors, disassemble, slots
from alignjax.runtime.mesh import make_mesh


def none(name):
    return False


@pytest.mark.parametrize("kind", ["llama", "tied", "mistral", "qwen2", "qwen3"])
def test_slots_cover_the_tree(kinds, kind):
    config = kinds[kind]
    params = init_params(jax.random.key(0), config)
    leaves = {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    wanted = {slot.path: slot for slot in slots(config)}
    assert set(wanted) == set(leaves)
    for path, leaf in leaves.items():
        slot = wanted[path]
        shape = slot.shape[::-1] if slot.transposed else slot.shape
        assert leaf.shape == (*slot.stack, *shape), path
    # Both kinds of file hold the same tensors under other names, each name once.
    for gguf in (False, True):
        names = [name for slot in slots(config, gguf=gguf) for name in slot.names]
        assert len(names) == len(set(names))
    assert [s.path for s in slots(config, gguf=True)] == [s.path for s in slots(config)]


def test_names_of_a_file_by_hand(kinds):
    config = dataclasses.replace(kinds["qwen2"], num_layers=1)
    names = {name: slot.shape for slot in slots(config) for name in slot.names}
    # Hidden 16, four heads of 4, two key and value heads, 24 wide, 40 ids.
    layer = "model.layers.0"
    assert names == {
        "model.embed_tokens.weight": (40, 16), "model.norm.weight": (16,), "lm_head.weight": (40, 16),
        f"{layer}.self_attn.q_proj.weight": (16, 16), f"{layer}.self_attn.q_proj.bias": (16,),
        f"{layer}.self_attn.k_proj.weight": (8, 16), f"{layer}.self_attn.k_proj.bias": (8,),
        f"{layer}.self_attn.v_proj.weight": (8, 16), f"{layer}.self_attn.v_proj.bias": (8,),
        f"{layer}.self_attn.o_proj.weight": (16, 16), f"{layer}.mlp.gate_proj.weight": (24, 16),
        f"{layer}.mlp.up_proj.weight": (24, 16), f"{layer}.mlp.down_proj.weight": (16, 24),
        f"{layer}.input_layernorm.weight": (16,), f"{layer}.post_attention_layernorm.weight": (16,),
    }  # fmt: skip


def test_assemble_undoes_disassemble(random_model):
    model = random_model("qwen3")
    tensors = dict(disassemble(model.config, model.params))
    read = []

    def get(name):
        read.append(name)
        return tensors[name]

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    tree = assemble(slots(model.config), shapes, get, dtype="float32", ignore=none, where="f")
    jax.tree.map(np.testing.assert_array_equal, tree, model.params)
    assert sorted(read) == sorted(tensors)  # each once
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())
    # Files hold [out, in], the tree [in, out]; layers are stacked in order.
    np.testing.assert_array_equal(
        tensors["model.layers.1.mlp.down_proj.weight"],
        np.asarray(model.params["layers"]["down"]["kernel"][1]).T,
    )


def test_projections_in_one_tensor_by_hand(random_model):
    """Phi-3: rows of q, k and v, and rows of gate and up, one after the other."""
    model = random_model("phi3")
    tensors = dict(disassemble(model.config, model.params))
    layer, params = "model.layers.1", model.params["layers"]
    names = {name.removeprefix(f"{layer}.") for name in tensors if name.startswith(layer)}
    assert names == {
        "self_attn.qkv_proj.weight", "self_attn.o_proj.weight", "mlp.gate_up_proj.weight",
        "mlp.down_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight",
    }  # fmt: skip
    qkv, gate_up = tensors[f"{layer}.self_attn.qkv_proj.weight"], tensors[f"{layer}.mlp.gate_up_proj.weight"]
    # Four heads of 4, two key and value heads; 24 wide.
    assert qkv.shape == (16 + 8 + 8, 16) and gate_up.shape == (24 + 24, 16)
    for part, rows in (("q", qkv[:16]), ("k", qkv[16:24]), ("v", qkv[24:])):
        np.testing.assert_array_equal(rows, np.asarray(params[part]["kernel"][1]).T)
    for part, rows in (("gate", gate_up[:24]), ("up", gate_up[24:])):
        np.testing.assert_array_equal(rows, np.asarray(params[part]["kernel"][1]).T)
    assert {n for s in slots(model.config, gguf=True) for n in s.names if n.startswith("blk.0.")} == {
        f"blk.0.{part}.weight"
        for part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")
    }


@pytest.mark.parametrize("sizes", [None, (2, 2, 2)])
def test_assemble_reads_only_the_rows_of_a_leaf(random_model, sizes):
    model = random_model("phi3")
    tensors = dict(disassemble(model.config, model.params))
    read = []

    def get(name, rows=None):
        read.append((name, rows))
        return tensors[name] if rows is None else tensors[name][rows]

    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    places = decoder_shardings(model.config, sizes and make_mesh(*sizes), where="f")
    tree = assemble(
        slots(model.config), shapes, get, dtype="float32", ignore=none, where="f", shardings=places
    )
    jax.tree.map(np.testing.assert_array_equal, tree, model.params)
    fused = {(rows.start, rows.stop) for name, rows in read if "qkv" in name}
    assert fused == {(0, 16), (16, 24), (24, 32)}
    assert all(rows is None for name, rows in read if "_proj" not in name)


def test_a_tensor_of_the_wrong_total_is_refused(random_model):
    model = random_model("phi3")
    tensors = dict(disassemble(model.config, model.params))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    shapes["model.layers.0.self_attn.qkv_proj.weight"] = (48, 16)
    with pytest.raises(InputError, match=r"qkv_proj.weight is \[48, 16\], must be \[32, 16\]"):
        assemble(slots(model.config), shapes, tensors.__getitem__, dtype="float32", ignore=none, where="f")


GOLDENS = Path(__file__).parents[1] / "parity" / "goldens"


@pytest.mark.parametrize("name", sorted(folder.name for folder in GOLDENS.iterdir()))
def test_a_folder_of_transformers_is_written_back_exactly(name, tmp_path):
    source = GOLDENS / name
    model = load_pretrained(source)
    save_pretrained(model, tmp_path / "out")
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    assert set(theirs) == set(ours)
    for tensor, values in theirs.items():
        np.testing.assert_array_equal(ours[tensor], values)
    assert load_pretrained(tmp_path / "out").config == model.config


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a": (2,)}, "f: b missing; the file is incomplete"),
        ({"a": (2,), "b": (4,)}, r"f: b is \[4\], must be \[3\]"),
        ({"a": (2,), "b": (3,), "c": (1,)}, "f: c unknown to this architecture"),
        ({}, "f: a, b missing"),
        ({"a": (2,), "b": (3,)} | {f"x{i}": (1,) for i in range(5)}, "f: x0, x1, x2 and 2 more unknown"),
    ],
)
def test_check_tensors(shapes, message):
    with pytest.raises(InputError, match=message):
        check_tensors({"a": (2,), "b": (3,)}, shapes, ignore=none, where="f")


def test_what_may_be_there_is_ignored():
    check_tensors({"a": (2,)}, {"a": (2,), "table": (9,)}, ignore=lambda name: name == "table", where="f")
