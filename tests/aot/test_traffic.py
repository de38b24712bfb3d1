"""Bytes of programs written by hand, and of compiled ones, against counts on paper."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.aot import hlo
from alignjax.aot.traffic import traffic_of
from alignjax.runtime.mesh import make_mesh

# A loop of 32 turns over a stack of weights: each turn slices one [64, 64] f32 (16,384 bytes) out of it,
# reads h (4 x 64 x 4 = 1,024 bytes), writes h, and sums h over 8 devices.
LOOP = """HloModule jit_f, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%fused (param_0: f32[32,64,64], param_1: s32[], param_2: f32[4,64]) -> f32[4,64] {
  %param_0 = f32[32,64,64]{2,1,0:T(8,128)} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,64,64]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,64,64}
  %w = f32[64,64]{1,0} bitcast(%slice)
  %param_2 = f32[4,64]{1,0} parameter(2)
  ROOT %dot = f32[4,64]{1,0} dot(%param_2, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (p: (s32[], f32[4,64], f32[32,64,64])) -> (s32[], f32[4,64], f32[32,64,64]) {
  %p = (s32[], f32[4,64]{1,0}, /*index=2*/f32[32,64,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %h = f32[4,64]{1,0} get-tuple-element(%p), index=1
  %ws = f32[32,64,64]{2,1,0} get-tuple-element(%p), index=2
  %next = f32[4,64]{1,0} fusion(%ws, %i, %h), kind=kOutput, calls=%fused
  %sum = f32[4,64]{1,0} all-reduce(%next), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %t = (s32[], f32[4,64]{1,0}, f32[32,64,64]{2,1,0}) tuple(%i, %sum, %ws)
}

%cond (p: (s32[], f32[4,64], f32[32,64,64])) -> pred[] {
  %p.1 = (s32[], f32[4,64]{1,0}, f32[32,64,64]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n = s32[] constant(32)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (h: f32[4,64], ws: f32[32,64,64]) -> f32[4,64] {
  %h.1 = f32[4,64]{1,0} parameter(0)
  %ws.1 = f32[32,64,64]{2,1,0} parameter(1)
  %c = s32[] constant(0)
  %start = (s32[], f32[4,64]{1,0}, f32[32,64,64]{2,1,0}) tuple(%c, %h.1, %ws.1)
  %loop = (s32[], f32[4,64]{1,0}, f32[32,64,64]{2,1,0}) while(%start), condition=%cond, body=%body
  ROOT %out = f32[4,64]{1,0} get-tuple-element(%loop), index=1
}
"""
# A turn: the slice, the index (4 bytes) and h are read, the next h is written; the sum reads and writes it.
TURN = 16384 + 4 + 1024 + 1024 + 2 * 1024
# A ring over g devices sends (g - 1) / g of the array twice.
SENT = 2 * 7 / 8 * 1024


def test_a_loop_by_hand():
    found = traffic_of(hlo.parse(LOOP), devices=8)
    assert found.memory == 32 * TURN
    assert found.sent == {"all-reduce": pytest.approx(32 * SENT)} and found.unknown_loops == 0


def test_noted_turns_go_before_a_condition():
    noted = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert traffic_of(hlo.parse(noted), devices=8).memory == 5 * TURN


def test_a_loop_that_data_end_takes_the_turns_it_is_given():
    unknown = LOOP.replace("constant(32)", "parameter(1)")
    assert traffic_of(hlo.parse(unknown), devices=8, trips=[3]).memory == 3 * TURN
    found = traffic_of(hlo.parse(unknown), devices=8)
    assert found.memory == TURN and found.unknown_loops == 1


@pytest.mark.parametrize("stored", ["f32", "s8"])
def test_of_a_stack_that_is_laid_out_anew_or_converted_within_a_fusion_only_the_slice_is_read(stored):
    laid = f"""%relay (input: {stored}[32,64,64]) -> f32[32,64,64] {{
  %input = {stored}[32,64,64]{{2,1,0:T(32,128)}} parameter(0)
  ROOT %anew = f32[32,64,64]{{2,1,0:T(8,128)}} {"copy" if stored == "f32" else "convert"}(%input)
}}

%fused """
    forms = LOOP.replace("%fused ", laid, 1).replace("%param_0 = f32", f"%param_0 = {stored}")
    forms = forms.replace("%ws = f32", f"%ws = {stored}")
    forms = forms.replace(
        "  %zero =",
        "  %laid = f32[32,64,64]{2,1,0:T(8,128)} fusion(%param_0), kind=kLoop, calls=%relay\n  %zero =",
    ).replace("dynamic-slice(%param_0", "dynamic-slice(%laid")
    less = 0 if stored == "f32" else 16384 * 3 / 4  # a byte for each of the four
    assert traffic_of(hlo.parse(forms), devices=8).memory == 32 * (TURN - less)


def test_fast_memory_costs_nothing():
    near = LOOP.replace("%next = f32[4,64]{1,0}", "%next = f32[4,64]{1,0:T(4,128)S(1)}").replace(
        "%sum = f32[4,64]{1,0}", "%sum = f32[4,64]{1,0:S(1)}"
    )
    assert traffic_of(hlo.parse(near), devices=8).memory == 32 * (TURN - 3 * 1024)


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        # 16 KiB gathered from 8 devices: each sends its 2 KiB to seven others, in a ring or not.
        ("%g = f32[64,64]{1,0} all-gather(%a), replica_groups=[1,8]<=[8], dimensions={0}", 7 / 8 * 16384),
        ("%g = (f32[8,64], f32[64,64]) all-gather-start(%a), replica_groups=[1,8]<=[8]", 7 / 8 * 16384),
        ("%g = f32[1,64]{1,0} reduce-scatter(%a), replica_groups=[1,8]<=[8], dimensions={0}", 7 / 8 * 2048),
        ("%g = f32[8,64]{1,0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}", 2048),
        ("%g = f32[8,64]{1,0} all-reduce(%a), replica_groups=[4,2]<=[8], to_apply=%add", 2048),
        ("%g = f32[64,64]{1,0} all-gather-done(%a)", 0),
    ],
)
def test_what_a_collective_sends(line, sent):
    head = "HloModule m\n\nENTRY %main (a: f32[8,64]) -> f32[8,64] {\n  %a = f32[8,64]{1,0} parameter(0)\n"
    text = f"{head}  {line}\n}}\n"
    assert sum(traffic_of(hlo.parse(text), devices=8).sent.values()) == pytest.approx(sent)


def test_of_branches_the_dearer():
    text = """HloModule m

%cheap (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%x)
}

%dear (y: f32[8]) -> f32[8] {
  %y = f32[8]{0} parameter(0)
  %m = f32[8]{0} negate(%y)
  ROOT %k = f32[8]{0} negate(%m)
}

ENTRY %main (p: pred[], z: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %z = f32[8]{0} parameter(1)
  ROOT %c = f32[8]{0} conditional(%p, %z, %z), true_computation=%cheap, false_computation=%dear
}
"""
    assert traffic_of(hlo.parse(text), devices=1).memory == 4 * 32


def test_compiled_gradients_are_summed_over_the_devices():
    mesh = make_mesh()
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=whole)
    step = jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.sin(x @ w))), out_shardings=whole)
    found = traffic_of(hlo.parse(step.lower(w, x).compile().as_text() or ""), devices=8)
    # The gradient, 32 x 64 x 4 bytes, by an all-reduce over eight.
    assert sum(found.sent.values()) == pytest.approx(2 * 7 / 8 * 8192)


def test_a_compiled_scan_reads_its_weights_once():
    layers, width = 6, 256
    h = jax.ShapeDtypeStruct((8, width), jnp.float32)
    ws = jax.ShapeDtypeStruct((layers, width, width), jnp.float32)
    compiled = jax.jit(lambda h, ws: jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, ws)[0]).lower(
        h, ws
    )
    found = traffic_of(hlo.parse(compiled.compile().as_text() or ""), devices=1)
    weights = layers * width * width * 4
    # A layer's weights may be copied out of the stack before they are read; the stack is not read as often as
    # there are layers.
    assert weights <= found.memory < 4 * weights and found.unknown_loops == 0
