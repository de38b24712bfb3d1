"""The arrays of a run as shapes with shardings: a model of any size without its weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from alignjax.alignment.step import TrainState, init_state, state_shardings
from alignjax.data.batches import PairBatch, ResponseBatch, Rows
from alignjax.data.buckets import Bucket
from alignjax.models import DecoderConfig, Lora, decoder_shardings, init_lora, init_params, lora_axes
from alignjax.models.placement import head_shardings
from alignjax.runtime.mesh import batch_sharding, replicated, tree_shardings

Tree = Any


def decoder_params(config: DecoderConfig, mesh: Mesh, *, where: str, dtype: str | None = None) -> Tree:
    """Parameters as `load_pretrained` has them on a mesh.

    Args:
      config: the decoder's shape.
      mesh: the devices.
      where: the model, for messages.
      dtype: of the stored parameters; None: the compute type, as they are read.

    Raises:
      InputError: sizes that the mesh does not divide.
    """
    shapes = jax.eval_shape(functools.partial(init_params, config=config), jax.random.key(0))
    stored = jnp.dtype(config.dtype if dtype is None else dtype)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, stored), shapes)
    return placed(shapes, decoder_shardings(config, mesh, where=where))


def adapters(
    config: DecoderConfig, mesh: Mesh, *, rank: int, alpha: float, targets: tuple[str, ...], dropout: float
) -> Lora:
    """Adapters as `init_lora` and `place_lora` make them; arguments as of `init_lora`."""
    make = functools.partial(
        init_lora, config=config, rank=rank, alpha=alpha, targets=targets, dropout=dropout
    )
    lora = jax.eval_shape(make, jax.random.key(0))
    return lora.replace(params=placed(lora.params, tree_shardings(lora_axes(targets), mesh)))


def score_head(config: DecoderConfig, mesh: Mesh, *, bias: bool) -> dict[str, Any]:
    """The head of a score model, float32."""
    head = {"kernel": jax.ShapeDtypeStruct((config.hidden_size, 1), jnp.float32)}
    if bias:
        head["bias"] = jax.ShapeDtypeStruct((1,), jnp.float32)
    return placed(head, head_shardings(head, mesh))


def train_state(trainable: Tree, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """State before the first step, laid out as `init_state` lays it out."""
    bare = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), trainable)
    state = jax.eval_shape(lambda tree, key: init_state(tree, tx, key), bare, jax.random.key(0))
    own = jax.tree.map(lambda leaf: leaf.sharding, trainable)
    return placed(state, state_shardings(state, tx, own, mesh))


def pair_batch(size: int, bucket: Bucket, mesh: Mesh, *, signs: bool = False) -> PairBatch:
    """A batch of pairs, its rows divided over the devices.

    Args:
      size: B.
      bucket: shape of the rows.
      mesh: the devices.
      signs: pairs say which responses are safe, as costs learn from.
    """
    numbers, places = (_rows((size,), kind, mesh) for kind in (np.float32, np.int32))
    sign = numbers if signs else None
    return PairBatch(token_rows(size, bucket, mesh), numbers, numbers, numbers, numbers, places, sign, sign)


def response_batch(size: int, bucket: Bucket, mesh: Mesh) -> ResponseBatch:
    """A batch of responses; arguments as of `pair_batch`."""
    numbers, places = (_rows((size,), kind, mesh) for kind in (np.float32, np.int32))
    return ResponseBatch(token_rows(size, bucket, mesh), numbers, places)


def token_rows(size: int, bucket: Bucket, mesh: Mesh) -> Rows:
    """Rows of tokens and targets."""
    wide = _rows((size, bucket.tokens), np.int32, mesh)
    narrow = _rows((size, bucket.targets), np.int32, mesh)
    return Rows(wide, wide, wide, wide, narrow, narrow, narrow)


def everywhere(shape: tuple[int, ...], kind: Any, mesh: Mesh) -> Any:
    """An array that every device has whole."""
    return jax.ShapeDtypeStruct(shape, kind, sharding=replicated(mesh))


def random_key(mesh: Mesh) -> Any:
    """A PRNG key on every device."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))


def prompt_rows(shape: tuple[int, ...], mesh: Mesh) -> Any:
    """[N, ...] int32, divided by prompt."""
    return _rows(shape, np.int32, mesh)


def placed(shapes: Tree, shardings: Tree) -> Tree:
    """Shapes with the shardings of a tree like theirs."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def bytes_per_device(tree: Tree) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return sum(_part_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _part_bytes(leaf: Any) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape)
    size = int(np.prod(shape, dtype=np.int64))
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return size * 8  # two words of threefry
    return size * leaf.dtype.itemsize


def _rows(shape: tuple[int, ...], kind: Any, mesh: Mesh) -> Any:
    return jax.ShapeDtypeStruct(shape, kind, sharding=batch_sharding(mesh))
