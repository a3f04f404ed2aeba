"""The rows of a batch: which pairs of them are positives and negatives, and their logits."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bias_clip.losses._blocks import AxisName, row_numbers
from bias_clip.losses._checks import check_ids, check_pairs, check_weights
from bias_clip.losses._together import Needs, once


class Rows(NamedTuple):
    """The local rows of one tower and all that defines their pairs; travels round the ring as one."""

    z: Float[Array, "b d"]
    number: Int[Array, " b"]
    labels: Int[Array, " b"] | None
    cells: Int[Array, " b"] | None
    weights: Float[Array, " b"] | None


def make_rows(
    z: Float[Array, "b d"],
    *,
    labels: Int[Array, " b"] | None,
    cells: Int[Array, " b"] | None,
    candidate_weights: Float[Array, " b"] | None,
    axis_name: AxisName,
) -> Needs[Rows]:
    """Checks and numbers the local rows of one tower."""
    rows = z.shape[0]
    check_ids(rows, labels=labels, cells=cells)
    check_weights(rows, candidate_weights=candidate_weights)
    weights = candidate_weights
    z = yield from once(without_lost, z, weights)
    if weights is not None:
        # Weights may be integers or booleans; their logarithms are added to logits, so they take that dtype.
        weights = yield from once(jnp.asarray, weights, logit_dtype(z.dtype))
    numbers = yield from once(row_numbers, rows, axis_name)
    return Rows(z, numbers, labels, cells, weights)


def make_row_pairs(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    *,
    names: tuple[str, str] = ("zimg", "ztxt"),
    **of_rows: Any,
) -> Needs[tuple[Rows, Rows]]:
    """Checks a batch of pairs and returns the rows of both towers, in one dtype."""
    za, zb = jnp.asarray(za), jnp.asarray(zb)
    check_pairs(**dict(zip(names, (za, zb), strict=True)))
    # Rows of both towers are contracted and, with negatives from both, concatenated: one dtype.
    dtype = jnp.promote_types(za.dtype, zb.dtype)
    a = yield from make_rows(za.astype(dtype), **of_rows)
    # Row i of both towers is one example, so everything but the embedding is shared.
    return a, a._replace(z=(yield from once(without_lost, zb.astype(dtype), a.weights)))


def without_lost(
    x: Float[Array, " b *d"], weights: Float[Array, " b"] | None
) -> Float[Array, " b *d"]:
    """`x` with zeros in the lost rows: those of weight 0 that hold NaN, infinity or a huge number.

    Weight 0 multiplies a row out of every sum only if the row is finite: 0 * NaN is NaN, in the value
    and, through the products with other rows, in their gradients.
    """
    lost = _is_lost(x, weights)
    if lost is None:
        return x
    return jnp.where(jnp.expand_dims(lost, tuple(range(1, x.ndim))), 0, x)


def nan_if_lost(
    values: Float[Array, " b"], weights: Float[Array, " b"] | None, *towers: Float[Array, "b d"]
) -> Float[Array, " b"]:
    """`values` with NaN, which has no gradient, for rows that `without_lost` replaced.

    Such a row is out of the others' sums. Its own value stays NaN, so that a mean that gives it a
    weight as an anchor shows the error.
    """
    for z in towers:
        lost = _is_lost(jnp.asarray(z), weights)
        values = values if lost is None else jnp.where(lost, jnp.nan, values)
    return values


def _is_lost(
    x: Float[Array, " b *d"], weights: Float[Array, " b"] | None
) -> Bool[Array, " b"] | None:
    if weights is None:
        return None
    dtype = logit_dtype(x.dtype)
    square = jnp.sum(jnp.square(x.astype(dtype)), axis=tuple(range(1, x.ndim)))
    # Not `square > most`, which a NaN would pass. The root of the largest number leaves room for the
    # products of two rows and the scale.
    return (jnp.asarray(weights) == 0) & ~(square <= math.sqrt(jnp.finfo(dtype).max))


def is_other(anchors: Rows, candidates: Rows) -> Bool[Array, "b c"]:
    """Which candidates are neither the anchor itself nor padding of a chunk."""
    # `fold_blocks` pads the last chunk with zeros, and real rows are numbered from 1.
    return ~_equal(anchors.number, candidates.number) & (candidates.number > 0)[None, :]


def is_same_label(anchors: Rows, candidates: Rows) -> Bool[Array, "b c"] | bool:
    """Which candidates are known to have the anchor's label."""
    if anchors.labels is None or candidates.labels is None:
        return False
    # Where labels are equal, testing one of them for -1 (unknown) tests both.
    return _equal(anchors.labels, candidates.labels) & (candidates.labels >= 0)[None, :]


