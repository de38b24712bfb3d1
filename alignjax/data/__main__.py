"""Says what files of preference pairs are, and shows rows as a model will see them; trains nothing.

    python -m alignjax.data FILE... [--model=PATH] [--label=COLUMN]
        [--held_out=FILE] [--show=N] [--json]

FILE is JSON Lines, JSON, CSV, Parquet or Arrow; a file, a folder or a glob; or tfds:NAME:SPLIT. It is read as
`train` reads config.data.sources.NAME.path (docs/data-formats.md), and flags of the same names mean the same.

Printed are what the rows were taken for and what the label means; how many are used, and where the first of
each dropped kind is; the balance of the labels and of the lengths; repeats; and prompts that --held_out has
too. With --model, whose tokenizer is read and no weights: lengths in tokens, what is cut, the template, the
end token, and rows with every token marked as prompt, trained response, end or cut. Status 2: a file or an
option that cannot be used.
"""

import dataclasses
import json
import sys
from typing import Any

from absl import flags

from alignjax import cli
from alignjax.config import ModelSettings, SourceSettings
from alignjax.config.fields import rule_of
from alignjax.data.records import DataSource
from alignjax.data_command import look_at
from alignjax.records import encode
from alignjax.report.data_survey import survey_text

_SOURCE, _MODEL = SourceSettings(), ModelSettings()


def _define_flags() -> None:
    flags.DEFINE_multi_string("file", [], "File, folder or glob; as an argument without a name too.")
    flags.DEFINE_string("model", "", "Hugging Face folder or .gguf file; only its tokenizer is read.")
    flags.DEFINE_string("held_out", "", "File of held-out pairs, whose prompts should not be in FILE.")
    flags.DEFINE_enum(
        "format", _SOURCE.format, _choices("format"), "Layout of rows; auto recognises it row by row."
    )
    flags.DEFINE_string("label", _SOURCE.label, "Column that says which response is better; none: chosen.")
    flags.DEFINE_enum(
        "label_means", _SOURCE.label_means, _choices("label_means"), "Which response 1 says is better."
    )
    flags.DEFINE_string("prompt", _SOURCE.prompt, "Column of the prompt.")
    flags.DEFINE_string("chosen", _SOURCE.chosen, "Column of the first response.")
    flags.DEFINE_string("rejected", _SOURCE.rejected, "Column of the second response.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps prepared data.")
    flags.DEFINE_integer("limit", None, "Rows read from the beginning; default: all.", lower_bound=1)
    flags.DEFINE_string("template", "", "Text with {prompt}; default: the chat template, or the bare prompt.")
    flags.DEFINE_string("template_kwargs", "", "What the chat template reads, as a JSON object.")
    flags.DEFINE_string("template_date", _MODEL.template_date, "What a chat template takes for today.")
    flags.DEFINE_bool("add_bos", None, "Begin prompts with a BOS, or not; default: as the tokenizer does.")
    flags.DEFINE_integer("max_length", _MODEL.max_length, "Most tokens of a row.", lower_bound=2)
    flags.DEFINE_integer("max_prompt_length", _MODEL.max_prompt_length, "Of a prompt.", lower_bound=1)
    flags.DEFINE_integer("show", 2, "Rows shown.", lower_bound=0)
    flags.DEFINE_integer("max_rows", 10_000, "Most pairs tokenized, drawn by --seed.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the pairs that are tokenized.", lower_bound=0)
    flags.DEFINE_bool("json", False, "Print one JSON object in place of text.")


def _choices(name: str) -> list[str]:
    (field,) = (field for field in dataclasses.fields(SourceSettings) if field.name == name)
    return [str(choice) for choice in rule_of(field).choices]


def _main() -> None:
    given = flags.FLAGS
    names = ("data_dir", "prompt", "chosen", "rejected", "label", "label_means", "format", "limit")
    columns: dict[str, Any] = {name: given[name].value for name in names}
    fields = ("template", "template_kwargs", "template_date", "add_bos", "max_length", "max_prompt_length")
    found = look_at(
        given.file,
        DataSource("", **columns),
        dataclasses.replace(_MODEL, **{name: given[name].value for name in fields}),
        model_path=given.model,
        held_out=given.held_out,
        show=given.show,
        max_rows=given.max_rows,
        seed=given.seed,
    )
    if given.json:
        print(json.dumps({"files": encode(found)}, indent=1, allow_nan=False))
    else:
        colour = sys.stdout.isatty()
        print("\n\n".join(survey_text(one, colour=colour) for one in found))


if __name__ == "__main__":
    _define_flags()  # here and not on import: several commands have flags of the same name
    cli.run(_main, unnamed="file", resumes=False)
