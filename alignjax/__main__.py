"""`alignjax COMMAND ...` is `python -m alignjax.COMMAND ...`."""

import os
import runpy
import sys

import alignjax
from alignjax.errors import did_you_mean
from alignjax.runtime.terminal import fitted

# In the order in which they are used.
COMMANDS = {
    "data": "what preference files are, and their rows as a model will see them",
    "plan": "memory and time of every stage on a device, without one",
    "train": "a run: scores, multiplier, aligned policy, test, report",
    "evaluate": "the evaluation of a run again, also on people's own labels",
    "compare": "several runs on one page: promised, delivered, settings that differ",
    "export": "a policy of a run as a Hugging Face folder",
    "sample": "responses of a model to prompts",
    "score": "implicit or learned scores of pairs or responses",
    "solve": "the multiplier alone, on a table of scores from anywhere",
}
_CONFIGURED = ("plan", "train")
_EXAMPLES = """\
  alignjax train pecan                    the embedded world, 2 minutes on a CPU
  alignjax data pairs.jsonl --model=FOLDER
  alignjax train pecan:own --config.model.path=FOLDER \\
    --config.data.sources.reward.path=helpful.jsonl \\
    --config.data.sources.safety.path=safe.jsonl --workdir=runs/mine
  alignjax export --workdir=runs/mine --output=aligned"""


def _usage() -> str:
    lines = [f"  {name:9} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "alignjax COMMAND ...        alignjax COMMAND --help        alignjax --version",
            "",
            *lines,
            "",
            _EXAMPLES,
        ]
    )


def _refusal(name: str) -> str:
    return f"alignjax: no command {name!r}; {did_you_mean(name, COMMANDS)}there are {', '.join(COMMANDS)}."


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, as `head`, has seen enough; Python writes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Runs the command that the first argument names; exits with its status, or 2 where there is none."""
    name, *rest = sys.argv[1:] or [""]
    if name in ("-h", "--help", "help"):
        _say(_usage())
    elif name == "--version":
        _say(f"alignjax {alignjax.__version__}")
    elif name in COMMANDS:
        if name in _CONFIGURED and rest and not rest[0].startswith("-"):
            rest[0] = f"--config={rest[0]}"
        sys.argv[1:] = rest
        runpy.run_module(f"alignjax.{name}", run_name="__main__", alter_sys=True)
    else:
        print(fitted(_refusal(name), sys.stderr) if name else _usage(), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
