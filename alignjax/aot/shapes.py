"""The arrays of a run as shapes with shardings: a model of any size without its weights."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alignjax.alignment.step import TrainState, init_state, state_shardings
from alignjax.data.batches import PairBatch, ResponseBatch, Rows
from alignjax.data.buckets import Bucket
from alignjax.models import (
    DecoderConfig,
    Lora,
    Mixture,
    Model,
    ScoreModel,
    body_config,
    decoder_shardings,
    identity_normalizer,
    init_lora,
    init_params,
    lora_axes,
)
from alignjax.models.placement import head_shardings
from alignjax.models.score_model import Kind
from alignjax.runtime.mesh import batch_sharding, replicated, tree_shardings

Tree = Any


def decoder_params(config: DecoderConfig, mesh: Mesh, *, where: str, dtype: str | None = None) -> Tree:
    """Parameters of a decoder as `load_pretrained` lays them out on a mesh.

    Args:
      config: the decoder's shape.
      mesh: the devices.
      where: the model, for messages.
      dtype: of the stored parameters; None: the compute type, which is what `load_pretrained` stores.

    Raises:
      InputError: sizes that the mesh does not divide.
    """
    shapes = _bare_params(config)
    stored = jnp.dtype(config.dtype if dtype is None else dtype)

    def as_read(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        keeps = leaf.dtype == jnp.int8 or path[-1].key == "kernel_scale"  # see `models.quantized`
        return leaf if keeps else jax.ShapeDtypeStruct(leaf.shape, stored)

    shapes = jax.tree_util.tree_map_with_path(as_read, shapes)
    return placed(shapes, decoder_shardings(config, mesh, where=where))


@functools.lru_cache(maxsize=64)  # a search asks for the same few again and again
def _bare_params(config: DecoderConfig) -> Tree:
    return jax.eval_shape(functools.partial(init_params, config=config), jax.random.key(0))


def adapters(
    config: DecoderConfig, mesh: Mesh, *, rank: int, alpha: float, targets: tuple[str, ...], dropout: float
) -> Lora:
    """Adapters as `init_lora` and `place_lora` make them; arguments as of `init_lora`."""
    make = functools.partial(
        init_lora, config=config, rank=rank, alpha=alpha, targets=targets, dropout=dropout
    )
    lora = jax.eval_shape(make, jax.random.key(0))
    return lora.replace(params=placed(lora.params, tree_shardings(lora_axes(targets), mesh)))


def mixture(adapters: Sequence[Lora], mesh: Mesh) -> Mixture:
    """A mixture as `mixture_of` makes it of these adapters, which have the same shape.

    Args:
      adapters: shapes of G adapters.
      mesh: the devices.
    """
    count = len(adapters)

    def stacked(leaf: Any) -> Any:
        spec = PartitionSpec(None, *leaf.sharding.spec)
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype, sharding=sharding)

    params = jax.tree.map(stacked, adapters[0].params)
    return Mixture(params, everywhere((count,), jnp.float32, mesh))


def model(config: DecoderConfig, mesh: Mesh, *, where: str) -> Model:
    """A model as `load_pretrained` reads it, without a tokenizer; the rest as in `decoder_params`."""
    return Model(params=decoder_params(config, mesh, where=where), config=config)


def score_model(config: DecoderConfig, mesh: Mesh, *, kind: Kind, where: str) -> ScoreModel:
    """A score model read from a folder: a body of its own under a head; a cost's head has a bias.

    Args:
      config: the decoder's shape.
      mesh: the devices.
      kind: reward or cost.
      where: the model, for messages.

    Raises:
      InputError: sizes that the mesh does not divide.
    """
    return score_model_on(model(config, mesh, where=where), mesh, kind=kind)


def score_model_on(body: Model, mesh: Mesh, *, kind: Kind) -> ScoreModel:
    """A score model as `init_score_model` makes it: the arrays of the body are the policy's own.

    Args:
      body: the policy, whose vocabulary head is left out.
      mesh: the devices.
      kind: reward or cost.
    """
    normalizer = jax.eval_shape(identity_normalizer)
    return ScoreModel(
        params={
            "decoder": {name: tree for name, tree in body.params.items() if name != "head"},
            "head": score_head(body.config, mesh, bias=kind == "cost"),
        },
        normalizer=jax.tree.map(lambda leaf: everywhere(leaf.shape, leaf.dtype, mesh), normalizer),
        config=body_config(body.config),
        kind=kind,
        tokenizer=body.tokenizer,
    )


def score_head(config: DecoderConfig, mesh: Mesh, *, bias: bool) -> dict[str, Any]:
    """The head of a score model, float32."""
    head = {"kernel": jax.ShapeDtypeStruct((config.hidden_size, 1), jnp.float32)}
    if bias:
        head["bias"] = jax.ShapeDtypeStruct((1,), jnp.float32)
    return placed(head, head_shardings(head, mesh))


def train_state(trainable: Tree, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, as `init_state` makes it; its arrays are copies of `trainable`."""
    bare = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), trainable)
    state = jax.eval_shape(lambda tree, key: init_state(tree, tx, key), bare, jax.random.key(0))
    own = jax.tree.map(lambda leaf: leaf.sharding, trainable)
    return placed(state, state_shardings(state, tx, own, mesh))


