"""Which stages there are where the product of policies answers, on a run of shapes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import pytest

from alignjax.aot.chips import any_gpu
from alignjax.config import Config, from_mapping, presets
from alignjax.data.worlds import world_for
from alignjax.errors import InputError
from alignjax.mocan import mocan
from alignjax.mocan import prepared as mocan_prepared
from alignjax.models import Mixture, config_from_hf
from alignjax.pecan import pecan
from alignjax.pecan import prepared as pecan_prepared
from alignjax.planning.run import setup_of
from alignjax.records.verdict import TestRecord
from alignjax.stages import Stage
from alignjax.workflow.dialling import factors, product_of
from alignjax.workflow.itinerary import itinerary
from alignjax.workflow.setup import Setup


class Shapes:
    """Gives shapes in place of values; the test of each round accepts or not, as it is told."""

    def __init__(self, accepts: Sequence[bool] = (True,)):
        self.accepts = list(accepts)
        self.stages = dict[str, Stage[Any]]()

    def do(self, stage: Stage[Any]) -> Any:
        if stage.name in self.stages:
            return stage.abstract()
        self.stages[stage.name] = stage
        value = stage.abstract()
        if isinstance(value, TestRecord):
            return dataclasses.replace(value, accepted=self.accepts.pop(0))
        return value


def config_of(method: str, **changes: Any) -> Config:
    values: Any = presets.shared(method)
    presets.assistant(values)
    values.lora.rank = 2
    for name, value in changes.items():
        *tables, last = name.split("__")
        node = values
        for table in tables:
            node = node[table]
        node[last] = value
    return from_mapping(values.to_dict())


def stages_of(config: Config, accepts: Sequence[bool] = (True,)) -> tuple[Shapes, Any]:
    run = Shapes(accepts)
    return run, (pecan if config.method == "pecan" else mocan)(run, setup_for(config))


def setup_for(config: Config) -> Setup:
    decoder = config_from_hf(dict(world_for("assistant").decoder_fields))
    return setup_of(config, decoder, "tiny", any_gpu(16), jax.devices()[:1], pairs=0)


@pytest.mark.parametrize("method", ["pecan", "mocan"])
def test_a_run_without_a_final_alignment(method):
    changes = {"baselines__single": True} if method == "mocan" else {}
    config = config_of(method, align__skip=True, dial=("product", "merged", "best_of"), **changes)
    run, outcome = stages_of(config)
    names = list(run.stages)
    assert "policy" not in names and "preview" not in names and names.count("product") == 1
    assert names[-3:] == ["evaluation samples/merged", "evaluation scores/dial", "dial"]
    assert isinstance(outcome.measured.policies["aligned"].lora, Mixture)
    assert outcome.measured.policies["aligned"].lora.weights.shape == (2,)
    single = ["reward", "safety"] if method == "pecan" else ["baselines/reward", "baselines/safety"]
    assert list(run.stages["product"].inputs) == ["dual", *single]
    assert list(run.stages["evaluation samples/aligned"].inputs) == ["data", "product"]
    assert [one.name for one in itinerary(config, {}, names)] == names


def test_policies_of_calibrated_scores_are_weighted_by_the_multipliers():
    config = config_of("mocan", baselines__single=True)
    ready = mocan_prepared(Shapes(), setup_for(config))
    product = product_of(ready, {"safety": 0.7})
    assert product.weights == {"reward": 1.0, "safety": 0.7} and product.explained == {}


def test_a_run_without_policies_of_single_scores_names_the_flag_that_trains_them():
    run = Shapes()
    ready = mocan_prepared(run, setup_for(config_of("mocan")))
    with pytest.raises(InputError, match="--config.baselines.single=True, which keeps all that is done"):
        factors(run, ready)
    ready = pecan_prepared(run, setup_for(config_of("pecan", lora__rank=0)))
    with pytest.raises(InputError, match="config.lora.rank: is 0: this run trains all weights"):
        factors(run, ready)


def test_refused_products_are_corrected_without_a_training():
    config = config_of("pecan", align__skip=True, rounds__count=2)
    run, _ = stages_of(config, [False, True])
    names = list(run.stages)
    assert names.index("rounds/1.json") < names.index("product/2") < names.index("test/2")
    assert "rounds/2" not in names
    assert list(run.stages["product/2"].inputs) == ["rounds/1.json", "reward", "safety"]
    assert [one.name for one in itinerary(config, {}, names)] == names


@pytest.mark.parametrize("method", ["pecan", "mocan"])
def test_the_preview_and_the_policies_beside_the_aligned_one(method):
    changes = {"baselines__single": True} if method == "mocan" else {}
    config = config_of(method, dial=("product",), **changes)
    run, _ = stages_of(config)
    names = list(run.stages)
    assert names.index("dual") < names.index("preview") < names.index("policy")
    assert len(run.stages["preview"].abstract().prompts) == 3
    assert names[-4:] == ["product", "evaluation samples/product", "evaluation scores/dial", "dial"]
    assert [one.name for one in itinerary(config, {}, names)] == names


@pytest.mark.parametrize("changes", [{"align__preview": 0}, {"lora__rank": 0}])
def test_no_preview_where_none_is_asked_for_or_can_be_had(changes):
    config = config_of("pecan", **changes)
    run, _ = stages_of(config)
    assert "preview" not in run.stages
    assert [one.name for one in itinerary(config, {}, list(run.stages))] == list(run.stages)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("pecan", {"align__skip": True, "lora__rank": 0}, "config.align.skip: .* config.lora.rank is 0"),
        ("mocan", {"align__skip": True}, "set config.baselines.single=True"),
        ("mocan", {"dial": ("merged",)}, "config.dial: merged needs policies aligned to single scores"),
        ("pecan", {"dial": ("draws",)}, r"config.dial\[0\]: is 'draws', must be product, merged or best_of"),
    ],
)
def test_products_that_a_run_does_not_have_are_refused(method, changes, message):
    with pytest.raises(InputError, match=message):
        config_of(method, **changes)


def test_a_product_has_one_weight_for_all_prompts():
    changes = {"constraints__safety__fraction": None, "constraints__safety__margin": None}
    with pytest.raises(InputError, match="config.constraints.safety.groups is not; ask for a margin"):
        config_of("pecan", dial=("product",), constraints__safety__groups__margin=1.0, **changes)
