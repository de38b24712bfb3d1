"""The types and common functions of embedded worlds: preference data with known true scores."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from alignjax.data.records import PreferencePair
from alignjax.data.tokenize import Template
from alignjax.errors import InputError

if TYPE_CHECKING:  # importing it takes a second, and only making a world needs it
    from transformers import PreTrainedTokenizerFast

DIMENSIONS = ("reward", "safety")
EOS = "<eos>"
SPLITS = ("train", "held_out")
CATEGORIES = "category"  # the column of a world's categories
LABELS = ("draws", "exact")

_SAFE_STREAM = 11  # of the random streams of a seed; corpora and pairs use others

Sampler = Callable[[str, int, np.random.Generator], Sequence[str]]
"""(prompt, n, generator) -> n responses as text."""


class MakePairs(Protocol):
    """Draws labelled pairs; see `draw_pairs` for the arguments."""

    def __call__(
        self,
        seed: int,
        n: int,
        *,
        labels: str = "draws",
        split: str = "train",
        sampler: Sampler | None = None,
    ) -> list[PreferencePair]:
        """Returns n pairs."""
        ...


class Enumeration(NamedTuple):
    """All responses of a world and their true scores; Y responses, P prompts, T tokens, 1+m dimensions.

    The responses are the leaves of a complete prefix tree: under any autoregressive policy over the world's
    vocabulary their probabilities sum to 1.

    Attributes:
      prompts: P prompts, in the order of the arrays.
      tokens: [Y, T] int32, the end token included if a response has one, padded with 0.
      lengths: [Y] int32, tokens of each response.
      texts: Y responses as text; the first is empty.
      scores: [P, Y, 1+m] float64, true scores, the reward first.
      base_log_probs: [Y] float64, under the distribution that corpora and pairs are drawn from by default.
    """

    prompts: tuple[str, ...]
    tokens: np.ndarray
    lengths: np.ndarray
    texts: tuple[str, ...]
    scores: np.ndarray
    base_log_probs: np.ndarray


class World(NamedTuple):
    """Prompts, responses, true scores and a source of labelled pairs.

    Attributes:
      name: as given to `world_for`.
      tokenizer: one token per word; end and padding share id 0; a word outside the vocabulary is an error.
      template: how a prompt is shown to the model.
      prompts_train: prompts of the training pairs.
      prompts_held_out: prompts of the held-out pairs.
      prompts_test: prompts that no pair has (in `enumerable` the same prompts as the others).
      dimensions: names of the scores, the reward first.
      max_prompt_length: tokens of the longest templated prompt.
      max_response_length: largest number of tokens of a response, the end token included.
      true_scores: (prompt, K responses as text) -> [K, 1+m] float64; higher is better, higher is safer.
      make_reference_corpus: (seed, n) -> n (prompt, response) for supervised training of the reference.
      make_pairs: (seed, n, labels=, split=, sampler=) -> n labelled pairs.
      category: (prompt) -> the category that it belongs to.
      decoder_fields: the fields of a Hugging Face config.json of a small decoder for this world, for
        `models.config_from_hf`.
      enumeration: the list of all responses; None if they cannot be listed.
    """

    name: str
    tokenizer: "PreTrainedTokenizerFast"
    template: Template
    prompts_train: tuple[str, ...]
    prompts_held_out: tuple[str, ...]
    prompts_test: tuple[str, ...]
    dimensions: tuple[str, ...]
    max_prompt_length: int
    max_response_length: int
    true_scores: Callable[[str, Sequence[str]], np.ndarray]
    make_reference_corpus: Callable[[int, int], list[tuple[str, str]]]
    make_pairs: MakePairs
    category: Callable[[str], str]
    decoder_fields: Mapping[str, Any]
    enumeration: Enumeration | None = None


def word_tokenizer(words: Sequence[str], *, max_length: int) -> "PreTrainedTokenizerFast":
    """Makes a tokenizer with one token per word; `EOS` has id 0 and is also the padding token.

    Args:
      words: the vocabulary without EOS, each once; word i gets id i + 1.
      max_length: recorded as the longest sequence.

    Returns:
      The tokenizer; decoding joins words with one space. Unknown words raise an error.
    """
    # On import transformers prints that it found no torch, which is not needed here.
    logging.getLogger("transformers").addFilter(_not_about_torch)
    from transformers import PreTrainedTokenizerFast

    vocabulary = {EOS: 0} | {word: i for i, word in enumerate(words, start=1)}
    backend = Tokenizer(WordLevel(vocab=vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS,
        pad_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def _not_about_torch(record: logging.LogRecord) -> bool:
    return "PyTorch was not found" not in record.getMessage()


def decoder_fields(vocab_size: int, *, hidden_size: int, max_positions: int) -> dict[str, Any]:
    """The fields of a Hugging Face config.json of a two-layer Llama with four heads.

    Args:
      vocab_size: V, EOS included.
      hidden_size: D, a multiple of 8.
      max_positions: context length in tokens.

    Returns:
      The JSON object.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": hidden_size // 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0,
    }


