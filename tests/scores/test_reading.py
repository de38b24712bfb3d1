"""A score model of another tokenizer is given its own ids, and a classifier whole conversations."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignjax.data.records import Message, PreferencePair
from alignjax.data.responses import Responses
from alignjax.data.templates import Template
from alignjax.data.tokenize import TokenizedPair, tokenize_pairs, tokenize_responses
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    ScoreModel,
    init_params,
    init_score_model,
    load_score_model,
    save_score_model,
)
from alignjax.policy.batching import Batching
from alignjax.runtime.mesh import make_mesh
from alignjax.scores.reading import conversation_ids, reader_of
from alignjax.scores.scorers import LearnedScorer

WORDS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "user", "assistant", "\n", *"abcdefgh"]
PLAIN = Template("plain", "a {prompt} b")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAIRS = [
    PreferencePair("c d", "e f g", "h", {}, ""),
    PreferencePair("h", "a", "b b c", {}, ""),
    PreferencePair("e e", "f", "f g", {}, ""),
]


def tokenizer(order: list[int], chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Of WORDS, of which number i has the id order[i]."""
    vocab = {word: order[i] for i, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.add_tokens([AddedToken(t, normalized=False) for t in ("user", "assistant", "\n")])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.chat_template = chat_template
    return wrapped


STRAIGHT = list(range(len(WORDS)))
TURNED = np.random.default_rng(3).permutation(len(WORDS)).tolist()


@pytest.fixture(scope="module")
def straight() -> ScoreModel:
    config = DecoderConfig("llama", len(WORDS), 16, 32, 2, 2, 1, 8, eos_ids=(2,))
    model = Model(init_params(jax.random.key(0), config), config, tokenizer(STRAIGHT))
    return init_score_model(jax.random.key(1), model, kind="reward")


@pytest.fixture(scope="module")
def turned(straight: ScoreModel) -> ScoreModel:
    """The same model with its vocabulary permuted."""
    decoder = dict(straight.params["decoder"])
    rows = np.zeros_like(decoder["embedding"])
    rows[np.array(TURNED)] = decoder["embedding"]
    params = {**straight.params, "decoder": decoder | {"embedding": jax.numpy.asarray(rows)}}
    return straight.replace(params=params, tokenizer=tokenizer(TURNED))


@pytest.fixture(scope="module")
def scorer_of() -> Callable[..., LearnedScorer]:
    batching = Batching(make_mesh(1, 1, 1, devices=jax.devices()[:1]), rows=4, num_buckets=1, memory=None)

    def make(model: ScoreModel, template: Template = PLAIN, policy=None, **changes) -> LearnedScorer:
        reader = reader_of(
            model,
            tokenizer(STRAIGHT) if policy is None else policy,
            template,
            **{"own_template": "", "max_length": 32, "max_prompt_length": 16, "vocab_size": len(WORDS)}
            | {"where": "rm", "field": "config.scores.reward.template", "say": lambda line: None}
            | changes,
        )
        return LearnedScorer("reward", lambda: (model, None), batching, reader)

    return make


def tokens_of(template: Template = PLAIN, policy=None, max_length: int = 32) -> list[TokenizedPair]:
    policy = tokenizer(STRAIGHT) if policy is None else policy
    return tokenize_pairs(policy, template, PAIRS, max_length=max_length, max_prompt_length=6)[0]


def test_a_permuted_vocabulary_gives_the_same_scores_of_pairs(straight, turned, scorer_of):
    plain, other = scorer_of(straight), scorer_of(turned)
    assert plain.reader is None and other.reader is not None
    np.testing.assert_allclose(
        other.pairs(tokens_of(), PAIRS), plain.pairs(tokens_of(), PAIRS), rtol=0, atol=1e-6
    )
    # Fed the policy's ids, as before, it gives other numbers.
    fed = dataclasses.replace(other, reader=None).pairs(tokens_of(), PAIRS)
    assert np.abs(fed - plain.pairs(tokens_of(), PAIRS)).max() > 1e-2


def test_a_cut_response_has_no_end_for_either(straight, turned, scorer_of):
    tokens = tokens_of(max_length=7)
    assert 2 not in tokens[0].chosen_ids and 2 in tokens[0].rejected_ids
    found = scorer_of(turned, max_length=7, max_prompt_length=6).pairs(tokens, PAIRS)
    np.testing.assert_allclose(found, scorer_of(straight).pairs(tokens, PAIRS), rtol=0, atol=1e-6)


def test_a_permuted_vocabulary_gives_the_same_scores_of_samples(straight, turned, scorer_of):
    policy = tokenizer(STRAIGHT)
    rows = [("c d", ["e f", "h"]), ("g", ["a a", "b"])]
    flat = [(prompt, text) for prompt, texts in rows for text in texts]
    ids = tokenize_responses(policy, PLAIN, flat, max_length=32, max_prompt_length=16)[0]
    ids[0] = ids[0]._replace(response_ids=ids[0].response_ids[:-1])  # sampling stopped before its end
    drawn = Responses([p for p, _ in rows], [texts for _, texts in rows], [ids[:2], ids[2:]])
    found = scorer_of(turned).responses(drawn)
    np.testing.assert_allclose(found, scorer_of(straight).responses(drawn), rtol=0, atol=1e-6)


def test_the_score_models_own_chat_template_shows_prompts(straight, scorer_of):
    own = straight.replace(tokenizer=tokenizer(STRAIGHT, CHATML))
    assert scorer_of(own).reader is None  # a plain template of the run is asked for, and ids agree
    policy = tokenizer(STRAIGHT, "{{ messages[0].content }}")
    scorer = scorer_of(own, Template("chat"), policy)
    assert scorer.reader is not None
    first = scorer.reader.pairs(tokens_of(Template("chat"), policy), PAIRS)[0]
    shown = "<|im_start|> user \n c d <|im_end|> \n <|im_start|> assistant \n".split(" ")
    assert [WORDS[i] for i in first.prompt_ids if WORDS[i] != "<s>"] == shown
    assert [WORDS[i] for i in first.chosen_ids][:4] == ["e", "f", "g", "<|im_end|>"]


def test_a_classifier_reads_the_whole_conversation_at_its_last_token(straight, scorer_of):
    own = straight.replace(tokenizer=tokenizer(STRAIGHT, CHATML), reads="conversation")
    scorer = scorer_of(own)
    assert scorer.reader is not None
    first = scorer.reader.pairs(tokens_of(), PAIRS)[0]
    shown = "<|im_start|> user \n c d <|im_end|> \n <|im_start|> assistant \n".split(" ")
    assert [WORDS[i] for i in first.prompt_ids] == shown
    assert [WORDS[i] for i in first.chosen_ids] == ["e", "f", "g", "<|im_end|>", "\n"]
    assert [WORDS[i] for i in first.rejected_ids] == ["h", "<|im_end|>", "\n"]
    second = scorer.reader.pairs(tokens_of(), PAIRS)[2]
    assert [WORDS[i] for i in second.chosen_ids] == ["<|im_end|>", "\n"]  # "f" begins both


# AutoModelForSequenceClassification of transformers 5.23.0 and of 4.57.1 on the folder that save_score_model
# writes, batches of one and, with padding, of six: chosen and rejected of PAIRS.
OF_TRANSFORMERS = [[0.0511773, 0.0137889], [0.0782422, 0.0713934], [0.0546013, 0.0666067]]


def test_a_classifier_scores_as_transformers_does(straight, scorer_of, tmp_path):
    own = straight.replace(tokenizer=tokenizer(STRAIGHT, CHATML), reads="conversation")
    save_score_model(own, tmp_path / "model", layout="classification")
    read = load_score_model(tmp_path / "model")
    assert read.reads == "conversation" and read.pad_id == 0
    found = scorer_of(read).pairs(tokens_of(), PAIRS)
    np.testing.assert_allclose(found, OF_TRANSFORMERS, rtol=0, atol=1e-6)


def conversations(own: PreTrainedTokenizerFast, pad_id: int | None = None) -> np.ndarray:
    given = [((Message("user", "a"),), "b")]
    return conversation_ids(own, given, template=Template("chat"), pad_id=pad_id, wheres=["x"])[0]


def test_padding_at_the_end_of_a_conversation_is_not_read():
    ids = conversations(tokenizer(STRAIGHT, CHATML), pad_id=7)
    assert WORDS[ids[-1]] == "<|im_end|>"


def test_long_texts_are_cut_and_counted(straight, turned, scorer_of):
    said: list[str] = []
    short = turned.replace(config=dataclasses.replace(turned.config, max_positions=6))
    read = scorer_of(short, say=said.append).reader.pairs(tokens_of(), PAIRS)
    # The prompts, with the template 4, 3 and 4 tokens, are read twice and may have 6 / 32 of 16; 3 tokens are
    # left for a response, and "e f g" and "b b c" have 4 with their end.
    assert "4 prompts and 2 responses are longer than the 6 tokens" in said[0]
    assert [len(p.prompt_ids) for p in read] == [3, 3, 3]
    whole = short.replace(tokenizer=tokenizer(STRAIGHT, CHATML), reads="conversation")
    scorer_of(whole, say=said.append).reader.pairs(tokens_of(), PAIRS)
    assert "6 conversations are longer than the 6 tokens" in said[1]


def test_without_a_tokenizer_the_vocabularies_must_agree(straight, scorer_of):
    said: list[str] = []
    bare = straight.replace(tokenizer=None)
    assert scorer_of(bare, say=said.append).reader is None
    assert said == ["  rm: holds no tokenizer; it is given the policy's token ids"]
    with pytest.raises(InputError, match="rm: holds no tokenizer, and its vocabulary has 16 ids where the"):
        scorer_of(bare, vocab_size=17)


def test_no_template_for_a_chat(turned, scorer_of):
    policy = tokenizer(STRAIGHT, CHATML)
    with pytest.raises(InputError, match=r"rm: its tokenizer has no chat template.*config\.scores\.reward"):
        scorer_of(turned, Template("chat"), policy)
    scorer = scorer_of(turned, Template("chat"), policy, own_template="{prompt} b")
    assert scorer.reader is not None and scorer.reader.template == Template("plain", "{prompt} b")


def test_a_template_that_refuses(straight, scorer_of):
    refusing = tokenizer(STRAIGHT, "{{ raise_exception('no turns') }}")
    with pytest.raises(InputError, match="x: the chat template refuses the turns .*no turns"):
        conversations(refusing)
    with pytest.raises(InputError, match="writes no text"):
        conversations(tokenizer(STRAIGHT, "{{ '' }}"))
