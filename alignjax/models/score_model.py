"""Score models: a decoder's body with a scalar head on the last token of a response.

    score = w . h[last] + bias

where h are the hidden states after the final norm, and `last` is the EOS unless it was cut off.

There are two kinds. A reward is higher for better responses. A cost is higher for more harmful responses, and
in Safe RLHF above 0 for unsafe ones. A utility is minus a cost, see `as_utility`.

Letters: B rows, T tokens per row, S responses per row, D hidden.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax.data.batches import PairBatch, ResponseBatch, Rows
from alignjax.data.shared_rows import Branches, branches_of, responses_per_row
from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.decoder import hidden_states
from alignjax.models.lora import Lora
from alignjax.models.model import Model

if TYPE_CHECKING:  # importing it takes seconds, and arrays do not need it
    from transformers import PreTrainedTokenizerBase

Kind = Literal["reward", "cost"]
KINDS = ("reward", "cost")
Reads = Literal["response", "conversation"]
_Scores = TypeVar("_Scores", Array, np.ndarray)


@flax.struct.dataclass
class ScoreModel:
    """Weights, shape and tokenizer of a score model; a pytree of the weights and the normalizer.

    Attributes:
      params: {"decoder": as `init_params` returns them, without a vocabulary head, "head": {"kernel" [D, 1]
        and, if the model has one, "bias" [1]}}; the head is float32.
      normalizer: {"mean" [], "var" []} float32, of scores; 0 and 1 if the model has none.
      config: the decoder's shape, as `body_config` returns it; static.
      kind: "reward" (higher is better) or "cost" (higher is more harmful); static.
      normalize: whether scores are normalized: a reward to (x - mean) / sqrt(var), a cost to x / sqrt(var),
        since the sign of a cost has a meaning; static.
      tokenizer: None if the folder has none; static.
      reads: "response": the prompt in a template, the response and its EOS, where the score is read;
        "conversation": the text that the model's chat template writes for prompt and response, read at its
        last token; static.
      pad_id: not read at the end of a conversation; None: the model has no pad token; static.
    """

    params: Any
    normalizer: Any
    config: DecoderConfig = flax.struct.field(pytree_node=False)
    kind: Kind = flax.struct.field(pytree_node=False, default="reward")
    normalize: bool = flax.struct.field(pytree_node=False, default=False)
    tokenizer: "PreTrainedTokenizerBase | None" = flax.struct.field(pytree_node=False, default=None)
    reads: Reads = flax.struct.field(pytree_node=False, default="response")
    pad_id: int | None = flax.struct.field(pytree_node=False, default=None)

    def __post_init__(self) -> None:
        """Refuses an unknown kind, which would be treated as a reward."""
        if self.kind not in KINDS:
            raise InputError(f"score model: kind is {self.kind!r}; use one of {', '.join(KINDS)}.")

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> Self:
            """A copy with other values of some fields."""
            ...


def body_config(config: DecoderConfig) -> DecoderConfig:
    """The configuration of the same decoder without a vocabulary head: with tied embeddings it has none."""
    return dataclasses.replace(config, tie_embeddings=True)


def identity_normalizer() -> dict[str, Array]:
    """The normalizer that changes nothing."""
    return {"mean": jnp.zeros((), jnp.float32), "var": jnp.ones((), jnp.float32)}


def init_score_model(key: Array, model: Model, *, kind: Kind) -> ScoreModel:
    """A score model with the body of a policy and a new random head.

    The head's standard deviation is 1 / (D + 1). Hidden states have D entries of about 1, so initial scores
    are about 1 / sqrt(D), and the loss of a pair is near log 2. A cost model has a bias, since a cost of 0
    separates safe from unsafe. A reward model has none, since pairs determine only differences of rewards.

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
    """Turns scores into utilities, of which higher is better.

    Args:
      kind: of the score model.
      scores: [...] float.

    Returns:
      [...] float: rewards unchanged, costs with a minus sign.
    """
    return -scores if kind == "cost" else scores


def response_scores(
    model: ScoreModel, batch: ResponseBatch, *, lora: Lora | None = None, dropout_key: Array | None = None
) -> Array:
    """Score of each response, read at its last token, EOS included.

    Args:
      model: weights and shape.
      batch: B rows of M responses.
      lora: adapters; None: the base model.
      dropout_key: makes the adapters' dropout active; None: none.

    Returns:
      [B * M] float32, normalized if `model.normalize`; a cost model's are costs. Where there is no response,
      the scores mean nothing; those of padding rows carry no gradient to the body.
    """
    count = responses_per_row(batch)
    places = branches_of(batch.rows, count)
    numbers = (0,) if places is None else tuple(range(1, count + 1))
    return _scores(model, batch.rows, numbers, places, lora, dropout_key).reshape(-1)


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
    both = _scores(model, batch.rows, (1, 2), None, lora, dropout_key)
    return both[:, 0], both[:, 1]


def _scores(
    model: ScoreModel,
    rows: Rows,
    branches: tuple[int, ...],
    places: Branches | None,
    lora: Lora | None,
    dropout_key: Array | None,
) -> Array:
    """Scores of the responses in some branches of every row: [B, S] float32.

    `places` are those of the branches, if they are the same in all rows.
    """
    tokens, positions, segment_ids, branch_ids = (jnp.asarray(field) for field in rows[:4])
    hidden = hidden_states(
        body_config(model.config),
        model.params["decoder"],
        tokens,
        positions,
        segment_ids,
        places if places is not None or len(branches) == 1 else branch_ids,
        lora=lora,
        dropout_key=dropout_key,
    )
    # A branch sees the prompt (branch 0) and its own tokens, of which the last is the end of its response.
    branch_ids, wanted = branch_ids[:, None, :], jnp.array(branches, jnp.int32)[None, :, None]
    seen = (segment_ids > 0)[:, None, :] & ((branch_ids == 0) | (branch_ids == wanted))  # [B, S, T]
    indices = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, None, :]
    last = jnp.max(jnp.where(seen, indices, 0), axis=2)
    hidden = jnp.take_along_axis(hidden, last[:, :, None], axis=1).astype(jnp.float32)
    # Clear the input, not the result: 0 * nan would reach the gradients of other rows.
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
