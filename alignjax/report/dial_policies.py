"""The table of policies of one multiplier: what each reaches, and what it costs."""

from alignjax.records.dial import DialRecord
from alignjax.report import tables
from alignjax.report.sections import Grid
from alignjax.report.style import policy_mark

_MEANING = {
    "aligned": "aligned: the run's answer, of which its test was made.",
    "product": (
        "product: the policies of single dimensions multiplied at every token, with the weights that the "
        "dual gives; a pass for each of them and one for the reference."
    ),
    "merged": "merged: their adapters added up with the same weights, one adapter.",
    "best_of": (
        "best_of: draws of the reference, scored, of which one is kept with the weights of the tilt; its KL "
        "is at most what is shown."
    ),
}


def grid(record: DialRecord | None) -> Grid | None:
    """A row for every policy; None where none but the aligned one was asked for.

    Args:
      record: of the policies.
    """
    if record is None or not record.policies:
        return None
    names = list(record.lam)
    truth = all(one.result.true_margins is not None for one in record.policies.values())
    head = ["policy", *(f"margin of {name}" for name in names), "reward gain", "KL, nats"]
    head += [f"true margin of {name}" for name in names] if truth else []
    head += ["from the tilted policy, nats", "passes a token", "draws", "trainings", "shown"]
    rows = []
    for name, one in record.policies.items():
        found = one.result
        cells = [tables.format_estimate(found.margins[key]) for key in names]
        cells += [tables.format_estimate(found.reward_gain), tables.format_estimate(found.kl)]
        if truth and found.true_margins is not None:
            cells += [tables.format_estimate(found.true_margins[key]) for key in names]
        cells += [tables.MISSING if one.distance is None else tables.format_estimate(one.distance)]
        cells += [str(one.passes), str(one.draws), str(one.trainings)]
        cells += ["tested, see above" if one.tested else "an estimate"]
        rows.append((name, _mark(name), cells))
    return Grid("The same multiplier without a training", head, rows, _notes(record))


def _mark(name: str) -> str:
    """Colour of the row; only the aligned policy is in the report's figures."""
    return policy_mark(name, ())[0] if name == "aligned" else ""


def _notes(record: DialRecord) -> list[str]:
    notes = [_MEANING[name] for name in record.policies]
    source = "by sums over all responses" if record.exact else "on the test prompts"
    notes.append(
        f"All numbers are {source}. The test spends its error on the aligned policy alone: the others are "
        "estimates, and nothing is verified of them."
    )
    if not record.exact:
        notes.append(
            "The distance from the tilted policy takes its normaliser from the reference's responses, and is "
            "too small where few of them carry the weight."
        )
    return notes
