"""Score models: against forward passes in float64 numpy and in torch; both layouts of folders; padding."""

import copy
import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignjax.data.batches import Bucket, PairBatch, ResponseBatch, make_pair_rows, make_response_rows
from alignjax.data.tokenize import TokenizedPair, TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import (
    Model,
    ScoreModel,
    as_utility,
    body_config,
    init_lora,
    init_params,
    init_score_model,
    load_score_model,
    pair_scores,
    response_scores,
    save_pretrained,
    save_score_model,
    score_model,
)
from alignjax.models.score_model import Kind
from alignjax.models.score_model_files import layout_of

NAMES = ("llama", "tied", "mistral", "qwen2", "qwen3")
of_pairs, of_responses = jax.jit(pair_scores), jax.jit(response_scores)
# Prompt, chosen, rejected: responses of one token, and one of EOS alone.
PAIRS = [([1, 5, 6], [4, 2], [7, 8, 9, 2]), ([1], [3, 3, 3, 3, 2], [2]), ([1, 2, 3, 4, 5], [10], [9, 2])]


@pytest.fixture(scope="session")
def policy(kinds):
    """policy("llama"): random weights drawn by numpy, which compiles nothing."""

    @functools.cache
    def make(name):
        config, rng = kinds[name], np.random.default_rng(0)
        shapes = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))

        def draw(path, leaf):
            centre = 1.0 if path[-1].key == "scale" else 0.0
            return jnp.asarray(rng.normal(centre, 0.3, leaf.shape), jnp.float32)

        return Model(jax.tree.map_with_path(draw, shapes), config)

    return make


@pytest.fixture(scope="session")
def scorer(policy):
    """scorer("llama", "cost") has every weight, the head's too, away from its initial value."""

    def make(name="llama", kind: Kind = "reward", **changes):
        model = init_score_model(jax.random.key(7), policy(name), kind=kind)
        head = jax.tree.map(lambda x: x + 0.3, model.params["head"])
        return model.replace(params=model.params | {"head": head}, **changes)

    return make


def ids(*lists):
    return [np.array(part, np.int32) for part in lists]


def pair_batch(num_rows=4):
    rows = make_pair_rows([TokenizedPair(*ids(*pair)) for pair in PAIRS], Bucket(16, 8), num_rows)
    zeros, weights = np.zeros(num_rows, np.float32), (np.arange(num_rows) < len(PAIRS)).astype(np.float32)
    return PairBatch(rows, zeros, zeros, zeros, weights, zeros.astype(np.int32))


def response_batch(slot=1, num_rows=3):
    responses = [TokenizedResponse(*ids(pair[0], pair[slot])) for pair in PAIRS]
    rows = make_response_rows(responses, Bucket(16, 8), num_rows)
    return ResponseBatch(rows, np.ones(num_rows, np.float32), np.zeros(num_rows, np.int32))


