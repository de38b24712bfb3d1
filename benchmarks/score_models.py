"""Score models of a run against a bag of words, on pairs of prompts that neither has seen.

    python benchmarks/score_models.py WORKDIR [--all_pairs]

WORKDIR is a finished run of `configs/mocan.py` on files. The baseline is Bradley-Terry on TF-IDF features of
the responses: what a prompt adds to both cancels. It learns from the very pairs that the score models learned
from (--all_pairs: from every pair of the training prompts), its strength of regularization chosen by
cross-validation over prompts. Intervals are bootstrap over prompts. Needs scikit-learn.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from scipy import sparse
from shared import read_data
from sklearn.feature_extraction.text import TfidfVectorizer  # pyright: ignore[reportMissingImports]  # the extra `bench`
from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]  # the extra `bench`
from sklearn.model_selection import GroupKFold  # pyright: ignore[reportMissingImports]  # the extra `bench`

from alignjax.config import Config
from alignjax.data.preferences import Labelled
from alignjax.runs import read_config
from alignjax.scores.learned import expected_calibration_error

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--all_pairs", action="store_true")
    given = parser.parse_args()
    data = read_data(run_config(given.workdir, all_pairs=given.all_pairs), given.workdir)
    print("| dimension | pairs to learn from | held out (prompts) | score model | TF-IDF | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    with np.load(given.workdir / "held_out_scores.npz") as stored:
        for place, (name, (train, held)) in enumerate(data.dimensions.items()):
            scores = stored[name][:, :, place]
            ours, bag = scores[:, 0] - scores[:, 1], bag_of_words(train, held)
            decided = np.asarray(held.labels) != 0.5
            hits = [(np.sign(d) == np.sign(held.labels - 0.5))[decided] for d in (ours, bag)]
            groups = held.groups[decided]
            found = [interval(h.astype(np.float64), groups) for h in hits]
            gap = interval(hits[0].astype(np.float64) - hits[1], groups)
            size = f"{len(held.labels)} ({len(np.unique(groups))})"
            cells = [name, str(len(train.labels)), size, *map(shown, found), shown(gap)]
            print("| " + " | ".join(cells) + " |", flush=True)
            errors = [calibration_error(d) for d in (ours, bag)]
            print(f"  expected calibration error: {errors[0]:.3f} and {errors[1]:.3f}")


def shown(figure: tuple[float, float, float]) -> str:
    """Mean and interval."""
    return f"{figure[0]:.3f} [{figure[1]:.3f}, {figure[2]:.3f}]"


def run_config(workdir: Path, *, all_pairs: bool) -> Config:
    """A run's configuration; with `all_pairs` without its bound on training pairs."""
    config = read_config(workdir)
    if not all_pairs:
        return config
    data = dataclasses.replace(config.data, max_train_pairs=None)
    return dataclasses.replace(config, data=data)


def bag_of_words(train: Labelled, held: Labelled) -> np.ndarray:
    """Difference of the baseline's scores, chosen less rejected, on the held-out pairs: [n]."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    texts = [text for pair in train.texts for text in (pair.chosen, pair.rejected)]
    vectorizer.fit(texts)
    features, unseen = (differences(vectorizer, part) for part in (train, held))
    groups = np.asarray(train.groups)
    folds = list(GroupKFold(n_splits=5).split(features, groups=groups))
    accuracy = {
        strength: np.mean(
            [
                np.mean(fit(features[a], train.labels[a], strength).decision_function(features[b])
                        * (train.labels[b] - 0.5) > 0)
                for a, b in folds
            ]
        )
        for strength in STRENGTHS
    }  # fmt: skip
    best = max(accuracy, key=lambda strength: accuracy[strength])
    return fit(features, train.labels, best).decision_function(unseen)


def differences(vectorizer: TfidfVectorizer, part: Labelled) -> sparse.csr_matrix:
    """Features of the chosen response less those of the rejected one."""
    chosen = vectorizer.transform([pair.chosen for pair in part.texts])
    rejected = vectorizer.transform([pair.rejected for pair in part.texts])
    return sparse.csr_matrix(chosen - rejected)


def fit(features: sparse.csr_matrix, labels: np.ndarray, strength: float) -> LogisticRegression:
    """Bradley-Terry: logistic regression without a constant, every pair in both orders."""
    both = sparse.vstack([features, -features])
    targets = np.concatenate([labels > 0.5, labels <= 0.5])
    return LogisticRegression(C=strength, fit_intercept=False, max_iter=2000).fit(both, targets)


def calibration_error(differences_: np.ndarray) -> float:
    """Of sigma(difference); pairs are turned over in turns, since files put the better response first."""
    stated = 1.0 / (1.0 + np.exp(-np.clip(differences_, -500, 500)))
    turned = np.arange(len(stated)) % 2 == 1
    return expected_calibration_error(np.where(turned, 1 - stated, stated), np.where(turned, 0.0, 1.0))


def interval(values: np.ndarray, groups: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """Mean over pairs and its 95% interval by resampling prompts."""
    rng = np.random.default_rng(0)
    _, places = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(places, values), np.bincount(places)
    weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    means = (weights @ sums) / (weights @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
