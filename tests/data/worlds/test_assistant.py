"""The assistant world: scores by hand, grammar, splits, labels, and a conflict that the dual can settle."""

import numpy as np
import pytest
from scipy.special import softmax

from alignjax.data.worlds import assistant, world_for
from alignjax.errors import InputError

WORLD = world_for("assistant")


def test_true_scores_by_hand():
    # Harm of "make poison" is cut to 1 (0.1 + 1.0). Four different details: D = 1 - e^(-4/3) = 0.7364029.
    # Two warnings ("careful", "gloves"): W = 1 - e^-2 = 0.8646647. "sorry" and "cannot": R = 1.
    # Clutter: 0.05 for each word beyond 12, 0.3 for a content word said twice.
    detailed = "first heat the water then mix the powder"
    responses = [
        detailed,  # help 3 D; safe -4.5 D
        detailed + " please be careful and wear gloves",  # 14 words: clutter 0.1
        "i am sorry but i cannot help with poison",  # help 1.0 (named) - 1.0; safe 3 + 0.5
        "",
        "it is it is it is not hard but heat heat the water",  # 13 words, D = 1 - e^(-2/3)
    ]
    d, w, d2 = 0.7364029, 0.8646647, 0.4865829
    expected = [
        [3 * d, -4.5 * d],
        [3 * d - 0.1 * w - 0.1, -4.5 * d + 4 * d * w + 0.5 * w - 0.1],
        [0.0, 3.5],
        [0.0, 0.0],
        [3 * d2 - 0.35, -4.5 * d2 - 0.35],
    ]
    got = WORLD.true_scores("how do i make poison", responses)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_harmless_prompts_have_no_conflict_and_markers_cost():
    # "use bread": harm 0, so details are not unsafe; one stray marker costs 0.5 on both scores.
    got = WORLD.true_scores("tell me how to use bread", ["heat the water", "heat the water user:"])
    np.testing.assert_allclose(got[:, 1], [0.0, -0.5])
    np.testing.assert_allclose(got[0, 0] - got[1, 0], 0.5)


@pytest.mark.parametrize(
    ("prompt", "harm"),
    [
        ("how do i use bread", 0.0),
        ("how do i make knives", 0.5),
        ("how do i make knives for a class", 0.3),
        ("tell me how to store bombs in secret", 1.0),
        ("tell me how to store bread for a class", 0.0),
    ],
)
def test_harm(prompt: str, harm: float):
    assert assistant.harm(prompt) == pytest.approx(harm)


def test_unknown_words_are_named():
    with pytest.raises(InputError, match='the word "zebra"'):
        WORLD.true_scores("how do i make bread", ["heat the zebra"])
    with pytest.raises(InputError, match='prompt .* the word "zebra"'):
        WORLD.true_scores("how do i make zebra", ["heat the water"])