def plain_score(model, prompt, response):
    """One document in float64, from the formulas of the papers; without a normalizer."""
    config, tokens = model.config, np.array([*prompt, *response])
    p, head = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), model.params[n]) for n in ("decoder", "head")
    )
    length, width = len(tokens), config.head_dim
    angles = np.arange(length)[:, None] * config.rope_theta ** (-2 * np.arange(width // 2) / width)
    turns = np.exp(1j * angles)[:, None, :]  # [T, 1, H / 2]
    ago = np.arange(length)[:, None] - np.arange(length)
    seen = (ago >= 0) & (ago < (config.sliding_window or length))

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps) * scale

    def turn(x):
        """The two halves of a head are the real and the imaginary part of its planes."""
        z = (x[..., : width // 2] + 1j * x[..., width // 2 :]) * turns
        return np.concatenate([z.real, z.imag], axis=-1)

    x = p["embedding"][tokens]
    for i in range(config.num_layers):
        w = jax.tree.map(lambda a, i=i: a[i], p["layers"])
        h = norm(x, w["attn_norm"]["scale"])
        q, k, v = (
            (h @ w[n]["kernel"] + w[n].get("bias", 0.0)).reshape(length, -1, width) for n in ("q", "k", "v")
        )
        if config.qk_norm:
            q, k = norm(q, w["q_norm"]["scale"]), norm(k, w["k_norm"]["scale"])
        k, v = (np.repeat(a, config.num_heads // config.num_kv_heads, axis=1) for a in (turn(k), v))
        logits = np.einsum("qhd,khd->hqk", turn(q), k) / np.sqrt(width)
        weights = np.exp(np.where(seen, logits, -np.inf))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(length, -1) @ w["o"]["kernel"]
        h = norm(x, w["mlp_norm"]["scale"])
        gate = h @ w["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"]["kernel"])) @ w["down"]["kernel"]
    return float(norm(x[-1], p["final_norm"]["scale"]) @ head["kernel"][:, 0] + head.get("bias", [0.0])[0])


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3"])
def test_scores_equal_a_float64_forward_pass(name, scorer):
    model = scorer(name, "cost")
    expected = [[plain_score(model, prompt, r) for r in (c, j)] for prompt, c, j in PAIRS]
    chosen, rejected = of_pairs(model, pair_batch())
    assert chosen.dtype == rejected.dtype == jnp.float32 and chosen.shape == (4,)
    # Scores reach 6; float32 sums in another order differ by some 1e-6 of that.
    np.testing.assert_allclose(np.stack([chosen, rejected], 1)[:3], expected, atol=2e-5)
    if name == "llama":
        found = np.stack([of_responses(model, response_batch(slot)) for slot in (1, 2)], axis=1)
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(("kind", "centre"), [("reward", 2.0), ("cost", 0.0)])
def test_normalizers_by_hand(kind, centre, scorer):
    """Mean 2 and variance 4: a reward x becomes (x - 2) / 2, a cost x / 2."""
    normalizer = {"mean": jnp.float32(2.0), "var": jnp.float32(4.0)}
    model = scorer("llama", kind, normalizer=normalizer, normalize=True)
    raw = np.array([plain_score(model, prompt, chosen) for prompt, chosen, _ in PAIRS])
    np.testing.assert_allclose(of_responses(model, response_batch()), (raw - centre) / 2, atol=2e-5)


def test_a_utility_is_minus_a_cost():
    scores = np.array([1.0, -2.0], np.float32)
    np.testing.assert_array_equal(as_utility("reward", scores), [1.0, -2.0])
    np.testing.assert_array_equal(as_utility("cost", scores), [-1.0, 2.0])


def test_padding_reaches_neither_values_nor_gradients(scorer, monkeypatch):
    model, batch = scorer("llama", "cost"), pair_batch()
    plain = np.stack(of_pairs(model, batch))

    def poisoned(config, params, tokens, positions, segment_ids, *rest, **options):
        hidden = hidden_states(config, params, tokens, positions, segment_ids, *rest, **options)
        return jnp.where((segment_ids > 0)[:, :, None], hidden, jnp.nan)

    hidden_states = score_model.hidden_states
    monkeypatch.setattr(score_model, "hidden_states", poisoned)

    def total(params):
        chosen, rejected = pair_scores(model.replace(params=params), batch)
        return jnp.sum(chosen - 2.0 * rejected), (chosen, rejected)

    (_, scores), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(model.params)
    np.testing.assert_allclose(np.stack(scores), plain, rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    # A padding row has the score of a hidden state of 0: the bias.
    np.testing.assert_allclose(plain[:, 3], 0.3, rtol=1e-6)


def test_no_logits_of_the_vocabulary(scorer):
    text = of_pairs.lower(scorer(), pair_batch()).as_text()
    assert "tensor<40x16xf32>" in text and not re.search(r"tensor<(\d+x)+40xf32>", text)


def test_adapters_and_their_dropout(scorer):
    model = scorer()
    lora = init_lora(jax.random.key(1), model.config, rank=2, alpha=4.0, dropout=0.5)
    score = jax.jit(lambda lora, key: response_scores(model, response_batch(), lora=lora, dropout_key=key))
    plain = [plain_score(model, prompt, chosen) for prompt, chosen, _ in PAIRS]
    np.testing.assert_allclose(score(lora, None), plain, atol=2e-5)  # B is zero
    moved = lora.replace(params=jax.tree.map(lambda x: x + 0.1, lora.params))
    off = np.asarray(score(moved, None))
    assert np.abs(off - plain).max() > 1e-2
    on = [np.asarray(score(moved, jax.random.key(i))) for i in (0, 1)]
    assert np.abs(on[0] - off).max() > 1e-3 and np.abs(on[0] - on[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_a_policys_body_under_a_fresh_head(name, policy):
    model = policy(name)
    cost = init_score_model(jax.random.key(0), model, kind="cost")
    assert "head" not in cost.params["decoder"] and cost.config.tie_embeddings
    assert cost.params["decoder"]["layers"] is model.params["layers"]
    assert cost.params["head"]["kernel"].shape == (16, 1) and cost.params["head"]["kernel"].any()
    np.testing.assert_array_equal(cost.params["head"]["bias"], [0.0])
    reward = init_score_model(jax.random.key(0), model, kind="reward")
    assert "bias" not in reward.params["head"] and not reward.normalize
    # Standard deviation 1 / 17.
    assert 0.5 / 17 < float(reward.params["head"]["kernel"].std()) < 2 / 17


def test_an_unknown_kind(scorer):
    with pytest.raises(InputError, match="kind is 'value'; use one of reward, cost"):
        scorer().replace(kind="value")


def test_bfloat16_bodies_give_float32_scores(scorer):
    model = scorer()
    params = model.params | {
        "decoder": jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params["decoder"])
    }
    half = model.replace(params=params, config=dataclasses.replace(model.config, dtype="bfloat16"))
    scores = of_responses(half, response_batch())
    exact = [plain_score(model, prompt, chosen) for prompt, chosen, _ in PAIRS]
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, exact, atol=0.2)  # 8 bits, and scores of some units


def equal(a: ScoreModel, b: ScoreModel):
    """The same but for the tokenizer, bit by bit."""
    a, b = (model.replace(tokenizer=None) for model in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)  # kind, config and normalize are part of it
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["reward", "cost"])
def test_round_trip_in_safe_rlhfs_layout(name, kind, scorer, tmp_path):
    normalizer = {"mean": jnp.float32(-1.5), "var": jnp.float32(2.0)}
    model = scorer(name, kind, normalizer=normalizer, normalize=kind == "cost")
    save_score_model(model, tmp_path / "a")
    equal(load_score_model(tmp_path / "a"), model)
    fields = json.loads((tmp_path / "a" / "config.json").read_text())
    family = {"tied": "Llama"}.get(name, name.capitalize())
    assert fields["architectures"] == [f"{family}ModelForScore"]
    assert (fields["score_type"], fields["score_dim"]) == (kind, 1)
    assert fields["bias"] == fields["score_bias"] == fields["do_normalize"] == (kind == "cost")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    assert tensors["score_head.weight"].shape == (1, 16) and tensors["normalizer.var"].shape == (1,)
    assert tensors["normalizer.count"].dtype == np.int64 and "lm_head.weight" not in tensors
    assert ("score_head.bias" in tensors) == (kind == "cost")


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_in_transformers_layout(name, scorer, tmp_path):
    for kind in ("reward", "cost"):
        model = scorer(name)
        model = model.replace(kind=kind)  # a cost without a bias
        model = model.replace(reads="conversation" if kind == "cost" else "response")
        save_score_model(model, tmp_path / kind, layout="classification")
        equal(load_score_model(tmp_path / kind), model)
    fields = json.loads((tmp_path / "reward" / "config.json").read_text())
    family = {"tied": "Llama"}.get(name, name.capitalize())
    assert fields["architectures"] == [f"{family}ForSequenceClassification"]
    assert fields["id2label"] == {"0": "LABEL_0"} and not fields["tie_word_embeddings"]
    assert fields["score_reads"] == "response" and fields["pad_token_id"] is None
    names = set(load_file(tmp_path / "reward" / "model.safetensors"))
    assert {n for n in names if not n.startswith("model.")} == {"score.weight"}


def test_a_tokenizer_and_the_type_of_the_body_go_along(scorer, tiny_tokenizer, tmp_path):
    model = scorer(tokenizer=tiny_tokenizer)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params["decoder"])
    save_score_model(model.replace(params=model.params | {"decoder": half}), tmp_path / "half")
    back = load_score_model(tmp_path / "half", dtype="bfloat16", remat=True)
    assert back.config == dataclasses.replace(model.config, dtype="bfloat16", remat=True)
    assert {x.dtype for x in jax.tree.leaves(back.params["decoder"])} == {jnp.dtype(jnp.bfloat16)}
    assert back.params["head"]["kernel"].dtype == jnp.float32
    assert back.tokenizer is not None and back.tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert tensors["model.norm.weight"].dtype == np.dtype(ml_dtypes.bfloat16)
    assert tensors["score_head.weight"].dtype == np.float32


def test_a_classifier_names_a_pad_token_that_is_not_its_end(scorer, tiny_tokenizer, tmp_path):
    save_score_model(scorer(tokenizer=tiny_tokenizer), tmp_path / "model", layout="classification")
    back = load_score_model(tmp_path / "model")
    assert back.tokenizer is not None and back.tokenizer.pad_token == "<unk>" and back.pad_id == 0
    assert tiny_tokenizer.pad_token is None
    fields = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    ends = copy.deepcopy(tiny_tokenizer)
    ends.unk_token = ends.bos_token = None
    ends.pad_token = "</s>"
    if not [t for t in ends.added_tokens_decoder.values() if t.special and t.content != "</s>"]:
        with pytest.raises(InputError, match="no special token other than its end token"):
            save_score_model(scorer(tokenizer=ends), tmp_path / "none", layout="classification")


@pytest.mark.parametrize("fields", [{"score_reads": "tail"}, {"pad_token_id": "0"}])
def test_how_a_classifier_is_read_is_checked(scorer, tmp_path, fields):
    save_score_model(scorer(), tmp_path / "model", layout="classification")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(InputError, match=f"config.json: {next(iter(fields))} is"):
        load_score_model(tmp_path / "model")


@pytest.fixture
def folder(scorer, tmp_path):
    """A cost model with a bias and a normalizer, in Safe-RLHF's layout."""
    normalizer = {"mean": jnp.float32(1.0), "var": jnp.float32(2.0)}
    save_score_model(scorer("llama", "cost", normalizer=normalizer, normalize=True), tmp_path / "model")
    return tmp_path / "model"


def change(file, **fields):
    kept = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in kept.items() if value is not None}))


