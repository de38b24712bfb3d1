"""The stages before any score: the reference policy, and the preference data."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax.alignment.training import train_sft
from alignjax.aot.program import Use
from alignjax.aot.shapes import decoder_params
from alignjax.config import check_kernel, determining
from alignjax.data import preferences
from alignjax.data.preferences import Preferences
from alignjax.data.tokenize import Template, tokenize_responses
from alignjax.data.usage import usage_lines
from alignjax.data.worlds import World
from alignjax.errors import InputError
from alignjax.models import (
    DecoderConfig,
    Model,
    base_of,
    check_divides,
    config_from_hf,
    decoder_shardings,
    init_params,
    load_pretrained,
    projection_sizes,
    save_pretrained,
)
from alignjax.models.quantized import round_params
from alignjax.policy.values import Outcome, Policy
from alignjax.runtime.files import write_record
from alignjax.stages import Stage, Work
from alignjax.workflow import programs, stand_ins
from alignjax.workflow.given_samples import require_given
from alignjax.workflow.judge_sources import asked_of
from alignjax.workflow.setup import Setup, content, part, trainer_of


class Data(NamedTuple):
    """The preference data, and how prompts are shown to the reference.

    Attributes:
      pairs: preference pairs and prompts.
      template: how a prompt is shown.
    """

    pairs: Preferences
    template: Template


def reference(setup: Setup) -> Stage[Policy]:
    """The reference policy: an embedded world's is trained, any other is read from its folder."""
    config, world = setup.config, setup.world
    weights = {"path": content(setup, config.model.path), "adapter": content(setup, config.model.adapter)}
    if config.model.path and setup.shape is None and (base := base_of(config.model.path))[1] is not None:
        weights["base"] = content(setup, str(base[0]))  # of a PEFT folder, which only names it
    settings = part(setup, "model") | {"model": determining(config.model) | weights}

    def abstract() -> Policy:
        assert setup.shape is not None, "only a plan asks for shapes"
        shape = setup.shape
        params = decoder_params(shape.decoder, setup.batching.mesh, where=shape.name)
        model = Model(params, shape.decoder, None if world is None else world.tokenizer)
        load = lambda: setup.models.get("reference", lambda: model)  # noqa: E731
        return Policy("reference", load, None, "reference", "")

    if world is None:
        path = Path(config.model.path or "")
        return Stage(
            name="reference",
            settings=settings,
            compute=lambda work: _read(setup, path, work),
            load=lambda folder, work: _read(setup, path, work),
            abstract=abstract,
        )

    return Stage(
        name="reference",
        settings=settings | part(setup, "reference", "reference_examples") | {"world": config.data.world},
        outputs=("reference",),
        compute=lambda work: _train(setup, world, work),
        save=lambda folder, policy: _save(policy, folder / "reference"),
        load=lambda folder, work: _read(setup, folder / "reference", work),
        reload=True,
        abstract=abstract,
        programs=lambda: [_sft_use(setup, world)],
    )


def data(setup: Setup, policy: Policy) -> Stage[Data]:
    """The preference data of every dimension, counted: data.json."""
    config, world = setup.config, setup.world
    sources = {
        name: determining(source)
        | {"path": content(setup, source.path), "held_out_path": content(setup, source.held_out_path)}
        for name, source in config.data.sources.items()
    }
    files = determining(config.data) | {"sources": sources, "prompts": content(setup, config.data.prompts)}

    def compute(work: Work) -> Data:
        template = preferences.template_of(config.model, policy.tokenizer, world)
        names = config.dimensions
        pairs = preferences.load(
            config.data,
            config.model,
            names,
            setup.seeds,
            policy.tokenizer,
            template,
            world,
            test_share=config.test.share,
            columns=config.group_columns,
        )
        pairs.require_safe_labels(config.rates)
        for note in pairs.notes:
            setup.log.say(f"  {note}")
        for line in usage_lines(pairs.counts, names):
            setup.log.say(f"  {line}")
        if world is None and not config.accept_uninformative:
            pairs.require_enough(held_out=config.calibrate, most_test=config.num_test_prompts)
        # Judges that cannot be asked, and responses that are missing, are refused before anything is trained.
        asked_of(setup, pairs, template, policy)
        require_given(setup, policy, template, pairs.train_prompts[: config.sampling.num_prompts])
        return Data(pairs, template)

    # What is asked by category does not determine the pairs: it is among the settings of the dual.
    return Stage(
        name="data",
        settings=part(setup)
        | {"data": files, "dimensions": list(config.dimensions), "test": config.test.share},
        inputs=("reference",),
        outputs=("data.json",),
        compute=compute,
        save=lambda folder, found: write_record(folder / "data.json", found.pairs.counts),
        abstract=lambda: _abstract_data(setup),
    )


def check_mesh(setup: Setup, world: World) -> None:
    """Refuses devices that do not fit an embedded world's reference, before it is trained.

    Raises:
      InputError: names the field of `config.mesh` or `config.model`.
    """
    decoder = config_from_hf(dict(world.decoder_fields))
    check_divides(decoder, setup.batching.mesh, where=f"the reference of {world.name}")
    _check_kernel(setup, decoder)


