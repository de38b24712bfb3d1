"""The package's root, and the program in docs/library.md, run as it stands on tiny random models."""

import ast
import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import alignjax as aj
from alignjax.models import (
    DecoderConfig,
    Model,
    ScoreModel,
    init_params,
    init_score_model,
    save_score_model,
)
from alignjax.models.score_model import Kind

ROOT = pathlib.Path(aj.__file__).parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
LETTERS = [chr(ord("a") + i) for i in range(20)]
CONFIG = DecoderConfig("llama", 23, 32, 48, 2, 4, 2, 8, max_positions=128, bos_id=1, eos_ids=(2,))


def program() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    return block


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter."""
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *LETTERS])}
    backend = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def share_scorer(kind: Kind, letters: str) -> ScoreModel:
    """A score model that grows with the share of some letters in prompt and response.

    Queries of 0 make attention a plain mean over all tokens. It writes the mean of dimension 0 of the
    embedding, which is 1 for the letters and 0 for other tokens, to dimension 1, where the head reads it. The
    other dimensions are constant, so that the norm hardly changes the scale.
    """
    body = init_params(jax.random.key(3), CONFIG)
    layers = {name: jax.tree.map(jnp.zeros_like, leaf) for name, leaf in body["layers"].items()}
    for norm in ("attn_norm", "mlp_norm"):
        layers[norm] = body["layers"][norm]
    for name in ("v", "o"):
        layers[name] = {"kernel": layers[name]["kernel"].at[0, 0, int(name == "o")].set(1.0)}
    embedding = jnp.ones((CONFIG.vocab_size, CONFIG.hidden_size)).at[:, :2].set(0.0)
    embedding = embedding.at[jnp.array([3 + LETTERS.index(letter) for letter in letters]), 0].set(1.0)
    model = Model(body | {"layers": layers, "embedding": embedding}, CONFIG, tokenizer())
    scorer = init_score_model(jax.random.key(4), model, kind=kind)
    kernel = jnp.zeros((CONFIG.hidden_size, 1)).at[1].set(8.0)
    return scorer.replace(params=scorer.params | {"head": scorer.params["head"] | {"kernel": kernel}})


def reference() -> Model:
    """A random model that ends a response at every fifth token or so."""
    params = init_params(jax.random.key(0), CONFIG)
    embedding = params["embedding"].at[:, 0].set(2.0)
    head = params["head"].at[0].set(0.0).at[0, CONFIG.eos_ids[0]].set(0.35)
    return Model(params | {"embedding": embedding, "head": head}, CONFIG, tokenizer())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A reference, two score models that disagree on five letters, and pairs of the reference's samples."""
    root = tmp_path_factory.mktemp("library")
    model = reference()
    aj.save_pretrained(model, root / "reference")
    save_score_model(share_scorer("reward", "abcdefghij"), root / "reward-model")
    save_score_model(share_scorer("cost", "fghijklmno"), root / "cost-model")
    rng = np.random.default_rng(0)
    texts = sorted({" ".join(rng.choice(LETTERS, 3)) for _ in range(128)})
    prompts = [np.array([1, *(3 + LETTERS.index(letter) for letter in text.split())]) for text in texts]
    samples = aj.policy.sample(2, model, prompts, num_samples=16, max_new_tokens=32)
    decode = functools.partial(tokenizer().decode, skip_special_tokens=True)
    lines = []
    for text, rows, lengths in zip(texts, samples.tokens, samples.lengths, strict=True):
        # Short ones: rows of one shape need one compilation.
        drawn = sorted({str(decode(row[:n])) for row, n in zip(rows, lengths, strict=True) if 1 < n < 6})[:4]
        pairs = zip(drawn[0::2], drawn[1::2], strict=False)
        lines += [{"prompt": text, "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    (root / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return root


def test_the_program_has_one_import_and_about_25_statements():
    body = ast.parse(program()).body
    assert [type(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)] == [ast.Import]
    assert len(body) <= 27


def test_the_program_aligns_a_model(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(program(), "docs/library.md", "exec"), names)
    solution, tokens = names["solution"], names["tokens"]
    count = len(names["prompts"])
    assert count == names["counts"].kept > 200
    assert names["rewards"].shape == (count, 16) and names["utilities"].shape == (count, 16, 1)
    # The margin asked is positive and, being half of what can be reached, reached exactly by the dual.
    assert solution.feasible and solution.lam[0] > 0 and names["margins"][0] > 0.1
    np.testing.assert_allclose(solution.margins, names["margins"], rtol=1e-5)
    # Labels: an independent sum over the two scores of each response.
    scores = names["pair_rewards"] + solution.lam[0] * names["pair_utilities"][:, :, 0]
    expected = 1 / (1 + np.exp(scores[:, 1] - scores[:, 0]))
    np.testing.assert_allclose(names["labels"], expected, atol=1e-5)
    # The aligned model is about as much safer as the dual says, at a KL divergence of the same size.
    assert 0.5 * names["margins"][0] < names["achieved"] < 1.5 * names["margins"][0]
    assert 0 < names["kl"] < 3 * solution.kl
    assert capsys.readouterr().out.startswith(f"margin {names['achieved']:.2f}, forecast")
    # What was written is what was trained: adapters beside the weights, and added to them.
    written = aj.load_pretrained("aligned")
    beside = aj.policy.preference_logps(names["model"], tokens[:8], lora=names["lora"], batch_size=8)
    np.testing.assert_allclose(
        aj.policy.preference_logps(written, tokens[:8], batch_size=8), beside, atol=1e-4
    )


def test_every_name_is_there_and_listed_on_the_page():
    assert aj.__all__ == sorted(aj.__all__) and set(aj.__all__) <= set(dir(aj))
    for name in aj.__all__:
        assert f"`{name}`" in PAGE and getattr(aj, name) is not None
    assert not {path.stem for path in pathlib.Path(aj.__file__).parent.glob("*.py")} & set(aj.__all__)
    assert aj.dual is importlib.import_module("alignjax.dual")
    assert aj.losses.dpo.__module__ == "alignjax.alignment.losses"
    with pytest.raises(AttributeError, match="module 'alignjax' has no attribute 'alignn'"):
        aj.alignn  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]  # on purpose


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, alignjax; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; dir(alignjax)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
