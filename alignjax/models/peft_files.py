"""Reads and writes LoRA adapters in PEFT's layout, and models that are a base and an adapter."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alignjax.errors import InputError
from alignjax.models.config import DecoderConfig
from alignjax.models.families import FAMILIES
from alignjax.models.huggingface import load_pretrained as load_whole
from alignjax.models.huggingface import open_safetensors, read_json, write_folder
from alignjax.models.lora import TARGETS, Lora, merge_lora, projection_sizes
from alignjax.models.model import Model
from alignjax.models.quantized import round_params
from alignjax.models.weights import check_tensors, projection_modules
from alignjax.runtime.processes import to_host

ADAPTER_CONFIG, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ADAPTER_NAME = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.([\w.]+)\.lora_([AB])\.weight")
_REFUSED = (
    "use_dora",
    "use_qalora",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)
_REPEATS = re.compile(r"[*+}]")
# Ways to begin a training that leave the base as it is; all others (pissa, olora, corda, loftq) change it.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


class _Module(NamedTuple):
    """Rank and scale of one adapted projection of one layer."""

    rank: int
    scale: float


def load_pretrained(
    path: str | Path,
    *,
    dtype: str = "float32",
    remat: bool | str = False,
    mesh: Mesh | None = None,
    adapter: str | Path | None = None,
    weights: str = "float",
) -> Model:
    """Reads a Hugging Face folder, a .gguf file, or a PEFT folder, whose adapter is merged into its base.

    Args:
      path: the folder, or a file whose name ends in .gguf. A folder with adapter_config.json is an adapter on
        the base that it names, a local folder.
      dtype: of the parameters and of the matrix products, "float32" or "bfloat16".
      remat: what the backward pass computes again, of `DecoderConfig`; True: all of a layer.
      mesh: the devices that the weights are divided over; each part is read directly to its device. None: the
        default device.
      adapter: PEFT folder that is merged into the model of `path`; None: none.
      weights: how the layers' matrices are held, "float" (as `dtype`) or "int8"; see `quantized`. Adapters
        are merged before they are rounded.

    Returns:
      The model; `tokenizer` is None if no folder has one.

    Raises:
      InputError: a missing or damaged file, an unsupported architecture, setting or adapter, a base that is
        no local folder, tensors that do not fit, or a mesh that does not divide the model.
    """
    base, own = base_of(path)
    adapters = [Path(one) for one in (own, adapter) if one]
    read_as = "float" if adapters else weights
    model = load_whole(base, dtype=dtype, remat=remat, mesh=mesh, weights=read_as)
    for one in adapters:
        # Each weight is added to in float32 and rounded once.
        merged = merge_lora(model.params, load_adapter(one, model.config))
        model = model.replace(params=merged)
    if model.config.weights == weights:
        return model
    config = dataclasses.replace(model.config, weights=weights)
    return model.replace(params=round_params(config, model.params), config=config)


def base_of(path: str | Path) -> tuple[Path, Path | None]:
    """The folder or file with the weights, and the PEFT folder on top of them, if `path` is one.

    Raises:
      InputError: a PEFT folder whose base is no local folder.
    """
    path = Path(path)
    if not (path / ADAPTER_CONFIG).is_file():
        return path, None
    named = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    if isinstance(named, str) and named:
        for base in (Path(named), path / named):
            if _is_file(base / "config.json") and not _is_file(base / ADAPTER_CONFIG):
                return base, path
    raise InputError(
        f"{path / ADAPTER_CONFIG}: base_model_name_or_path is {named!r}, which is no folder with a model "
        f"here; give the base as the model and {path} as its adapter (--adapter=, or config.model.adapter)."
    )


def _is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or half of a surrogate pair
        return False


def save_adapter(
    lora: Lora, config: DecoderConfig, path: str | Path, *, base_model: str | None = None
) -> None:
    """Writes adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors.

    Args:
      lora: the adapters.
      config: the decoder they belong to.
      path: the folder; made if it does not exist.
      base_model: name or path of the base model, recorded for PEFT.

    Raises:
      InputError: the adapters have different ranks, the family's adapters cannot be written, or the path is a
        file.
    """
    _refuse_layout(config, str(path))
    layers = lora.params["layers"]
    ranks = {pair["a"].shape[2] for pair in layers.values()}
    if len(ranks) != 1:
        raise InputError(f"{path}: adapters of ranks {sorted(ranks)} cannot be saved together; use one rank.")
    rank = ranks.pop()
    tensors, joined = {}, dict[str, int]()
    modules = {n: parts for n, parts in projection_modules(config).items() if set(parts) & set(layers)}
    for name, parts in modules.items():
        a, b = _of_module(parts, layers, config)
        if a.shape[2] != rank:
            joined[name] = a.shape[2]
        for i in range(config.num_layers):
            prefix = f"base_model.model.model.layers.{i}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(a[i].T)
            tensors[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(b[i].T)
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": lora.scale * rank,
        "lora_dropout": lora.dropout,
        "rank_pattern": joined,
        "alpha_pattern": {name: lora.scale * r for name, r in joined.items()},
        "target_modules": [name.split(".")[1] for name in modules],
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    write_folder(Path(path), {ADAPTER_CONFIG: fields}, {_ADAPTER_WEIGHTS: tensors})


def _refuse_layout(config: DecoderConfig, where: str) -> None:
    """Refuses families whose tensors PEFT adapts in another layout than `in` to `out`."""
    family = FAMILIES[config.architecture]
    if family.stored_in_out or family.fused_by_head:
        raise InputError(
            f"{where}: adapters of {config.architecture} are not supported in PEFT's layout; merge them into "
            "the model."
        )


def _of_module(
    parts: tuple[str, ...], layers: Mapping[str, Any], config: DecoderConfig
) -> tuple[np.ndarray, np.ndarray]:
    """A [L, in, R] and B [L, R, out] of a module that holds the rows of several projections.

    Projections with one and the same A keep it, as when the adapter was read from such a module. Otherwise
    the product is the same with all A side by side and B block-diagonal, at the sum of the ranks.
    """
    pairs = {part: {k: to_host(v) for k, v in layers[part].items()} for part in parts if part in layers}
    first = next(iter(pairs.values()))["a"]
    shared = all(np.array_equal(first, pair["a"]) for pair in pairs.values())
    a = first if shared else np.concatenate([pair["a"] for pair in pairs.values()], axis=2)
    sizes = projection_sizes(config)
    b = np.zeros((len(a), a.shape[2], sum(sizes[part][1] for part in parts)), first.dtype)
    row, column = 0, 0
    for part in parts:
        if part in pairs:
            own = pairs[part]["b"]
            b[:, row : row + own.shape[1], column : column + own.shape[2]] = own
            row += 0 if shared else own.shape[1]
        column += sizes[part][1]
    return a, b


def load_adapter(path: str | Path, config: DecoderConfig) -> Lora:
    """Reads adapters in PEFT's layout.

    Modules of different rank or scale (rank_pattern, alpha_pattern) become one adapter of the largest rank:
    smaller ones are padded with zeros, and B is multiplied by the ratio of scales. Both are exact.

    Args:
      path: the folder with adapter_config.json and adapter_model.safetensors.
      config: the decoder they are for.

    Returns:
      The adapters, float32.

    Raises:
      InputError: a missing file, an adapter other than plain LoRA, one that belongs to a changed base, or
        tensors that do not fit the decoder.
    """
    path = Path(path)
    fields = read_json(path / ADAPTER_CONFIG)
    _refuse_layout(config, str(path))
    module = _modules(fields, str(path / ADAPTER_CONFIG))
    dropout = fields.get("lora_dropout") or 0.0
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(
            f"{path / ADAPTER_CONFIG}: lora_dropout is {dropout!r}, must be at least 0 and below 1."
        )
    with open_safetensors([path / _ADAPTER_WEIGHTS]) as (shapes, read):
        found = _adapted_modules(shapes, config, path)
        sizes = projection_sizes(config)
        expected, modules = {}, dict[str, _Module]()
        for module_name, parts in found.items():
            fan_in, out = sizes[parts[0]][0], sum(sizes[part][1] for part in parts)
            for i in range(config.num_layers):
                name = f"model.layers.{i}.{module_name}"
                modules[name] = one = module(name)
                a, b = (f"base_model.model.{name}.lora_{letter}.weight" for letter in "AB")
                if fields.get("layers_to_transform") is not None and a not in shapes and b not in shapes:
                    continue  # this layer is not adapted
                expected |= {a: (one.rank, fan_in), b: (out, one.rank)}
        check_tensors(expected, shapes, ignore=lambda _: False, where=str(path / _ADAPTER_WEIGHTS))
        scale = module("").scale
        layers = {}
        for module_name, parts in found.items():
            a, b = _stacked(module_name, config.num_layers, modules, scale, expected, read)
            ends = list(itertools.accumulate(sizes[part][1] for part in parts))
            for part, own in zip(parts, np.split(b, ends[:-1], axis=2), strict=True):
                layers[part] = {"a": jnp.asarray(a), "b": jnp.asarray(own)}
        layers = {target: layers[target] for target in TARGETS if target in layers}
    return Lora(params={"layers": layers}, scale=scale, dropout=dropout)


def _stacked(
    module_name: str,
    num_layers: int,
    modules: Mapping[str, _Module],
    scale: float,
    shapes: Mapping[str, tuple[int, int]],
    read: Callable[[str], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """A [L, in, r] and B [L, r, out] of one module; what a layer does not adapt is zero."""
    of_layers = [f"model.layers.{i}.{module_name}" for i in range(num_layers)]
    names = [tuple(f"base_model.model.{name}.lora_{letter}.weight" for letter in "AB") for name in of_layers]
    fan_in, out = next((shapes[a][1], shapes[b][0]) for a, b in names if a in shapes)
    rank = max(module.rank for module in modules.values())
    a = np.zeros((num_layers, fan_in, rank), np.float32)
    b = np.zeros((num_layers, rank, out), np.float32)
    for i, (first, second) in enumerate(names):
        if first not in shapes:
            continue
        own = modules[of_layers[i]]
        a[i, :, : own.rank] = read(first).astype(np.float32).T
        b[i, : own.rank] = read(second).astype(np.float32).T
        if own.scale != scale:
            b[i] *= np.float32(own.scale / scale)
    return a, b


def _modules(fields: dict[str, Any], where: str) -> Callable[[str], _Module]:
    """Rank and scale by a module's name, as PEFT finds them; refuses what is no plain LoRA on its base."""
    if fields.get("peft_type") != "LORA":
        raise InputError(f'{where}: peft_type is {fields.get("peft_type")!r}; only "LORA" is supported.')
    for name in _REFUSED:
        if fields.get(name):
            raise InputError(f"{where}: {name} is {fields[name]!r}; only plain LoRA is supported.")
    if fields.get("bias", "none") != "none":
        raise InputError(f'{where}: bias is {fields["bias"]!r}; only "none" is supported.')
    init = fields.get("init_lora_weights", True)
    if not any(init is known or (isinstance(init, str) and init == known) for known in _INITS):
        raise InputError(
            f"{where}: init_lora_weights is {init!r}, which changes the weights of the base, so that the "
            "adapter does not fit the published base; convert it to plain LoRA when saving it in PEFT "
            "(save_pretrained with path_initial_model_for_weight_conversion)."
        )
    rank = _positive(fields.get("r"), "r", where)
    if rank != int(rank):
        raise InputError(f"{where}: r is {fields['r']!r}; must be a whole number.")
    alpha = _positive(fields.get("lora_alpha"), "lora_alpha", where)
    patterns = {name: fields.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    for name, pattern in patterns.items():
        if not isinstance(pattern, dict):
            raise InputError(f"{where}: {name} is {pattern!r}; must be an object.")
        for key, value in pattern.items():
            _positive(value, f"{name}.{key}", where)
            if len(key) > 500 or ")*" in key or ")+" in key or "){" in key or len(_REPEATS.findall(key)) > 3:
                raise InputError(
                    f"{where}: {name} has {key[:60]!r}, whose repetitions could be tried for ever."
                )
            try:
                re.compile(key)
            except (re.error, RecursionError, OverflowError) as error:
                raise InputError(f"{where}: {name} has {key!r}, no regular expression ({error}).") from None
    root = bool(fields.get("use_rslora"))

    def module(name: str) -> _Module:
        r = int(_of_pattern(patterns["rank_pattern"], name, rank))
        a = float(_of_pattern(patterns["alpha_pattern"], name, alpha))
        return _Module(r, a / r**0.5 if root else a / r)

    return module


def _of_pattern(pattern: Mapping[str, float], name: str, default: float) -> float:
    """The value of the first expression that matches the end of a module's name, as in PEFT."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _positive(value: Any, name: str, where: str) -> float:
    # A rank beyond 2^20 is a damaged file: a smaller number of rows is all that a projection has.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 2**20:
        raise InputError(f"{where}: {name} is {value!r}; must be a positive number.")
    return value


def _adapted_modules(
    shapes: Mapping[str, tuple[int, ...]], config: DecoderConfig, path: Path
) -> dict[str, tuple[str, ...]]:
    """The modules of `projection_modules` that the file adapts."""
    modules = projection_modules(config)
    found = set()
    for name in shapes:
        match = _ADAPTER_NAME.fullmatch(name)
        if match is None or match[2] not in modules:
            raise InputError(
                f"{path / _ADAPTER_WEIGHTS}: tensor {name} is not an adapter of a known projection "
                f"({', '.join(modules)}); use an adapter of these alone."
            )
        found.add(match[2])
    if not found:
        raise InputError(f"{path / _ADAPTER_WEIGHTS}: holds no adapter; get the file again.")
    return {name: parts for name, parts in modules.items() if name in found}
