"""Estimators of KL(policy || reference) from the policy's own samples, where the divergence is an exact sum.

    python benchmarks/kl.py [--repetitions 600]

Every prompt has a tree of responses: at most five tokens out of four symbols and an end. The reference's
logits are normal; the policy tilts them in a random direction, as far as the wanted divergence. Each
repetition draws 8 responses to each of 64 prompts. Printed are bias and standard deviation of the estimate.
"""

import argparse

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import log_softmax

VOCABULARY, DEPTH, PROMPTS, RESPONSES = 5, 5, 64, 8  # the last token of the vocabulary is the end
SYMBOLS = VOCABULARY - 1
FIRST = np.cumsum([0, *(SYMBOLS**level for level in range(DEPTH))])  # place of each level's first prefix
ESTIMATORS = ("log-ratio", "k3", "fitted", "fitted on others", "by token")


def divergences(policy: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of whole responses, [N], and of the next token at every prefix, [N, S], of log-probs [N, S, V]."""
    token = np.sum(np.exp(policy) * (policy - reference), axis=2)
    reached = np.zeros(token.shape)
    reached[:, 0] = 1.0
    for level in range(DEPTH - 1):
        here, below = slice(FIRST[level], FIRST[level + 1]), slice(FIRST[level + 1], FIRST[level + 2])
        onward = reached[:, here, None] * np.exp(policy[:, here, :SYMBOLS])
        reached[:, below] = onward.reshape(len(policy), -1)
    return np.sum(reached * token, axis=1), token


def estimates(
    rng: np.random.Generator, policy: np.ndarray, reference: np.ndarray, token: np.ndarray
) -> list[float]:
    """One draw of all responses, by every estimator in the order of ESTIMATORS."""
    prompts, shape = np.arange(PROMPTS)[:, None], (PROMPTS, RESPONSES)
    cumulative = np.exp(policy).cumsum(axis=2)
    ratio, by_token = np.zeros(shape), np.zeros(shape)
    place, alive = np.zeros(shape, np.int64), np.ones(shape, bool)
    for level in range(DEPTH):
        prefix = FIRST[level] + place
        drawn = np.sum(rng.random(shape)[..., None] > cumulative[prompts, prefix], axis=2)
        drawn = np.minimum(drawn, SYMBOLS)
        ratio += alive * (policy - reference)[prompts, prefix, drawn]
        by_token += alive * token[prompts, prefix]
        alive &= drawn < SYMBOLS
        place = place * SYMBOLS + np.minimum(drawn, SYMBOLS - 1)
    control = np.expm1(-ratio)  # mean 0
    x, z = (values - values.mean(axis=1, keepdims=True) for values in (ratio, control))
    cross, square = np.sum(x * z, axis=1), np.sum(z * z, axis=1)
    others = -(cross.sum() - cross) / (square.sum() - square)
    return [
        float(ratio.mean()),
        float(np.mean(ratio + control)),
        float(np.mean(ratio - cross.sum() / square.sum() * control)),
        float(np.mean(ratio.mean(axis=1) + others * control.mean(axis=1))),
        float(by_token.mean()),
    ]


def tilted(strength: float, reference: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The policy, log-probs [N, S, V]."""
    return log_softmax(reference + strength * direction, axis=2)


def missing(strength: float, reference: np.ndarray, direction: np.ndarray, wanted: float) -> float:
    """How much the tilted policy's mean divergence exceeds the wanted one."""
    return float(divergences(tilted(strength, reference, direction), reference)[0].mean()) - wanted


def main() -> None:
    """Prints a row for each kind of direction, divergence and estimator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=600)
    repetitions = parser.parse_args().repetitions
    rng = np.random.default_rng(0)
    size = (PROMPTS, int(FIRST[-1]), VOCABULARY)
    reference = log_softmax(rng.normal(size=size), axis=2)
    directions = {"normal": rng.normal(size=size), "heavy": rng.standard_t(3, size=size).clip(-10, 10)}
    directions["one token"] = (np.arange(VOCABULARY) == 1) + 0.1 * rng.normal(size=size)
    directions["some prompts"] = rng.normal(size=size) * rng.choice([0.2, 2.0], size=(PROMPTS, 1, 1))
    print(f"{'direction':14}{'KL':>5}  {'estimator':18}{'bias':>9}{'sd':>9}")
    for name, direction in directions.items():
        for wanted in (0.1, 1.0, 3.0):
            strength = root_scalar(missing, (reference, direction, wanted), bracket=(0.0, 40.0)).root
            policy = tilted(strength, reference, direction)
            exact, token = divergences(policy, reference)
            found = np.array([estimates(rng, policy, reference, token) for _ in range(repetitions)])
            for label, column in zip(ESTIMATORS, found.T, strict=True):
                bias = column.mean() - exact.mean()
                print(f"{name:14}{wanted:5.1f}  {label:18}{bias:9.4f}{column.std():9.4f}", flush=True)


if __name__ == "__main__":
    main()
