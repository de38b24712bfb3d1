"""A run compiles the programs that its plan lists, and the plan lists no other."""

import importlib.util
import logging
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import alignjax
from alignjax import runs
from alignjax.alignment import compiled
from alignjax.config import Config, from_mapping
from alignjax.data.worlds import world_for
from alignjax.models import config_from_hf
from alignjax.planning.architectures import run_as
from alignjax.planning.run import setup_of, steps_of
from alignjax.policy import divergence, generation, logps
from alignjax.scores import learned
from alignjax.workflow import programs

_CONFIGS = Path(alignjax.__file__).parents[1] / "configs"
_ARRAYS = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic)
# Copies what is trained into a train step's first state: it needs no more memory than the step, and computes
# nothing.
_COPIES = {"build"}


class Call(NamedTuple):
    """A compiled function and what it was called with."""

    what: tuple[Any, ...]  # the function, the structure of its arguments, their types and the static ones
    shapes: tuple[tuple[int, ...], ...]


def call_of(function: Hashable, arguments: tuple[Any, ...]) -> Call:
    leaves, structure = jax.tree.flatten(arguments)
    kinds = tuple(str(leaf.dtype) if isinstance(leaf, _ARRAYS) else leaf for leaf in leaves)
    shapes = tuple(leaf.shape for leaf in leaves if isinstance(leaf, _ARRAYS))
    return Call((function, structure, kinds), shapes)


class Recorder:
    """A compiled function that notes what it is called with."""

    def __init__(self, name: Hashable, function: Any, log: "Log"):
        self.name, self.function, self.log = name, function, log

    def __call__(self, *arguments: Any) -> Any:
        self.log.calls.append(call_of(self.name, arguments))
        self.log.inside = True
        try:
            return self.function(*arguments)
        finally:
            self.log.inside = False


class Log(logging.Handler):
    """Calls of recorded functions, and the arguments of all that JAX compiles outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = list[Call]()
        self.inside = False
        self.others = list[tuple[str, Counter[tuple[int, ...]]]]()

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Compiling") and isinstance(record.args, tuple) and not self.inside:
            name, arguments = record.args[:2]
            assert isinstance(arguments, list | tuple)
            self.others.append((str(name), Counter(one.shape for one in arguments)))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """What is compiled while a test runs."""
    log = Log()
    for module, name in (
        (logps, "slot_logps_jit"),
        (logps, "shared_logps_jit"),
        (divergence, "completion_kl_jit"),
        (generation, "advance_jit"),
        (generation, "admit_jit"),
        (learned, "pair_scores_jit"),
        (learned, "response_scores_jit"),
    ):
        recorder = Recorder(name, getattr(module, name), log)
        monkeypatch.setattr(module, name, recorder)
        if name in vars(programs):
            monkeypatch.setattr(programs, name, recorder)
    for name in ("sft_steps", "dpo_steps", "score_steps"):
        steps = _recorded_steps(name, getattr(compiled, name), log)
        monkeypatch.setattr(compiled, name, steps)
        monkeypatch.setattr(programs, name, steps)
    logger = logging.getLogger("jax._src.interpreters.pxla")  # of all that is compiled
    monkeypatch.setattr(logger, "propagate", False)
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    yield log
    logger.removeHandler(log)
    logger.setLevel(level)


def _recorded_steps(name: str, make: Any, log: Log) -> Any:
    """Train steps whose name holds all that they are made from: loss, adapters, optimizer."""

    def made(*arguments: Any) -> compiled.Steps:
        steps = make(*arguments)

        def train(layout: compiled.Layout) -> Any:
            return Recorder((name, *arguments, layout), steps.train(layout), log)

        return compiled.Steps(steps.tx, train)

    return made


def _config(method: str) -> Config:
    """A few steps of the preset tiny."""
    spec = importlib.util.spec_from_file_location(f"{method}_tiny", _CONFIGS / f"{method}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("tiny")
    config.bootstrap, config.lora.rank, config.accept_uninformative = 100, 2, True
    config.data.num_pairs, config.data.num_held_out, config.reference_examples = 64, 64, 128
    for name in ("reference", "align", "prealign" if method == "pecan" else "score_training"):
        config[name].update({"epochs": 1.0, "batch_size": 32, "evals": 1, "warmup_steps": 0})
    for name in ("sampling", "evaluation"):
        config[name].update({"num_prompts": 4, "num_samples": 4, "max_new_tokens": 8})
    config.constraints.safety.margin = None
    config.lam = 0.5  # whatever the labels of so few pairs allow
    if method == "mocan":
        config.baselines.single, config.baselines.lams = False, (0.5,)
    return from_mapping(config.to_dict())


@pytest.mark.parametrize("method", ["pecan", "mocan"])
def test_a_run_compiles_what_its_plan_lists(method, chip, log: Log):
    config = _config(method)
    assert config.data.num_buckets == 1  # a plan lists the largest rows of each data set
    devices = jax.devices()[:1]
    assert config.data.world is not None
    world = config_from_hf(dict(world_for(config.data.world).decoder_fields))
    setup = setup_of(config, run_as(world, config.model), "the world's", chip, devices, pairs=0)
    steps, outcome = steps_of(setup)
    planned = dict[tuple[Any, ...], list[Call]]()
    for step in steps:
        program = step.program
        assert isinstance(program.function, Recorder), step.what
        call = call_of(program.function.name, program.arguments)
        planned.setdefault(call.what, []).append(call)

    log.calls.clear()
    log.others.clear()
    runs.in_memory(config, devices=devices)
    ran = {call.what for call in log.calls}
    assert [one[0].what[0] for what, one in planned.items() if what not in ran] == []
    assert [call.what for call in log.calls if call.what not in planned] == []
    for call in log.calls:
        assert any(_within(call, one) for one in planned[call.what]), call
    # Nothing else that is compiled is given a whole model, with or without its vocabulary head.
    model = outcome.measured.policies["reference"].model
    body = {name: tree for name, tree in model.params.items() if name != "head"}
    weights = Counter(leaf.shape for leaf in jax.tree.leaves(body))
    others = {name.removeprefix("jit(").removesuffix(")") for name, given in log.others if weights <= given}
    assert others <= _COPIES
    assert len(log.others) > 5  # it was watched


def _within(call: Call, largest: Call) -> bool:
    """Whether every array is at most as large as the plan's."""
    pairs = zip(call.shapes, largest.shapes, strict=True)
    return all(len(a) == len(b) and all(x <= y for x, y in zip(a, b, strict=True)) for a, b in pairs)