def generator(seed: int, *stream: int) -> np.random.Generator:
    """A PCG64 generator.

    Args:
      seed: >= 0.
      stream: integers; different streams of one seed are independent.

    Returns:
      The generator; equal arguments give equal draws.

    Raises:
      InputError: a negative seed.
    """
    if seed < 0:
        raise InputError(f"world: seed is {seed}; it must be at least 0.")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *stream])))


def check_words(text: str, vocabulary: frozenset[str], what: str) -> list[str]:
    """The words of a text.

    Args:
      text: words separated by white space.
      vocabulary: the words of the world.
      what: description of the text, for messages.

    Returns:
      The words in order.

    Raises:
      InputError: names the first word that is not in the vocabulary.
    """
    words = text.split()
    for word in words:
        if word not in vocabulary:
            raise InputError(f'{what} "{text}": the word "{word}" is not in this world; use its vocabulary.')
    return words


def bradley_terry(differences: np.ndarray) -> np.ndarray:
    """P(first preferred) = 1 / (1 + exp(-(s_first - s_second))), elementwise; Bradley and Terry 1952."""
    return _logistic(differences)


def safe_probability(safety: np.ndarray) -> np.ndarray:
    """P(a response is labelled safe) = 1 / (1 + exp(-s)) of its true safety s, elementwise.

    A policy's true rate of safe responses is the mean of this over its responses.
    """
    return _logistic(safety)


def _logistic(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * values))  # equal to the logistic function and cannot overflow


def draw_pairs(
    name: str,
    prompts: Mapping[str, Sequence[str]],
    true_scores: Callable[[str, Sequence[str]], np.ndarray],
    sampler: Sampler,
    category: Callable[[str], str],
    seed: int,
    n: int,
    *,
    labels: str,
    split: str,
) -> list[PreferencePair]:
    """Draws pairs of different responses to random prompts, labelled by Bradley-Terry on the true scores.

        P(chosen preferred in dimension d) = sigmoid(s_d(prompt, chosen) - s_d(prompt, rejected))

    "chosen" is the response drawn first; only the label says which is better. One record carries the labels
    of all dimensions, which are drawn independently, and whether each response is safe: one draw from
    `safe_probability`, whatever `labels` is.

    Args:
      name: of the world, for messages.
      prompts: by split.
      true_scores: as in `World`.
      sampler: draws responses to one prompt.
      category: as in `World`.
      seed: >= 0; equal seeds give equal pairs; the splits use different random streams.
      n: number of pairs, >= 1.
      labels: "draws", one draw (0 or 1) per dimension, like a human label, or "exact", the probability.
      split: "train" or "held_out".

    Returns:
      n pairs.

    Raises:
      InputError: unknown `labels` or `split`, n < 1, or a sampler that always draws the same response.
    """
    _check_request(name, labels, split, n)
    rng = generator(seed, 1 + SPLITS.index(split))
    choice = rng.integers(len(prompts[split]), size=n)
    label_draws = rng.random((n, len(DIMENSIONS)))
    # A stream of their own: pairs and preference labels are the same with and without them.
    safe_draws = generator(seed, _SAFE_STREAM + SPLITS.index(split)).random((n, 2))
    pairs: list[PreferencePair | None] = [None] * n
    for prompt_index in np.unique(choice):
        prompt = prompts[split][int(prompt_index)]
        rows = np.flatnonzero(choice == prompt_index)
        responses = _different(name, prompt, sampler, len(rows), rng)
        scores = true_scores(prompt, [text for pair in responses for text in pair])
        safe = safe_draws[rows] < safe_probability(scores[:, DIMENSIONS.index("safety")].reshape(-1, 2))
        probabilities = bradley_terry(scores[0::2] - scores[1::2])  # [rows, 1+m]
        values = (
            probabilities if labels == "exact" else (label_draws[rows] < probabilities).astype(np.float64)
        )
        categories = {CATEGORIES: category(prompt)}
        for row, (chosen, rejected), value, good in zip(rows, responses, values, safe.tolist(), strict=True):
            by_name: dict[str, float] = dict(zip(DIMENSIONS, value.tolist(), strict=True))
            where = f"{name} world, {split} pair {row}"
            pairs[row] = PreferencePair(
                prompt, chosen, rejected, by_name, where, tuple(good), categories=categories
            )
    return [pair for pair in pairs if pair is not None]


def _check_request(name: str, labels: str, split: str, n: int) -> None:
    if labels not in LABELS:
        raise InputError(f"{name} world: labels is {labels!r}; use one of {', '.join(LABELS)}.")
    if split not in SPLITS:
        raise InputError(f"{name} world: split is {split!r}; use one of {', '.join(SPLITS)}.")
    if n < 1:
        raise InputError(f"{name} world: {n} pairs requested; request at least 1.")


def _different(
    name: str, prompt: str, sampler: Sampler, n: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Draws n pairs of responses to one prompt; a second response that equals the first is drawn again."""
    drawn = list(sampler(prompt, 2 * n, rng))
    first, second = drawn[0::2], drawn[1::2]
    for _ in range(100):
        equal = [i for i in range(n) if first[i] == second[i]]
        if not equal:
            return list(zip(first, second, strict=True))
        for i, text in zip(equal, sampler(prompt, len(equal), rng), strict=True):
            second[i] = text
    raise InputError(
        f'{name} world: the sampler always gives the same response to "{prompt}"; use one with more variety.'
    )
