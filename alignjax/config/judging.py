"""Who decides which policy's response is better in one dimension: settings of judges, and their rules."""

import dataclasses

from alignjax.config.fields import setting
from alignjax.errors import InputError

GUARDS = ("llama-guard", "wildguard")
"""Models that are asked in words whether one response is safe."""
SCORE_MODELS = ("cost", "reward")
"""Models that score one response."""
PRESETS = (*GUARDS, *SCORE_MODELS, "general")
_PLACES = {
    **dict.fromkeys(GUARDS, ("{prompt}", "{response}")),
    **dict.fromkeys(SCORE_MODELS, ("{prompt}",)),
    "general": ("{prompt}", "{first}", "{second}"),
}


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """One of function, verdicts and preset; none: the calibrated scores of the dimension decide."""

    function: str = ""  # module:function of (prompts, responses_a, responses_b) -> P(a is better)
    verdicts: str | None = None  # JSON Lines file of {"prompt", "first", "second", "winner"}
    # A model of `path`: a guard that says whether a response is safe, a score model, or a general chat model
    # that compares two responses.
    preset: str | None = setting(None, choices=PRESETS)
    path: str | None = None  # of a preset: the model's Hugging Face folder
    # Prompts to judge on, JSON Lines of {"prompt"}; every policy answers them. None: the test prompts.
    prompts: str | None = None
    # Of a preset: the whole text that the model reads, control tokens included, with {prompt} and {response}
    # (cost, reward: {prompt}; general: {prompt}, {first} and {second}). Empty: the folder's chat template.
    template: str = ""

    @property
    def given(self) -> tuple[str, ...]:
        """Which of the three decide; empty: the calibrated scores."""
        fields = {"function": self.function, "verdicts": self.verdicts, "preset": self.preset}
        return tuple(name for name, value in fields.items() if value)


def check_judge(name: str, judge: JudgeSettings) -> None:
    """Refuses combinations of a judge's settings that mean nothing.

    Args:
      name: of the dimension.
      judge: its settings.

    Raises:
      InputError: names the field.
    """
    where, given = f"config.judges.{name}", list(judge.given)
    if len(given) > 1:
        raise InputError(
            f"{where}: is {given}, give a function or verdicts or a preset, and one of them only."
        )
    for field, value in (("path", judge.path), ("template", judge.template)):
        if value and judge.preset is None:
            raise InputError(
                f"{where}.{field}: is {value!r}, but only a preset reads it; give {where}.preset."
            )
    if judge.prompts and given in ([], ["verdicts"]):
        raise InputError(
            f"{where}.prompts: is {judge.prompts!r}, but only a function or a preset is asked about other "
            f"prompts than the test's; give {where}.function or {where}.preset."
        )
    if judge.preset is None:
        return
    if not judge.path:
        raise InputError(
            f"{where}.path: is missing; name the Hugging Face folder of the {judge.preset} model."
        )
    if name == "reward" and judge.preset in (*GUARDS, "cost"):
        raise InputError(
            f"{where}.preset: is {judge.preset!r}, which says what is safe; give it to a constraint, and "
            "the reward to reward or general."
        )
    for place in _PLACES[judge.preset]:
        if judge.template and judge.template.count(place) != 1:
            raise InputError(
                f"{where}.template: is {judge.template[:60]!r}, must contain {place} exactly once."
            )