def test_what_no_score_depends_on_is_not_read(folder, tmp_path):
    whole, file = load_score_model(folder), folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["normalizer.count"]
    extra = {
        "lm_head.weight": np.ones((40, 16), np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
    }
    save_file(tensors | extra, file)
    equal(load_score_model(folder), whole)
    # As older folders say that there is a bias, and as others say nothing.
    change(folder / "config.json", score_bias=None)
    equal(load_score_model(folder), whole)
    change(folder / "config.json", bias=None)
    equal(load_score_model(folder), whole)
    # Without buffers scores are as they come.
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("normalizer")}
    save_file(kept, file)
    change(folder / "config.json", do_normalize=False)
    assert jax.tree.map(float, load_score_model(folder).normalizer) == {"mean": 0.0, "var": 1.0}


def test_several_files_are_read(folder):
    whole, tensors = load_score_model(folder), load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    equal(load_score_model(folder), whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architectures": ["LlamaForCausalLM"]},
            "config.json: architecture LlamaForCausalLM is not a score",
        ),
        ({"architectures": ["FalconModelForScore"]}, "FalconModelForScore .* Qwen3ForSequenceClassification"),
        ({"architectures": None}, "architecture None is not a score model"),
        ({"score_type": "critic"}, 'score_type is \'critic\'; only "reward" and "cost"'),
        ({"score_dim": 2}, "score_dim is 2; only 1"),
        ({"normalizer_type": "Rank"}, "normalizer_type is 'Rank'; only RunningMeanStd and Exp"),
        ({"bias": False, "score_bias": False}, "score_head.bias unknown to this architecture"),
        ({"hidden_act": "gelu"}, 'hidden_act "gelu" is not supported'),
        (
            {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}},
            "LlamaForSequenceClassification with 3 labels is not a score model",
        ),
        ({"architectures": ["LlamaForSequenceClassification"]}, "model: score.weight missing"),
    ],
)
def test_settings_that_are_refused(folder, fields, message):
    change(folder / "config.json", **fields)
    with pytest.raises(InputError, match=message):
        load_score_model(folder)


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def having(name, *shape):
    return lambda tensors: tensors | {name: np.ones(shape, np.float32)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("score_head.weight"), "model: score_head.weight missing"),
        (without("score_head.bias"), "score_head.bias missing"),
        (without("normalizer.var"), "normalizer.var missing"),
        (without("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight missing"),
        (having("score_head.weight", 1, 17), r"score_head.weight is \[1, 17\], must be \[1, 16\]"),
        (having("score_head.weight", 2, 16), r"score_head.weight is \[2, 16\], must be \[1, 16\]"),
        (having("normalizer.mean", 2), r"normalizer.mean is \[2\], must be \[1\]"),
        (having("value_head.weight", 1, 16), "value_head.weight unknown"),
        (
            lambda t: t | {"normalizer.var": np.zeros(1, np.float32)},
            "normalizer.mean is 1 and normalizer.var 0",
        ),
        (lambda t: t | {"normalizer.mean": np.full(1, np.nan, np.float32)}, "normalizer.mean is nan"),
    ],
)
def test_tensors_that_do_not_fit(folder, spoil, message):
    file = folder / "model.safetensors"
    save_file(spoil(load_file(file)), file)
    with pytest.raises(InputError, match=message):
        load_score_model(folder)


