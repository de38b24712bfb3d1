"""The enumerable world: the list is complete, the truth is as promised, the exact tools are exact."""

import numpy as np
import pytest
from scipy import optimize
from scipy.special import log_softmax, logsumexp

from alignjax.data.tokenize import tokenize_pairs
from alignjax.data.worlds import enumerable, world_for
from alignjax.data.worlds.world import Enumeration
from alignjax.errors import InfeasibleError, InputError

WORLD = world_for("enumerable")
assert WORLD.enumeration is not None
ALL: Enumeration = WORLD.enumeration
PROBS = np.exp(ALL.base_log_probs)


def _random_policy(seed: int) -> np.ndarray:
    """log p [Y] of a random autoregressive policy over all seven tokens, one step at a time."""
    rng = np.random.default_rng(seed)
    steps: dict[tuple[int, ...], np.ndarray] = {}
    total = np.zeros(len(ALL.tokens))
    for y, (tokens, length) in enumerate(zip(ALL.tokens, ALL.lengths, strict=True)):
        for t in range(length):
            prefix = tuple(tokens[:t].tolist())
            if prefix not in steps:
                steps[prefix] = log_softmax(3 * rng.normal(size=7))
            total[y] += steps[prefix][tokens[t]]
    return total


def test_the_list_is_a_complete_prefix_tree():
    assert ALL.tokens.shape == (1 + 6 + 36 + 216 + 1296, 4) and ALL.tokens.dtype == np.int32
    assert (
        len({(*t, n) for t, n in zip(map(tuple, ALL.tokens.tolist()), ALL.lengths.tolist(), strict=True)})
        == 1555
    )
    for seed in range(2):
        np.testing.assert_allclose(np.sum(np.exp(_random_policy(seed))), 1.0, rtol=1e-12)
    np.testing.assert_allclose(PROBS.sum(), 1.0, rtol=1e-12)


def test_base_distribution_by_hand():
    # Each step ends with 0.1, each symbol has 0.9 / 6 = 0.15; four symbols have no end.
    index = ALL.texts.index
    got = np.exp([ALL.base_log_probs[index(text)] for text in ("", "a", "a b c", "a b c d")])
    np.testing.assert_allclose(got, [0.1, 0.15 * 0.1, 0.15**3 * 0.1, 0.15**4])


def test_tokens_are_what_the_tokenizer_gives():
    tokenizer = WORLD.tokenizer
    assert len(tokenizer) == WORLD.decoder_fields["vocab_size"] == 7
    for y in range(0, 1555, 37):
        ids = tokenizer.encode(ALL.texts[y], add_special_tokens=False)
        listed = ALL.tokens[y, : ALL.lengths[y]].tolist()
        assert listed == (ids + [0])[: enumerable.MAX_LENGTH]
        assert tokenizer.decode(listed, skip_special_tokens=True) == ALL.texts[y]
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode("g")


def test_tokenized_pairs_are_leaves_of_the_tree():
    pairs = WORLD.make_pairs(0, 200)
    most = WORLD.max_prompt_length + WORLD.max_response_length
    tokenized, _ = tokenize_pairs(
        WORLD.tokenizer, WORLD.template, pairs, max_length=most, max_prompt_length=2
    )
    for pair, ids in zip(pairs, tokenized, strict=True):
        y = ALL.texts.index(pair.chosen)
        assert ids.chosen_ids.tolist() == ALL.tokens[y, : ALL.lengths[y]].tolist()
        assert len(ids.prompt_ids) == 2


def test_true_scores_by_hand():
    weights = enumerable._weights(0)
    # Prompt 2 is "c d"; "b a f" is symbols 1, 0, 5.
    u, v = weights.unigram[2], weights.bigram[2]
    by_hand = weights.offset[2] + u[1] + u[0] + u[5] + v[1, 0] + v[0, 5]
    got = WORLD.true_scores("c d", ["b a f", ""])
    np.testing.assert_allclose(got, [by_hand, weights.offset[2]], atol=1e-12)


