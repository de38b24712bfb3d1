import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from alignjax.aot.products import product_flops
from alignjax.models import (
    DecoderConfig,
    Lora,
    Model,
    caches,
    decode_step,
    empty_cache,
    hidden_states,
    init_lora,
    init_params,
    logical_axes,
    prefill,
    step_function,
    unembed,
)
from alignjax.models.lora import projection_sizes

LLAMA = DecoderConfig("llama", 31, 16, 24, 3, 4, 2, 4)
CONFIGS = {
    "llama": LLAMA,
    "tied": dataclasses.replace(LLAMA, tie_embeddings=True),
    "mistral": dataclasses.replace(LLAMA, architecture="mistral", sliding_window=4),
    "qwen2": dataclasses.replace(LLAMA, architecture="qwen2", qkv_bias=True),
    "qwen3": dataclasses.replace(LLAMA, architecture="qwen3", qk_norm="head", head_dim=8),
}
# What layers may have of their own, and other options that the float64 pass below does not know. No family
# has them all; each family's own combination is compared in tests/parity.
HYBRID = dataclasses.replace(
    LLAMA,
    architecture="gemma2",
    sliding_window=4,
    window_layers=(True, False, True),
    rope_layers=(True, True, False),
    window_rope_theta=500.0,
    rope_interleaved=True,
    norm_order="both",
    qk_norm="projection",
    attention_soft_cap=1.5,
    logits_soft_cap=3.0,
)
# Biases and norms are in no way special to a cache or to branches: two families stand for all that have none
# of the options above.
layouts = pytest.mark.parametrize(
    "config", [LLAMA, CONFIGS["mistral"], HYBRID], ids=["llama", "mistral", "hybrid"]
)
forward = jax.jit(hidden_states, static_argnums=0)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def random_params(config, seed=0):
    """As initialised, with biases and norms moved off 0 and 1."""
    keys = iter(jax.random.split(jax.random.key(seed), 32))
    params = init_params(next(keys), config)
    return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), params)


def random_lora(config, seed=1, **options):
    lora = init_lora(jax.random.key(seed), config, rank=2, alpha=4.0, **options)

    def draw(x):
        return 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)

    return lora.replace(params=jax.tree.map(draw, lora.params))


def plain(ids):
    """Tokens, positions, segment ids of rows without padding."""
    tokens = jnp.asarray(ids, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    return tokens, positions, jnp.ones_like(tokens)


def some_ids(rows, length, seed=2):
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, LLAMA.vocab_size)


