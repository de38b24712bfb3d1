"""PeCAN: preference pairs only.

    python -m alignjax.train --config=configs/pecan.py                the embedded world `assistant`
    python -m alignjax.train --config=configs/pecan.py:enumerable     every response listed, every sum exact
    python -m alignjax.train --config=configs/pecan.py:own --config.model.path=FOLDER \
        --config.data.sources.reward.path=helpful.jsonl --config.data.sources.safety.path=safe.jsonl
    python -m alignjax.train --config=configs/pecan.py:smollm2-135m \
        --config.model.path=SmolLM2-135M-Instruct.Q4_1.gguf \
        --config.data.sources.reward.path=helpful.jsonl --config.data.sources.safety.path=safe.jsonl

| preset | hardware | time | what to expect |
| --- | --- | --- | --- |
| tiny | 2 CPU cores | 2.1 minutes | safety margin 1.0 verified, more reward than safe-only |
| enumerable | 1 CPU core | 8 minutes | KL from the optimum at most 0.02 nats, exact labels |
| own | any | by the data | your model and pairs, none left out; sizes by alignjax/config/sizes.py |
| smollm2-135m | 2 CPU cores | 48 minutes | predicted and achieved margins on real labels |
| alpaca-7b, llama3-8b | one 48 GB accelerator | not measured | the published setting |

`own` says what it decided, and config.json holds it; any size that the command line gives is kept. With few
CPU cores and a real model it takes days: smollm2-135m trains on 96 of the pairs and is for a first look.

What is asked of safety, in place of the preset's margin or fraction (one way at a time):

    --config.constraints.safety.rate=0.95                       95% of the responses are safe
    --config.constraints.safety.groups.margin=0.5               this margin in each category of prompts
    --config.constraints.safety.tail.share=0.1 --config.constraints.safety.tail.cost=0.0      the worst tenth

A second constraint needs no file of its own, only its data: --config.constraints.honesty.margin=0.5
--config.data.sources.honesty.path=honest.jsonl.

alpaca-7b and llama3-8b sample with top_p 0.9, as published. The multiplier is then solved for the reference's
nucleus, and what lies outside it is in no prediction; the final alignment starts from the whole reference.
"""

from typing import Any

from ml_collections import ConfigDict

from alignjax.config import presets

PRESETS = presets.PRESETS


def get_config(preset: str = "tiny") -> ConfigDict:
    """The configuration of one preset; `None` fields are typed placeholders for the command line."""
    presets.check_preset(preset, "configs/pecan.py")
    config: Any = presets.shared("pecan")
    if preset == "tiny":
        presets.assistant(config)
        config.prealign.update({"epochs": 4.0, "learning_rate": 3e-3, "patience": 4})
    elif preset == "enumerable":
        presets.enumerable(config)
        config.prealign.update({"batch_size": 256, "epochs": 10.0, "learning_rate": 3e-3})
    elif preset == "own":
        presets.own(config, "prealign")
    elif preset == "smollm2-135m":
        presets.smollm2(config)
        config.prealign.update(presets.small_steps())
    else:
        presets.published(config, preset)
        config.prealign.update(presets.published_steps())
    config.beta_pre = config.beta  # KL weight of pre-alignment
    return config
