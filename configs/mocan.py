"""MoCAN: safety and helpfulness from models that score responses.

    python -m alignjax.train --config=configs/mocan.py                the embedded world `assistant`
    python -m alignjax.train --config=configs/mocan.py:enumerable     exact scores, every response listed
    python -m alignjax.train --config=configs/mocan.py:own --config.model.path=FOLDER \
        --config.data.sources.reward.path=helpful.jsonl --config.data.sources.safety.path=safe.jsonl
    python -m alignjax.train --config=configs/mocan.py:smollm2-135m \
        --config.model.path=SmolLM2-135M-Instruct.Q4_1.gguf \
        --config.data.sources.reward.path=helpful.jsonl --config.data.sources.safety.path=safe.jsonl

`own` is for your model and pairs, none left out; its sizes follow the rules of alignjax/config/sizes.py.
On two cores `tiny` takes about three minutes and `smollm2-135m` seventy; its score models learn from up to
1,200 pairs a dimension and are ahead of a bag of words on prompts that neither has seen (see benchmarks/).

A score model of yours: --config.scores.reward.path=FOLDER (Safe-RLHF's layout, or a classifier of one label);
any function: --config.scores.safety.function=module:function, higher is safer; scores written elsewhere:
--config.scores.safety.table=FILE.jsonl.

What is asked of safety, in place of the preset's margin or fraction (one way at a time):

    --config.constraints.safety.rate=0.95                       95% of the responses are safe
    --config.constraints.safety.groups.margin=0.5               this margin in each category of prompts
    --config.constraints.safety.tail.share=0.1 --config.constraints.safety.tail.cost=0.0      the worst tenth

A second constraint needs no file of its own, only its data: --config.constraints.honesty.margin=0.5
--config.data.sources.honesty.path=honest.jsonl (or a score,
--config.scores.honesty.function=module:function).

alpaca-7b and llama3-8b sample with top_p 0.9, as published. The multiplier is then solved for the reference's
nucleus, and what lies outside it is in no prediction; the final alignment starts from the whole reference.
"""

from typing import Any

from ml_collections import ConfigDict

from alignjax.config import presets
from alignjax.config.settings import ScoreSettings

PRESETS = presets.PRESETS


def get_config(preset: str = "tiny") -> ConfigDict:
    """The configuration of one preset; `None` fields are typed placeholders for the command line."""
    presets.check_preset(preset, "configs/mocan.py")
    config: Any = presets.shared("mocan")
    config.calibration = "slope"  # every score model has its own labels
    config.scores = {name: presets.fields_of(ScoreSettings()) for name in ("reward", "safety")}
    known = {"tiny": _tiny, "enumerable": _enumerable, "own": _own, "smollm2-135m": _smollm2}
    known.get(preset, lambda config: _published(config, preset))(config)
    return config


def _tiny(config: Any) -> None:
    presets.assistant(config)
    config.score_training.update({"epochs": 2.0, "learning_rate": 3e-3, "patience": 4, "evals": 4})
    config.align.update({"epochs": 2.0})
    # The world says which responses are safe. A rate is calibrated on that; the cost model learns from the
    # order of pairs alone.
    config.score_model.signs = False
    config.evaluation.num_samples = 6  # of nine policies
    config.baselines.single = True
    config.baselines.lams = (0.5, 1.0, 1.5, 2.0, 3.0)


def _enumerable(config: Any) -> None:
    presets.enumerable(config)
    for source in config.scores.values():
        source.exact = True
    config.calibrate = False
    config.data.labels = "exact"


def _own(config: Any) -> None:
    presets.own(config, "score_training")


def _smollm2(config: Any) -> None:
    presets.smollm2(config)
    config.data.max_train_pairs, config.data.max_held_out_pairs = 1200, 400
    config.data.held_out_fraction = 0.25
    config.relabel.max_pairs = 96
    config.score_training.update(
        {"batch_size": 8, "learning_rate": 5e-4, "warmup_steps": 10, "evals": 2, "log_every": 10}
    )


def _published(config: Any, preset: str) -> None:
    presets.published(config, preset)
    config.score_training.update(presets.published_steps())
    config.baselines.lams = (0.1, 0.35, 0.5, 0.75, 0.9, 1.25, 2.0)  # as published, beside the solved one
