"""A world so small that all responses can be listed, so that expectations are exact sums.

The vocabulary is six symbols and the end token. A response is any sequence of symbols that ends with the end
token, or that is cut at `MAX_LENGTH` symbols without one. These are the leaves of a complete prefix tree: 1 +
6 + 36 + 216 + 1296 = 1,555 responses, whose probabilities sum to 1 under any policy over this vocabulary. A
model trained here must therefore see responses cut at `MAX_LENGTH` tokens: max_length = 2 + 4 tokens.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from alignjax.data.records import PreferencePair
from alignjax.data.tokenize import Template
from alignjax.data.worlds import world as base
from alignjax.errors import InfeasibleError, InputError

SYMBOLS = ("a", "b", "c", "d", "e", "f")
PROMPTS = ("a b", "b c", "c d", "d e", "e f", "f a", "a d", "b e")
MAX_LENGTH = 4
EOS_PROBABILITY = 0.1  # at each step of the base distribution; the symbols share the rest equally
CORRELATION = -0.3  # of the two true scores under the base distribution
Gradient = Callable[[np.ndarray], np.ndarray]
_TRUTH_STREAM = 1_000  # random stream of the scores' weights; corpora and pairs use other streams


class Weights(NamedTuple):
    """True scores of prompt x as weights: s(x, y) = offset + sum_t unigram[y_t] + sum_t bigram[y_t, y_t+1].

    Attributes:
      offset: [P, 1+m] float64, makes the mean of each prompt 0 under the base distribution.
      unigram: [P, S, 1+m] float64, weight of each symbol.
      bigram: [P, S, S, 1+m] float64, weight of each pair of consecutive symbols.
    """

    offset: np.ndarray
    unigram: np.ndarray
    bigram: np.ndarray


class Optimum(NamedTuple):
    """Exact solution of the constrained problem.

    Attributes:
      lam: [m] float64, multipliers.
      log_policy: [P, Y] float64, log pi_lam.
    """

    lam: np.ndarray
    log_policy: np.ndarray


def make_world(world_seed: int = 0) -> base.World:
    """Makes the world.

    Args:
      world_seed: >= 0; seed of the true scores.

    Returns:
      The world.
    """
    weights = _weights(world_seed)
    tokens, lengths = list_responses()
    texts = response_texts()
    enumeration = base.Enumeration(
        PROMPTS, tokens, lengths, texts, _score_table(weights, tokens), base_log_probs(tokens, lengths)
    )
    scores = functools.partial(true_scores, enumeration)
    sampler = table_sampler(enumeration, np.tile(enumeration.base_log_probs, (len(PROMPTS), 1)))
    return base.World(
        name="enumerable",
        tokenizer=base.word_tokenizer(SYMBOLS, max_length=2 + MAX_LENGTH),
        template=Template("plain", "{prompt}"),
        prompts_train=PROMPTS,
        prompts_held_out=PROMPTS,
        prompts_test=PROMPTS,
        dimensions=base.DIMENSIONS,
        max_prompt_length=2,
        max_response_length=MAX_LENGTH,
        true_scores=scores,
        make_reference_corpus=functools.partial(_corpus, sampler),
        make_pairs=functools.partial(_pairs, scores, sampler),
        category=category,
        decoder_fields=base.decoder_fields(1 + len(SYMBOLS), hidden_size=64, max_positions=16),
        enumeration=enumeration,
    )


def category(prompt: str) -> str:
    """The first symbol of a prompt.

    Raises:
      InputError: a prompt that does not exist in this world.
    """
    _check_prompt(prompt, PROMPTS)
    return prompt.split()[0]


def list_responses() -> tuple[np.ndarray, np.ndarray]:
    """All responses: tokens [Y, 4] int32 padded with 0, and lengths [Y] int32, the end token included."""
    rows = [[*(s + 1 for s in symbols)] for symbols in _sequences()]
    tokens = np.zeros((len(rows), MAX_LENGTH), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    lengths = np.array([min(len(ids) + 1, MAX_LENGTH) for ids in rows], np.int32)
    return tokens, lengths


def response_texts() -> tuple[str, ...]:
    """All responses as text, in the order of `list_responses`; the first is empty."""
    return tuple(" ".join(SYMBOLS[s] for s in symbols) for symbols in _sequences())


def base_log_probs(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Log-probabilities of responses under the base distribution.

    At each step the end token has probability `EOS_PROBABILITY`, and the symbols share the rest equally.

    Args:
      tokens: [Y, T] int32, padded with 0.
      lengths: [Y] int32, the end token included.

    Returns:
      [Y] float64, nats.
    """
    symbols = np.sum(tokens > 0, axis=1)
    ended = lengths > symbols
    step = np.log((1.0 - EOS_PROBABILITY) / len(SYMBOLS))
    return symbols * step + np.where(ended, np.log(EOS_PROBABILITY), 0.0)