@pytest.mark.parametrize("world_seed", [0, 1, 2])
def test_scores_are_standardised_and_conflict(world_seed: int):
    world = world_for("enumerable", world_seed=world_seed)
    assert world.enumeration is not None
    scores = world.enumeration.scores
    np.testing.assert_allclose(np.einsum("y,pyd->pd", PROBS, scores), 0.0, atol=1e-12)
    covariance = np.einsum("y,pyd,pye->de", PROBS, scores, scores) / 8
    np.testing.assert_allclose(covariance, [[1.0, -0.3], [-0.3, 1.0]], atol=1e-12)
    log_ref = np.tile(ALL.base_log_probs, (8, 1))
    lam = enumerable.exact_dual(log_ref, scores, beta=0.5, margins=[1.0]).lam
    assert 0.6 < lam[0] < 1.1
    helpful = log_softmax(log_ref + scores[..., 0] / 0.5, axis=1)
    assert enumerable.exact_expectation(helpful, scores)[1] < -0.1


def test_exact_dual_matches_scipy_on_a_random_reference():
    log_ref = np.stack([_random_policy(seed) for seed in range(8)])
    r, g = ALL.scores[..., 0], ALL.scores[..., 1]
    level = 0.7 + np.mean(np.sum(np.exp(log_ref) * g, axis=1))

    def dual(lam: float) -> float:
        log_z = np.asarray(logsumexp(log_ref + (r + lam * g) / 0.5, axis=1))
        return float(0.5 * np.mean(log_z) - lam * level)

    found = optimize.fminbound(dual, 0.0, 10.0, xtol=1e-10)
    optimum = enumerable.exact_dual(log_ref, ALL.scores, beta=0.5, margins=[0.7])
    # The minimum of a convex function is found to the square root of its precision.
    np.testing.assert_allclose(optimum.lam, [found], atol=1e-6)
    reached = enumerable.exact_expectation(optimum.log_policy, g) - enumerable.exact_expectation(log_ref, g)
    np.testing.assert_allclose(reached, 0.7, atol=1e-10)


def test_exact_dual_with_two_constraints_meets_the_optimality_conditions():
    log_ref = np.tile(ALL.base_log_probs, (8, 1))
    extra = np.random.default_rng(0).normal(size=(8, 1555, 1))
    scores = np.concatenate([ALL.scores, extra], axis=2)
    for margins, active in (([0.5, 0.5], [True, True]), ([0.5, -5.0], [True, False])):
        optimum = enumerable.exact_dual(log_ref, scores, beta=0.5, margins=margins)
        shift = enumerable.exact_expectation(optimum.log_policy, scores) - enumerable.exact_expectation(
            log_ref, scores
        )
        for j in range(2):
            if active[j]:
                assert optimum.lam[j] > 0
                assert shift[1 + j] == pytest.approx(margins[j], abs=1e-5)
            else:
                assert optimum.lam[j] == 0 and shift[1 + j] > margins[j]


def test_exact_dual_is_zero_where_the_constraint_is_slack_and_refuses_the_unreachable():
    log_ref = np.tile(ALL.base_log_probs, (8, 1))
    optimum = enumerable.exact_dual(log_ref, ALL.scores, beta=0.5, margins=[-3.0])
    assert optimum.lam == 0
    np.testing.assert_allclose(optimum.log_policy, log_softmax(log_ref + ALL.scores[..., 0] / 0.5, axis=1))
    with pytest.raises(InfeasibleError, match="the largest is"):
        enumerable.exact_dual(log_ref, ALL.scores, beta=0.5, margins=[50.0])
    with pytest.raises(InputError, match="beta is 0"):
        enumerable.exact_dual(log_ref, ALL.scores, beta=0, margins=[1.0])
    with pytest.raises(InputError, match="scores has shape"):
        enumerable.exact_dual(log_ref, ALL.scores[:, :-1], beta=0.5, margins=[1.0])


def test_exact_kl_by_hand():
    # Two prompts: KL((1/2, 1/2) || (1/4, 3/4)) = log 2 - log(3)/2, and 0; a response of probability 0 adds 0.
    p = np.log([[0.5, 0.5], [0.25, 0.75]])
    q = np.log([[0.25, 0.75], [0.25, 0.75]])
    assert enumerable.exact_kl(p, q) == pytest.approx((np.log(2) - np.log(3) / 2) / 2)
    assert enumerable.exact_kl(np.array([[0.0, -np.inf]]), np.log([[0.5, 0.5]])) == pytest.approx(np.log(2))
    assert enumerable.exact_kl(np.array([[0.0, -np.inf]]), np.array([[0.0, -np.inf]])) == 0.0
    assert enumerable.exact_kl(np.log([[0.5, 0.5]]), np.array([[0.0, -np.inf]])) == np.inf