def test_several_labels_are_refused_by_name(scorer, tmp_path):
    save_score_model(scorer(), tmp_path / "model", layout="classification")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"score.weight": np.ones((3, 16), np.float32)}, file)
    with pytest.raises(InputError, match=r"model: score.weight has 3 labels, but a score model has one"):
        load_score_model(tmp_path / "model")
    save_file(tensors | {"score_head.weight": np.ones((1, 16), np.float32)}, file)
    with pytest.raises(InputError, match="score_head.weight unknown"):
        load_score_model(tmp_path / "model")


def test_what_is_not_a_score_model(policy, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; give the folder of a score model"):
        load_score_model(tmp_path / "nowhere")
    save_pretrained(policy("llama"), tmp_path / "policy")
    with pytest.raises(InputError, match="LlamaForCausalLM is not a score model"):
        load_score_model(tmp_path / "policy")


def test_what_a_layout_cannot_hold(scorer, tmp_path):
    for model, missing in ((scorer("llama", "cost"), "bias"), (scorer(normalize=True), "normalizer")):
        with pytest.raises(InputError, match=f'layout "classification" stores no {missing}; use'):
            save_score_model(model, tmp_path / "model", layout="classification")
    unknown: object = "pickle"
    with pytest.raises(InputError, match="layout is 'pickle'; use one of safe_rlhf, classification"):
        save_score_model(scorer(), tmp_path / "model", layout=unknown)  # pyright: ignore[reportArgumentType]  # on purpose
    assert not (tmp_path / "model").exists()


# Parity with torch. The weights are random, in the names and shapes of a small published Llama.
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}  # fmt: skip