def true_scores(enumeration: base.Enumeration, prompt: str, responses: Sequence[str]) -> np.ndarray:
    """True scores of responses given as text.

    Args:
      enumeration: the list of responses and their scores.
      prompt: one of its prompts.
      responses: K texts.

    Returns:
      [K, 1+m] float64, the reward first.

    Raises:
      InputError: a prompt or a response that does not exist in this world.
    """
    _check_prompt(prompt, enumeration.prompts)
    index = _text_index()
    for text in responses:
        if text not in index:
            raise InputError(
                f'enumerable world: response "{text}" is not at most {MAX_LENGTH} of the symbols '
                f"{' '.join(SYMBOLS)} with single spaces; cut or correct it."
            )
    places = np.array([index[text] for text in responses], np.int64)
    return enumeration.scores[enumeration.prompts.index(prompt)][places]


def table_sampler(enumeration: base.Enumeration, log_probs: np.ndarray) -> base.Sampler:
    """Makes a sampler that draws responses from a table of probabilities, for `make_pairs(sampler=)`.

    Args:
      enumeration: the list of responses.
      log_probs: [P, Y] float, log p(y|x); the exact table of the reference for pairs drawn from it.

    Returns:
      The sampler.

    Raises:
      InputError: wrong shape, or rows that do not sum to 1.
    """
    cumulative = np.cumsum(np.exp(_table(enumeration, log_probs)), axis=1)  # [P, Y]

    def sampler(prompt: str, n: int, rng: np.random.Generator) -> list[str]:
        row = cumulative[enumeration.prompts.index(prompt)]
        # Float32 tables do not sum to 1 exactly, so the uniform number is scaled by the sum.
        places = np.searchsorted(row, rng.random(n) * row[-1], side="right")
        return [enumeration.texts[i] for i in places]

    return sampler


def exact_expectation(log_policy: np.ndarray, values: np.ndarray) -> np.ndarray:
    """E_x E_{y~pi}[values], with prompts weighted equally.

    Args:
      log_policy: [P, Y] float, log pi(y|x).
      values: [P, Y, ...] float.

    Returns:
      [...] float64.
    """
    return np.einsum("py,py...->...", np.exp(np.asarray(log_policy, np.float64)), values) / len(log_policy)


