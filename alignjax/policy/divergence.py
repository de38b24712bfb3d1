"""KL divergence of a policy from the reference, on responses that the policy sampled.

Letters: B rows, T tokens a row, R targets a row, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alignjax.data.batches import ResponseBatch, Rows
from alignjax.data.shared_rows import RowShapes, branches_of, responses_per_row
from alignjax.data.tokenize import TokenizedResponse
from alignjax.errors import InputError
from alignjax.models import Adapters, DecoderConfig, Model, hidden_states, unembed
from alignjax.models.rows import parts_of
from alignjax.policy.logps import chunk_width, columns
from alignjax.policy.passes import over_responses


class Divergences(NamedTuple):
    """What one pass of a policy and the reference over n responses gives.

    Attributes:
      kl: [n] float32, nats, the divergence along each response; see `completion_kl`.
      logps: [n] float32, nats, log-probabilities of the responses under the policy.
      reference: [n] float32, nats, those under the reference.
    """

    kl: np.ndarray
    logps: np.ndarray
    reference: np.ndarray


def completion_kl(
    model: Model,
    reference: Model,
    batch: ResponseBatch,
    *,
    lora: Adapters | None = None,
    reference_lora: Adapters | None = None,
) -> Array:
    """Sum over a response's tokens of the KL divergence between the two next-token distributions.

        kl_b = sum_t sum_v pi(v | x, y_<t) log(pi(v | x, y_<t) / ref(v | x, y_<t))

    If y is drawn from pi at temperature 1, the mean of kl_b is KL(pi || ref) of whole responses, truncated
    where sampling truncates them. kl_b is the conditional mean of log pi(y) / ref(y) given the prefixes
    (Rao-Blackwell): unbiased, never negative, and its variance is at most that of the log-ratio. The
    estimator exp(-x) - 1 + x of the log-ratio x is unbiased as well, but its variance explodes from about
    1 nat on; see docs/method.md.

    Args:
      model: the policy's weights and shape.
      reference: the reference's weights and shape, with the same vocabulary.
      batch: B rows of M responses.
      lora: the policy's adapters.
      reference_lora: the reference's adapters.

    Returns:
      [B * M] float32, nats; exactly 0 where there is no response.

    Raises:
      InputError: the vocabularies differ in size.

    Reference: Amini, Vieira, Cotterell 2025, arXiv 2504.10637, the Rao-Blackwellised estimator.
    """
    return _sums(model, reference, batch, lora, reference_lora)[:, :, 0].reshape(-1)


def _sums(
    model: Model,
    reference: Model,
    batch: ResponseBatch,
    lora: Adapters | None,
    reference_lora: Adapters | None,
) -> Array:
    """[B, M, 3]: the columns of `Divergences`."""
    sizes = model.config.vocab_size, reference.config.vocab_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"completion_kl: the vocabularies have {sizes[0]} and {sizes[1]} tokens; give two models with "
            "the same tokenizer."
        )
    # An adapted policy and its reference share their weights. Passed twice, they would count twice against
    # the device's memory when the program is compiled.
    shared = reference.params is model.params
    return completion_kl_jit(
        (model.config, reference.config),
        (model.params,) if shared else (model.params, reference.params),
        (lora, reference_lora),
        batch.rows,
        responses_per_row(batch),
    )


def response_kl(
    model: Model,
    reference: Model,
    responses: Sequence[TokenizedResponse],
    *,
    lora: Adapters | None = None,
    reference_lora: Adapters | None = None,
    batch_size: int,
    shapes: RowShapes | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """KL divergence from the reference along any number of responses; see `completion_kl`.

    Args:
      model: the policy's weights and shape.
      reference: the reference's weights and shape, with the same vocabulary.
      responses: n responses with their prompts, drawn from the policy.
      lora: the policy's adapters.
      reference_lora: the reference's adapters.
      batch_size: responses per batch, >= 1.
      shapes: of the rows, see `policy.batching`; None: chosen from the lengths.
      progress: called with the number of responses done since the last call.
      mesh: the devices that rows are divided over, where the weights lie; None: the default device.

    Returns:
      [n] float32, nats, in the order given.

    Raises:
      InputError: the vocabularies differ in size, or as in `response_logps`.
    """
    return response_divergences(
        model,
        reference,
        responses,
        lora=lora,
        reference_lora=reference_lora,
        batch_size=batch_size,
        shapes=shapes,
        progress=progress,
        mesh=mesh,
    ).kl


def response_divergences(
    model: Model,
    reference: Model,
    responses: Sequence[TokenizedResponse],
    *,
    lora: Adapters | None = None,
    reference_lora: Adapters | None = None,
    batch_size: int,
    shapes: RowShapes | None = None,
    progress: Callable[[int], Any] | None = None,
    mesh: Mesh | None = None,
) -> Divergences:
    """`response_kl` with the log-probabilities that the same pass gives; arguments and errors as there."""
    sums = over_responses(
        lambda batch: _sums(model, reference, batch, lora, reference_lora),
        responses,
        3,
        where="response_kl",
        config=model.config,
        batch_size=batch_size,
        shapes=shapes,
        progress=progress,
        mesh=mesh,
    )
    return Divergences(*sums.T)


def _completion_kl(
    configs: tuple[DecoderConfig, DecoderConfig],
    params: tuple[Any, ...],
    loras: tuple[Adapters | None, Adapters | None],
    rows: Rows,
    count: int,
) -> Array:
    """Sums over tokens of the `count` responses of every row, [B, M, 3].

    `params` are the weights of both models, the policy's first, or one tree for both.
    """
    params = (params[0], params[-1])
    tokens, positions, segments, _, target_index, targets, slots = (jnp.asarray(field) for field in rows)
    valid, branches = slots >= 0, branches_of(rows, count)

    def at_targets(config: DecoderConfig, weights: Any, lora: Adapters | None) -> Array:
        hidden = hidden_states(config, weights, tokens, positions, segments, branches, lora=lora)
        return jnp.take_along_axis(hidden, target_index[:, :, None], axis=1)

    own, ref = map(at_targets, configs, params, loras)

    def chunk_values(own: Array, ref: Array, targets: Array, valid: Array) -> Array:
        p, q = (
            jax.nn.log_softmax(unembed(config, weights, hidden), axis=2)
            for config, weights, hidden in zip(configs, params, (own, ref), strict=True)
        )
        # Rounding can give -1e-8 where the two are equal; a divergence is never negative.
        kl = jnp.maximum(jnp.sum(jnp.exp(p) * (p - q), axis=2), 0.0)
        # Of the token that came, both chances are at hand: no other pass has to compute them.
        taken = [jnp.take_along_axis(x, targets[:, :, None], axis=2, mode="clip")[:, :, 0] for x in (p, q)]
        return jnp.where(valid[:, :, None], jnp.stack([kl, *taken], axis=2), 0.0)

    def body(_: None, chunk: tuple[Array, Array, Array, Array]) -> tuple[None, Array]:
        skip = lambda own, ref, targets, valid: jnp.zeros((*valid.shape, 3), jnp.float32)  # noqa: E731
        return None, jax.lax.cond(jnp.any(chunk[3]), chunk_values, skip, *chunk)

    width = chunk_width(configs[0].vocab_size, valid.shape[0] // parts_of(own), valid.shape[1])
    chunks = columns(own, width), columns(ref, width), columns(targets, width), columns(valid, width)
    _, found = jax.lax.scan(body, None, chunks)  # [chunks, B, width, 3]
    found = jnp.swapaxes(found, 0, 1).reshape(valid.shape[0], -1, 3)[:, : valid.shape[1]]
    member = slots[:, :, None] == jnp.arange(count, dtype=jnp.int32)[None, None, :]
    return jnp.sum(jnp.where(member[:, :, :, None], found[:, :, None, :], 0.0), axis=1)


completion_kl_jit = jax.jit(_completion_kl, static_argnums=(0, 4))
