"""Score models of one dimension that are trained in the run, on its labelled pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.alignment import compiled, training
from alignjax.alignment.held_out import preference_metrics
from alignjax.alignment.step import AdapterSettings
from alignjax.alignment.training import Start, Trainer, Tree
from alignjax.config import ScoreModelSettings, TrainingSettings
from alignjax.data.preferences import Dimension, Labelled
from alignjax.data.records import PreferencePair
from alignjax.models import Lora, ScoreModel, as_utility, init_score_model, place_head
from alignjax.models.score_model import Kind
from alignjax.policy.row_cost import row_cost
from alignjax.policy.values import Outcome, Policy
from alignjax.runtime import preemption
from alignjax.runtime.checkpoint import restore_tree
from alignjax.runtime.work import Work
from alignjax.scores.learned import expected_calibration_error, learned_pair_scores


class TrainedScore(NamedTuple):
    """A score model, its adapters, and how its training ended.

    Attributes:
      load: gives the model and its adapters; adapters sit on the reference's weights, which may be held for
        several models, so the result is used and not kept.
      outcome: of the training, in the process that trained it; None where it was loaded.
    """

    load: Callable[[], tuple[ScoreModel, Lora | None]]
    outcome: Outcome | None = None


def kind_of(name: str) -> Kind:
    """A constraint's model is a cost: high where a response is harmful."""
    return "reward" if name == "reward" else "cost"


@preemption.deferred()
def train_score_model(
    trainer: Trainer,
    name: str,
    reference: Policy,
    data: Dimension,
    settings: TrainingSettings,
    extra: ScoreModelSettings,
    work: Work,
) -> TrainedScore:
    """Trains a head and adapters, or all weights, on the pairs of one dimension.

    Args:
      trainer: what all trainings share.
      name: of the dimension and the stage.
      reference: its weights are where the score model begins.
      data: pairs to learn from, and pairs that choose the best step.
      settings: of the optimizer.
      extra: of the loss.
      work: of the stage.
    """
    start, model = _start(trainer, name, reference)
    columns = {"labels": data.train.labels}
    if model.kind == "cost" and extra.signs:
        columns |= _signs(data.train.texts)
    tokens = data.train.tokens
    cost = row_cost(model.config, settings.epochs, trained=True)
    make_epoch = training.pair_epochs(trainer, name, tokens, settings.batch_size, columns, cost)
    optimizer = compiled.optimizer_of(settings, len(make_epoch(0)))
    result = training.fit_stage(
        trainer,
        name,
        compiled.score_steps(model.config, start.adapter, model.kind, extra, optimizer),
        optimizer,
        start,
        make_epoch,
        settings,
        work,
        evaluate=_HeldOut(trainer, model, start.adapter, data.held_out),
    )
    trained = _trained(reference, start.adapter, model, result.trainable)
    return trained._replace(outcome=training.outcome_of(trainer, name, result))


def load_score_model(folder: Path, trainer: Trainer, name: str, reference: Policy) -> TrainedScore:
    """The model whose outcome was saved in a folder; arguments as of `train_score_model`."""
    start, model = _start(trainer, name, reference)
    trainable, _ = restore_tree(folder / "best", start.trainable, finite=True)
    return _trained(reference, start.adapter, model, trainable)


def _start(trainer: Trainer, name: str, reference: Policy) -> tuple[Start, ScoreModel]:
    """Where the training begins, and the model before it."""
    model = init_score_model(trainer.seeds.key(f"score head {name}"), reference.model, kind=kind_of(name))
    head = place_head(model.params["head"], trainer.batching.mesh)
    model = model.replace(params={**model.params, "head": head})
    body = training.start_of(trainer, name, model)
    if body.adapter is None:
        return Start(model.params, None, None), model
    trainable = {"lora": body.trainable, "head": head}
    return Start(trainable, body.frozen["decoder"], body.adapter), model


def _trained(
    reference: Policy, adapter: AdapterSettings | None, model: ScoreModel, trainable: Tree
) -> TrainedScore:
    if adapter is None:
        return TrainedScore(lambda: _assembled(model, None, trainable))
    bare = model.replace(params={})  # the reference's weights are not kept

    def load() -> tuple[ScoreModel, Lora | None]:
        # As in training: without the head of the language model, if it has one of its own.
        body = {name: leaf for name, leaf in reference.model.params.items() if name != "head"}
        return _assembled(bare.replace(params={"decoder": body}), adapter, trainable)

    return TrainedScore(load)


def _assembled(
    model: ScoreModel, adapter: AdapterSettings | None, trainable: Tree
) -> tuple[ScoreModel, Lora | None]:
    if adapter is None:
        return model.replace(params=trainable), None
    whole = model.replace(params={**model.params, "head": trainable["head"]})
    return whole, Lora(trainable["lora"], adapter.scale, 0.0)


def _signs(pairs: Sequence[PreferencePair]) -> dict[str, np.ndarray]:
    """Which responses are unsafe (+1) or safe (-1), [n] each, 0: unknown; empty where no pair says it."""
    if not any(pair.safe for pair in pairs):
        return {}
    signs = [(0.0, 0.0) if p.safe is None else tuple(-1.0 if s else 1.0 for s in p.safe) for p in pairs]
    chosen, rejected = np.array(signs, np.float32).T
    return {"chosen_sign": chosen, "rejected_sign": rejected}


class _HeldOut(NamedTuple):
    """Trainable -> what the held-out pairs say of the scores."""

    trainer: Trainer
    model: ScoreModel
    adapter: AdapterSettings | None
    pairs: Labelled

    def __call__(self, trainable: Any) -> dict[str, float]:
        """Means of `preference_metrics`, of the scores, and the calibration error."""
        whole, lora = _assembled(self.model, self.adapter, trainable)
        batching = self.trainer.batching
        found = learned_pair_scores(
            whole,
            self.pairs.tokens,
            lora=lora,
            batch_size=batching.rows,
            buckets=batching.pair_buckets(whole.config, self.pairs.tokens),
            mesh=batching.mesh,
        )
        scores, labels = as_utility(self.model.kind, found), self.pairs.labels
        # A world's pairs are in any order: what its label prefers comes first, so that margins have a sign.
        swapped = labels < 0.5
        scores = np.where(swapped[:, None], scores[:, ::-1], scores)
        labels = np.where(swapped, 1 - labels, labels)
        metrics = preference_metrics(scores, np.zeros_like(scores), labels, beta=1.0)
        metrics = {key: value for key, value in metrics.items() if not key.startswith("logps/")}
        metrics |= {"rewards/mean": float(scores.mean())}
        metrics |= {"rewards/min": float(scores.min()), "rewards/max": float(scores.max())}
        stated = 1.0 / (1.0 + np.exp(-np.clip(scores[:, 0] - scores[:, 1], -500, 500).astype(np.float64)))
        # Half of the pairs are swapped; otherwise the frequencies of hard labels would all be 1.
        turned = np.arange(len(stated)) % 2 == 1
        stated = np.where(turned, 1 - stated, stated)
        observed = np.where(turned, 1 - labels, labels)
        return metrics | {"calibration_error": expected_calibration_error(stated, observed)}
