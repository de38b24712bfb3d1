"""Human labels on a policy's own responses, so that its verdict need not rest on the calibration.

A calibration is fitted on responses of the reference. The policy was aligned on the same scores, so that its
responses are the ones that these scores flatter, and no test on scores can know by how much. A few hundred
labels can.

Letters: T test prompts, K responses to each, n labels.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize
from scipy.special import expit

from alignjax.data.files import read_json_lines
from alignjax.data.records import Prompt, prompt_key, prompt_of
from alignjax.errors import InputError
from alignjax.evaluation.bounds import Labels, Measured

_FARTHEST = 60.0  # logits from the calibrated differences, beyond every shift of labels that differ


class ResponseLabel(NamedTuple):
    """A label on one response.

    Attributes:
      prompt: `prompt_key` of its prompt.
      response: text.
      value: 1 or 0 for true or false, else a number in the units of the utility.
      boolean: whether it was true or false.
      where: file:line, for messages.
    """

    prompt: str
    response: str
    value: float
    boolean: bool
    where: str


class PairLabel(NamedTuple):
    """A label on two responses to one prompt.

    Attributes:
      prompt: `prompt_key` of the prompt.
      chosen: text of the preferred response.
      rejected: text of the other one.
      where: file:line, for messages.
    """

    prompt: str
    chosen: str
    rejected: str
    where: str


class HumanLabels(NamedTuple):
    """What a file of labels says, by dimension."""

    responses: Mapping[str, Sequence[ResponseLabel]]
    pairs: Mapping[str, Sequence[PairLabel]]


class Answers(NamedTuple):
    """Responses to the test prompts that labels are looked up in.

    Attributes:
      prompts: T prompts.
      policy: T lists of K texts.
      reference: likewise; the numbers of responses may differ.
      policy_utilities: [T, K] calibrated, in the units of the constraint.
      reference_utilities: [T, K] likewise.
    """

    prompts: Sequence[Prompt]
    policy: Sequence[Sequence[str]]
    reference: Sequence[Sequence[str]]
    policy_utilities: np.ndarray
    reference_utilities: np.ndarray


class Joined(NamedTuple):
    """Labels on the responses at hand.

    Attributes:
      labels: for `Measured.labels`; None: too few of them fit.
      unused: file:line of the labels that fit no response at hand.
    """

    labels: Labels | None
    unused: tuple[str, ...]


def read_labels(path: str, dimensions: Sequence[str]) -> HumanLabels:
    """Reads a file of human labels; a line is of one of three kinds.

        {"prompt": .., "response": .., NAME: true, false or a number, ..}
        {"prompt": .., "chosen": .., "rejected": .., "dimension": NAME}
        {"prompt": .., "response_0": .., "response_1": .., NAME: 0 or 1, the better response, ..}

    Args:
      path: JSON Lines, plain or gzip.
      dimensions: names that may be labelled.

    Raises:
      InputError: a file that cannot be read, a line without a label or with a wrong one (the message names
        file and line), or no line at all.
    """
    responses: dict[str, list[ResponseLabel]] = {name: [] for name in dimensions}
    pairs: dict[str, list[PairLabel]] = {name: [] for name in dimensions}
    count = 0
    for where, row in read_json_lines(path):
        count += 1
        key = prompt_key(prompt_of(row, where))
        if "response" in row:
            text = _text(row, "response", where)
            for name, value in _named(row, dimensions, where):
                number, boolean = _value(value, name, where)
                responses[name].append(ResponseLabel(key, text, number, boolean, where))
        elif "chosen" in row or "rejected" in row:
            name = row.get("dimension")
            if not isinstance(name, str) or name not in dimensions:
                raise InputError(
                    f'{where}: "dimension" is {name!r}, must be one of {", ".join(dimensions)}; correct it.'
                )
            texts = [_text(row, column, where) for column in ("chosen", "rejected")]
            pairs[name].append(PairLabel(key, texts[0], texts[1], where))
        elif "response_0" in row or "response_1" in row:
            texts = [_text(row, column, where) for column in ("response_0", "response_1")]
            for name, value in _named(row, dimensions, where):
                if isinstance(value, bool) or value not in (0, 1):
                    raise InputError(
                        f'{where}: "{name}" is {value!r}, must be 0 or 1, the better response; correct it.'
                    )
                pairs[name].append(PairLabel(key, texts[int(value)], texts[1 - int(value)], where))
        else:
            raise InputError(
                f'{where}: has neither "response", nor "chosen" and "rejected", nor "response_0" and '
                '"response_1"; say which responses the label is about.'
            )
    if not count:
        raise InputError(f"{path}: has no lines; give one label per line.")
    return HumanLabels(responses, pairs)


def join(found: HumanLabels, name: str, answers: Answers, *, relative: bool, rate: bool) -> Joined:
    """The labels of one constraint, joined to the test's responses by the texts of prompt and response.

    Responses with equal texts share a label. Which kind of label is used depends on what was asked:

    - a level or a rate: labels on the policy's responses;
    - a margin: pairs of one response of the policy and one of the reference, if there are any; else labels on
      responses of both to the same prompts.

    A rate takes true and false, everything else numbers. Whoever labels must not choose the responses by what
    they say: the labelled ones stand for all.

    Args:
      found: of `read_labels`.
      name: the dimension.
      answers: responses of the test.
      relative: whether a margin was asked for.
      rate: whether the utility is a probability.

    Raises:
      InputError: a label of the wrong kind, or pairs that all prefer the same side.
    """
    singles = found.responses.get(name, ())
    for label in singles:
        if label.boolean != rate:
            wanted = "true or false, because a rate" if rate else "a number, because a score"
            raise InputError(f'{label.where}: "{name}" must be {wanted} was asked for; correct the label.')
    places = {prompt_key(prompt): i for i, prompt in enumerate(answers.prompts)}
    if relative and found.pairs.get(name):
        return _join_pairs(found.pairs[name], answers, places)
    bounds = (0.0, 1.0) if rate else None
    ours, unused = _joined(singles, answers.policy, answers.policy_utilities, places)
    if not relative:
        return Joined(_of_values(ours, bounds), tuple(unused))
    left = [label for label in singles if label.where in unused]
    base, unused = _joined(left, answers.reference, answers.reference_utilities, places)
    both = [place for place in ours if place in base]
    errors = {place: [float(np.mean(ours[place]) - np.mean(base[place]))] for place in both}
    number = sum(len(ours[place]) + len(base[place]) for place in both)
    wide = None if bounds is None else (-1.0, 1.0)
    joined = _of_values(errors, wide)
    return Joined(None if joined is None else joined._replace(number=number), tuple(unused))


def labels_of_values(
    utilities: np.ndarray,
    labels: np.ndarray,
    places: np.ndarray,
    *,
    bounds: tuple[float, float] | None = None,
) -> Labels:
    """Labels on single responses, in the units of the utility: prediction-powered inference.

        mean = mean_T f + mean_n (Y - f),   variance = s_f^2 / T + s_{Y-f}^2 / n  (+ twice their covariance)

    f may be any prediction: the estimate is right whatever the calibration is, and the better f is, the less
    the labels scatter about it.

    Args:
      utilities: [n] float, f of the labelled responses.
      labels: [n] float, Y; true is 1.
      places: [n] int, the test prompt of each; labels on one prompt are averaged first.
      bounds: that f and Y lie in; None: unknown.

    Returns:
      Labels for `Measured`.

    Raises:
      InputError: there are none.

    Reference: Angelopoulos et al. 2023, arXiv 2301.09633, section 2 (the mean).
    """
    errors: dict[int, list[float]] = {}
    for place, error in zip(places.tolist(), (labels - utilities).tolist(), strict=True):
        errors.setdefault(place, []).append(error)
    found = _of_values(errors, bounds)
    if found is None:
        raise InputError("human labels: there are none; label responses of the policy.")
    return found


def labels_of_pairs(differences: np.ndarray, preferred: np.ndarray, places: np.ndarray) -> Labels:
    """Labels on pairs of a response of the policy and one of the reference to the same prompt.

    By how much the policy's responses are better than the calibrated differences say is one number, delta:

        P(policy preferred) = sigma(d + delta),   margin = mean_T d + delta

    with the variance of delta by the sandwich, clustered by prompt. This assumes that the true logits differ
    from d by the same number everywhere. Where they scatter about it the preferences are less decided than
    their mean logit, and the margin errs towards 0: low for a positive margin, high for a negative one. A
    pair shows which response is better and not by how much, so that rare large losses remain hidden; labels
    in the units of the utility (`labels_of_values`) assume nothing.

    Args:
      differences: [n] float, d, calibrated utility of the policy's response minus the reference's, in logits.
      preferred: [n] float, 1 where the policy's response is preferred, 0 where the reference's is.
      places: [n] int, the test prompt of each.

    Returns:
      Labels for `Measured`.

    Raises:
      InputError: there are no pairs, or all prefer the same side, so that no finite delta fits.

    Reference: White 1982; Liang and Zeger 1986 (sandwich covariance, clusters).
    """
    if not len(preferred) or len(set(preferred.tolist())) < 2:
        side = "there are none" if not len(preferred) else f"all {len(preferred)} prefer the same side"
        raise InputError(f"human labels: pairs of policy and reference: {side}; label more pairs.")
    prompts, cluster, counts = np.unique(places, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[cluster]  # every prompt counts alike

    def gradient(delta: float) -> float:
        return float(weights @ (preferred - expit(differences + delta)))

    middle, far = float(np.mean(differences)), _FARTHEST + float(np.max(np.abs(differences)))
    root = optimize.brentq(gradient, -middle - far, -middle + far, xtol=1e-12)
    delta = float(root)  # pyright: ignore[reportArgumentType] # typed for complex functions too
    p = expit(differences + delta)
    curvature = float(weights @ (p * (1.0 - p))) / len(prompts)
    errors = np.bincount(cluster, weights * (preferred - p)) / curvature
    return Labels(delta, errors, prompts, len(preferred))


def labelled(measured: Measured, joined: Joined) -> Measured:
    """The measured values with the labels, so that a verdict on them rests on the labels."""
    return measured._replace(labels=joined.labels)


def _of_values(errors: Mapping[int, Sequence[float]], bounds: tuple[float, float] | None) -> Labels | None:
    """Labels of the errors Y - f by prompt; None where there are none."""
    if not errors:
        return None
    places = np.array(sorted(errors))
    means = np.array([np.mean(errors[place]) for place in sorted(errors)])
    number = sum(len(some) for some in errors.values())
    widest = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    return Labels(float(np.mean(means)), means, places, number, widest)


def _joined(
    labels: Sequence[ResponseLabel],
    texts: Sequence[Sequence[str]],
    utilities: np.ndarray,
    places: Mapping[str, int],
) -> tuple[dict[int, list[float]], list[str]]:
    """Y - f by test prompt, and where the labels are that fit no response."""
    errors: dict[int, list[float]] = {}
    unused = []
    for label in labels:
        place = places.get(label.prompt)
        if place is None or label.response not in texts[place]:
            unused.append(label.where)
            continue
        utility = utilities[place, list(texts[place]).index(label.response)]
        errors.setdefault(place, []).append(label.value - float(utility))
    return errors, unused


def _join_pairs(labels: Sequence[PairLabel], answers: Answers, places: Mapping[str, int]) -> Joined:
    differences, preferred, prompts, unused = [], [], [], []
    for label in labels:
        place = places.get(label.prompt)
        texts = (answers.policy[place], answers.reference[place]) if place is not None else ((), ())
        won = label.chosen in texts[0] and label.rejected in texts[1]
        lost = label.rejected in texts[0] and label.chosen in texts[1]
        if place is None or won == lost:  # in both orders: the two policies gave both texts
            unused.append(label.where)
            continue
        first, second = (label.chosen, label.rejected) if won else (label.rejected, label.chosen)
        ours = answers.policy_utilities[place, list(texts[0]).index(first)]
        base = answers.reference_utilities[place, list(texts[1]).index(second)]
        differences.append(float(ours - base))
        preferred.append(float(won))
        prompts.append(place)
    if not preferred:
        return Joined(None, tuple(unused))
    found = labels_of_pairs(np.array(differences), np.array(preferred), np.array(prompts))
    return Joined(found, tuple(unused))


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise InputError(f'{where}: "{column}" is {value!r}, must be the text of a response; correct it.')
    return value


def _named(row: Mapping[str, Any], dimensions: Sequence[str], where: str) -> list[tuple[str, Any]]:
    """The labels of a line, at least one."""
    named = [(name, row[name]) for name in dimensions if name in row]
    if not named:
        raise InputError(
            f"{where}: has no label; name a dimension ({', '.join(dimensions)}) and give its label."
        )
    return named


def _value(value: Any, name: str, where: str) -> tuple[float, bool]:
    """A label as a number, and whether it was true or false."""
    if isinstance(value, bool):
        return float(value), True
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise InputError(f'{where}: "{name}" is {value!r}, must be true, false or a number; correct it.')
    return float(value), False
