"""Aligns a model on labelled pairs in one call, for use as a library, on the default device.

The command `train` adds checkpoints, resuming and several devices; it calls `loop.fit` directly.
"""

import functools
from collections.abc import Callable, Sequence

import grain
import jax
import numpy as np
from numpy.typing import ArrayLike

from alignjax.alignment import losses
from alignjax.alignment.loop import FitSettings, check_first_dpo_step, epochs, evaluate_batches, fit
from alignjax.alignment.optimizer import OptimizerSettings, make_optimizer
from alignjax.alignment.step import (
    AdapterSettings,
    dpo_loss_fn,
    init_state,
    make_eval_step,
    make_train_step,
)
from alignjax.data.batches import PairBatch, pair_batches
from alignjax.data.tokenize import TokenizedPair
from alignjax.errors import InputError
from alignjax.models import Lora, Model, init_lora
from alignjax.policy.logps import preference_logps


def align(
    model: Model,
    pairs: Sequence[TokenizedPair],
    labels: ArrayLike,
    *,
    beta: float,
    loss: losses.PreferenceLoss = losses.dpo,
    held_out: tuple[Sequence[TokenizedPair], ArrayLike] | None = None,
    rank: int = 8,
    alpha: float = 16.0,
    learning_rate: float = 1e-3,
    num_epochs: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    log_every: int = 10,
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> Lora:
    """Trains adapters on pairs with hard or soft labels; the model as given is also the reference.

        minimise mean_i loss(log pi/ref(chosen_i), log pi/ref(rejected_i); beta, labels_i)

    The optimizer is AdamW with a warm-up over the first tenth of the steps and cosine decay to 0; the norm of
    the gradient is clipped to 1. Equal arguments give equal adapters on equal hardware.

    Args:
      model: the policy to start from; its weights are not changed.
      pairs: n >= 1 pairs.
      labels: [n] float in [0, 1], P(chosen preferred), as `relabel_pairs` returns them.
      beta: KL weight > 0, in the units of the scores per nat; the same as for `dual.solve`.
      loss: of `alignment.losses`; bind its other arguments with functools.partial.
      held_out: other pairs with their labels. Their loss is measured before the first step and after every
        epoch, and the adapters with the lowest are returned. None: the adapters after the last step.
      rank: of the adapters, >= 1.
      alpha: adapters are scaled by alpha / rank.
      learning_rate: the largest, > 0.
      num_epochs: passes over the pairs, >= 1.
      batch_size: pairs per step, >= 1.
      seed: of the adapters' initial values and of the order of the pairs, >= 0.
      log_every: steps per call of `log`.
      log: called with the step and the mean metrics of the steps since the last call, under TRL's names
        (loss, rewards/accuracies, ...), and with those of the held-out pairs, whose names begin with eval_.

    Returns:
      The adapters; `merge_lora(model.params, lora)` adds them to the weights.

    Raises:
      InputError: no pairs, labels that are not one number in [0, 1] per pair, an option out of range, or a
        loss that is not finite.

    Reference: Rafailov et al. 2023, arXiv 2305.18290, equation 7 for the default loss.
    """
    if not 0 < beta < np.inf:
        raise InputError(f"align: beta is {beta}; it must be above 0.")
    if num_epochs < 1:
        raise InputError(f"align: num_epochs is {num_epochs}; it must be at least 1.")
    make_epoch = _epochs(model, pairs, labels, batch_size, seed, "pairs")
    steps_per_epoch = len(make_epoch(0))
    num_steps = num_epochs * steps_per_epoch
    init_key, step_key = jax.random.split(jax.random.key(seed))
    lora = init_lora(init_key, model.config, rank=rank, alpha=alpha)
    tx, schedule = make_optimizer(
        OptimizerSettings(learning_rate, total_steps=num_steps, warmup_steps=num_steps // 10)
    )
    loss_fn = dpo_loss_fn(model.config, AdapterSettings(lora.scale), beta=beta, loss=loss)
    evaluate = None
    if held_out is not None:
        batches = _epochs(model, *held_out, batch_size, seed, "held_out")(0)
        evaluate = functools.partial(
            evaluate_batches, make_eval_step(loss_fn), frozen=model.params, batches=batches
        )
    result = fit(
        init_state(lora.params, tx, step_key),
        make_train_step(loss_fn, tx, schedule),
        model.params,
        epochs(make_epoch),
        FitSettings("align", num_steps, log_every, steps_per_epoch, steps_per_epoch=steps_per_epoch),
        evaluate=evaluate,
        # Room for bfloat16, whose log-probabilities of long responses differ between programs.
        first_step_check=check_first_dpo_step(5e-2) if loss is losses.dpo else None,
        log=log,
    )
    return lora.replace(params=result.trainable)


def _epochs(
    model: Model, pairs: Sequence[TokenizedPair], labels: ArrayLike, batch_size: int, seed: int, name: str
) -> Callable[[int], grain.MapDataset[PairBatch]]:
    """Epoch number -> its batches of labelled pairs, shuffled, with the model's own log-probabilities."""
    given = np.asarray(labels, np.float32)
    if not pairs:
        raise InputError(f"align: {name} is empty; give at least one pair.")
    if given.shape != (len(pairs),) or not ((given >= 0) & (given <= 1)).all():
        raise InputError(
            f"align: labels of {name} have shape {given.shape} and lie in [{given.min(initial=1.0):g}, "
            f"{given.max(initial=0.0):g}]; give one number in [0, 1] for each of the {len(pairs)} pairs."
        )
    reference = preference_logps(model, pairs, batch_size=batch_size)

    def make_epoch(epoch: int) -> grain.MapDataset[PairBatch]:
        return pair_batches(
            pairs,
            batch_size=min(batch_size, len(pairs)),
            labels=given,
            ref_chosen=reference[:, 0],
            ref_rejected=reference[:, 1],
            seed=seed,
            epoch=epoch,
            shuffle=True,
        )

    return make_epoch