def pair_batch(size: int, bucket: Bucket, mesh: Mesh, *, signs: bool = False) -> PairBatch:
    """A batch of pairs whose rows are divided over the devices.

    Args:
      size: B.
      bucket: shape of the rows.
      mesh: the devices.
      signs: whether the batch says which responses are safe, which cost models learn from.
    """
    numbers, places = (_rows((size,), kind, mesh) for kind in (np.float32, np.int32))
    sign = numbers if signs else None
    return PairBatch(token_rows(size, bucket, mesh), numbers, numbers, numbers, numbers, places, sign, sign)


def response_batch(size: int, bucket: Bucket, mesh: Mesh, *, count: int = 1) -> ResponseBatch:
    """A batch of rows with `count` responses each; other arguments as of `pair_batch`."""
    numbers, places = (_rows((size * count,), kind, mesh) for kind in (np.float32, np.int32))
    return ResponseBatch(token_rows(size, bucket, mesh), numbers, places)


def token_rows(size: int, bucket: Bucket, mesh: Mesh) -> Rows:
    """Rows of tokens and targets."""
    wide = _rows((size, bucket.tokens), np.int32, mesh)
    narrow = _rows((size, bucket.targets), np.int32, mesh)
    return Rows(wide, wide, wide, wide, narrow, narrow, narrow)


def everywhere(shape: tuple[int, ...], kind: Any, mesh: Mesh) -> Any:
    """An array of which every device holds a full copy."""
    return jax.ShapeDtypeStruct(shape, kind, sharding=replicated(mesh))


def random_key(mesh: Mesh) -> Any:
    """A PRNG key on every device."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))


def prompt_rows(shape: tuple[int, ...], mesh: Mesh) -> Any:
    """[N, ...] int32, prompts divided over the devices."""
    return _rows(shape, np.int32, mesh)


def placed(shapes: Tree, shardings: Tree) -> Tree:
    """Shapes with shardings; `shardings` is a tree like `shapes`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def copies(tree: Tree) -> Tree:
    """The shapes of a copy of these arrays; a plan tells arrays apart by the identity of their shapes."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def bytes_per_device(tree: Tree) -> int:
    """Bytes that one device holds of a tree of shapes with shardings; 0 for None."""
    return sum(_part_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _part_bytes(leaf: Any) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape)
    size = int(np.prod(shape, dtype=np.int64))
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return size * 8  # two words of threefry
    return size * leaf.dtype.itemsize


def _rows(shape: tuple[int, ...], kind: Any, mesh: Mesh) -> Any:
    return jax.ShapeDtypeStruct(shape, kind, sharding=batch_sharding(mesh))
