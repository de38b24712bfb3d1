"""The test of a policy: how often it accepts what it must not, and whether it shows what its power line says.

    python benchmarks/promise_test.py [--repetitions 1000] [--pairs 500]

Pure simulation, no model. Every repetition draws held-out pairs and fits the calibration on them, draws test
prompts, and asks for verdicts at confidence 0.95.

1. False acceptance: every constraint's true margin EQUALS what is asked, the worst case. Counted is a
   repetition in which any of the m constraints is called verified.
2. Power: the true margin exceeds what is asked by what the power line names.
3. Wrong form: scores with heavy-tailed error, a policy that selects by them, a linear calibration. With and
   without human labels on 200 of the policy's responses, and rates of safe responses likewise.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import expit

from alignjax.evaluation.human_labels import labels_of_pairs, labels_of_values
from alignjax.evaluation.verdict import Measured, judge, power

ERROR = 0.05
SIZES = (50, 100, 300, 1000)
SLOPES = np.array([1.3, 0.3])  # true coefficients of a dimension's labels on two scores
MEANS = np.array([0.8, 0.2])  # raw score differences between the policy and the reference
TRUE = float(SLOPES @ MEANS)

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _mostly_alike(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Half of the prompts change nothing, one in ten loses much, the rest gain."""
    kind = rng.random(shape)
    gains = 2.0 + 0.5 * rng.standard_t(4, shape)
    found = np.where(kind < 0.5, 0.0, np.where(kind < 0.6, rng.normal(-3.0, 1.0, shape), gains))
    return (found - 0.5) / 1.75


# Differences over prompts, with mean 0 and a standard deviation of about 1.
SHAPES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "Student t3": lambda rng, shape: rng.standard_t(3, shape) / 3**0.5,
    "minus lognormal": lambda rng, shape: (np.exp(0.5) - rng.lognormal(size=shape)) / 2.161,
    "mostly alike": _mostly_alike,
}


class Fits(NamedTuple):
    """Calibrations of R repetitions."""

    coefficients: np.ndarray  # [R, P]
    covariances: np.ndarray  # [R, P, P]


def fit(x: np.ndarray, y: np.ndarray) -> Fits:
    """Logistic regressions of labels [R, n] on differences [R, n, P], with sandwich covariances."""
    w = np.zeros((x.shape[0], x.shape[2]))
    hessian = p = np.zeros(0)
    for _ in range(12):
        p = expit(np.einsum("rnp,rp->rn", x, w))
        hessian = np.einsum("rnp,rnq->rpq", x * (p * (1 - p))[..., None], x)
        w = w + np.linalg.solve(hessian, np.einsum("rnp,rn->rp", x, y - p)[..., None])[..., 0]
    scores = x * (y - p)[..., None]
    bread = np.linalg.inv(hessian)
    return Fits(w, bread @ np.einsum("rnp,rnq->rpq", scores, scores) @ bread)


def repetitions(
    rng: np.random.Generator, shape: Draw, prompts: int, repeats: int, pairs: int
) -> Iterator[Measured]:
    """One measured margin a repetition, whose truth is TRUE; pairs of 0: the calibration is known."""
    x = 1.5 * rng.standard_normal((repeats, max(pairs, 1), 2))
    y = (rng.random(x.shape[:2]) < expit(x @ SLOPES)).astype(float)
    raw = MEANS + np.stack(
        [1.2 * shape(rng, (repeats, prompts)), 0.7 * rng.standard_normal((repeats, prompts))], axis=-1
    )
    if pairs:
        fits = fit(x, y)
    else:
        fits = Fits(np.tile(SLOPES, (repeats, 1)), np.zeros((repeats, 2, 2)))
    for columns, theta, covariance in zip(raw, *fits, strict=True):
        yield Measured(columns @ theta, columns, covariance)


def false_acceptance(repeats: int, pairs: int) -> list[str]:
    """Rows of the first table."""
    rows = []
    for (name, shape), held_out in [(item, n) for n in (pairs, 0) for item in SHAPES.items()]:
        for count in (1, 2, 3) if held_out else (1,):
            cells = []
            for prompts in SIZES:
                rng = np.random.default_rng([prompts, count, held_out])
                questions = [repetitions(rng, shape, prompts, repeats, held_out) for _ in range(count)]
                wrong = sum(_any_verified(together) for together in zip(*questions, strict=True))
                cells.append(_share(wrong, repeats))
            rows.append(f"| {name} | {held_out or 'known'} | {count} | " + " | ".join(cells) + " |")
    return rows


def _any_verified(together: tuple[Measured, ...]) -> bool:
    names = [str(j) for j in range(len(together))]
    verdicts = judge(dict(zip(names, together, strict=True)), dict.fromkeys(names, TRUE), error=ERROR)
    return any(one.state == "verified" for one in verdicts.values())


