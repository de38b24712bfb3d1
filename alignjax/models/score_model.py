"""Score models: a decoder's body with a scalar head on the last token of a response.

    score = w . h[last] + bias          h: hidden states after the final norm; last: EOS, unless it was cut

Two kinds. A reward is high where a response is good. A cost is high where a response is harmful, and in Safe
RLHF above 0 where it is unsafe: a utility is minus a cost, `as_utility`.

Letters: B rows, T tokens a row, S responses a row, D hidden.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.data.batches import PairBatch, ResponseBatch, Rows
from alignjax.errors import InputError
from alignjax.models.config import ARCHITECTURES, DecoderConfig, config_from_hf, config_to_hf
from alignjax.models.decoder import hidden_states
from alignjax.models.huggingface import WEIGHTS, open_weights, read_json, write_folder
from alignjax.models.lora import Lora
from alignjax.models.model import Model
from alignjax.models.placement import decoder_shardings, place_head
from alignjax.models.tokenizer import check_vocabulary, load_tokenizer
from alignjax.models.weights import Slot, assemble, disassemble, slots
from alignjax.runtime.processes import to_host

if TYPE_CHECKING:  # its import takes seconds, and arrays need none of it
    from transformers import PreTrainedTokenizerBase

Kind = Literal["reward", "cost"]
Layout = Literal["safe_rlhf", "classification"]
KINDS = ("reward", "cost")
# What each layout puts in place of "ForCausalLM", and how it calls the head.
_SUFFIXES = {"safe_rlhf": "ModelForScore", "classification": "ForSequenceClassification"}
_HEADS = {"safe_rlhf": "score_head", "classification": "score"}
_NORMALIZERS = ("RunningMeanStd", "ExponentialMovingAverage", None)
_Scores = TypeVar("_Scores", Array, np.ndarray)


@flax.struct.dataclass
class ScoreModel:
    """Weights with what is needed to score; a pytree whose leaves are the weights and the normalizer.

    Attributes:
      params: {"decoder": as `init_params` returns them, without a vocabulary head, "head": {"kernel" [D, 1],
        "bias" [1] where there is one}}, the head in float32.
      normalizer: {"mean" [], "var" []} float32 of scores; 0 and 1 where there is none.
      config: the decoder's shape, as `body_config` makes it; static.
      kind: "reward" (higher is better) or "cost" (higher is more harmful); static.
      normalize: scores are normalized: a reward to (x - mean) / sqrt(var), a cost to x / sqrt(var), since
        its sign must keep its meaning; static.
      tokenizer: or None for a folder without one; static.
    """

    params: Any
    normalizer: Any
    config: DecoderConfig = flax.struct.field(pytree_node=False)
    kind: Kind = flax.struct.field(pytree_node=False, default="reward")
    normalize: bool = flax.struct.field(pytree_node=False, default=False)
    tokenizer: "PreTrainedTokenizerBase | None" = flax.struct.field(pytree_node=False, default=None)

    def __post_init__(self) -> None:
        """Refuses an unknown kind: it would be taken for a reward."""
        if self.kind not in KINDS:
            raise InputError(f"score model: kind is {self.kind!r}; use one of {', '.join(KINDS)}.")

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> Self:
            """The same with other values of some fields."""
            ...


def body_config(config: DecoderConfig) -> DecoderConfig:
    """The same decoder without parameters of a vocabulary head, which is what tied embeddings mean to it."""
    return dataclasses.replace(config, tie_embeddings=True)


def identity_normalizer() -> dict[str, Array]:
    """The normalizer that changes nothing."""
    return {"mean": jnp.zeros((), jnp.float32), "var": jnp.ones((), jnp.float32)}


def init_score_model(key: Array, model: Model, *, kind: Kind) -> ScoreModel:
    """The body of a policy under a fresh head.

    The head starts at standard deviation 1 / (D + 1): hidden states have D entries of about 1, so first
    scores are about 1 / sqrt(D), and a pair's loss starts near log 2. A cost has a bias, since its zero
    divides safe from unsafe; of a reward pairs tell only differences, so it has none.

    Args:
      key: PRNG key.
      model: the policy; its arrays are shared, not copied.
      kind: "reward" or "cost".

    Returns:
      The score model, without a normalizer.
    """
    width = model.config.hidden_size
    head = {"kernel": jax.random.normal(key, (width, 1), jnp.float32) / (width + 1)}
    if kind == "cost":
        head["bias"] = jnp.zeros((1,), jnp.float32)
    return ScoreModel(
        params={"decoder": {k: v for k, v in model.params.items() if k != "head"}, "head": head},
        normalizer=identity_normalizer(),
        config=body_config(model.config),
        kind=kind,
        tokenizer=model.tokenizer,
    )


def as_utility(kind: Kind, scores: _Scores) -> _Scores:
    """Scores of which higher is better: rewards as they are, costs with a minus sign."""
    return -scores if kind == "cost" else scores


def response_scores(
    model: ScoreModel, batch: ResponseBatch, *, lora: Lora | None = None, dropout_key: Array | None = None
) -> Array:
    """Score of each row's response, read at its last token, EOS included.

    Args:
      model: weights and shape.
      batch: B rows.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B] float32, normalized where the model says so; of a cost model costs. Padding rows have the score of
      a hidden state of 0, which carries no gradient to the body.
    """
    return _scores(model, batch.rows, (0,), lora, dropout_key)[:, 0]


def pair_scores(
    model: ScoreModel, batch: PairBatch, *, lora: Lora | None = None, dropout_key: Array | None = None
) -> tuple[Array, Array]:
    """Scores of the chosen and the rejected response of each row, from one forward pass.

    Args:
      model: weights and shape.
      batch: B rows.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      chosen [B] and rejected [B], float32, as in `response_scores`.
    """
    both = _scores(model, batch.rows, (1, 2), lora, dropout_key)
    return both[:, 0], both[:, 1]


def _scores(
    model: ScoreModel, rows: Rows, branches: tuple[int, ...], lora: Lora | None, dropout_key: Array | None
) -> Array:
    """Scores of the responses in some branches of every row: [B, S] float32."""
    tokens, positions, segment_ids, branch_ids = (jnp.asarray(field) for field in rows[:4])
    hidden = hidden_states(
        body_config(model.config),
        model.params["decoder"],
        tokens,
        positions,
        segment_ids,
        branch_ids if len(branches) > 1 else None,
        lora=lora,
        dropout_key=dropout_key,
    )
    # What a branch sees, the prompt (branch 0) and its own tokens, ends with the last token of its response.
    branch_ids, wanted = branch_ids[:, None, :], jnp.array(branches, jnp.int32)[None, :, None]
    seen = (segment_ids > 0)[:, None, :] & ((branch_ids == 0) | (branch_ids == wanted))  # [B, S, T]
    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, None, :]
    last = jnp.max(jnp.where(seen, places, 0), axis=2)
    hidden = jnp.take_along_axis(hidden, last[:, :, None], axis=1).astype(jnp.float32)
    # The input is cleared, not the result: 0 * nan would reach the gradients of other rows.
    hidden = jnp.where(jnp.any(seen, axis=2)[:, :, None], hidden, 0.0)
    head = model.params["head"]
    kernel = head["kernel"][:, 0].astype(jnp.float32)
    scores = jnp.einsum("bsd,d->bs", hidden, kernel, precision="highest")
    if "bias" in head:
        scores = scores + head["bias"][0].astype(jnp.float32)
    if not model.normalize:
        return scores
    centre = model.normalizer["mean"] if model.kind == "reward" else 0.0
    return (scores - centre) / jnp.sqrt(model.normalizer["var"])


def load_score_model(
    path: str | Path, *, dtype: str = "float32", remat: bool = False, mesh: Mesh | None = None
) -> ScoreModel:
    """Reads a folder with a score model, in either of two layouts that `architectures` in config.json tells.

    Safe-RLHF's, `LlamaModelForScore` (and Mistral, Qwen2, Qwen3): the body as `model.*`, `score_head.weight`
    [1, D], `score_head.bias` [1] where config.json has `score_bias` (older: `bias`), `normalizer.mean` [1],
    `normalizer.var` [1] and `normalizer.count` [1], which only training there reads. `score_type` is "reward"
    or "cost", `score_dim` 1, and `do_normalize` tells whether scores are normalized.

    transformers', `LlamaForSequenceClassification` (and Mistral, Qwen2, Qwen3) with one label: the body as
    `model.*` and `score.weight` [1, D]. It is a reward unless `score_type` says "cost", which
    `save_score_model` writes; tell the model otherwise by `model.replace(kind="cost")`. transformers scores
    the last token that is not the pad token: where that is the EOS, one token earlier than here.

    A vocabulary head that is stored as well is not read.

    Args:
      path: the folder.
      dtype: of the body and of its matrix products, "float32" or "bfloat16"; the head is float32.
      remat: recompute layers in the backward pass.
      mesh: the devices the weights are divided over; None: the default device.

    Returns:
      The score model; `tokenizer` is None where the folder has none.

    Raises:
      InputError: a missing or damaged file, an architecture or setting that is not supported, more than one
        label, tensors that are missing, unknown or misshapen, a normalizer that cannot be divided by.

    Reference: Dai et al. 2023, arXiv 2310.12773, whose released models have the first layout.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the folder of a score model.")
    fields, where = read_json(path / "config.json"), str(path / "config.json")
    layout, causal = layout_of(fields, where)
    kind, normalize = _settings(fields, layout, where)
    config = config_from_hf(fields | {"architectures": [causal]}, where=where)
    config = body_config(dataclasses.replace(config, dtype=dtype, remat=remat))
    tokenizer = load_tokenizer(path)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config.vocab_size, str(path))
    with open_weights(path) as (shapes, read):
        wanted = _head_slots(fields, layout, config, shapes, normalize=normalize, where=str(path))
        known = {name for slot in wanted for name in slot.names}

        def ignore(name: str) -> bool:
            return name in known or _unused(name, layout)

        # The head first: a folder without one is refused before gigabytes are read.
        parts = assemble(wanted, shapes, read, dtype="float32", ignore=lambda _: True, where=str(path))
        places = decoder_shardings(config, mesh, where=str(path))
        decoder = assemble(
            slots(config), shapes, read, dtype=dtype, ignore=ignore, where=str(path), shardings=places
        )
    normalizer = {name: values[0] for name, values in parts.get("normalizer", {}).items()}
    _check_normalizer(normalizer, normalize=normalize, where=str(path))
    return ScoreModel(
        params={"decoder": decoder, "head": place_head(parts["head"], mesh)},
        normalizer=identity_normalizer() | normalizer,
        config=config,
        kind=kind,
        normalize=normalize,
        tokenizer=tokenizer,
    )


