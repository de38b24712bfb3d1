"""The real 260k-parameter story model: greedy text, character for character."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import decode_step, empty_cache, load_pretrained, prefill, save_pretrained, unembed

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "stories260k"
STEPS = 200

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the story model is not there: {DATA}")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model after a trip through a Hugging Face folder."""
    spec = importlib.util.spec_from_file_location("stories260k", REPOSITORY / "tools" / "stories260k.py")
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    folder = tmp_path_factory.mktemp("stories") / "model"
    save_pretrained(reader.read_model(DATA), folder)
    return load_pretrained(folder)


def test_shape(model):
    assert sum(x.size for x in jax.tree.leaves(model.params)) == 260_032
    assert (model.config.bos_id, model.config.eos_ids) == (1, (2,))


def test_greedy_from_bos(model):
    config, params = model.config, model.params
    bos = jnp.array([[1]], jnp.int32)
    hidden, prompt = prefill(config, params, bos, jnp.zeros_like(bos), jnp.ones_like(bos))
    first = jnp.argmax(unembed(config, params, hidden), axis=-1).astype(jnp.int32)

    def step(carry, i):
        token, cache = carry
        hidden, cache = decode_step(config, params, token, jnp.full((1, 1), 1 + i), prompt, cache, i)
        return (jnp.argmax(unembed(config, params, hidden), axis=-1).astype(jnp.int32), cache), token[0, 0]

    scan = jax.jit(lambda: jax.lax.scan(step, (first, empty_cache(config, 1, 1, STEPS)), jnp.arange(STEPS)))
    ids = scan()[1].tolist()
    assert model.tokenizer.decode(ids) == (DATA / "expected_greedy_200.txt").read_text()


def llama2c_encode(text, pieces, scores):
    """llama2.c's own algorithm: characters (or bytes), then always the best-scored joint piece."""
    ids = [pieces[" "]] if text else []
    for character in text:
        ids += [pieces[character]] if character in pieces else [b + 3 for b in character.encode()]
    names = {i: piece for piece, i in pieces.items()}
    while True:
        best, where = -1e10, -1
        for i in range(len(ids) - 1):
            joint = pieces.get(names[ids[i]] + names[ids[i + 1]])
            if joint is not None and scores[joint] > best:
                best, where = scores[joint], i
        if where < 0:
            return ids
        ids[where : where + 2] = [pieces[names[ids[where]] + names[ids[where + 1]]]]


def test_tokenizer_agrees_with_llama2c_and_gives_the_bytes_back(model):
    raw, at, pieces, scores = (DATA / "tok512.bin").read_bytes(), 4, {}, []
    for i in range(512):
        scores.append(float(np.frombuffer(raw, "<f4", 1, at)[0]))
        length = int(np.frombuffer(raw, "<i4", 1, at + 4)[0])
        pieces[raw[at + 8 : at + 8 + length].decode()] = i
        at += 8 + length
    story = (DATA / "expected_greedy_200.txt").read_text()
    for text in (story, "Lily", "  two spaces", "naïve \u2603 snow\n\n\ttab", "\U0001f600!", "a<0x41>b"):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        assert ids == llama2c_encode(text, pieces, scores), text
        assert model.tokenizer.decode(ids) == text