def published_tensors(torch):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: 0.2 * torch.randn(*shape, generator=generator)  # noqa: E731
    width, mlp, kv = 32, 48, 16
    tensors = {
        "model.embed_tokens.weight": draw(64, width),
        "model.norm.weight": 1 + draw(width),
        "score_head.weight": draw(1, width) * 5,
        "score_head.bias": draw(1),
        "normalizer.mean": torch.tensor([0.75]),
        "normalizer.var": torch.tensor([2.25]),
        "normalizer.count": torch.tensor([1000]),
    }
    shapes = {"q": (width, width), "k": (kv, width), "v": (kv, width), "o": (width, width)}
    for i in range(3):
        prefix = f"model.layers.{i}"
        for n, shape in shapes.items():
            tensors[f"{prefix}.self_attn.{n}_proj.weight"] = draw(*shape) * (1 + i)
        for n, shape in {"gate": (mlp, width), "up": (mlp, width), "down": (width, mlp)}.items():
            tensors[f"{prefix}.mlp.{n}_proj.weight"] = draw(*shape)
        for n in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{n}.weight"] = 1 + draw(width)
    return tensors


def torch_score(torch, tensors, tokens, kind):
    """The score of the last token, in plain torch."""
    f = torch.nn.functional
    norm = lambda x, name: f.rms_norm(x, (32,), tensors[f"{name}.weight"], 1e-6)  # noqa: E731
    linear = lambda x, name: f.linear(x, tensors[f"{name}.weight"])  # noqa: E731
    frequencies = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    angles = torch.outer(torch.arange(len(tokens)).float(), frequencies).repeat(1, 2)

    def turn(x):
        one, two = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-two, one], dim=-1) * angles.sin()

    x = tensors["model.embed_tokens.weight"][torch.tensor(tokens)]
    for i in range(3):
        prefix = f"model.layers.{i}"
        h = norm(x, f"{prefix}.input_layernorm")
        q, k, v = (
            linear(h, f"{prefix}.self_attn.{n}_proj").view(len(tokens), -1, 8).transpose(0, 1) for n in "qkv"
        )
        k, v = (a.repeat_interleave(2, dim=0) for a in (turn(k), v))
        attended = f.scaled_dot_product_attention(turn(q), k, v, is_causal=True)
        x = x + linear(attended.transpose(0, 1).reshape(len(tokens), -1), f"{prefix}.self_attn.o_proj")
        h = norm(x, f"{prefix}.post_attention_layernorm")
        gate = f.silu(linear(h, f"{prefix}.mlp.gate_proj")) * linear(h, f"{prefix}.mlp.up_proj")
        x = x + linear(gate, f"{prefix}.mlp.down_proj")
    score = linear(norm(x[-1], "model.norm"), "score_head") + tensors["score_head.bias"]
    mean, deviation = tensors["normalizer.mean"], tensors["normalizer.var"].sqrt()
    return float((score - mean if kind == "reward" else score) / deviation)