def save_score_model(model: ScoreModel, path: str | Path, *, layout: Layout = "safe_rlhf") -> None:
    """Writes config.json, model.safetensors and the tokenizer, in one of the layouts of `load_score_model`.

    A new folder appears complete or not at all; in an existing one each file is replaced in one step.

    Args:
      model: the body is written in the dtype of its parameters, head and normalizer in float32.
      path: the folder; made if absent.
      layout: "safe_rlhf" holds all that a score model has; "classification" is what transformers reads by
        itself, and has neither bias nor normalizer.

    Raises:
      InputError: an unknown layout, or one that cannot hold what the model has.
    """
    if layout not in _SUFFIXES:
        raise InputError(f"{path}: layout is {layout!r}; use one of {', '.join(_SUFFIXES)}.")
    config, head = body_config(model.config), model.params["head"]
    if layout == "classification" and ("bias" in head or model.normalize):
        missing = "bias" if "bias" in head else "normalizer"
        raise InputError(f'{path}: layout "classification" holds no {missing}; use layout "safe_rlhf".')
    tensors = dict(disassemble(config, model.params["decoder"]))
    kernel = to_host(head["kernel"]).astype(np.float32)
    tensors[f"{_HEADS[layout]}.weight"] = np.ascontiguousarray(kernel.T)
    if "bias" in head:
        tensors[f"{_HEADS[layout]}.bias"] = to_host(head["bias"]).astype(np.float32)
    if layout == "safe_rlhf":
        for name in ("mean", "var"):
            tensors[f"normalizer.{name}"] = np.asarray(model.normalizer[name], np.float32).reshape(1)
        tensors["normalizer.count"] = np.zeros(1, np.int64)
    stored = str(model.params["decoder"]["embedding"].dtype)
    fields = config_to_hf(config) | _head_fields(model, layout) | {"torch_dtype": stored}
    fields["architectures"] = [fields["architectures"][0].removesuffix("ForCausalLM") + _SUFFIXES[layout]]
    write_folder(Path(path), {"config.json": fields}, {WEIGHTS: tensors}, model.tokenizer)


