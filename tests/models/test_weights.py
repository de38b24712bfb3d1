import dataclasses

import jax
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.models import init_params
from alignjax.models.weights import assemble, check_tensors, disassemble, slots


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
        assert leaf.shape == ((config.num_layers, *shape) if slot.stacked else shape), path
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
