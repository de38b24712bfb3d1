"""The card of an exported policy: what was asked of it, what was shown, and what it was made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from alignjax.config import Config
from alignjax.errors import printable
from alignjax.records.answer import DualAnswer
from alignjax.records.evaluation import Evaluation
from alignjax.report.cards import cards_of, grid

_METHODS = {"pecan": "PeCAN", "mocan": "MoCAN"}
_EXPLAINED = (
    "Intervals are of 95%. The forecast was made before the training. A margin is the mean utility above",
    "the reference's, in the units of the calibrated scores; KL is to the reference, in nats. The last",
    "column was tested on prompts that nothing else had used.",
)

_MERGE = (
    "**Not tested.** The sum of adapters that were trained for one score each, with the weights of the",
    "tilted policy that the forecast is about. Logits are not linear in the weights of the layers, so that",
    "the sum is near to that policy and not equal: sample it and test what it does.",
)


def model_card(
    config: Config,
    answer: DualAnswer | None,
    evaluation: Evaluation | None,
    *,
    digests: Mapping[str, str],
    version: str,
    command: str,
    stage: str = "",
    merge: Sequence[str] | None = None,
) -> str:
    """README.md of an exported folder, in the form that model hubs show.

    Args:
      config: of the run.
      answer: of the dual; None: the run has none yet.
      evaluation: of the run; None: it has not been evaluated, and nothing is said of the policy.
      digests: dimension -> sha256 of the content of its preference data.
      version: of alignjax.
      command: that wrote the folder.
      stage: another than the aligned policy's, of which nothing was tested; empty: the aligned policy.
      merge: what is known of a merge of the run's adapters at a margin of its own; None: it is no merge.

    Returns:
      Markdown.
    """
    base = Path(config.model.path).name if config.model.path else f"the embedded world {config.data.world}"
    lines = ["---", "library_name: transformers", "tags:", "- alignjax", f"- {config.method}", "---", ""]
    title = f"{_plain(base)}, {_plain(stage) or 'aligned'} with {_METHODS[config.method]}"
    lines += [f"# {title}", ""]
    if merge is not None:
        lines += [*_MERGE, "", *(f"- {_plain(line)}" for line in merge)]
    elif stage:
        lines += [f"The policy of the stage `{_plain(stage)}`, which no test was made of."]
    elif answer is None or evaluation is None:
        lines += ["The run was not evaluated: nothing is known of what this policy does."]
    else:
        lines += [f"**{_plain(evaluation.headline.text)}**", "", *_table(grid(cards_of(evaluation, answer)))]
        lines += ["", *_EXPLAINED]
    lines += ["", "## What it was made of", "", f"- base: {_plain(base)}"]
    lines += [f"- data of {_plain(name)}: sha256 `{digest}`" for name, digest in sorted(digests.items())]
    if answer is not None and answer.lam is not None and merge is None:
        found = ", ".join(f"{_plain(name)} {value:.4g}" for name, value in answer.lam.items())
        lines += [f"- multipliers: {found}; beta {answer.beta:g}"]
    lines += [f"- adapter: rank {config.lora.rank}" if config.lora.rank else "- all weights were trained"]
    lines += [f"- method: arXiv 2405.19544, by alignjax {version}", "", "## Written by", ""]
    return "\n".join([*lines, f"    {_plain(command)}", ""])


def _table(rows: list[list[str]]) -> list[str]:
    head, *body = [[_plain(cell).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def _plain(text: str) -> str:
    """One line without control characters."""
    return printable(" ".join(text.split()))