def test_corpus_and_pairs_follow_the_base_distribution():
    corpus = WORLD.make_reference_corpus(0, 8000)
    assert corpus == WORLD.make_reference_corpus(0, 8000)
    # Empty with 0.1: the standard error of 8,000 draws is 0.0034.
    assert np.mean([text == "" for _, text in corpus]) == pytest.approx(0.1, abs=4 * 0.0034)
    assert np.mean([len(text.split()) == 4 for _, text in corpus]) == pytest.approx(0.9**4, abs=4 * 0.0053)
    pairs = WORLD.make_pairs(0, 4000)
    assert pairs == WORLD.make_pairs(0, 4000)
    assert {p.prompt for p in pairs} == set(enumerable.PROMPTS)
    held = WORLD.make_pairs(0, 4000, split="held_out")
    assert {p.prompt for p in held} == set(enumerable.PROMPTS)
    shared = {(p.prompt, p.chosen, p.rejected) for p in pairs} & {
        (p.prompt, p.chosen, p.rejected) for p in held
    }
    assert len(shared) < 200  # short responses meet by chance; the streams are not the same


def test_labels_are_bradley_terry():
    exact = WORLD.make_pairs(1, 4000, labels="exact")
    drawn = WORLD.make_pairs(1, 4000, labels="draws")
    for name in WORLD.dimensions:
        p = np.array([pair.labels[name] for pair in exact])
        y = np.array([pair.labels[name] for pair in drawn])
        assert abs(np.sum(y - p)) < 4 * np.sqrt(np.sum(p * (1 - p)))
        # Weighted by the logit, which a wrong sign or scale of the labels would shift.
        logit = np.log(p / (1 - p))
        assert abs(np.sum((y - p) * logit)) < 4 * np.sqrt(np.sum(p * (1 - p) * logit**2))


def test_table_sampler_draws_from_the_table_and_checks_it():
    table = np.stack([_random_policy(0)] * 8)
    sampler = enumerable.table_sampler(ALL, table)
    drawn = sampler("a b", 20000, np.random.default_rng(0))
    top = int(np.argmax(table[0]))
    p = float(np.exp(table[0, top]))
    share = np.mean([text == ALL.texts[top] for text in drawn])
    assert share == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 20000))
    assert len(WORLD.make_pairs(0, 10, sampler=sampler)) == 10
    with pytest.raises(InputError, match="normalise"):
        enumerable.table_sampler(ALL, table + 1.0)
    with pytest.raises(InputError, match="shape"):
        enumerable.table_sampler(ALL, table[:3])


def test_a_category_is_the_first_symbol():
    assert [WORLD.category(prompt) for prompt in enumerable.PROMPTS] == list("abcdefab")
    pairs = WORLD.make_pairs(2, 200)
    assert all(pair.categories == {"category": str(pair.prompt)[0]} for pair in pairs)
    # Some of both, whatever the symbols are: true scores have mean 0.
    assert 0.4 < np.mean([pair.safe for pair in pairs if pair.safe is not None]) < 0.6
    assert WORLD.prompts_train == WORLD.prompts_held_out == WORLD.prompts_test == enumerable.PROMPTS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WORLD.true_scores("a a", [""]), 'prompt "a a" is not one of'),
        (lambda: WORLD.true_scores("a b", ["a b c d e"]), "at most 4 of the symbols"),
        (lambda: WORLD.category("a a"), 'prompt "a a" is not one of'),
        (lambda: WORLD.make_pairs(0, 5, labels="soft"), "labels is 'soft'"),
        (lambda: WORLD.make_pairs(0, 5, split="eval"), "split is 'eval'"),
        (lambda: WORLD.make_pairs(0, 0), "at least 1"),
        (lambda: WORLD.make_pairs(-1, 5), "seed is -1"),
        (lambda: world_for("moon"), "no world 'moon'"),
    ],
)
def test_bad_arguments_are_named(call, message: str):
    with pytest.raises(InputError, match=message):
        call()
