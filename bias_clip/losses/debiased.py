"""Contrastive losses that remove false negatives from the negatives, in expectation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bias_clip.losses._blocks import AxisName
from bias_clip.losses._checks import (
    Scalar,
    as_scalar,
    check_choice,
    check_not_negative,
    check_prior,
    check_scalars,
)
from bias_clip.losses._explicit import on_explicit_axes
from bias_clip.losses._pairs import (
    Rows,
    is_negative,
    log_weights,
    logit_dtype,
    make_row_pairs,
    nan_if_lost,
    nothing,
    pair_logits,
    positive_logits,
    prior_of_anchors,
)
from bias_clip.losses._together import Needs, by_folds, fold, fold_both


def _plain_debiased_loss(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    *,
    prior: float,
    scale: float,
    concentration: float = 0.0,
) -> Float[Array, " b"]:
    """Both losses at their plainest: one device, no weights, exponentials. The oracle of the tests."""
    z, n, other = scale * za @ zb.T, len(za) - 1, 1 - jnp.eye(len(za))
    own = jnp.exp(jnp.diag(z))

    def one_way(z):
        importance = other * jnp.exp(concentration * z)
        total = n * (importance * jnp.exp(z)).sum(axis=1) / importance.sum(axis=1)
        rest = jnp.maximum((total - prior * n * own) / (1 - prior), n * jnp.exp(-scale))
        return jnp.log(own + rest) - jnp.log(own)

    return (one_way(z) + one_way(z.T)) / 2


@on_explicit_axes(per_row=True)
@by_folds
def debiased_loss(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    *,
    prior: Float[Array, ""] | Float[Array, " b"] | Float[Array, "b 2"] | float,
    scale: Scalar,
    negatives: str = "cross",
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """Debiased contrastive loss, with one class probability or one per example.

    ::

        z_ij   = scale * <za_i, zb_j>,   S_i = sum over negatives j of w_j exp(z_ij)
        N_i    = sum over negatives j of w_j
        G_i    = max((S_i - prior_i N_i exp(z_ii)) / (1 - prior_i), N_i exp(-scale))
        a_i    = log(exp(z_ii) + G_i) - z_ii
        loss_i = (a_i + b_i) / 2, b_i the same with the towers swapped

    A random candidate has the anchor's class with probability `prior`. Subtracting that share of the
    positive's exponential from the sum leaves, on average, the true negatives. With one prior per
    example this holds for every class of a long-tailed data set. A constant prior subtracts too
    little for frequent classes and too much for rare ones.

    The floor is the smallest sum that N_i negatives can have; the scale gets no gradient through it.
    `debiased_floor` tells how often it binds: there, the negatives of the row get no gradient. Prior
    0 is InfoNCE. The prior refers to the distribution of the candidates after weighting.

    Memory: one block of logits at a time, b x b under `axis_name`, b x chunk_size with chunks. The
    backward pass recomputes them. Without either, the plain b x b product is kept. Negatives from
    both towers take four such products.

    Args:
      za: unit-norm embeddings of one tower or view; local rows under `axis_name`.
      zb: unit-norm embeddings of the other one; row i is the partner of row i of `za`.
      prior: probability in [0, 1) that a random candidate is of the anchor's class: a number, one
        per row, or two per row, for its anchor in `za` and its anchor in `zb`.
      scale: multiplies the cosine; 1/temperature.
      negatives: "cross" takes them from the anchor's other tower (image and text), "both" from
        both towers (two views of one kind; the authors' setting).
      cells: negatives count only within the anchor's cell; any integers.
      candidate_weights: w_j, non-negative; None is 1. The anchors' weights enter in
        `weighted_mean`; weight 0 in both equals removing the row.
      chunk_size: candidates per chunk; need not divide the batch. None for no chunks.
      axis_name: mapped axis or tuple of axes over which the batch is spread; None for one device.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings).

    Raises:
      ValueError: a prior outside [0, 1) or of another shape; unknown negatives; embeddings of
        different shapes or not [rows, width]; a scale that is not one number; cells that are not
        one integer per row; weights that are negative or not one per row; chunk_size below 1.
        The values of traced arrays are not checked.

    Reference:
      Chuang et al.: Debiased Contrastive Learning, 2020 (constant prior, negatives="both");
      Wang et al.: Sample-Specific Debiasing for Better Image-Text Models, 2023 (a prior per
      example). The image-text form, negatives="cross", is this project's.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import debiased_loss
      >>> rows = debiased_loss(jnp.eye(3), jnp.eye(3), prior=jnp.array([0.0, 0.1, 0.3]), scale=1.0)
      >>> print([round(float(x), 4) for x in rows])
      [0.5514, 0.4671, 0.2395]
    """
    sums = yield from _negative_sums(
        za, zb, scale, None, negatives, cells, candidate_weights, chunk_size, axis_name
    )
    return nan_if_lost(_debias(sums, prior, scale, candidate_weights)[0], candidate_weights, za, zb)


@on_explicit_axes(per_row=True)
@by_folds
def hard_debiased_loss(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    *,
    prior: Float[Array, ""] | Float[Array, " b"] | Float[Array, "b 2"] | float,
    concentration: Scalar,
    scale: Scalar,
    negatives: str = "cross",
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """Debiased contrastive loss that gives nearer negatives a larger weight.

    This is `debiased_loss` with S_i replaced by

    ::

        H_i = N_i (sum_j w_j exp((1 + concentration) z_ij)) / (sum_j w_j exp(concentration z_ij))

    over the same negatives. Gradients flow through the importance exp(concentration z_ij), as in the
    authors' code. Concentration 0 is `debiased_loss`. Because the importances are normalised,
    candidate weights equal subsampling only when there are many candidates.

    Args:
      za: as `debiased_loss`.
      zb: as `debiased_loss`.
      prior: as `debiased_loss`.
      concentration: multiplies the logits in the importance; 0 or more.
      scale: as `debiased_loss`.
      negatives: as `debiased_loss`.
      cells: as `debiased_loss`.
      candidate_weights: as `debiased_loss`.
      chunk_size: as `debiased_loss`.
      axis_name: as `debiased_loss`.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings).

    Raises:
      ValueError: a concentration that is not one number of 0 or more; and as `debiased_loss`.

    Reference:
      Robinson et al.: Contrastive Learning with Hard Negative Samples, 2021.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import hard_debiased_loss
      >>> z = jnp.eye(3)
      >>> rows = hard_debiased_loss(z, z, prior=0.1, concentration=1.0, scale=1.0)
      >>> print([round(float(x), 4) for x in rows])
      [0.4671, 0.4671, 0.4671]
    """
    sums = yield from _negative_sums(
        za, zb, scale, concentration, negatives, cells, candidate_weights, chunk_size, axis_name
    )
    return nan_if_lost(_debias(sums, prior, scale, candidate_weights)[0], candidate_weights, za, zb)


@on_explicit_axes(per_row=True)
@by_folds
def debiased_floor(
    za: Float[Array, "b d"],
    zb: Float[Array, "b d"],
    *,
    prior: Float[Array, ""] | Float[Array, " b"] | Float[Array, "b 2"] | float,
    scale: Scalar,
    concentration: Scalar | None = None,
    negatives: str = "cross",
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """Tells where the floor of `debiased_loss` binds; with a concentration, of `hard_debiased_loss`.

    Takes the arguments of the loss. When both are in one `jit`, the sums are computed once. Log the
    `weighted_mean` of the rows: if it is near 1, the prior is too large.

    Returns:
      For each local row, the share of its two anchors at the floor: 0, 0.5 or 1.

    Raises:
      ValueError: as `debiased_loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import debiased_floor
      >>> z, prior = jnp.eye(3), jnp.array([0.0, 0.3, 0.9])
      >>> print([float(x) for x in debiased_floor(z, z, prior=prior, scale=1.0)])
      [0.0, 1.0, 1.0]
    """
    sums = yield from _negative_sums(
        za, zb, scale, concentration, negatives, cells, candidate_weights, chunk_size, axis_name
    )
    return _debias(sums, prior, scale, candidate_weights)[1]


class _Sums(NamedTuple):
    """For the 2b anchors, those of `za` first: positive logit, log(S), and N."""

    own: Float[Array, " a"]
    log_sum: Float[Array, " a"]
    weight: Float[Array, " a"]


def _debias(
    sums: _Sums, prior, scale, candidate_weights
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Losses of the rows and shares at the floor, each the mean of a row's two anchors."""
    own, log_sum, weight = sums
    check_prior(own.shape[0] // 2, prior)
    prior = prior_of_anchors(prior, own, candidate_weights)
    # The logit of cosine -1: no negative can lie farther away.
    floor_logit = -jax.lax.stop_gradient(as_scalar(scale, own.dtype))
    # Exponentials relative to the largest: at scale 100 they overflow float32 otherwise.
    # Without gradient, because the shift cancels in the loss.
    top = jax.lax.stop_gradient(jnp.maximum(own, log_sum))
    positive = jnp.exp(own - top)
    # exp(z_ii), S_i and G_i of the docstring, all divided by exp(top).
    corrected = (jnp.exp(log_sum - top) - prior * weight * positive) / (1 - prior)
    floor = weight * jnp.exp(floor_logit - top)
    # Select with `where`, not `maximum`: at a tie `maximum` would split the gradient.
    floored = corrected < floor
    loss = jnp.log(positive + jnp.where(floored, floor, corrected)) - (own - top)
    # [2b] anchors, those of `za` first, to [2, b]: the mean joins the two anchors of each row.
    return loss.reshape(2, -1).mean(axis=0), floored.astype(own.dtype).reshape(2, -1).mean(axis=0)


def _negative_sums(
    za, zb, scale, concentration, negatives, cells, candidate_weights, chunk_size, axis_name
) -> Needs[_Sums]:
    """Folds the negatives of all anchors; `concentration` None means 0, without its extra sums."""
    check_choice(negatives=negatives, choices=("cross", "both"))
    check_scalars(scale=scale)
    check_not_negative(concentration=0.0 if concentration is None else concentration)
    a, b = yield from make_row_pairs(
        za,
        zb,
        names=("za", "zb"),
        labels=None,
        cells=cells,
        candidate_weights=candidate_weights,
        axis_name=axis_name,
    )
    dtype = logit_dtype(a.z.dtype)
    scale = as_scalar(scale, dtype)
    beta = None if concentration is None else as_scalar(concentration, dtype)
    own = positive_logits(a, b, scale)
    if negatives == "both":
        own = jnp.concatenate([own, own])
        # Anchors and candidates are the rows of both towers. A row's partner has its number, so
        # `is_negative` leaves it out like the row itself.
        both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)
        start = _start(own, beta)

        def one_sided(stats, candidates):
            return _add(stats, both, candidates, pair_logits(both, candidates, scale), beta, 1)

        stats = yield from fold(one_sided, start, both, axis_name, chunk_size=chunk_size)
    else:
        start = _start(own, beta)

        # One set of logits: sums along a row belong to the row of za, which stays; sums along a column
        # belong to the row of zb, which travels.
        def two_sided(stats, candidates, candidate_stats):
            s = pair_logits(a, candidates, scale)
            return (
                _add(stats, a, candidates, s, beta, 1),
                _add(candidate_stats, a, candidates, s, beta, 0),
            )

        stats = yield from fold_both(
            two_sided, start, b, start, axis_name, join=_join, chunk_size=chunk_size
        )
        stats = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), *stats)
        own = jnp.concatenate([own, own])
    return _Sums(own, _log_sum(stats), stats.weight)


class _Stats(NamedTuple):
    """Sums over negatives; the sums of exponentials are kept as logarithms."""

    log_sum: Float[Array, " b"]
    log_importance: Float[Array, " b"] | None
    weight: Float[Array, " b"]


def _start(own: Float[Array, " b"], beta) -> _Stats:
    # The logarithm of an empty sum. Made from local rows, as `fold_blocks` asks.
    none = jnp.full_like(own, nothing(own.dtype))
    return _Stats(none, None if beta is None else none, jnp.zeros_like(own))


def _add(stats: _Stats, a: Rows, b: Rows, s: Float[Array, "b c"], beta, axis: int) -> _Stats:
    """Adds the candidates along `axis` of the logits, the rows of b (1) or a (0), to `stats`."""
    negative = is_negative(a, b)
    # The candidate's weight counts: along axis 1 that of b's rows, along axis 0 that of a's.
    weights = b.weights if axis == 1 else a.weights
    weights = jnp.ones_like(s, shape=s.shape[axis]) if weights is None else weights
    log_weight = jnp.expand_dims(log_weights(weights), 1 - axis)

    def plus(log_sum, factor):
        masked = jnp.where(negative, factor * s + log_weight, nothing(s.dtype))
        # Chunks join as logarithms, because a plain running sum of exponentials would overflow at scale 100.
        return jnp.logaddexp(log_sum, jax.nn.logsumexp(masked, axis=axis))

    return _Stats(
        plus(stats.log_sum, 1.0 if beta is None else 1 + beta),
        None if beta is None else plus(stats.log_importance, beta),
        stats.weight + jnp.where(negative, jnp.expand_dims(weights, 1 - axis), 0).sum(axis=axis),
    )


def _join(a: _Stats, b: _Stats) -> _Stats:
    """The sums over two sets of negatives taken together."""
    log_sum, log_importance = jax.tree.map(jnp.logaddexp, a[:2], b[:2])
    return _Stats(log_sum, log_importance, a.weight + b.weight)


def _log_sum(stats: _Stats) -> Float[Array, " a"]:
    """log(S), or log(H) = log(N) + log(mean, by importance, of exp(logit))."""
    if stats.log_importance is None:
        return stats.log_sum
    return log_weights(stats.weight) + stats.log_sum - stats.log_importance
