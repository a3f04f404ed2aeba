"""Lloyd's iterations: a pass sums the members of each centre, then an update moves the centres."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bias_clip.stages._rows import (
    AxisName,
    Picked,
    Rows,
    compute_dtype,
    fold_rows,
    pick_lowest,
    total,
)

# A squared distance below this many epsilons of the squared length is only rounding.
ROUNDING = 8.0
# Without it a TPU multiplies float32 in bfloat16, which cannot tell close centres apart.
_EXACT = jax.lax.Precision.HIGHEST
_PART = 1024  # rows that `add_rows` takes at a time: 3 MB of 768 numbers


class Sums(NamedTuple):
    """The result of a pass: all that an update needs. Adding the sums of parts gives the whole."""

    x: Float[Array, "k d"]  # of weighted members
    weight: Float[Array, " k"]
    counts: Int[Array, " k"]  # members of positive weight
    inertia: Float[Array, ""]  # weighted squared distances to the nearest centre
    square: Float[Array, ""]  # weighted squared lengths


class Run(NamedTuple):
    """Where the iterations ended."""

    centres: Float[Array, "k d"]
    sums: Sums  # of the rows, assigned to these centres
    iterations: Int[Array, ""]


def nearest(
    x: Float[Array, "b d"], centres: Float[Array, "k d"]
) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
    """The nearest centre of each row (ties: the lowest number), and min_c |c|^2 / 2 - <x, c>."""
    x = x.astype(centres.dtype)
    # |x|^2 is the same for all centres, so the nearest one has the smallest |c|^2 / 2 - <x, c>. Half of the
    # distance, so that the product needs no factor.
    halves = (centres**2).sum(1) / 2 - jnp.matmul(x, centres.T, precision=_EXACT)
    return jnp.argmin(halves, axis=1).astype(jnp.int32), halves.min(1)


def squared_distances(rows: Rows, y: Float[Array, "m d"]) -> Float[Array, "b m"]:
    """Squared distances; 0 when rounding cannot tell two rows apart, and of rows that are not finite.

    In float32 rounding cannot tell below about a thousandth of their length.
    """
    lengths = rows.squares[:, None] + (y**2).sum(1)
    squares = lengths - 2 * jnp.matmul(rows.x.astype(y.dtype), y.T, precision=_EXACT)
    # The difference of nearly equal lengths is rounding only. As 0 it does not make k-means++ draw a row
    # twice. NaN is not greater either: rows of weight 0, which may hold it, stay out of all sums.
    return jnp.where(squares > ROUNDING * jnp.finfo(y.dtype).eps * lengths, squares, 0)


def sum_members(
    rows: Rows, centres: Float[Array, "k d"], *, chunk_size: int, axis_name: AxisName
) -> tuple[Sums, Int[Array, " b"], Float[Array, " b"]]:
    """One pass: sums over all devices, and labels and squared distances of the local rows.

    A row of weight 0 enters no sum, even if it is not finite. It has a label and a distance of 0.
    """
    k, d = centres.shape
    # Made from the rows: `shard_map` needs the carry to vary over devices from the start.
    zero = jnp.zeros_like(rows.x[0, 0], dtype=centres.dtype)
    zeros = jnp.zeros((k, d), zero.dtype) + zero
    init = Sums(
        x=zeros,
        weight=jnp.zeros(k, zero.dtype) + zero,
        counts=jnp.zeros(k, jnp.int32) + zero.astype(jnp.int32),
        inertia=zero,
        square=zero,
    )

    def step(sums: Sums, chunk: Rows) -> tuple[Sums, tuple[Array, Array]]:
        labels, halves = nearest(chunk.x, centres)
        there = chunk.weights > 0
        x = chunk.x.astype(centres.dtype)
        # Selected out, not multiplied by weight 0: 0 * NaN would spoil all sums.
        squares = jnp.where(there, chunk.squares, 0)
        # |x - c|^2 = |x|^2 + 2 (|c|^2 / 2 - <x, c>); rounding can leave it slightly below 0.
        distances = jnp.where(there, jnp.maximum(squares + 2 * halves, 0), 0)
        of_members, weight, counts = jax.lax.platform_dependent(
            x, labels, chunk.weights, zeros, cpu=add_rows, default=multiply_rows
        )
        found = Sums(
            x=of_members,
            weight=weight,
            counts=counts,
            inertia=(chunk.weights * distances).sum(),
            square=(chunk.weights * squares).sum(),
        )
        return jax.tree.map(jnp.add, sums, found), (labels, distances)

    sums, (labels, distances) = fold_rows(step, init, rows, chunk_size)
    return total(sums, axis_name), labels, distances


def multiply_rows(
    x: Float[Array, "b d"], labels: Int[Array, " b"], weights: Float[Array, " b"], zeros: Any
) -> tuple[Float[Array, "k d"], Float[Array, " k"], Int[Array, " k"]]:
    """Per label: the weighted sum of rows, of weights, and the rows of positive weight, by a product.

    As many operations as the distances take. An accelerator has them to spare, and its sums by
    scatter are slow (TPU) or depend on the order in which threads finish (GPU).
    """
    there = weights > 0
    # A row of the identity for each row: [b, k], one per member and 0 elsewhere.
    members = labels[:, None] == jnp.arange(zeros.shape[0])
    shares = jnp.where(members, weights[:, None], 0)
    # Selected before the product, because 0 * NaN would spoil the sums of all centres.
    total = jnp.matmul(shares.T, jnp.where(there[:, None], x, 0), precision=_EXACT)
    return total, shares.sum(0), (members & there[:, None]).sum(0, dtype=jnp.int32)


def add_rows(
    x: Float[Array, "b d"], labels: Int[Array, " b"], weights: Float[Array, " b"], zeros: Any
) -> tuple[Float[Array, "k d"], Float[Array, " k"], Int[Array, " k"]]:
    """The same by adding each row to its label's sum: one pass over the rows, whatever their number k."""
    k = zeros.shape[0]
    # A row of weight 0 goes to label k, which does not exist: it is dropped, whatever it holds.
    to = jnp.where(weights > 0, labels, k)

    def step(sums: tuple, part: tuple) -> tuple[tuple, tuple]:
        x, to, weights = part
        found = (
            jax.ops.segment_sum(weights[:, None] * x, to, k),
            jax.ops.segment_sum(weights, to, k),
            jax.ops.segment_sum(jnp.ones_like(to), to, k),
        )
        return jax.tree.map(jnp.add, sums, found), ()

    start = (zeros, zeros[:, 0], zeros[:, 0].astype(jnp.int32))
    # In parts that stay in the cache while they are weighted and added. Sums of parts also round less
    # than one long sum.
    return fold_rows(step, start, (x, to, weights), _PART)[0]


