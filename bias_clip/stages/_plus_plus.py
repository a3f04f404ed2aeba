"""k-means++: draws centres one after another, by squared distance to the nearest one so far."""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, Integer, Key

from bias_clip.stages._lloyd import squared_distances
from bias_clip.stages._rows import AxisName, Rows, compute_dtype, fold_rows, pick_lowest, total


def random_key(seed: Int[Array, ""] | int) -> Key[Array, ""]:
    """A key for the generator that `race` uses, independent of the default of the process."""
    return jax.random.key(seed, impl="threefry2x32")


def race(key: Key[Array, ""], ids: Integer[Array, " b"]) -> Float[Array, " b"]:
    """One exponential variate per row, a function of only the key and the row's id.

    The row with the lowest `race / weight` is a draw with probabilities proportional to the weights;
    the next lowest is such a draw from the rest. The id is the counter of the generator, so a row
    costs one block of 64 bits. All bits matter near 0, where the lowest of many rows lies.
    """
    counters = jnp.concatenate([ids.astype(jnp.uint32), jnp.zeros_like(ids, jnp.uint32)])
    # Called directly: `jax.random` numbers the entries of an array from 0, and would give a device's rows
    # the numbers of another's.
    words = threefry_2x32(jax.random.key_data(key), counters)
    high, low = words.reshape(2, -1).astype(jnp.float32)
    # high + low / 2^32 keeps small values exact to 2^-64; `minimum` catches rounding up to 1.
    return -jnp.log1p(-jnp.minimum((high + low * 2.0**-32) * 2.0**-32, 1.0))


def plus_plus(
    rows: Rows, key: Key[Array, ""], k: int, *, chunk_size: int, axis_name: AxisName
) -> tuple[Float[Array, "k d"], Int[Array, ""]]:
    """Draws k centres from the rows; like scikit-learn, takes the best of 2 + log k candidates.

    Candidates are distinct rows here (the lowest of one race); scikit-learn draws with replacement.

    Returns: the centres, and the number of distinct ones: below k if the rows have no more.
    """
    # Like scikit-learn's; not more than k, because the candidates are distinct rows.
    trials = min(2 + int(math.log(k)), k)
    dtype = compute_dtype(rows.x)

    def draw(j: Array, chances: Array) -> Array:
        times = race(jax.random.fold_in(key, j), rows.ids).astype(dtype)
        # No chance for rows on a centre, nor for rows of weight 0.
        scores = jnp.where(chances > 0, times / jnp.where(chances > 0, chances, 1), jnp.inf)
        picked = pick_lowest(scores, rows.ids, rows.x, trials, axis_name)
        return picked.payload.astype(dtype)

    def distances(centres: Array) -> Array:
        def step(_: tuple, chunk: Rows) -> tuple[tuple, Array]:
            return (), squared_distances(chunk, centres)

        return fold_rows(step, (), rows, chunk_size)[1]

    def add(near: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        chances = rows.weights * near
        candidates = draw(j, chances)
        nearer = jnp.minimum(near[:, None], distances(candidates))
        # Each candidate is judged by the weighted distances that would remain: all trials in one pass.
        potentials = total((rows.weights[:, None] * nearer).sum(0), axis_name)
        best = jnp.argmin(potentials)
        return nearer[:, best], (candidates[best], total(chances.sum(), axis_name) > 0)

    # Farther than any row, but its product with a weight stays finite, unlike that of infinity and 0.
    nobody = jnp.full_like(rows.weights, jnp.finfo(dtype).max ** 0.5)
    _, (centres, fresh) = jax.lax.scan(add, nobody, jnp.arange(k))
    return centres, fresh.sum(dtype=jnp.int32)
