"""Score models on five pairs: they follow the labels, come back from a folder, are judged in any order."""

import numpy as np
import pytest

from alignjax.alignment import score_training as score_models
from alignjax.alignment import training
from alignjax.alignment.score_training import TrainedScore
from alignjax.alignment.training import Trainer
from alignjax.config import LoraSettings, ScoreModelSettings, TrainingSettings
from alignjax.data.preferences import Dimension, Labelled
from alignjax.data.records import PreferencePair
from alignjax.errors import InputError
from alignjax.models import init_score_model
from alignjax.policy.known_logps import LogpsCache
from alignjax.runtime.log import Log
from alignjax.runtime.seeds import Seeds
from alignjax.scores.scorers import LearnedScorer
from alignjax.stages import Work

LABELS = np.array([1.0, 0.0, 1.0, 0.0, 1.0], np.float32)
SETTINGS = TrainingSettings(
    batch_size=4, epochs=15.0, learning_rate=3e-2, schedule="constant", warmup_steps=0, evals=3
)
WORK = Work("12" * 32, None)


def labelled(pairs, labels) -> Labelled:
    texts = [PreferencePair("p", "a", "b", {}, "")] * len(pairs)
    return Labelled(list(pairs), np.asarray(labels, np.float32), np.arange(len(pairs)), texts)


@pytest.fixture(scope="module")
def trainer(batching) -> Trainer:
    lora = LoraSettings(rank=2, alpha=4.0)
    return Trainer(batching, Seeds(0), Log(lambda line: None), lora, LogpsCache(batching))


@pytest.fixture(scope="module")
def trained(trainer, reference, pairs) -> TrainedScore:
    some = labelled(pairs[:5], LABELS)
    data = Dimension(some, some)
    return score_models.train_score_model(
        trainer, "safety", reference, data, SETTINGS, ScoreModelSettings(), WORK
    )


def scores(batching, trained: TrainedScore, pairs) -> np.ndarray:
    return LearnedScorer("safety", trained.load, batching).pairs(pairs, [])


def test_a_constraint_has_a_cost_and_the_reward_a_reward():
    assert [score_models.kind_of(name) for name in ("reward", "safety", "any")] == ["reward", "cost", "cost"]


def test_a_trained_cost_is_higher_where_labels_say_worse(trained, batching, pairs):
    found = scores(batching, trained, pairs[:5])  # utilities: higher is safer
    assert np.sign(found[:, 0] - found[:, 1]).tolist() == [1, -1, 1, -1, 1]
    model, lora = trained.load()
    assert model.kind == "cost" and lora is not None and lora.scale == 2.0 and lora.dropout == 0.0
    assert trained.outcome is not None and trained.outcome.steps == 30
    assert set(trained.outcome.best) == {"lora", "head"}


def test_a_trained_model_comes_back_from_its_folder(trained, trainer, reference, batching, pairs, tmp_path):
    training.save_outcome(tmp_path / "safety", trained.outcome)
    found = score_models.load_score_model(tmp_path / "safety", trainer, "safety", reference)
    np.testing.assert_array_equal(scores(batching, found, pairs), scores(batching, trained, pairs))
    assert found.outcome is None
    with pytest.raises(InputError, match=r"safety/best"):  # the reward has no bias
        score_models.load_score_model(tmp_path / "safety", trainer, "reward", reference)


def test_signs_say_which_responses_are_unsafe():
    pair = PreferencePair("p", "a", "b", {}, "")
    given = [pair._replace(safe=(True, False)), pair, pair._replace(safe=(False, False))]
    found = score_models._signs(given)
    assert {name: values.tolist() for name, values in found.items()} == {
        "chosen_sign": [-1, 0, 1], "rejected_sign": [1, 0, 1],
    }  # fmt: skip
    assert found["chosen_sign"].dtype == np.float32
    assert score_models._signs([pair, pair]) == {}
    assert set(score_models._signs([pair._replace(safe=(False, False))])) == set(found)


@pytest.fixture(scope="module")
def judged(trainer, model, pairs):
    """judged(pairs, labels) are the metrics of a cost model on held-out pairs, and its utilities."""
    import jax

    whole = init_score_model(jax.random.key(1), model, kind="cost")

    def judge(some, labels):
        held_out = score_models._HeldOut(trainer, whole, None, labelled(some, labels))
        found = LearnedScorer("safety", lambda: (whole, None), trainer.batching).pairs(some, [])
        return held_out(whole.params), found

    return judge


def test_held_out_metrics_by_hand(judged, pairs):
    labels = np.array([1.0, 1.0, 1.0, 1.0, 0.75])
    found, utilities = judged(pairs[:5], labels)
    margins = utilities[:, 0] - utilities[:, 1]
    loss = np.mean(np.logaddexp(0, margins) - labels * margins)
    assert found["loss"] == pytest.approx(loss, abs=1e-5)
    assert found["rewards/margins"] == pytest.approx(margins.mean(), abs=1e-5)
    assert found["rewards/accuracies"] == pytest.approx(np.mean(margins > 0))
    assert found["rewards/mean"] == pytest.approx(utilities.mean(), abs=1e-5)
    assert found["rewards/min"] == pytest.approx(utilities.min(), abs=1e-5)
    assert found["rewards/max"] == pytest.approx(utilities.max(), abs=1e-5)
    assert 0 <= found["calibration_error"] <= 1 and not any(name.startswith("logps/") for name in found)


def test_the_order_within_held_out_pairs_does_not_matter(judged, pairs):
    labels = np.array([0.9, 0.6, 1.0, 0.75, 0.8])
    turned = [p._replace(chosen_ids=p.rejected_ids, rejected_ids=p.chosen_ids) for p in pairs[:5]]
    found, _ = judged(pairs[:5], labels)
    other, _ = judged(turned, 1 - labels)
    assert other == pytest.approx(found, abs=1e-5)
