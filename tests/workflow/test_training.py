"""DPO on five pairs: it follows the labels, its log-probabilities are kept, and its policy comes back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.alignment import training
from alignjax.alignment.training import LabelledPairs, Trainer
from alignjax.config import LoraSettings, PreferenceTrainingSettings
from alignjax.data.buckets import RowCost
from alignjax.errors import InputError
from alignjax.policy import known_logps as logps_module
from alignjax.policy.batching import Batching
from alignjax.policy.known_logps import LogpsCache, logps_of_pairs
from alignjax.policy.values import Outcome, Policy
from alignjax.runtime.log import Log
from alignjax.runtime.seeds import Seeds
from alignjax.stages import Work

LABELS = np.array([1.0, 0.0, 1.0, 0.0, 1.0], np.float32)
SETTINGS = PreferenceTrainingSettings(
    batch_size=4, epochs=15.0, learning_rate=3e-2, schedule="constant", warmup_steps=0, evals=3, log_every=10
)
WORK = Work("12" * 32, None)


def make_trainer(batching: Batching, said: list[str], rank: int = 2) -> Trainer:
    lora = LoraSettings(rank=rank, alpha=4.0)
    return Trainer(batching, Seeds(0), Log(said.append), lora, LogpsCache(batching))


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def trainer(batching, said) -> Trainer:
    return make_trainer(batching, said)


@pytest.fixture(scope="module")
def trained(trainer, reference, pairs) -> Policy:
    data = LabelledPairs(pairs[:5], LABELS)
    return training.train_dpo(trainer, "policy", reference, data, data, SETTINGS, WORK, beta=0.5)


def outcome_of(policy: Policy) -> Outcome:
    assert policy.outcome is not None
    return policy.outcome


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_policy_follows_its_labels(trained, trainer, reference, pairs, said):
    own, ref = (trainer.logps.of_pairs(p, pairs[:5]) for p in (trained, reference))
    ratios = own - ref
    assert np.sign(ratios[:, 0] - ratios[:, 1]).tolist() == [1, -1, 1, -1, 1]
    assert (trained.name, trained.stage, trained.fingerprint) == ("policy", "policy", WORK.fingerprint)
    outcome = outcome_of(trained)
    assert outcome.steps == 30 and 0 < outcome.best_step <= 30 and not outcome.stopped_early
    assert said == [f"  policy: step {outcome.best_step} of 30 kept"]
    assert trained.load is reference.load and trained.lora is not None and trained.lora.scale == 2.0


def test_log_probabilities_of_the_held_out_pairs_are_kept(trained, trainer, pairs, batching, monkeypatch):
    by_itself = logps_of_pairs(trained, pairs[:5], batching)
    monkeypatch.setattr(logps_module, "logps_of_pairs", None)  # what is asked for again is not computed
    np.testing.assert_allclose(trainer.logps.of_pairs(trained, pairs[:5]), by_itself, atol=1e-5)


def test_a_policy_comes_back_from_its_folder(trained, trainer, reference, tmp_path):
    training.save_outcome(tmp_path / "policy", trained.outcome)
    found = training.load_policy(tmp_path / "policy", trainer, "policy", "policy", reference, WORK)
    assert trained.lora is not None and found.lora is not None
    assert_same(found.lora.params, trained.lora.params)
    assert dataclasses.replace(found.lora, params=0) == dataclasses.replace(trained.lora, params=0)
    assert found._replace(lora=None) == trained._replace(lora=None, outcome=None)
    # The last step lies beside the best.
    last, fields = training.restore_tree(tmp_path / "policy" / "last", outcome_of(trained).last)
    assert_same(last, outcome_of(trained).last)
    assert fields == {"best_step": outcome_of(trained).best_step, "steps": 30, "stopped_early": False}


def test_weights_that_are_not_finite_or_of_another_shape_are_refused(
    trained, trainer, reference, said, tmp_path
):
    outcome = outcome_of(trained)
    broken = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), outcome.best)
    training.save_outcome(tmp_path / "policy", outcome._replace(best=broken))

    def load(by: Trainer) -> Policy:
        return training.load_policy(tmp_path / "policy", by, "policy", "policy", reference, WORK)

    with pytest.raises(InputError, match=r"policy/best: the checkpoint holds a value that is not finite"):
        load(trainer)
    with pytest.raises(InputError, match=r"policy/best"):
        load(make_trainer(trainer.batching, said, rank=3))


def test_without_adapters_all_weights_are_trained(batching, reference, model):
    trainer = make_trainer(batching, [], rank=0)
    start = training.start_of(trainer, "policy", model)
    assert start.trainable is model.params and start.frozen is None is start.adapter
    moved = jax.tree.map(lambda x: x + 1, model.params)
    policy = training.policy_of(trainer, "policy", "aligned", reference, moved, WORK)
    assert policy.lora is None and policy.model.params is moved
    assert policy.model.config == model.config and policy.tokenizer is model.tokenizer
    assert (policy.name, policy.stage) == ("aligned", "policy")


def test_adapters_begin_neutral_and_by_the_stage(batching, model):
    trainer = make_trainer(batching, [])
    one, again, other = (training.start_of(trainer, name, model) for name in ("a", "a", "b"))
    assert one.frozen is model.params and one.adapter is not None and one.adapter.scale == 2.0
    assert_same(one.trainable, again.trainable)
    with pytest.raises(AssertionError):
        assert_same(one.trainable, other.trainable)


def test_an_epoch_has_every_pair_once_in_an_order_of_its_own(batching, pairs):
    trainer = make_trainer(batching, [])
    columns = {"labels": np.arange(5, dtype=np.float32) / 10}

    def order(name, epoch):
        epochs = training.pair_epochs(trainer, name, pairs[:5], 2, columns, RowCost(0.0, 1e9))
        return [
            float(label)
            for batch in epochs(epoch)
            for label, weight in zip(batch.labels, batch.weights, strict=True)
            if weight > 0
        ]

    first = order("policy", 0)
    assert sorted(first) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert order("policy", 0) == first
    assert any(order("policy", epoch) != first for epoch in (1, 2, 3))
    assert any(order(name, 0) != first for name in ("reward", "safety", "other"))


def test_a_loaded_policy_cannot_be_saved_again(tmp_path):
    with pytest.raises(AssertionError, match="only a value that was computed is saved"):
        training.save_outcome(tmp_path, None)