def power_lines(repeats: int, pairs: int) -> list[str]:
    """Rows of the second table."""
    rows = []
    for name, shape in SHAPES.items():
        cells = []
        for prompts in SIZES:
            rng = np.random.default_rng([prompts, 7])
            tests = list(repetitions(rng, shape, prompts, repeats, pairs))
            lines = [power(one, ERROR, prompts=prompts) for one in tests[: repeats // 4]]
            above = float(np.mean([line.above for line in lines if line is not None]))
            shown = sum(
                judge({"margin": one}, {"margin": TRUE - above}, error=ERROR)["margin"].state == "verified"
                for one in tests[repeats // 4 :]
            )
            cells.append(f"{above:.2f}: {100 * shown / (repeats - repeats // 4):.0f}%")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


class World(NamedTuple):
    """Responses of R repetitions: true logits and scores of the policy's and the reference's."""

    policy: np.ndarray  # [R, T, 2] true logit, score
    reference: np.ndarray  # [R, T, 2]


def select(rng: np.random.Generator, error: Draw, repeats: int, prompts: int) -> World:
    """A policy that keeps one of 16 responses of the reference, with weights that rise with the score."""
    true = rng.standard_normal((repeats, prompts, 17)) + 0.5 * rng.standard_normal((repeats, prompts, 1))
    scores = true + error(rng, true.shape)
    noise = rng.gumbel(size=(repeats, prompts, 16))
    best = np.argmax(1.0 * scores[..., :16] + noise, axis=2)[..., None]
    both = np.stack([true, scores], axis=-1)
    return World(np.take_along_axis(both, best[..., None], axis=2)[:, :, 0], both[:, :, 16])


ERRORS: dict[str, Draw] = {
    "normal error": lambda rng, shape: rng.standard_normal(shape),
    "t3 error": lambda rng, shape: rng.standard_t(3, shape),
    "one-sided exponential error": lambda rng, shape: 1.5 * rng.exponential(size=shape),
}


def wrong_form(repeats: int, pairs: int, prompts: int = 300, labels: int = 200) -> list[str]:
    """Rows of the third table: the true margin, and the true rate of safe responses, equal what is asked."""
    rows = []
    for name, error in ERRORS.items():
        rng = np.random.default_rng(11)
        worlds = [select(rng, error, 100, 2000) for _ in range(10)]
        margin = float(np.mean([w.policy[..., 0].mean() - w.reference[..., 0].mean() for w in worlds]))
        rate = float(np.mean([expit(w.policy[..., 0] + 1.5).mean() for w in worlds]))
        world = select(rng, error, repeats, prompts)
        before = select(rng, error, repeats, pairs).reference, select(rng, error, repeats, pairs).reference
        x = (before[0] - before[1])[..., 1:]
        y = (rng.random(x.shape[:2]) < expit(before[0][..., 0] - before[1][..., 0])).astype(float)
        slopes = fit(x, y)
        # The rate: labels of single responses on the score and a constant.
        singles = np.stack([before[0][..., 1], np.ones(x.shape[:2])], axis=-1)
        safe = (rng.random(x.shape[:2]) < expit(before[0][..., 0] + 1.5)).astype(float)
        rates = fit(singles, safe)
        wrong = np.zeros(4, int)
        estimates = np.zeros((repeats, 4))
        for r in range(repeats):
            tests = list(
                _tests(rng, world, Fits(*(a[r] for a in slopes)), Fits(*(a[r] for a in rates)), r, labels)
            )
            for j, (one, asked) in enumerate(zip(tests, (margin, margin, rate, rate), strict=True)):
                found = judge({"c": one}, {"c": asked}, error=ERROR)["c"]
                wrong[j] += found.state == "verified"
                estimates[r, j] = found.mean
        shown = estimates.mean(axis=0)
        for j, kind in ((0, "margin"), (2, "rate")):
            truth = margin if kind == "margin" else rate
            rows.append(
                f"| {name} | {kind} | {truth:.3f} | {shown[j]:.3f} | {_share(int(wrong[j]), repeats)} | "
                f"{shown[j + 1]:.3f} | {_share(int(wrong[j + 1]), repeats)} |"
            )
    return rows


def _tests(
    rng: np.random.Generator, world: World, slope: Fits, rate: Fits, r: int, labels: int
) -> Iterator[Measured]:
    """The margin without and with labels, then the rate without and with labels."""
    policy, reference = world.policy[r], world.reference[r]
    raw = (policy - reference)[:, 1:]
    values = raw @ slope.coefficients
    margin = Measured(values, raw, slope.covariances)
    yield margin
    places = rng.permutation(len(policy))[:labels]
    preferred = (rng.random(labels) < expit((policy - reference)[places, 0])).astype(float)
    yield margin._replace(labels=labels_of_pairs(values[places], preferred, places))
    columns = np.stack([policy[:, 1], np.ones(len(policy))], axis=-1)
    p = expit(columns @ rate.coefficients)
    safe = Measured(p, columns * (p * (1 - p))[:, None], rate.covariances, (0.0, 1.0))
    yield safe
    label = (rng.random(labels) < expit(policy[places, 0] + 1.5)).astype(float)
    yield safe._replace(labels=labels_of_values(p[places], label, places, bounds=(0.0, 1.0)))


def _share(count: int, repeats: int) -> str:
    """A share in percent, with its one-sided 95% upper bound (Clopper and Pearson)."""
    high = 1.0 if count == repeats else float(stats.beta.ppf(0.95, count + 1, repeats - count))
    return f"{100 * count / repeats:.1f}% (< {100 * high:.1f}%)"


def main() -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=500)
    given = parser.parse_args()
    sizes = [f"T = {size}" for size in SIZES]
    _table("False acceptance", ["differences", "held-out pairs", "m", *sizes],
           false_acceptance(given.repetitions, given.pairs))  # fmt: skip
    _table("Power: what 90 of 100 runs should show, and the share that did", ["differences", *sizes],
           power_lines(given.repetitions, given.pairs))  # fmt: skip
    _table("Wrong form of the calibration, 300 test prompts",
           ["scores", "asked", "truth", "estimate", "false acceptance", "200 labels", "false acceptance"],
           wrong_form(given.repetitions, given.pairs))  # fmt: skip


def _table(title: str, head: list[str], rows: list[str]) -> None:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *rows]
    print(f"\n{title}\n\n" + "\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