def slow_forward(config, params, ids):
    """Logits of one sequence in float64, token by token and head by head, from the papers' formulas."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    width, group = config.head_dim, config.num_heads // config.num_kv_heads

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2) + config.norm_eps) * scale

    def turn(x, t):
        out = x.copy()
        for i in range(width // 2):
            angle = t * config.rope_theta ** (-2 * i / width)
            a, b = x[i], x[i + width // 2]
            out[i] = a * np.cos(angle) - b * np.sin(angle)
            out[i + width // 2] = b * np.cos(angle) + a * np.sin(angle)
        return out

    x = p["embedding"][np.asarray(ids)]
    for index in range(config.num_layers):
        layer = jax.tree.map(lambda a, i=index: a[i], p["layers"])
        keys, values, rows = [], [], []
        for t in range(len(ids)):
            h = norm(x[t], layer["attn_norm"]["scale"])
            q, k, v = (
                (h @ layer[n]["kernel"] + layer[n].get("bias", 0.0)).reshape(-1, width)
                for n in ("q", "k", "v")
            )
            if config.qk_norm:
                q = np.stack([norm(row, layer["q_norm"]["scale"]) for row in q])
                k = np.stack([norm(row, layer["k_norm"]["scale"]) for row in k])
            keys.append([turn(row, t) for row in k])
            values.append(v)
            first = 0 if config.sliding_window is None else max(0, t - config.sliding_window + 1)
            heads = []
            for head in range(config.num_heads):
                scores = np.array(
                    [turn(q[head], t) @ keys[s][head // group] / np.sqrt(width) for s in range(first, t + 1)]
                )
                weights = np.exp(scores) / np.exp(scores).sum()
                heads.append(sum(w * values[first + i][head // group] for i, w in enumerate(weights)))
            rows.append(np.concatenate(heads) @ layer["o"]["kernel"])
        x = x + np.stack(rows)
        h = np.stack([norm(row, layer["mlp_norm"]["scale"]) for row in x])
        gate = h @ layer["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ layer["up"]["kernel"])) @ layer["down"]["kernel"]
    head = p["embedding"].T if config.tie_embeddings else p["head"]
    return np.stack([norm(row, p["final_norm"]["scale"]) for row in x]) @ head


def test_logits_equal_a_slow_float64_forward_pass(config):
    params, ids = random_params(config), some_ids(1, 9)
    logits = Model(params=params, config=config).apply(params, *plain(ids))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[0], slow_forward(config, params, ids[0]), atol=2e-5)


@layouts
@pytest.mark.parametrize("unscanned_weights", [2**28, 0])
def test_cached_decoding_equals_the_full_forward(config, unscanned_weights, monkeypatch):
    monkeypatch.setattr(caches, "_UNSCANNED_WEIGHTS", unscanned_weights)
    params, lora = random_params(config), random_lora(config)
    prompts, samples, slots = 2, 3, 5
    # The second prompt is one shorter than the first: one token of padding.
    lengths = jnp.array([6, 5], jnp.int32)
    tokens, positions, _ = plain(some_ids(prompts, 6))
    segments = (positions < lengths[:, None]).astype(jnp.int32)
    hidden, prompt_cache = prefill(config, params, tokens, positions, segments, lora=lora)
    assert isinstance(prompt_cache.v, caches.Stored) == (unscanned_weights == 0)
    texts = jax.random.randint(jax.random.key(5), (prompts, samples, slots), 0, config.vocab_size)
    full = {}
    for n in range(prompts):
        length = int(lengths[n])
        prompt = jnp.broadcast_to(tokens[n, :length], (samples, length))
        full[n] = forward(config, params, *plain(jnp.concatenate([prompt, texts[n]], axis=1)), lora=lora)
        np.testing.assert_allclose(hidden[n, :length], full[n][0, :length], atol=1e-5)
    cache = empty_cache(config, prompts, samples, slots)
    assert isinstance(cache.k, caches.Stored) == (unscanned_weights == 0)
    # What is in the slots that are not written yet must not matter.
    cache = jax.tree.map(lambda x: x + 7.0, cache)
    step = jax.jit(decode_step, static_argnums=0)
    in_loop = jax.jit(step_function(config, params, prompt_cache, lora=lora))
    ring = cache
    for s in range(slots):
        at = jnp.broadcast_to(lengths[:, None] + s, (prompts, samples))
        out, cache = step(config, params, texts[:, :, s], at, prompt_cache, cache, jnp.int32(s), lora=lora)
        # The same in a ring whose first slot is another.
        slot = jnp.int32((s + 3) % slots)
        again, ring = in_loop(texts[:, :, s], at, jnp.full_like(at, s), ring, slot)
        for n in range(prompts):
            np.testing.assert_allclose(out[n], full[n][:, int(lengths[n]) + s], atol=3e-5)
        np.testing.assert_allclose(again, out, atol=3e-5)


@layouts
def test_branches_equal_separate_rows(config):
    params = random_params(config)
    prompt, chosen, rejected = (some_ids(1, n, seed=n)[0] for n in (5, 4, 3))
    row = jnp.concatenate([prompt, chosen, rejected, jnp.zeros(2, jnp.int32)])[None]
    positions = jnp.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 0, 0]], jnp.int32)
    segments = jnp.array([[1] * 12 + [0] * 2], jnp.int32)
    branches = jnp.array([[0] * 5 + [1] * 4 + [2] * 3 + [0] * 2], jnp.int32)
    shared = forward(config, params, row, positions, segments, branches)[0]
    one = forward(config, params, *plain(jnp.concatenate([prompt, chosen])[None]))[0]
    two = forward(config, params, *plain(jnp.concatenate([prompt, rejected])[None]))[0]
    np.testing.assert_allclose(shared[:9], one, atol=1e-5)
    np.testing.assert_allclose(shared[9:12], two[5:], atol=1e-5)


def test_packed_documents_equal_separate_rows(config):
    params, first, second = random_params(config), some_ids(1, 5, seed=8)[0], some_ids(1, 6, seed=9)[0]
    positions = jnp.concatenate([jnp.arange(5), jnp.arange(6)])[None].astype(jnp.int32)
    segments = jnp.array([[1] * 5 + [2] * 6], jnp.int32)
    packed = forward(config, params, jnp.concatenate([first, second])[None], positions, segments)[0]
    np.testing.assert_allclose(packed[:5], forward(config, params, *plain(first[None]))[0], atol=1e-5)
    np.testing.assert_allclose(packed[5:], forward(config, params, *plain(second[None]))[0], atol=1e-5)


def test_padding_reaches_neither_values_nor_gradients():
    config, params = LLAMA, random_params(LLAMA)
    lora = random_lora(config)
    tokens, positions, segments = plain(some_ids(2, 8))
    segments = segments.at[0, 5:].set(0).at[1, :3].set(0)  # right and left padding
    real = segments > 0

    @jax.jit
    def f(adapters, tokens):
        h = hidden_states(config, params, tokens, positions, segments, lora=lora.replace(params=adapters))
        return jnp.sum(jnp.where(real[:, :, None], h, 0.0) ** 2), h

    (_, one), gradient_one = jax.value_and_grad(f, has_aux=True)(lora.params, tokens)
    other = jnp.where(real, tokens, (tokens + 7) % config.vocab_size)
    (_, two), gradient_two = jax.value_and_grad(f, has_aux=True)(lora.params, other)
    assert bool((jnp.where(real[:, :, None], one - two, 0.0) == 0).all())
    for a, b in zip(jax.tree.leaves(gradient_one), jax.tree.leaves(gradient_two), strict=True):
        np.testing.assert_array_equal(a, b)


def loss(adapters, config, params, lora, key=None):
    args = plain(some_ids(2, 7))
    hidden = hidden_states(config, params, *args, lora=lora.replace(params=adapters), dropout_key=key)
    return jnp.mean(jax.nn.logsumexp(unembed(config, params, hidden), axis=-1))


def test_adapter_gradient_by_finite_differences(config):
    params, lora = random_params(config), random_lora(config)
    f = jax.jit(lambda adapters: loss(adapters, config, params, lora))
    gradient = jax.grad(f)(lora.params)
    for seed in range(3):
        keys = iter(jax.random.split(jax.random.key(seed), 32))
        way = jax.tree.map(lambda x, keys=keys: jax.random.normal(next(keys), x.shape), lora.params)

        def slope(eps, way=way):
            ahead, behind = (jax.tree.map(lambda x, w, s=s: x + s * w, lora.params, way) for s in (eps, -eps))
            return (f(ahead) - f(behind)) / (2 * eps)

        # Richardson: the error of order eps^2 cancels. Float32: values near 4 are good to 1e-6, so that the
        # combination is good to 1e-6 (4 / 1e-3 + 1 / 2e-3) / 3 = 1.5e-3.
        numeric = (4 * slope(1e-3) - slope(2e-3)) / 3
        exact = sum(
            jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
        )
        np.testing.assert_allclose(numeric, exact, rtol=5e-3, atol=3e-3)


@pytest.mark.parametrize(
    ("config", "again"), [(LLAMA, ("products", "layers")), (HYBRID, ("products",))], ids=["llama", "hybrid"]
)
def test_what_is_computed_again_changes_no_gradient(config, again):
    params, lora = random_params(config), random_lora(config, dropout=0.3)
    key, gradients, flops = jax.random.key(4), {}, {}
    for remat in ("none", *again):
        own = dataclasses.replace(config, remat=remat)
        traced = jax.jit(jax.grad(loss), static_argnums=1).trace(lora.params, own, params, lora, key)
        flops[remat] = product_flops(traced.jaxpr)
        gradients[remat] = traced.lower().compile()(lora.params, params, lora, key)
    for remat in again:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients["none"], gradients[remat]
        )
    # Scores, and the values that they weigh: 2 products of [T, H] with [T, H] for each row, head and layer.
    rows, length = some_ids(2, 7).shape
    scores = 2 * 2 * rows * config.num_heads * length**2 * config.head_dim * config.num_layers
    assert flops["products"] - flops["none"] == scores
    if "layers" in again:
        per_weight = 2 * rows * length * config.num_layers
        down = projection_sizes(config)["down"]  # nothing reads its result but the next layer
        weights = sum(a * b for a, b in projection_sizes(config).values()) - down[0] * down[1]
        assert flops["layers"] - flops["products"] >= per_weight * weights


def test_full_fine_tuning_has_gradients_for_every_weight(config):
    params, args = random_params(config), plain(some_ids(2, 7))

    def f(params):
        return jnp.mean(
            jax.nn.logsumexp(unembed(config, params, hidden_states(config, params, *args)), axis=-1)
        )

    gradients = jax.jit(jax.grad(f))(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    # A key's bias moves all scores of a query alike, so its gradient is a rounding error away from zero.
    small = [
        jax.tree_util.keystr(k) for k, g in jax.tree.leaves_with_path(gradients) if jnp.abs(g).max() < 1e-7
    ]
    assert not [name for name in small if "['k']['bias']" not in name]


def test_bfloat16_computes_in_bfloat16_and_ends_in_float32():
    params, args = random_params(LLAMA), plain(some_ids(2, 7))
    half = dataclasses.replace(LLAMA, dtype="bfloat16")
    hidden = forward(half, params, *args)
    assert hidden.dtype == jnp.bfloat16
    logits = unembed(half, params, hidden)
    assert logits.dtype == jnp.float32
    exact = unembed(LLAMA, params, forward(LLAMA, params, *args))
    # bfloat16 keeps 8 bits: about 1 percent of the spread after three layers.
    assert float(jnp.std(logits - exact)) < 0.03 * float(jnp.std(exact))
    stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    gradient = jax.grad(loss)(random_lora(half).params, half, stored, random_lora(half))
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient))


def test_logical_axes_name_every_axis(config):
    params = init_params(jax.random.key(0), config)
    axes = logical_axes(config)
    ranks = jax.tree.map(len, axes, is_leaf=lambda x: isinstance(x, tuple))
    assert ranks == jax.tree.map(jnp.ndim, params)
    assert axes["layers"]["o"]["kernel"] == ("layers", "heads", "embed")
    assert axes["embedding"] == ("vocab", "embed")


def test_initial_scales():
    config = DecoderConfig("llama", 500, 256, 512, 2, 8, 8, 32)
    params = init_params(jax.random.key(0), config)
    # Variance 1 / fan-in; the two that write to the residual stream 1 / (2 L) of that.
    assert float(params["layers"]["q"]["kernel"].std()) == pytest.approx(256**-0.5, rel=0.02)
    assert float(params["layers"]["down"]["kernel"].std()) == pytest.approx((4 * 512) ** -0.5, rel=0.02)
    assert float(params["embedding"].std()) == pytest.approx(256**-0.5, rel=0.02)
    # Layers differ: each has its own key.
    assert not np.allclose(params["layers"]["q"]["kernel"][0], params["layers"]["q"]["kernel"][1])


def test_sharded_over_eight_devices_equals_one():
    params, args = random_params(LLAMA), plain(some_ids(8, 6))
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    rules = {"heads": "tensor", "kv_heads": "tensor", "mlp": "tensor"}
    placed = jax.tree.map(
        lambda names, x: jax.device_put(
            x, NamedSharding(mesh, PartitionSpec(*(rules.get(name) for name in names)))
        ),
        logical_axes(LLAMA),
        params,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    rows = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in args]
    np.testing.assert_allclose(forward(LLAMA, placed, *rows), forward(LLAMA, params, *args), atol=1e-5)


def test_memory_of_adapter_gradients_at_135m_shape():
    # Four rows of 384 tokens with remat: the kept inputs of 30 layers are 30 * 4 * 384 * 576 * 4 bytes =
    # 101 MiB; beside them one layer's activations live.
    config = DecoderConfig("llama", 49152, 576, 1536, 30, 9, 3, 64, tie_embeddings=True, remat=True)
    params = jax.eval_shape(lambda k: init_params(k, config), jax.random.key(0))
    adapters = jax.eval_shape(lambda k: init_lora(k, config, rank=8, alpha=16.0).params, jax.random.key(0))
    rows = jax.ShapeDtypeStruct((4, 384), jnp.int32)

    def f(adapters, params, *rows):
        return jnp.sum(hidden_states(config, params, *rows, lora=Lora(params=adapters, scale=2.0)) ** 2)

    compiled = jax.jit(jax.grad(f)).lower(adapters, params, rows, rows, rows, rows).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 350 * 2**20
