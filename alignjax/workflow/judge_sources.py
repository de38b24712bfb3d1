"""What judges of the configuration are asked on, and whether they can be asked at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignjax.config import GUARDS, SCORE_MODELS, JudgeSettings, determining
from alignjax.data.preferences import Preferences
from alignjax.data.prompts import encode_prompts
from alignjax.data.records import Prompt, read_prompt_rows
from alignjax.data.templates import Template
from alignjax.errors import InputError
from alignjax.evaluation.judge_reading import comparison_ids, guard_ids
from alignjax.models.huggingface import read_json
from alignjax.models.tokenizer_alone import read_tokenizer
from alignjax.policy.values import Policy
from alignjax.scores.functions import prompt_text
from alignjax.workflow.setup import Setup, content


class Asked(NamedTuple):
    """What a judge is asked on.

    Attributes:
      prompts: of its own; None: those of the test.
      trained_on: how many of its own prompts the run trains on.
      cut: how many of its own prompts are too long for the policies.
    """

    prompts: list[Prompt] | None
    trained_on: int
    cut: int


def settings_of(setup: Setup, judge: JudgeSettings) -> dict[str, Any]:
    """What determines a judge: its settings, with the content of files in place of their names."""
    paths = {"verdicts": judge.verdicts, "path": judge.path, "prompts": judge.prompts}
    return determining(judge) | {name: content(setup, path) for name, path in paths.items()}


def asked_of(setup: Setup, pairs: Preferences, template: Template, reference: Policy) -> dict[str, Asked]:
    """Reads the prompts of judges and looks at their folders. Called before training, to find mistakes then.

    Args:
      setup: of the run.
      pairs: with the prompts that are trained on and tested on.
      template: how policies are shown a prompt.
      reference: whose tokenizer all policies share.

    Returns:
      By dimension the judges that a stage of its own asks: models, and functions with prompts of their own.

    Raises:
      InputError: a prompt or a folder cannot be used.
    """
    found = dict[str, Asked]()
    for name, judge in setup.config.judges.items():
        if judge.preset is None and not judge.prompts:
            continue
        if setup.shape is not None:
            own: list[Prompt] = [""] * setup.config.num_test_prompts
            found[name] = Asked(own if judge.prompts else None, 0, 0)
            continue
        found[name] = _read_prompts(setup, pairs, template, reference, name, judge.prompts)
        if judge.preset in SCORE_MODELS:
            _check_kind(name, judge)
        elif judge.preset is not None:
            tested = pairs.test_prompts[: setup.config.num_test_prompts]
            _check_questions(name, judge, found[name].prompts or tested)
    return found


def _read_prompts(
    setup: Setup, pairs: Preferences, template: Template, reference: Policy, name: str, path: str | None
) -> Asked:
    if not path:
        return Asked(None, 0, 0)
    if not Path(path).expanduser().is_file():
        raise InputError(f"config.judges.{name}.prompts: {path} is no file; name a file of prompts.")
    rows = read_prompt_rows(str(Path(path).expanduser()))
    wheres = dict[Prompt, str]()  # each prompt once
    for row in rows:
        wheres.setdefault(row.prompt, row.where)
    kept = list(wheres)
    limit = setup.config.model.max_prompt_length
    cut = encode_prompts(reference.tokenizer, template, kept, list(wheres.values()), most=limit).num_cut
    known = _trained_on(pairs)
    trained_on = sum(_same(prompt) in known for prompt in kept)
    return Asked(kept, trained_on, cut)


def _trained_on(pairs: Preferences) -> set[str]:
    """All prompts that are trained on, or that choose what is kept of a training."""
    sides = [side for one in pairs.dimensions.values() for side in (one.train.texts, one.held_out.texts)]
    texts = [pair.prompt for side in (*sides, pairs.align_pairs) for pair in side]
    return {_same(prompt) for prompt in (*texts, *pairs.train_prompts)}


def _same(prompt: Prompt) -> str:
    """Equal for prompts that differ in white space or in case alone."""
    return " ".join(prompt_text(prompt).split()).casefold()


def _check_kind(name: str, judge: JudgeSettings) -> None:
    """Refuses a folder that says it holds the other kind of score model."""
    path = Path(judge.path or "").expanduser()
    if not path.is_dir():
        raise InputError(f"config.judges.{name}.path: {path} is no folder; name that of a score model.")
    kind = read_json(path / "config.json").get("score_type")
    if kind is not None and kind != judge.preset:
        raise InputError(
            f"config.judges.{name}.preset: is {judge.preset!r}, but {path / 'config.json'} has score_type "
            f"{kind!r}; name a folder of the other kind, or give preset={kind}."
        )


def _check_questions(name: str, judge: JudgeSettings, prompts: Sequence[Prompt]) -> None:
    """Refuses a folder without a tokenizer, or whose template cannot show a prompt."""
    where, path = f"config.judges.{name}.path", judge.path or ""
    if not Path(path).expanduser().exists():
        raise InputError(f"{where}: {path} does not exist; name the folder of a {judge.preset} model.")
    tokenizer = read_tokenizer(Path(path).expanduser())
    if judge.preset in GUARDS:
        texts = [(prompt, "a response") for prompt in prompts]
        guard_ids(tokenizer, judge.preset, texts, own=judge.template, where=where)
    else:
        three = [(prompt, "a response", "another") for prompt in prompts]
        comparison_ids(tokenizer, name, three, own=judge.template, where=where)
