"""Says, before anything is rented, whether a run fits a slice and what it costs there.

    alignjax plan pecan:llama3-8b --topology=v5e:4x4 --suggest
    alignjax plan mocan:own --config.model.path=FOLDER --topology=gpu:80GiB:1
        --config.data.sources.reward.path=helpful.jsonl
        --config.data.sources.safety.path=safe.jsonl

`python -m alignjax.plan --config=FILE[:PRESET]` is the same; presets and --config.FIELD=VALUE are those of
train. Every program of every stage is compiled for the slice, without a TPU and without weights. Exit status
4: some stage does not fit.
"""

import json
import sys

import jax
from absl import flags
from ml_collections import config_flags

from alignjax import cli
from alignjax.config import from_mapping
from alignjax.config.sizes import left_open, with_defaults
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.models import config_from_hf
from alignjax.planning import architectures, mean_rows, show, suggest, targets
from alignjax.planning.run import make_plan, setup_of
from alignjax.planning.unnamed_files import with_placeholder_paths
from alignjax.workflow.sizing import sized

EXIT_DOES_NOT_FIT = 4
# Of PKU-SafeRLHF-30K, the published setting's data.
_PAIRS = 30_000


def _define_flags() -> None:
    cli.define_config()
    flags.DEFINE_string("topology", "", "v5e:4x4, v5p:2x2x1, ...; kaggle, colab-v5e; h100:8; gpu:80GiB:8.")
    flags.DEFINE_string(
        "model", "", "A known shape or a folder with config.json; default: the configuration's."
    )
    flags.DEFINE_integer(
        "pairs", _PAIRS, "Labelled pairs a dimension, of files; for the hours.", lower_bound=2
    )
    flags.DEFINE_string(
        "mean_length",
        "",
        "PROMPT+RESPONSE, mean tokens of each, such as 16+75, for the hours; default: the longest.",
    )
    flags.DEFINE_list("only", [], "Stages to plan, as a run names them; default: all.")
    flags.DEFINE_boolean("suggest", False, "Try meshes, remat and batch sizes and name the best that fits.")
    flags.DEFINE_boolean("json", False, "Print JSON.")


def _main(unset: list[str]) -> None:
    given = flags.FLAGS
    values = cli.load_config(lambda: given.config)
    if values is None:
        raise InputError("--config is missing; give --config=pecan, or a file as --config=configs/pecan.py.")
    cli.load_config(lambda: cli.unset(values, unset))
    target = targets.parse(given.topology)
    asked = cli.load_config(lambda: values.to_dict())
    by_rule = bool(left_open(asked))
    config = from_mapping(with_defaults(with_placeholder_paths(asked)))
    if target.simulated:
        jax.config.update("jax_num_cpu_devices", target.count)
    devices = targets.devices(target)
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    if by_rule:
        config, decided = sized(asked, devices=devices, memory=int(target.chip.usable))
        say(f"sizes by rule, from data, model and device: {', '.join(decided)}")
    _, _, preset = config_flags.get_config_filename(given["config"]).partition(":")
    if config.data.world is None:
        decoder, name = architectures.decoder_of(config.model, given.model, preset)
    else:
        name = f"the reference of {config.data.world}"
        world = config_from_hf(dict(world_for(config.data.world).decoder_fields))
        decoder = architectures.run_as(world, config.model)
    lengths = mean_rows.parse(given.mean_length, config.model)
    options = {"lengths": lengths, "only": given.only, "say": say}
    if given.suggest:
        plan = suggest.best(config, decoder, name, target, devices, pairs=given.pairs, **options)
    else:
        setup = setup_of(config, decoder, name, target.chip, devices, pairs=given.pairs)
        plan = make_plan(setup, target.chip, **options)
    print(json.dumps(show.json_of(plan, target), indent=2) if given.json else show.text_of(plan, target))
    if not plan.fits:
        print(show.refusal_of(plan, target), file=sys.stderr)
        sys.exit(EXIT_DOES_NOT_FIT)


def main() -> None:
    """Entry point."""
    targets.compile_only()
    _define_flags()
    unset = cli.take_unset(sys.argv)
    cli.run(lambda: _main(unset), required=["topology"])


if __name__ == "__main__":
    main()