def is_same_cell(anchors: Rows, candidates: Rows) -> Bool[Array, "b c"] | bool:
    """Which candidates are in the anchor's cell; without cells, all of them."""
    if anchors.cells is None or candidates.cells is None:
        return True
    return _equal(anchors.cells, candidates.cells)


def is_negative(anchors: Rows, candidates: Rows) -> Bool[Array, "b c"]:
    """Which candidates are negatives: other rows of another label, within the anchor's cell."""
    # The number also excludes the partner in the other tower: row i of both has the same number.
    other = is_other(anchors, candidates)
    if anchors.labels is not None:
        other &= ~is_same_label(anchors, candidates)
    return other & is_same_cell(anchors, candidates)


def logit_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of logits: at least float32, also for bfloat16 embeddings."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def pair_logits(
    anchors: Rows, candidates: Rows, scale: Float[Array, ""] | Float[Array, "b 1"]
) -> Float[Array, "b c"]:
    """`scale * <anchor i, candidate j>` for all pairs; scale may be one number per anchor."""
    z = anchors.z
    # Scaling rows saves a pass over the logits, but would round bfloat16 rows a second time.
    early = z.dtype == scale.dtype
    dimensions = (((1,), (1,)), ((), ()))
    dots = jax.lax.dot_general(
        scale * z if early else z, candidates.z, dimensions, preferred_element_type=scale.dtype
    )
    return dots if early else scale * dots


def negative_logits(
    anchors: Rows, candidates: Rows, scale: Float[Array, ""]
) -> Float[Array, "b c"]:
    """`pair_logits` of the negatives, and `nothing` for all other pairs."""
    logits = pair_logits(anchors, candidates, scale)
    return jnp.where(is_negative(anchors, candidates), logits, nothing(scale.dtype))


def positive_logits(a: Rows, b: Rows, scale: Float[Array, ""]) -> Float[Array, " b"]:
    """`scale * <a_i, b_i>`, the logits of the positives."""
    # As a batched product, because a sum of bfloat16 products would round each of them first.
    dimensions = (((1,), (1,)), ((0,), (0,)))
    return scale * jax.lax.dot_general(a.z, b.z, dimensions, preferred_element_type=scale.dtype)


def nothing(dtype: jnp.dtype) -> Float[Array, ""]:
    """Stands for log(0): finite, because the difference of two infinities has a NaN gradient."""
    # A quarter of the lowest number: the sum of a masked logit and a masked log weight stays finite.
    return jnp.asarray(jnp.finfo(dtype).min / 4, dtype)


def log_weights(weights: Float[Array, " b"]) -> Float[Array, " b"]:
    """log(weights), with `nothing` and no gradient at 0."""
    # The inner `where` keeps log(0) out of the branch that is not taken, which is differentiated too.
    present = weights > 0
    return jnp.where(present, jnp.log(jnp.where(present, weights, 1)), nothing(weights.dtype))


def prior_of_anchors(
    prior, own: Float[Array, " a"], weights: Float[Array, " b"] | None
) -> Float[Array, " a"]:
    """The class prior of each of the 2b anchors of b pairs; those of the first tower come first."""
    prior = jnp.asarray(prior, own.dtype)
    # A lost row may hold NaN in its prior too, and 0 * NaN would reach the other gradients.
    prior = prior if prior.ndim == 0 else without_lost(prior, weights)
    if prior.ndim < 2:
        return jnp.concatenate([jnp.broadcast_to(prior, own.shape[0] // 2)] * 2)
    return prior.T.reshape(-1)


def _equal(a: Int[Array, " b"], b: Int[Array, " c"]) -> Bool[Array, "b c"]:
    return a[:, None] == b[None, :]