def lloyd(
    rows: Rows,
    centres: Float[Array, "k d"],
    *,
    max_iterations: Int[Array, ""] | int,
    tol: Float[Array, ""] | float,
    empty: str,
    spherical: bool,
    chunk_size: int,
    axis_name: AxisName,
) -> Run:
    """Alternates passes and updates until the centres rest, at most `max_iterations` times."""
    k, d = centres.shape
    centres = centres.astype(compute_dtype(rows.x))

    def iteration(state: tuple) -> tuple:
        """A pass, then an update unless the centres rest or `max_iterations` is reached."""
        centres, _, shift, rest, iterations, _ = state
        sums, labels, distances = sum_members(
            rows, centres, chunk_size=chunk_size, axis_name=axis_name
        )
        # `~(shift > rest)` and not `shift <= rest`: a NaN shift must end the loop too.
        done = (iterations >= max_iterations) | ((iterations > 0) & ~(shift > rest))
        filled = sums
        if empty == "farthest":
            filled = jax.lax.cond(
                (sums.weight == 0).any() & ~done,
                lambda: fill_empty(sums, farthest(rows, labels, distances, k, axis_name)),
                lambda: sums,
            )
        # The last pass only sums and labels: the centres returned are those that the sums belong to.
        new = jnp.where(done, centres, means(filled, centres, spherical=spherical))
        shift = ((new - centres) ** 2).sum()
        return new, sums, shift, resting(sums, tol), iterations + ~done, done

    zero = jnp.zeros((), centres.dtype)
    _, nothing, none = empty_run(k, d, centres.dtype)
    state = (centres, nothing, zero, zero, none, jnp.zeros((), bool))
    centres, sums, _, _, iterations, _ = jax.lax.while_loop(
        lambda state: ~state[-1], iteration, state
    )
    return Run(centres, sums, iterations)