def with_kernel(setup: Setup, config: DecoderConfig) -> DecoderConfig:
    """The decoder with the attention that `config.model.attention` names.

    Raises:
      InputError: the kernel is not for these devices or this model.
    """
    _check_kernel(setup, config)
    return dataclasses.replace(config, attention=setup.config.model.attention)


def _check_kernel(setup: Setup, decoder: DecoderConfig) -> None:
    platforms = {device.platform for device in setup.batching.mesh.devices.flat}
    check_kernel(setup.config.model, platforms, decoder.head_dim, decoder.sliding_window)


def _read(setup: Setup, path: Path, work: Work) -> Policy:
    """The reference of a folder, read when its weights are asked for."""
    settings = setup.config.model

    def read() -> Model:
        mesh = setup.batching.mesh
        # A world's reference has no adapter: the configuration refuses one.
        model = load_pretrained(
            path,
            dtype=settings.dtype,
            remat=settings.remat,
            mesh=mesh,
            adapter=settings.adapter,
            weights=settings.weights,
        )
        if settings.max_length > (most := model.config.max_positions):
            raise InputError(
                f"config.model.max_length: is {settings.max_length}; {path} has a context of {most} tokens; "
                "lower it."
            )
        lora, known = setup.config.lora, projection_sizes(model.config)
        if lora.rank and (missing := [name for name in lora.targets if name not in known]):
            setup.log.say(
                f"  lora.targets: this model's layers have no {', '.join(missing)} that can be adapted, "
                f"only {', '.join(name for name in lora.targets if name in known)}."
            )
        return model.replace(config=with_kernel(setup, model.config))

    load = lambda: setup.models.get("reference", read)  # noqa: E731
    return Policy("reference", load, None, "reference", work.fingerprint)


def _train(setup: Setup, world: World, work: Work) -> Policy:
    """A world's reference, trained on its corpus in float32."""
    check_mesh(setup, world)
    config, mesh = setup.config, setup.batching.mesh
    corpus = world.make_reference_corpus(setup.seeds.seed("corpus"), config.reference_examples)
    limits = {
        "max_length": config.model.max_length,
        "max_prompt_length": config.model.max_prompt_length,
    }
    tokens, _ = tokenize_responses(world.tokenizer, world.template, corpus, **limits)
    decoder = config_from_hf(dict(world.decoder_fields))
    shardings = decoder_shardings(decoder, mesh, where=f"the reference of {world.name}")
    params = jax.device_put(init_params(setup.seeds.key("reference"), decoder), shardings)
    start = Model(params, decoder, world.tokenizer)
    model = train_sft(trainer_of(setup), "reference", start, tokens, config.reference, work)
    # As a run reads it back.
    settings = config.model
    run_as = dataclasses.replace(decoder, dtype=settings.dtype, remat=settings.remat)
    params = jax.tree.map(lambda leaf: leaf.astype(settings.dtype), model.params)
    model = model.replace(params=params, config=with_kernel(setup, run_as))
    held = model
    if settings.weights == "int8":
        rounded = dataclasses.replace(model.config, weights="int8")
        held = model.replace(params=round_params(rounded, jax.tree.map(jnp.copy, params)), config=rounded)
    # What is saved are the weights before they are rounded.
    outcome = Outcome(params, params, 0, 0, stopped_early=False)
    return Policy("reference", lambda: held, None, "reference", work.fingerprint, outcome)


def _save(policy: Policy, folder: Path) -> None:
    """Writes what `_train` trained."""
    assert policy.outcome is not None, "only a reference that was trained in this process is saved"
    config = dataclasses.replace(policy.model.config, weights="float")
    save_pretrained(Model(policy.outcome.best, config, policy.model.tokenizer), folder)


def _sft_use(setup: Setup, world: World) -> Use:
    config, mesh = setup.config, setup.batching.mesh
    decoder = config_from_hf(dict(world.decoder_fields))
    params = decoder_params(decoder, mesh, where=f"the reference of {world.name}", dtype="float32")
    assert setup.shape is not None, "only a plan asks for programs"
    row = stand_ins.corpus_row(config.model, setup.shape.lengths)
    tokens = [row] * config.reference_examples
    return Use(
        "train step",
        lambda: programs.sft_step(Model(params, decoder, None), config.reference, tokens, setup.batching),
        config.reference.epochs * len(tokens),
        programs.held_while_training(params, own_start=True, judged=False),
    )


def _abstract_data(setup: Setup) -> Data:
    """The data of a plan: as many rows as there will be, each as long as it may be."""
    config, shape = setup.config, setup.shape
    assert shape is not None, "only a plan asks for shapes"
    if config.data.world is not None:
        train, held_out = config.data.num_pairs, config.data.num_held_out
    else:
        held_out = max(1, round(shape.pairs * config.data.held_out_fraction))
        train = max(1, shape.pairs - held_out)
        train = min(train, config.data.max_train_pairs or train)
        held_out = min(held_out, config.data.max_held_out_pairs or held_out)
    pair = stand_ins.pair(config.model, shape.lengths)
    prompts = max(config.sampling.num_prompts, config.num_test_prompts)
    pairs = preferences.abstract(config.dimensions, pair, train, held_out, prompts)
    return Data(pairs, Template("plain", "{prompt}"))
