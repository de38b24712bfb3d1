"""Score models of one dimension: trained here on its labelled pairs, or read from a folder."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alignjax.alignment.held_out import preference_metrics
from alignjax.alignment.optimizer import OptimizerSettings
from alignjax.alignment.step import AdapterSettings, score_loss_fn
from alignjax.data.batches import pair_lengths
from alignjax.data.records import PreferencePair
from alignjax.models import DecoderConfig, Lora, ScoreModel, as_utility, init_score_model, place_head
from alignjax.models.score_model import Kind
from alignjax.runtime import preemption
from alignjax.runtime.checkpoint import restore_tree
from alignjax.scores.learned import expected_calibration_error, learned_pair_scores
from alignjax.workflow import compiled, training
from alignjax.workflow.context import Context
from alignjax.workflow.preferences import Dimension, Labelled
from alignjax.workflow.scoring import Policy


@functools.lru_cache(maxsize=4)
def score_steps(
    decoder: DecoderConfig,
    adapter: AdapterSettings | None,
    kind: Kind,
    regularizer: float,
    centering: float,
    optimizer: OptimizerSettings,
) -> compiled.Steps:
    """Train step of a score model; equal settings share it."""
    loss_fn = score_loss_fn(decoder, adapter, kind=kind, regularizer=regularizer, centering=centering)
    return compiled.steps_of(loss_fn, optimizer)


def kind_of(name: str) -> Kind:
    """A constraint's model is a cost: high where a response is harmful."""
    return "reward" if name == "reward" else "cost"


@preemption.deferred()
def train_score_model(context: Context, name: str, reference: Policy, data: Dimension) -> None:
    """Trains head and adapters (or all weights) on the pairs of one dimension; saves NAME/best, NAME/last.

    Args:
      context: the run.
      name: of the dimension, the folder and the stage.
      reference: its body is where the score model begins.
      data: pairs to learn from, and pairs that choose the best step.
    """
    settings, extra = context.config.score_training, context.config.score_model
    trainable, frozen, adapter, model = _start(context, name, reference)
    columns = {"labels": data.train.labels}
    if model.kind == "cost" and extra.signs:
        columns |= _signs(data.train.texts)
    make_epoch = training.labelled_epochs(context, name, data.train.tokens, settings.batch_size, columns)
    optimizer = training.optimizer_of(settings, len(make_epoch(0)))
    result = training.fit_stage(
        context,
        name,
        score_steps(model.config, adapter, model.kind, extra.regularizer, extra.centering, optimizer),
        optimizer,
        trainable=trainable,
        frozen=frozen,
        make_epoch=make_epoch,
        settings=settings,
        evaluate=_held_out_metrics(context, model, adapter, data.held_out),
        check=None,
    )
    training.save_result(context, name, result)


def _signs(pairs: Sequence[PreferencePair]) -> dict[str, np.ndarray]:
    """Which responses are unsafe (+1) or safe (-1), [n] each, 0: unknown; empty where no pair says it."""
    if not any(pair.safe for pair in pairs):
        return {}
    signs = [(0.0, 0.0) if p.safe is None else tuple(-1.0 if s else 1.0 for s in p.safe) for p in pairs]
    chosen, rejected = np.array(signs, np.float32).T
    return {"chosen_sign": chosen, "rejected_sign": rejected}


def load_score_model(
    context: Context, name: str, reference: Policy
) -> Callable[[], tuple[ScoreModel, Lora | None]]:
    """What gives the model that `train_score_model` saved; adapters sit on the reference's own body."""
    like, _, adapter, model = _start(context, name, reference)
    trainable, _ = restore_tree(context.workdir / name / "best", like)
    if adapter is None:
        return lambda: _assembled(model, None, trainable)
    model = model.replace(params={})  # the body is the reference's, which is not kept

    def load() -> tuple[ScoreModel, Lora | None]:
        return _assembled(model.replace(params={"decoder": reference.model.params}), adapter, trainable)

    return load


def _start(
    context: Context, name: str, reference: Policy
) -> tuple[Any, Any, AdapterSettings | None, ScoreModel]:
    """What is trained, what is not, how the one sits on the other, and the model before training."""
    model = init_score_model(context.key(f"score head {name}"), reference.model, kind=kind_of(name))
    model = model.replace(params={**model.params, "head": place_head(model.params["head"], context.mesh)})
    body, frozen, adapter = training.start_of(context, name, model)
    if adapter is None:
        return model.params, None, None, model
    return {"lora": body, "head": model.params["head"]}, frozen["decoder"], adapter, model


def _assembled(
    model: ScoreModel, adapter: AdapterSettings | None, trainable: Any
) -> tuple[ScoreModel, Lora | None]:
    if adapter is None:
        return model.replace(params=trainable), None
    whole = model.replace(params={**model.params, "head": trainable["head"]})
    return whole, Lora(trainable["lora"], adapter.scale, 0.0)


def _held_out_metrics(
    context: Context, model: ScoreModel, adapter: AdapterSettings | None, pairs: Labelled
) -> Callable[[Any], dict[str, float]]:
    """Trainable -> what the held-out pairs say of the scores."""
    buckets = context.buckets(pair_lengths(pairs.tokens))

    def evaluate(trainable: Any) -> dict[str, float]:
        whole, lora = _assembled(model, adapter, trainable)
        found = learned_pair_scores(
            whole,
            pairs.tokens,
            lora=lora,
            batch_size=context.config.ref_batch_size,
            buckets=buckets,
            mesh=context.mesh,
        )
        scores, labels = as_utility(model.kind, found), pairs.labels
        # A world's pairs are in any order: what its label prefers comes first, so that margins have a sign.
        swapped = labels < 0.5
        scores = np.where(swapped[:, None], scores[:, ::-1], scores)
        labels = np.where(swapped, 1 - labels, labels)
        metrics = preference_metrics(scores, np.zeros_like(scores), labels, beta=1.0)
        metrics = {key: value for key, value in metrics.items() if not key.startswith("logps/")}
        metrics |= {"rewards/mean": float(scores.mean())}
        metrics |= {"rewards/min": float(scores.min()), "rewards/max": float(scores.max())}
        stated = 1.0 / (1.0 + np.exp(-np.clip(scores[:, 0] - scores[:, 1], -500, 500).astype(np.float64)))
        # Half of the pairs are turned over, or the frequencies of hard labels would all be 1.
        turned = np.arange(len(stated)) % 2 == 1
        stated = np.where(turned, 1 - stated, stated)
        observed = np.where(turned, 1 - labels, labels)
        return metrics | {"calibration_error": expected_calibration_error(stated, observed)}

    return evaluate