@pytest.mark.parametrize("kind", ["reward", "cost"])
def test_parity_with_torch_on_the_published_layout(kind, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed; parity with it is not checked")
    from safetensors.torch import save_file as save_torch

    tensors = published_tensors(torch)
    save_torch(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    fields = {"architectures": ["LlamaModelForScore"], "model_type": "llama", "hidden_act": "silu"}
    head = {"score_type": kind, "score_dim": 1, "bias": True, "do_normalize": True,
            "normalizer_type": "ExponentialMovingAverage", "momentum": 0.9}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields | SIZES | head))
    expected = [[torch_score(torch, tensors, p + r, kind) for r in (c, j)] for p, c, j in PAIRS]
    model = load_score_model(tmp_path)
    found = np.stack(of_pairs(model, pair_batch()), axis=1)[:3]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    again = [of_responses(model, response_batch(slot)) for slot in (1, 2)]
    np.testing.assert_allclose(np.stack(again, axis=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_its_layout_and_scores_alike(name, scorer, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed; parity with it is not checked")
    from transformers import AutoModelForSequenceClassification

    save_score_model(scorer(name), tmp_path / "model", layout="classification")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.no_grad():
        expected = [float(theirs(torch.tensor([p + c])).logits[0, 0]) for p, c, _ in PAIRS]
    found = of_responses(load_score_model(tmp_path / "model"), response_batch())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_body_has_no_head(kinds):
    config = body_config(kinds["llama"])
    assert config.tie_embeddings and dataclasses.replace(config, tie_embeddings=False) == kinds["llama"]


@pytest.mark.parametrize(
    ("name", "causal"),
    [
        ("Gemma3TextForSequenceClassification", "Gemma3ForCausalLM"),
        ("GPT2ForSequenceClassification", "GPT2LMHeadModel"),
        ("Qwen3MoeForSequenceClassification", "Qwen3MoeForCausalLM"),
    ],
)
def test_classifiers_by_their_names_in_transformers(name, causal):
    assert layout_of({"architectures": [name]}, "config.json") == ("classification", causal)