def empty_run(k: int, d: int, dtype: Any) -> Run:
    """Zeros, to start a loop with."""
    square, vector, zero = (jnp.zeros(shape, dtype) for shape in ((k, d), (k,), ()))
    sums = Sums(square, vector, jnp.zeros(k, jnp.int32), zero, zero)
    return Run(square, sums, jnp.zeros((), jnp.int32))


def means(sums: Sums, centres: Float[Array, "k d"], *, spherical: bool) -> Float[Array, "k d"]:
    """The new centres; a centre without members stays."""
    some = (sums.weight > 0)[:, None]
    # The inner `where` avoids 0 / 0 in the branch that is not taken.
    new = jnp.where(some, sums.x / jnp.where(some, sums.weight[:, None], 1), centres)
    if not spherical:
        return new
    # Means of unit vectors are shorter than 1. A mean of 0 has no direction, so its centre stays.
    norms = jnp.linalg.norm(new, axis=1, keepdims=True)
    return jnp.where(norms > 0, new / jnp.where(norms > 0, norms, 1), centres)


def resting(sums: Sums, tol: Float[Array, ""] | float) -> Float[Array, ""]:
    """The squared shift of all centres at which they rest: tol times the mean column variance."""
    weight = sums.weight.sum()
    mean = sums.x.sum(0) / weight
    # Mean |x|^2 less |mean x|^2 is the variance summed over columns; `maximum` is for rounding.
    return tol * jnp.maximum(sums.square / weight - (mean**2).sum(), 0) / mean.shape[0]


def farthest(
    rows: Rows,
    labels: Int[Array, " b"],
    distances: Float[Array, " b"],
    number: int,
    axis_name: AxisName,
) -> Picked:
    """The rows that are farthest from their centre, the farthest first.

    Scores are negative squared distances; the payload is (row, weight, label).
    """
    scores = jnp.where(rows.weights > 0, -distances, jnp.inf)
    return pick_lowest(scores, rows.ids, (rows.x, rows.weights, labels), number, axis_name)


def fill_empty(sums: Sums, far: Picked) -> Sums:
    """Moves the farthest row to the first empty cluster, the next one to the second, and so on.

    Rows that lie on their centre are not moved; then there are fewer distinct rows than clusters.
    """
    x, weight, label = far.payload
    x = x.astype(sums.x.dtype)
    k = sums.weight.shape[0]
    # A row closer than rounding can tell is not off its centre.
    off = -far.scores > ROUNDING * jnp.finfo(x.dtype).eps * (x**2).sum(1)
    empty = sums.weight == 0
    moved = (jnp.arange(k) < empty.sum()) & off & jnp.isfinite(far.scores)
    to = jnp.argsort(~empty, stable=True)  # the empty ones first, by number
    # +1 for the cluster that takes the row, -1 for the one that gives it: [k moved rows, k clusters].
    change = jax.nn.one_hot(to, k, dtype=x.dtype) - jax.nn.one_hot(label, k, dtype=x.dtype)
    change = jnp.where(moved, weight, 0)[:, None] * change
    left = sums.weight + change.sum(0)
    return sums._replace(
        x=sums.x + jnp.matmul(change.T, jnp.where(moved[:, None], x, 0), precision=_EXACT),
        # A cluster that gave all its weight holds only rounding; it must count as empty.
        weight=jnp.where(left > ROUNDING * jnp.finfo(x.dtype).eps * sums.weight, left, 0),
    )
