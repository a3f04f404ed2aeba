"""Rows in chunks and on several devices: how to walk them, and how to find the lowest ones."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

AxisName: TypeAlias = str | tuple[str, ...] | None
Tree: TypeAlias = Any
Values: TypeAlias = Array | np.ndarray


class Rows(NamedTuple):
    """The rows of this device, with ids that are unique over all devices."""

    x: Float[Array, "b d"]
    weights: Float[Array, " b"]
    ids: Int[Array, " b"]  # from 0, in the order of the devices
    squares: Float[Array, " b"]  # squared lengths: the same in each pass, so they are made once


class Picked(NamedTuple):
    """Some rows, in the order of their scores; equal on all devices."""

    scores: Float[Array, " m"]  # infinite when no row was left
    payload: Tree  # of these rows


def make_rows(
    x: Float[Array, "b d"], weights: Shaped[Array, " b"] | None, axis_name: AxisName
) -> Rows:
    """Numbers the rows; without weights each has weight 1."""
    dtype = compute_dtype(x)
    # Made from the rows, so that under `shard_map` it varies over devices as they do.
    ones = jnp.ones_like(x[:, 0], dtype=dtype)
    first = 0 if axis_name is None else x.shape[0] * jax.lax.axis_index(axis_name)
    ids = first + jnp.arange(x.shape[0], dtype=jnp.int32)
    weights = ones if weights is None else ones * weights.astype(dtype)
    return Rows(x, weights, ids, (x.astype(dtype) ** 2).sum(1))


def compute_dtype(x: Float[Values, "..."]) -> Any:
    """The dtype of all arithmetic: at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def fold_rows(
    step: Callable[[Tree, Tree], tuple[Tree, Tree]], init: Tree, rows: Tree, chunk_size: int
) -> tuple[Tree, Tree]:
    """Walks local rows chunk by chunk: `carry, out = step(carry, chunk)`.

    Chunks are sliced when needed, and the last one may be shorter. So all rows are never copied,
    neither to split nor to pad them.

    Returns: the last carry, and the joined outputs (one per row).
    """
    number = jax.tree.leaves(rows)[0].shape[0]
    size = min(chunk_size, number)
    whole = number // size

    def cut(first: Any, size: int) -> Tree:
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, size), rows)

    # One chunk needs no loop.
    if whole == 1 and number == size:
        return step(init, rows)
    carry, out = jax.lax.scan(
        lambda carry, i: step(carry, cut(i * size, size)), init, jnp.arange(whole)
    )
    # [chunks, size, ...] to [rows, ...].
    out = jax.tree.map(lambda a: a.reshape(whole * size, *a.shape[2:]), out)
    if number > whole * size:
        carry, rest = step(carry, cut(whole * size, number - whole * size))
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, rest)
    return carry, out


def total(tree: Tree, axis_name: AxisName) -> Tree:
    """Sums over devices."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def pick_lowest(
    scores: Float[Array, " b"],
    ids: Int[Array, " b"],
    payload: Tree,
    number: int,
    axis_name: AxisName,
) -> Picked:
    """The `number` rows with the lowest scores over all devices; ties go to the lowest ids.

    Each device sends the scores of its lowest rows; after that only the winning rows travel.
    """

    def pick(scores: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        here = jnp.argmin(scores)
        return jnp.where(ids == ids[here], jnp.inf, scores), (scores[here], here)

    own, places = jax.lax.scan(pick, scores, length=number)[1]
    rows = jax.tree.map(lambda a: a[places], payload)
    if axis_name is None:
        return Picked(own, rows)
    all_scores, all_ids = _gather((own, ids[places]), axis_name)
    # Sorted by score, then by id: ties end the same way on every number of devices.
    won = jnp.lexsort((all_ids, all_scores))[:number]
    mine = all_ids[won][:, None] == ids[places]
    place = mine.argmax(1)

    def send(a: Array) -> Array:
        there = mine.any(1).reshape(-1, *(1,) * (a.ndim - 1))
        # Exactly one device has the row; the others add zeros.
        return jnp.where(there, a[place], jnp.zeros_like(a))

    return Picked(all_scores[won], jax.lax.psum(jax.tree.map(send, rows), axis_name))


def _gather(tree: Tree, axis_name: str | tuple[str, ...]) -> Tree:
    """Joins the vectors of all devices.

    It uses a sum and not an all-gather because `shard_map` knows a sum to be equal on all devices.
    """

    def place(a: Array) -> Array:
        table = jnp.zeros((jax.lax.axis_size(axis_name), *a.shape), a.dtype)
        return table.at[jax.lax.axis_index(axis_name)].set(a)

    return jax.tree.map(jnp.ravel, jax.lax.psum(jax.tree.map(place, tree), axis_name))