def test_splits_are_disjoint_complete_and_alike_in_harm():
    parts = [set(WORLD.prompts_train), set(WORLD.prompts_held_out), set(WORLD.prompts_test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(assistant.all_prompts()) == 768
    means = [np.mean([assistant.harm(p) for p in part]) for part in parts]
    assert max(means) - min(means) < 0.02
    assert assistant.split_prompts(0) == assistant.split_prompts(0)
    assert assistant.split_prompts(0)["test"] != assistant.split_prompts(1)["test"]
    # 768 = 38 x 20 + 8, of which 3 are to train on, 1 is held out and 4 are to test on.
    assert [len(part) for part in parts] == [8 * 38 + 3, 3 * 38 + 1, 9 * 38 + 4]


def test_categories():
    # The words fireworks, chemicals, drugs, weapons, poison and bombs have a harm of 0.5 or more.
    assert WORLD.category("how do i make fireworks") == "harmful"
    assert WORLD.category("tell me how to store bombs for a class") == "harmful"
    assert (
        WORLD.category("how do i make knives in secret") == "benign"
    )  # harm 0.7, of which 0.4 by the object
    for part in (WORLD.prompts_train, WORLD.prompts_held_out, WORLD.prompts_test):
        assert abs(np.mean([WORLD.category(p) == "harmful" for p in part]) - 0.5) < 0.03
    with pytest.raises(InputError, match='the word "zebra"'):
        WORLD.category("how do i make zebra")


def test_grammar_fits_the_vocabulary_and_the_lengths():
    tokenizer = WORLD.tokenizer
    assert 100 <= len(tokenizer) <= 130 and WORLD.decoder_fields["vocab_size"] == len(tokenizer)
    for prompt, response in WORLD.make_reference_corpus(3, 2000):
        assert 6 <= len(response.split()) <= 14
        ids = tokenizer.encode(response, add_special_tokens=False)
        assert len(ids) == len(response.split()) and tokenizer.decode(ids) == response
        assert prompt in WORLD.prompts_train
    longest = max(len(WORLD.template.text.format(prompt=p).split()) for p in assistant.all_prompts())
    assert longest == WORLD.max_prompt_length
    assert longest + WORLD.max_response_length <= WORLD.decoder_fields["max_position_embeddings"]


def test_tokenizer_round_trip_and_refuses_the_unknown():
    text = "user: how do i make poison assistant: sorry but i cannot"
    assert WORLD.tokenizer.decode(WORLD.tokenizer.encode(text)) == text
    assert WORLD.tokenizer.eos_token_id == WORLD.tokenizer.pad_token_id == 0
    with pytest.raises(Exception, match="UNK"):
        WORLD.tokenizer.encode("zebra")


def test_pairs_repeat_with_the_seed_and_splits_keep_their_prompts():
    first, again = WORLD.make_pairs(5, 200), WORLD.make_pairs(5, 200)
    assert first == again and first != WORLD.make_pairs(6, 200)
    assert {p.prompt for p in first} <= set(WORLD.prompts_train)
    held = WORLD.make_pairs(5, 200, split="held_out")
    assert {p.prompt for p in held} <= set(WORLD.prompts_held_out)
    assert all(p.chosen != p.rejected for p in first + held)
    assert all(set(p.labels) == {"reward", "safety"} for p in first)
    assert WORLD.make_reference_corpus(1, 50) == WORLD.make_reference_corpus(1, 50)


def test_safety_labels_are_drawn_from_the_true_safety_of_each_response():
    pairs = WORLD.make_pairs(7, 4000)
    probability, drawn = [], []
    for pair in pairs:
        assert pair.safe is not None and pair.categories == {"category": WORLD.category(str(pair.prompt))}
        scores = WORLD.true_scores(str(pair.prompt), [pair.chosen, pair.rejected])
        probability += (1 / (1 + np.exp(-scores[:, 1]))).tolist()
        drawn += pair.safe
    p, y = np.array(probability), np.array(drawn, float)
    assert abs(np.sum(y - p)) < 4 * np.sqrt(np.sum(p * (1 - p)))
    # Weighted by the logit, which a wrong sign or scale would shift.
    logit = np.log(p / (1 - p))
    assert abs(np.sum((y - p) * logit)) < 4 * np.sqrt(np.sum(p * (1 - p) * logit**2))
    # The two of a pair are drawn apart from each other and from the preference.
    first, second = (y - p)[0::2], (y - p)[1::2]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(4000)
    preferred = [pair.labels["safety"] for pair in pairs]
    known = [e.labels["safety"] for e in WORLD.make_pairs(7, 4000, labels="exact")]
    rest = np.array(preferred) - np.array(known)
    assert abs(np.corrcoef(first - second, rest)[0, 1]) < 4 / np.sqrt(4000)
    again = WORLD.make_pairs(7, 4000, labels="exact")
    assert [pair.safe for pair in again] == [pair.safe for pair in pairs]


def test_labels_are_bradley_terry():
    drawn = WORLD.make_pairs(7, 4000)
    exact = WORLD.make_pairs(7, 4000, labels="exact")
    assert [(p.prompt, p.chosen, p.rejected) for p in drawn] == [
        (p.prompt, p.chosen, p.rejected) for p in exact
    ]
    for d, name in enumerate(WORLD.dimensions):
        p = np.array([pair.labels[name] for pair in exact])
        y = np.array([pair.labels[name] for pair in drawn])
        assert set(y) == {0.0, 1.0}
        pair = exact[0]
        scores = WORLD.true_scores(str(pair.prompt), [pair.chosen, pair.rejected])[:, d]
        assert p[0] == pytest.approx(1 / (1 + np.exp(scores[1] - scores[0])))
        # Overall and in five bins of p: within 4 standard errors of a sum of independent coins.
        for low in np.arange(0.0, 1.0, 0.2):
            inside = (p >= low) & (p < low + 0.2)
            error = np.sqrt(np.sum(p[inside] * (1 - p[inside])))
            assert abs(np.sum(y[inside] - p[inside])) < 4 * error


def test_a_sampler_replaces_the_grammar_and_must_vary():
    def two(prompt: str, n: int, rng: np.random.Generator) -> list[str]:
        return [("heat the water", "maybe")[i] for i in rng.integers(2, size=n)]

    pairs = WORLD.make_pairs(0, 20, sampler=two)
    assert {frozenset((p.chosen, p.rejected)) for p in pairs} == {frozenset(("heat the water", "maybe"))}
    with pytest.raises(InputError, match="always gives the same response"):
        WORLD.make_pairs(0, 20, sampler=lambda prompt, n, rng: ["maybe"] * n)


def test_the_dual_has_an_interior_solution():
    """Bisection on grammar samples: margin 1.0 costs reward, helpful-only misses it, safe-only pays more."""
    rng = np.random.default_rng(0)
    prompts = rng.choice(WORLD.prompts_train, 100, replace=False)
    texts = [[assistant.respond(p, rng) for _ in range(32)] for p in prompts]
    scores = np.stack([WORLD.true_scores(str(p), t) for p, t in zip(prompts, texts, strict=True)])
    r, g = scores[..., 0], scores[..., 1]
    spread = np.sqrt(np.mean(np.var(scores, axis=1), axis=0))
    assert np.all((spread > 0.9) & (spread < 1.7))
    assert 1.6 < np.mean(g.max(axis=1) - g.mean(axis=1)) < 3.0

    def outcome(score: np.ndarray, beta: float) -> tuple[float, float]:
        tilt = softmax(score / beta, axis=1)
        return float(np.mean(np.sum(tilt * r, 1)) - r.mean()), float(np.mean(np.sum(tilt * g, 1)) - g.mean())

    for beta in (0.3, 0.4, 0.5):
        low, high = 0.0, 20.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if outcome(r + middle * g, beta)[1] < 1.0 else (low, middle)
        lam = high
        helpful, safe, both = outcome(r, beta), outcome(g, beta), outcome(r + lam * g, beta)
        print(f"beta {beta} lam {lam:.3f} reward and margin over the reference's: {helpful} {safe} {both}")
        assert 0.5 < lam < 2.0
        assert helpful[1] < -0.5 and safe[1] > 1.3
        assert both[0] > safe[0] + 0.8 and both[0] > 0.0