def _head_fields(model: ScoreModel, layout: str) -> dict[str, Any]:
    """What config.json says beyond the decoder."""
    fields = {"score_type": model.kind, "tie_word_embeddings": False}
    if layout == "classification":
        return fields | {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    biased = "bias" in model.params["head"]
    return fields | {
        "score_dim": 1,
        # Older readers know only the first of the two, newer ones only the second.
        "bias": biased,
        "score_bias": biased,
        "do_normalize": model.normalize,
        "normalizer_type": "RunningMeanStd",
    }


def layout_of(fields: dict[str, Any], where: str) -> tuple[str, str]:
    """The layout of a score model's config.json, and its decoder's name as a language model."""
    name = str((fields.get("architectures") or [None])[0])
    for layout, suffix in _SUFFIXES.items():
        causal = name.removesuffix(suffix) + "ForCausalLM"
        if name.endswith(suffix) and causal in ARCHITECTURES:
            return layout, causal
    families = [causal.removesuffix("ForCausalLM") for causal in ARCHITECTURES]
    known = ", ".join(family + suffix for suffix in _SUFFIXES.values() for family in families)
    raise InputError(
        f"{where}: architecture {name} is not a score model that can be read; use one of {known}."
    )


def _settings(fields: dict[str, Any], layout: str, where: str) -> tuple[Kind, bool]:
    """Kind and whether scores are normalized; refuses what would change a score and is not supported."""
    kind = fields.get("score_type", "reward")
    if kind not in KINDS:
        raise InputError(f'{where}: score_type is {kind!r}; only "reward" and "cost" are supported.')
    if layout == "classification":
        labels = fields.get("num_labels") or len(fields.get("id2label") or ["LABEL_0"])
        if labels != 1:
            raise InputError(
                f"{where}: {fields['architectures'][0]} with {labels} labels is not a score model; take one "
                "with a single label."
            )
        return kind, False
    if fields.get("score_dim", 1) != 1:
        raise InputError(f"{where}: score_dim is {fields['score_dim']!r}; only 1 is supported.")
    if fields.get("normalizer_type") not in _NORMALIZERS:
        raise InputError(
            f"{where}: normalizer_type is {fields['normalizer_type']!r}; only "
            f"{' and '.join(str(name) for name in _NORMALIZERS[:2])} are supported."
        )
    return kind, bool(fields.get("do_normalize", False))


def _head_slots(
    fields: dict[str, Any],
    layout: str,
    config: DecoderConfig,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    normalize: bool,
    where: str,
) -> list[Slot]:
    """Tensors of the head and of the normalizer, and where they go."""
    weight, bias = f"{_HEADS[layout]}.weight", f"{_HEADS[layout]}.bias"
    labels = shapes.get(weight, (1,))[0]
    if layout == "classification" and labels != 1:
        raise InputError(
            f"{where}: {weight} has {labels} labels and a score model one; take a model with a single label."
        )
    found = [Slot(("head", "kernel"), (weight,), (1, config.hidden_size), stacked=False, transposed=True)]
    if layout == "classification":
        return found
    biased = fields.get("score_bias", fields.get("bias"))
    if bias in shapes if biased is None else biased:
        found.append(Slot(("head", "bias"), (bias,), (1,), stacked=False, transposed=False))
    if normalize or any(f"normalizer.{name}" in shapes for name in ("mean", "var")):
        found += [
            Slot(("normalizer", name), (f"normalizer.{name}",), (1,), stacked=False, transposed=False)
            for name in ("mean", "var")
        ]
    return found


def _unused(name: str, layout: str) -> bool:
    """Tensors that may be stored and that no score depends on."""
    counts = layout == "safe_rlhf" and name == "normalizer.count"
    return counts or name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")


def _check_normalizer(normalizer: Mapping[str, Array], *, normalize: bool, where: str) -> None:
    if not normalize:
        return
    mean, var = float(normalizer["mean"]), float(normalizer["var"])
    if not math.isfinite(mean) or not math.isfinite(var) or var <= 0:
        raise InputError(
            f"{where}: normalizer.mean is {mean:g} and normalizer.var {var:g}, which cannot normalize; set "
            "do_normalize to false in config.json, or get the weights again."
        )
