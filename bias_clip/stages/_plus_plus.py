"""k-means++: centres drawn one after another, by squared distance to the nearest so far."""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, Integer, Key

from bias_clip.stages._lloyd import squared_distances
from bias_clip.stages._rows import AxisName, Rows, compute_dtype, fold_rows, pick_lowest, total


def random_key(seed: Int[Array, ""] | int) -> Key[Array, ""]:
    """A key of the generator that `race` runs, whatever is the process's default."""
    return jax.random.key(seed, impl="threefry2x32")


def race(key: Key[Array, ""], ids: Integer[Array, " b"]) -> Float[Array, " b"]:
    """Exponential variates, one a row: a function of the key and the row's id alone.

    The row of lowest `race / weight` is drawn with a chance in proportion to its weight, the next
    lowest likewise of the rest. The id is the counter of the generator, so a row costs one block of
    it: 64 bits, all of which count near 0, where races of many rows are won.
    """
    counters = jnp.concatenate([ids.astype(jnp.uint32), jnp.zeros_like(ids, jnp.uint32)])
    words = threefry_2x32(jax.random.key_data(key), counters)
    high, low = words.reshape(2, -1).astype(jnp.float32)
    return -jnp.log1p(-jnp.minimum((high + low * 2.0**-32) * 2.0**-32, 1.0))


def plus_plus(
    rows: Rows, key: Key[Array, ""], k: int, *, chunk_size: int, axis_name: AxisName
) -> tuple[Float[Array, "k d"], Int[Array, ""]]:
    """Draws k centres from the rows; as scikit-learn, the best of 2 + log k candidates each time.

    Candidates are distinct rows here (one race, its first arrivals), there with replacement.

    Returns: the centres, and how many are distinct: less than k if the rows have no more.
    """
    trials = min(2 + int(math.log(k)), k)
    dtype = compute_dtype(rows.x)

    def draw(j: Array, chances: Array) -> Array:
        times = race(jax.random.fold_in(key, j), rows.ids).astype(dtype)
        scores = jnp.where(chances > 0, times / jnp.where(chances > 0, chances, 1), jnp.inf)
        picked = pick_lowest(scores, rows.ids, rows.x, trials, axis_name)
        return picked.payload.astype(dtype)

    def distances(centres: Array) -> Array:
        def step(_: tuple, chunk: Rows) -> tuple[tuple, Array]:
            x = jnp.where(chunk.weights[:, None] > 0, chunk.x, 0)
            return (), squared_distances(x, centres)

        return fold_rows(step, (), rows, chunk_size)[1]

    def add(near: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        chances = rows.weights * near
        candidates = draw(j, chances)
        nearer = jnp.minimum(near[:, None], distances(candidates))
        potentials = total((rows.weights[:, None] * nearer).sum(0), axis_name)
        best = jnp.argmin(potentials)
        return nearer[:, best], (candidates[best], total(chances.sum(), axis_name) > 0)

    nobody = jnp.full_like(rows.weights, jnp.finfo(dtype).max ** 0.5)  # farther than any row
    _, (centres, fresh) = jax.lax.scan(add, nobody, jnp.arange(k))
    return centres, fresh.sum(dtype=jnp.int32)
