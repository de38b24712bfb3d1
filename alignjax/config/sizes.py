"""Sizes of a run on one's own data: what a preset leaves open follows by rule from data, model and device.

| setting | rule |
| --- | --- |
| data.held_out_fraction, test.share | 0.2 of the prompts each below 5,000 prompts, else 0.1 |
| model.max_prompt_length | what 99% of the prompts do not exceed, at most half of the context |
| model.max_length | what 99% of prompts with their longer response do not exceed, at most the context |
| sampling, evaluation .max_new_tokens | what 95% of the responses do not exceed, at most what is left |
| sampling.num_prompts | every prompt to train on, at most 1,000 |
| sampling.num_samples | 32,000 responses in all, on CPUs 8,000; 16 to 128 of a prompt |
| evaluation.num_prompts | every test prompt |
| evaluation.num_samples | 4, below 250 test prompts 8 |
| model.dtype | bfloat16 on GPUs and TPUs, float32 on CPUs |
| batch_size x accumulate of a training | 16 pairs below 4,000, 32 below 20,000, else 64 |
| epochs of a training | 3 below 10,000 pairs, 2 below 50,000, else 1 |
| warmup_steps of a training | a tenth of its steps, at most 100 |
| batch_size of a training, ref_batch_size | the largest power of two whose rows fit the device's memory |

Lengths are in steps of 16 tokens. No pair and no prompt is left out for its number. The same data, model and
device give the same sizes, which config.json then holds as if they had been given.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignjax.config.settings import Config

_RUNS = ("prealign", "score_training", "align")
_OF_RUNS = ("batch_size", "accumulate", "epochs", "warmup_steps")
OPEN = (
    *("model.dtype", "model.max_length", "model.max_prompt_length"),
    *("data.held_out_fraction", "test.share", "ref_batch_size"),
    *(f"sampling.{name}" for name in ("num_prompts", "num_samples", "max_new_tokens")),
    *(f"evaluation.{name}" for name in ("num_prompts", "num_samples", "max_new_tokens")),
    *(f"{run}.{name}" for run in _RUNS for name in _OF_RUNS),
)
_STEP = 16  # tokens


class DataSize(NamedTuple):
    """What the rules read of the data.

    Attributes:
      prompts: distinct ones, on all sides.
      to_sample: of these, those to train and to sample on.
      pairs: to train on, by dimension; under "align" those of all dimensions, each once.
      prompt: tokens that 99% of the prompts do not exceed.
      together: the same of prompts with their longer response.
      response: tokens that 95% of the responses do not exceed.
    """

    prompts: int
    to_sample: int
    pairs: Mapping[str, int]
    prompt: int
    together: int
    response: int


class ModelSize(NamedTuple):
    """What the rules read of the model.

    Attributes:
      weights: number of entries of its matrices.
      layers: of the decoder.
      hidden: width of a layer.
      inner: width of its feed-forward part.
      heads: of its attention.
      vocabulary: tokens.
      context: most tokens of a row.
    """

    weights: int
    layers: int
    hidden: int
    inner: int
    heads: int
    vocabulary: int
    context: int


class DeviceSize(NamedTuple):
    """What the rules read of the devices.

    Attributes:
      memory: bytes of one.
      parts: that rows are divided into.
      shares: that weights are divided into.
      accelerator: whether it is a GPU or a TPU.
    """

    memory: int
    parts: int
    shares: int
    accelerator: bool


def left_open(values: Mapping[str, Any]) -> list[str]:
    """The sizes that a configuration leaves to the rules: those that are None.

    Args:
      values: nested mapping, as `ConfigDict.to_dict()` gives it.

    Returns:
      Fields, as model.max_length; none for an embedded world, whose data are made.
    """
    if (values.get("data") or {}).get("world") is not None:
        return []
    return [path for path in OPEN if _at(values, path, 0) is None]


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the settings' defaults in place of the sizes that it leaves open."""
    default = Config(str(values.get("method")))

    def of(path: str) -> Any:
        found: Any = default
        for name in path.split("."):
            found = getattr(found, name)
        return found

    return with_sizes(values, {path: of(path) for path in left_open(values)})


