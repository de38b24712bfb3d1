import pytest

from alignjax.config import Config
from alignjax.config.settings import ModelSettings
from alignjax.report.model_card import model_card

CONFIG = Config(method="pecan", model=ModelSettings(path="models/my-base"))


def card(inputs, **changed):
    made = inputs()
    given = {
        "config": CONFIG,
        "answer": made.answer,
        "evaluation": made.evaluation,
        "digests": {"safety": "ab12"},
    }
    given |= {"version": "1.2.3", "command": "alignjax export --workdir=run --output=out"} | changed
    return model_card(given.pop("config"), given.pop("answer"), given.pop("evaluation"), **given)


def test_it_says_what_the_run_says(inputs):
    text, evaluation = card(inputs), inputs().evaluation
    assert text.startswith("---\nlibrary_name: transformers\n") and "# my-base, aligned with PeCAN" in text
    assert f"**{evaluation.headline.text}**" in text
    assert "| safety margin |" in text and "- data of safety: sha256 `ab12`" in text
    assert text.endswith("    alignjax export --workdir=run --output=out\n")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"evaluation": None}, "The run was not evaluated: nothing is known"),
        ({"stage": "safety"}, "The policy of the stage `safety`, which no test was made of."),
        ({"merge": ["lambda: safety 0.7000"]}, "- lambda: safety 0.7000"),
    ],
)
def test_what_was_not_tested_is_not_promised(inputs, changed, said):
    text = card(inputs, **changed)
    assert said in text and inputs().evaluation.headline.text not in text and "| verdict |" not in text


def test_control_characters_are_shown_as_escapes(inputs):
    text = card(inputs, command="alignjax export --output=a\x1b[31m\nb")
    assert "\x1b" not in text and "a\\x1b[31m b" in text