def exact_kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL divergence E_x KL(p(.|x) || q(.|x)), with prompts weighted equally.

    Args:
      log_p: [P, Y] float, log p(y|x); responses of probability 0 contribute 0.
      log_q: [P, Y] float, log q(y|x).

    Returns:
      Nats.
    """
    log_p, log_q = np.asarray(log_p, np.float64), np.asarray(log_q, np.float64)
    positive = log_p > -np.inf
    terms = np.exp(log_p[positive]) * (log_p[positive] - log_q[positive])
    return float(np.sum(terms) / len(log_p))


def exact_dual(log_ref: np.ndarray, scores: np.ndarray, *, beta: float, margins: Sequence[float]) -> Optimum:
    """Solves the constrained problem by exact sums, in float64.

        lam* minimises over lam >= 0
        beta E_x log sum_y ref(y|x) exp((r + <lam, g>) / beta) - <lam, margins + E_ref g>

    Args:
      log_ref: [P, Y] float, log pi_ref(y|x); each row sums to 1.
      scores: [P, Y, 1+m] float, r first, then g (higher is safer).
      beta: KL weight > 0.
      margins: [m], required increase of each mean utility over the reference's.

    Returns:
      The optimum.

    Raises:
      InputError: shapes that do not fit, or beta <= 0.
      InfeasibleError: no policy reaches the margins.

    Reference: Huang et al. 2024, arXiv 2405.19544, the dual function and its minimiser.
    """
    log_ref, scores = np.asarray(log_ref, np.float64), np.asarray(scores, np.float64)
    asked = np.asarray(margins, np.float64)
    if scores.shape != (*log_ref.shape, 1 + asked.size) or asked.ndim != 1 or asked.size == 0:
        raise InputError(
            f"exact_dual: scores has shape {scores.shape}; with log_ref {log_ref.shape} and {asked.size} "
            f"margins it must be {(*log_ref.shape, 1 + asked.size)}."
        )
    if not beta > 0:
        raise InputError(f"exact_dual: beta is {beta}; it must be greater than 0.")
    rewards, utilities = scores[..., 0], scores[..., 1:]
    levels = asked + exact_expectation(log_ref, utilities)
    reachable = np.mean(np.max(np.where(np.isneginf(log_ref)[..., None], -np.inf, utilities), axis=1), axis=0)
    if np.any(reachable <= levels):
        j = int(np.argmax(levels - reachable))
        most = reachable[j] - levels[j] + asked[j]
        raise InfeasibleError(
            f"exact_dual: margin {asked[j]} of constraint {j} is not reachable; the largest is {most:.6g}."
        )

    def tilt(lam: np.ndarray) -> tuple[np.ndarray, float]:
        logits = log_ref + (rewards + utilities @ lam) / beta
        log_z = np.asarray(special.logsumexp(logits, axis=1))
        return logits - log_z[:, None], beta * float(np.mean(log_z)) - float(lam @ levels)

    def gradient(lam: np.ndarray) -> np.ndarray:
        return exact_expectation(tilt(lam)[0], utilities) - levels

    lam = _root(gradient) if asked.size == 1 else _minimum(lambda v: tilt(v)[1], gradient, asked.size)
    return Optimum(lam, tilt(lam)[0])


def _root(gradient: Gradient) -> np.ndarray:
    """Zero of the increasing gradient over lam >= 0; 0 if the gradient is positive there."""
    if gradient(np.zeros(1))[0] >= 0:
        return np.zeros(1)
    high = 1.0
    while gradient(np.array([high]))[0] < 0:
        high *= 2.0
        if high > 1e9:
            raise InfeasibleError("exact_dual: the multiplier grows without bound; ask for a smaller margin.")
    return np.array([optimize.brentq(lambda x: float(gradient(np.array([x]))[0]), 0.0, high, xtol=1e-13)])


def _minimum(value: Callable[[np.ndarray], float], gradient: Gradient, size: int) -> np.ndarray:
    """Minimiser over lam >= 0 for several constraints."""
    options = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 2000, "maxls": 60}
    found = optimize.minimize(
        value, np.ones(size), jac=gradient, method="L-BFGS-B", bounds=[(0, None)] * size, options=options
    )
    lam = np.asarray(found.x, np.float64)
    slope = gradient(lam)
    residual = np.max(np.abs(np.where(lam > 0, slope, np.minimum(slope, 0.0))))
    if residual > 1e-6:
        raise InfeasibleError(
            f"exact_dual: no multipliers found (gradient {residual:.2g} left after {found.nit} steps); "
            "the margins are probably not reachable together, ask for smaller ones."
        )
    return lam


def _table(enumeration: base.Enumeration, log_probs: np.ndarray) -> np.ndarray:
    """The table in float64, after checking that it holds probabilities."""
    table, shape = np.asarray(log_probs, np.float64), enumeration.scores.shape[:2]
    if table.shape != shape:
        raise InputError(f"enumerable world: log_probs has shape {table.shape}, must be {shape}.")
    worst = float(np.max(np.abs(np.sum(np.exp(table), axis=1) - 1.0)))
    if not worst < 1e-3:
        raise InputError(
            f"enumerable world: probabilities sum to 1 only up to {worst:.2g}; normalise each prompt."
        )
    return table


def _check_prompt(prompt: str, prompts: Sequence[str]) -> None:
    if prompt not in prompts:
        raise InputError(f'enumerable world: prompt "{prompt}" is not one of {", ".join(prompts)}.')


def _sequences() -> list[tuple[int, ...]]:
    """Symbol indices of all responses, shortest first."""
    lengths = range(MAX_LENGTH + 1)
    return [s for length in lengths for s in itertools.product(range(len(SYMBOLS)), repeat=length)]


@functools.cache
def _text_index() -> dict[str, int]:
    return {text: i for i, text in enumerate(response_texts())}


def _weights(world_seed: int) -> Weights:
    """Draws the scores' weights: half of each weight is common to all prompts; then scores are standardised.

    Under the base distribution each score has mean 0 in every prompt and variance 1 over all prompts, and
    the two have correlation CORRELATION, exactly.
    """
    rng = base.generator(world_seed, _TRUTH_STREAM)
    count, size, dims = len(PROMPTS), len(SYMBOLS), len(base.DIMENSIONS)
    unigram = rng.normal(size=(1, size, dims)) + rng.normal(size=(count, size, dims))
    bigram = rng.normal(size=(1, size, size, dims)) + rng.normal(size=(count, size, size, dims))
    raw = Weights(np.zeros((count, dims)), unigram, bigram)
    tokens, lengths = list_responses()
    probs = np.exp(base_log_probs(tokens, lengths))
    scores = _score_table(raw, tokens)
    means = np.einsum("y,pyd->pd", probs, scores)
    centred = scores - means[:, None]
    covariance = np.einsum("y,pyd,pye->de", probs, centred, centred) / count
    # mix = (Cholesky factor of the wanted covariance) x (inverse Cholesky factor of the actual covariance).
    wanted = np.linalg.cholesky(np.array([[1.0, CORRELATION], [CORRELATION, 1.0]]))
    mix = wanted @ np.linalg.inv(np.linalg.cholesky(covariance))
    return Weights(-means @ mix.T, unigram @ mix.T, bigram @ mix.T)


def _score_table(weights: Weights, tokens: np.ndarray) -> np.ndarray:
    """Scores of all responses: [P, Y, 1+m] float64."""
    # Token 0, the end and padding, gets a row and a column of zeros.
    unigram = np.pad(weights.unigram, ((0, 0), (1, 0), (0, 0)))
    bigram = np.pad(weights.bigram, ((0, 0), (1, 0), (1, 0), (0, 0)))
    singles = unigram[:, tokens].sum(axis=2)
    pairs = bigram[:, tokens[:, :-1], tokens[:, 1:]].sum(axis=2)
    return weights.offset[:, None] + singles + pairs


def _corpus(sampler: base.Sampler, seed: int, n: int) -> list[tuple[str, str]]:
    """The first n (prompt, response): prompts drawn uniformly, responses from the base distribution."""
    rng = base.generator(seed, 0)
    choice = rng.integers(len(PROMPTS), size=n)
    drawn = [iter(sampler(prompt, int(np.sum(choice == i)), rng)) for i, prompt in enumerate(PROMPTS)]
    return [(PROMPTS[i], next(drawn[i])) for i in choice]


def _pairs(
    scores: Callable[[str, Sequence[str]], np.ndarray],
    default: base.Sampler,
    seed: int,
    n: int,
    *,
    labels: str = "draws",
    split: str = "train",
    sampler: base.Sampler | None = None,
) -> list[PreferencePair]:
    """Labelled pairs; held-out pairs are other draws on the same prompts."""
    prompts: dict[str, tuple[str, ...]] = dict.fromkeys(base.SPLITS, PROMPTS)
    chosen = default if sampler is None else sampler
    draw = functools.partial(base.draw_pairs, "enumerable", prompts, scores, chosen, category)
    return draw(seed, n, labels=labels, split=split)