def with_sizes(values: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with these fields, as model.max_length, set."""
    found = copy.deepcopy(dict(values))
    for path, value in sizes.items():
        *parents, last = path.split(".")
        node = found
        for name in parents:
            node = node[name]
        node[last] = value
    return found


def decided(
    values: Mapping[str, Any], data: DataSize, model: ModelSize, device: DeviceSize
) -> dict[str, Any]:
    """The sizes that a configuration leaves open, by the rules above.

    Args:
      values: the configuration; sizes that it gives are kept, and others follow from them.
      data: how much there is.
      model: how large it is.
      device: how much fits.

    Returns:
      By field, as model.max_length.
    """
    sizes: dict[str, Any] = {}
    missing = left_open(values)

    def settle(path: str, value: Any) -> Any:
        if path in missing:
            sizes[path] = value
        return sizes.get(path, _at(values, path, None))

    small = 0.2 if data.prompts < 5000 else 0.1
    settle("data.held_out_fraction", small)
    share = settle("test.share", small)
    prompt = settle("model.max_prompt_length", min(_steps(data.prompt), _down(model.context // 2)))
    new = _steps(data.response)
    length = settle("model.max_length", min(max(_steps(data.together), prompt + _STEP), _down(model.context)))
    for field in ("sampling", "evaluation"):
        settle(f"{field}.max_new_tokens", min(new, max(length - prompt, _STEP)))
    prompts = settle("sampling.num_prompts", max(1, min(data.to_sample, 1000)))
    in_all = 32_000 if device.accelerator else 8_000
    settle("sampling.num_samples", max(16, min(128, in_all // prompts // 8 * 8)))
    settle("evaluation.num_prompts", data.prompts)
    settle("evaluation.num_samples", 4 if data.prompts * share >= 250 else 8)
    numbers = 2 if settle("model.dtype", "bfloat16" if device.accelerator else "float32") == "bfloat16" else 4
    for run in (run for run in _RUNS if run in values):
        # A run of score or of single policies sees one dimension; the smallest one decides.
        own = [count for name, count in data.pairs.items() if name != "align"]
        pairs = data.pairs.get("align", 0) if run == "align" else min(own, default=0)
        together = _together(pairs)
        fits = _rows(model, device, numbers, tokens=2 * length, learns=True)
        most = device.parts * _power(max(1, min(together, fits) // device.parts))
        rows = settle(f"{run}.batch_size", most)
        micro = settle(f"{run}.accumulate", max(1, -(-together // rows)))
        epochs = settle(f"{run}.epochs", 3.0 if pairs < 10_000 else 2.0 if pairs < 50_000 else 1.0)
        settle(f"{run}.warmup_steps", min(100, int(pairs * epochs / (rows * micro) / 10)))
    fits = _rows(model, device, numbers, tokens=2 * length, learns=False)
    settle("ref_batch_size", min(128 * device.parts, fits))
    return sizes


def _rows(model: ModelSize, device: DeviceSize, numbers: int, *, tokens: int, learns: bool) -> int:
    """Rows on all devices whose activations fit beside the weights: parts times a power of two.

    Where something learns, a layer's input is kept for the backward pass, in which the layer is computed
    again; attention has its scores in float32. The rest of a layer exists for one layer at a time.
    """
    weights = model.weights * numbers / device.shares
    logits = 4 * 128 * model.vocabulary * 4  # of a chunk of tokens, with their gradients
    free = 0.8 * device.memory - weights - logits
    layer = tokens * numbers * (12 * model.hidden + 4 * model.inner) + 8 * model.heads * tokens**2
    row = layer + (layer + model.layers * tokens * model.hidden * numbers if learns else 0)
    return device.parts * _power(int(max(1, free // row)))


def _together(pairs: int) -> int:
    """Pairs of one optimizer step."""
    return 16 if pairs < 4_000 else 32 if pairs < 20_000 else 64


def _power(count: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (count.bit_length() - 1)


def _steps(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP


def _down(tokens: int) -> int:
    return max(_STEP, tokens // _STEP * _STEP)


def _at(values: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """A field of a nested mapping; `otherwise` where a table on the way or the field is not there."""
    node: Any = values
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return otherwise
        node = node[name]
    return node
