"""Solves the dual on a score table, and says what the constraints will cost before anything is trained.

    python -m alignjax.solve --scores=FILE --beta=B [--json]
        (--margin=NAME=X | --level=NAME=X | --fraction=NAME=X)...

FILE is a score table, .npz or .jsonl. Every constraint of the table is asked for exactly once:
--margin=safety=1.5 (mean utility above the reference's), --level=safety=0.2 (mean utility to reach) or
--fraction=safety=0.5 (share of the largest margin that can be met). Status 3: the margins cannot be met on
these samples; with --json the object is printed all the same, "feasible" false and nothing predicted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from alignjax import cli, dual
from alignjax.dual import Asked, Solution
from alignjax.errors import InputError
from alignjax.scores.table import ScoreTable, read_table

_KINDS = ("margin", "level", "fraction")
_CHOICE = "give each constraint one of --margin, --level and --fraction"
_SATURATED = 2.0  # effective samples; below it one response has nearly all the weight of its prompt


def solve(
    scores: str | Path, *, beta: float, asked: Mapping[str, Sequence[str]], as_json: bool = False
) -> None:
    """Solves the dual on a table and prints what the tilted policy will have.

    Args:
      scores: score table.
      beta: KL weight > 0, in the units of the rewards per nat.
      asked: "margin", "level" and "fraction", each with texts NAME=NUMBER.
      as_json: print one JSON object in place of text.

    Raises:
      InputError: the table or an option cannot be used.
      InfeasibleError: the margins cannot be met on these samples; the message names the largest that can.
    """
    if not 0 < beta < math.inf:
        raise InputError(f"--beta: is {beta}; must be a finite number above 0.")
    parsed = parse_asked(asked)
    table = read_table(scores)
    wanted = _in_order(parsed, table.names, str(scores))
    margins = dual.asked_margins(wanted, table.utilities, mask=table.mask)
    solution = dual.solve(table.rewards, table.utilities, beta=beta, margins=margins, mask=table.mask)
    found = record(table, wanted, margins, solution, beta=beta)
    if as_json:
        print(json.dumps(found, allow_nan=False))
    dual.require_feasible(table.names, solution, margins, table.utilities, mask=table.mask)
    if not as_json:
        print(render(found))


def parse_asked(asked: Mapping[str, Sequence[str]]) -> dict[str, Asked]:
    """What the flags ask, by constraint.

    Args:
      asked: "margin", "level" and "fraction", each with texts NAME=NUMBER.

    Raises:
      InputError: a text that is not NAME=NUMBER, a number out of range, a constraint given twice.
    """
    parsed: dict[str, Asked] = {}
    flag_of: dict[str, str] = {}
    for kind in _KINDS:
        for text in asked.get(kind, ()):
            flag = f"--{kind}={text}"
            name, separator, number = text.rpartition("=")
            if not separator or not name:
                raise InputError(
                    f"{flag}: must be a constraint's name and a number; write --{kind}=NAME=NUMBER."
                )
            value = _number(number, flag)
            if kind == "fraction" and not 0 < value < 1:
                raise InputError(
                    f"{flag}: must lie between 0 and 1, it is a share of the largest reachable margin."
                )
            if name in parsed:
                raise InputError(f"{flag}: {name!r} is asked for already by {flag_of[name]}; {_CHOICE}.")
            parsed[name], flag_of[name] = Asked(**{kind: value}), flag
    return parsed


def record(
    table: ScoreTable, asked: Sequence[Asked], margins: np.ndarray, solution: Solution, *, beta: float
) -> dict[str, Any]:
    """The result as one JSON value; where the margins cannot be met, what the policy would have is None.

    Args:
      table: the scores.
      asked: what was asked of each constraint.
      margins: [m] float64, the same as margins.
      solution: of `dual.solve`.
      beta: KL weight.
    """
    feasible = bool(solution.feasible)
    most = np.asarray(dual.reachable(table.utilities, table.mask))
    means = dual.reference_means(table.utilities, table.mask)
    ess = np.asarray(solution.ess)

    def named(values: Any) -> dict[str, float]:
        return dict(zip(table.names, np.asarray(values).tolist(), strict=True))

    return {
        "names": list(table.names),
        "num_prompts": table.rewards.shape[0],
        "num_samples": int(table.rewards.size if table.mask is None else table.mask.sum()),
        "beta": beta,
        "asked": {
            name: {**one._asdict(), "margin": float(margin)}
            for name, one, margin in zip(table.names, asked, margins, strict=True)
        },
        "reference": {
            "reward": float(dual.reference_means(table.rewards, table.mask)),
            "utilities": named(means),
        },
        "reachable": named(most),
        "feasible": feasible,
        "certificate": named(solution.certificate) if np.any(solution.certificate) else None,
        "lam": named(solution.lam) if feasible else None,
        "margins": named(solution.margins) if feasible else None,
        "utilities": named(solution.expected_utilities) if feasible else None,
        "reward": float(solution.expected_reward) if feasible else None,
        "kl": float(solution.kl) if feasible else None,
        "objective": float(solution.objective) if feasible else None,
        "ess": {"median": float(np.median(ess)), "least": float(ess.min())} if feasible else None,
        "iterations": int(solution.iterations),
        "error": float(solution.error),
    }


def render(found: Mapping[str, Any]) -> str:
    """The record of a feasible problem as a paragraph and two tables."""
    names, ess = found["names"], found["ess"]
    width = max(len("constraint"), *(len(name) for name in names))
    heads = ("lambda", "asked", "margin", "largest", "reference", "level")
    lines = [_opening(found), "", f"{'constraint':<{width}}" + "".join(f"{head:>12}" for head in heads)]
    for name in names:
        row = (
            found["lam"][name],
            found["asked"][name]["margin"],
            found["margins"][name],
            found["reachable"][name],
            found["reference"]["utilities"][name],
            found["utilities"][name],
        )
        lines.append(f"{name:<{width}}" + "".join(f"{value:>12.5g}" for value in row))
    lines += [
        "",
        f"reward             {found['reference']['reward']:.5g} -> {found['reward']:.5g}",
        f"KL                 {found['kl']:.5g} nats a prompt",
        f"effective samples  {ess['median']:.4g} a prompt (median), {ess['least']:.4g} (least)",
        f"solver             {found['iterations']} iterations, error {found['error']:.1e}",
    ]
    return "\n".join(lines)


def _opening(found: Mapping[str, Any]) -> str:
    """What was found, in sentences."""
    binding = [name for name in found["names"] if found["lam"][name] > 0]
    free = [name for name in found["names"] if name not in binding]
    gain = found["reward"] - found["reference"]["reward"]
    change = f"{'raises' if gain >= 0 else 'lowers'} the mean reward by {abs(gain):.4g}"
    sentences = [
        f"{found['num_prompts']} prompts, {found['num_samples']} responses, beta {found['beta']:g}.",
        f"The tilted policy meets every margin, {change} and lies {found['kl']:.4g} nats from the reference.",
    ]
    if free:
        also = " and the other constraints" if binding else ""
        sentences.append(f"No price for {', '.join(free)}: the reward{also} alone bring its margin.")
    if found["ess"]["least"] < _SATURATED:
        sentences.append(
            f"Some prompt has only {found['ess']['least']:.2g} effective samples: there the estimate is "
            "saturated; draw more samples or raise beta."
        )
    return "\n".join(sentences)


def _in_order(parsed: Mapping[str, Asked], names: Sequence[str], scores: str) -> list[Asked]:
    """What is asked, in the order of the table's constraints; all of them and no others."""
    for name, one in parsed.items():
        if name not in names:
            kind, value = next((k, v) for k, v in one._asdict().items() if v is not None)
            raise InputError(
                f"--{kind}={name}={value:g}: {scores} has no constraint {name!r}, it has {', '.join(names)}; "
                "correct the name."
            )
    for name in names:
        if name not in parsed:
            raise InputError(f"--scores={scores}: nothing is asked of its constraint {name!r}; {_CHOICE}.")
    return [parsed[name] for name in names]


def _number(text: str, flag: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{flag}: {text!r} is not a number.") from None
    if not math.isfinite(value):
        raise InputError(f"{flag}: {text!r} is not finite.")
    return value


def _define_flags() -> None:
    flags.DEFINE_string("scores", "", "Score table, .npz or .jsonl.")
    flags.DEFINE_float("beta", None, "KL weight above 0, in the units of the rewards per nat.")
    flags.DEFINE_multi_string("margin", [], "NAME=X: mean utility NAME at least X above the reference's.")
    flags.DEFINE_multi_string("level", [], "NAME=X: mean utility NAME at least X.")
    flags.DEFINE_multi_string("fraction", [], "NAME=X: margin X, in (0, 1), of the largest reachable one.")
    flags.DEFINE_bool("json", False, "Print one JSON object in place of text.")


def _main() -> None:
    given = flags.FLAGS
    if given.beta is None:
        raise InputError("--beta is missing; give --beta=...")
    asked = {"margin": given.margin, "level": given.level, "fraction": given.fraction}
    solve(given.scores, beta=given.beta, asked=asked, as_json=given.json)


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, required=["scores"])
