"""FairKL: makes similarities distributed alike, whether or not two rows share the bias attribute."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bias_clip.losses._blocks import AxisName
from bias_clip.losses._checks import (
    check_bias_labels,
    check_choice,
    check_labels,
    check_not_negative,
    check_pairs,
    check_temperature,
)
from bias_clip.losses._explicit import on_explicit_axes
from bias_clip.losses._pairs import (
    Rows,
    is_other,
    logit_dtype,
    make_rows,
    pair_logits,
    positive_logits,
    without_lost,
)
from bias_clip.losses._together import Needs, by_folds, fold, once

_FORMS = ("kl", "jeffreys", "mean", "authors")


def _plain_fairkl(
    z: Float[Array, "b d"], labels: Int[Array, " b"], bias_labels: Int[Array, " b"]
) -> Float[Array, ""]:
    """The form "kl" at its plainest: all pairs at once, no weights. The oracle of the tests."""
    # Of unit vectors: |x - y|^2 = 2 - 2 <x, y>.
    distance, other = 2 - 2 * z @ z.T, ~jnp.eye(len(z), dtype=bool)
    label, bias = (x[:, None] == x for x in (labels, bias_labels))
    total = jnp.zeros(())
    for side in (other & label, other & ~label):
        aligned, conflicting = distance[side & bias], distance[side & ~bias]
        means, variances = zip(
            *((x.mean(), x.var(ddof=1)) for x in (aligned, conflicting)), strict=True
        )
        total += _kl(means[0], variances[0], means[1], variances[1])
    return total


@on_explicit_axes(per_row=False)
@by_folds
def fairkl(
    z: Float[Array, "b d"],
    labels: Int[Array, " b"],
    bias_labels: Int[Array, " b"] | Float[Array, "b k"],
    *,
    form: str = "kl",
    z_other: Float[Array, "b d"] | None = None,
    weights: Float[Array, " b"] | None = None,
    variance_guard: float = 0.0,
    temperature: float = 1.0,
    kld: float = 1.0,
    chunk_size: int | None = 1024,
    axis_name: AxisName = None,
) -> Needs[Float[Array, ""]]:
    """FairKL: a penalty on similarities that reveal whether two rows share the bias attribute.

    All ordered pairs of different rows fall into four groups: same label or not (positive,
    negative), and on each side same bias or not (aligned, conflicting). Let m and v be the mean and
    the unbiased variance of a group's squared distances 2 - 2 <z_i, z_j>. The value is the sum over
    both sides of:

    ::

        "kl"        KL(N(m_a, v_a) || N(m_c, v_c)), a aligned, c conflicting
        "jeffreys"  the same and its reverse
        "mean"      (m_a - m_c)^2
        "authors"   what the authors' code computes, see below

    A side with an empty group contributes nothing. "kl" and "jeffreys" need two pairs with different
    distances in each group. Rows of unknown label or bias (-1) are in no pair.

    Memory: one chunk of similarities at a time, between local rows and those of every device. The
    backward pass recomputes them. Groups are merged from counts, means and squared deviations. So
    no b x b matrix is built, and no digits are lost in the difference of two large sums.

    Args:
      z: embeddings of unit norm; local rows under `axis_name`.
      labels: integer target per row.
      bias_labels: integer bias attribute per row, or probabilities [b, k] of its values: a pair is
        then aligned with weight p_i . p_j and conflicting with the rest. If a row's probabilities sum
        to less than 1, the rest belongs to a value that no other row has. They receive gradients.
      form: one of the above.
      z_other: the other tower; row i is the partner of row i of `z`. Pairs are then across the
        towers and include a row's own pair. None for pairs within `z`.
      weights: non-negative; pair (i, j) counts w_i w_j; 0 equals removing the row. None is 1.
      variance_guard: added to both variances of "kl" and "jeffreys", against a group whose
        distances are nearly equal; 1e-4 is a sane value for training.
      temperature: divides the similarities; for the form "authors" only.
      kld: weight of the standard deviations; for the form "authors" only.
      chunk_size: candidates per chunk; need not divide the batch. None for all local rows.
      axis_name: mapped axis or tuple of axes over which the batch is spread; None for one device.

    Returns:
      One number, equal on all devices.

    Raises:
      ValueError: an unknown form; embeddings of different shapes or not [rows, width]; labels that
        are not one integer per row; bias_labels that are neither that nor floats [rows, k];
        weights that are negative or not one per row; a negative variance_guard; chunk_size below
        1. The values of traced arrays are not checked.

    Reference:
      Barbano, Dufumier, Tartaglione, Grangetto, Gori: Unbiased Supervised Contrastive Learning,
      2023, equations 9 and 10, pooled over the anchors of the batch.
    Differs from the authors' code: it has no KL. form="authors" is theirs: similarities instead of
      distances; own pairs among the positive-aligned ones; squared gaps of means and of standard
      deviations over the whole zero-filled matrix; two linear terms; and empty groups as zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import fairkl
      >>> z, labels = jnp.eye(4)[jnp.array([0, 0, 1, 1])], jnp.zeros(4, int)
      >>> print(float(fairkl(z, labels, jnp.array([0, 0, 1, 1]), form="mean")))
      4.0
    """
    check_choice(form=form, choices=_FORMS)
    check_temperature(temperature)
    check_not_negative(variance_guard=variance_guard, kld=kld)
    z = jnp.asarray(z)
    other = z if z_other is None else jnp.asarray(z_other)
    check_pairs(z=z, z_other=other)
    check_labels(z.shape[0], labels=labels)
    check_bias_labels(z.shape[0], bias_labels)
    own_pairs = z_other is not None or form == "authors"
    dtype = jnp.promote_types(z.dtype, other.dtype)
    # The labels travel in `block`, beside the bias labels. In the rows too they would travel twice.
    rows = yield from make_rows(
        z.astype(dtype), labels=labels, cells=None, candidate_weights=weights, axis_name=axis_name
    )
    rows = rows._replace(labels=None)
    scale = jnp.ones((), logit_dtype(dtype)) / (temperature if form == "authors" else 1.0)
    if bias_labels.ndim == 2:
        bias_labels = without_lost(bias_labels, weights)
    others = yield from once(without_lost, other.astype(dtype), rows.weights)
    block = (rows._replace(z=others), labels, bias_labels)

    def step(moments, block):
        # Moments of similarities; `_sides` turns them into those of distances, 2 - 2 s.
        s = pair_logits(rows, block[0], scale)
        pairs = _pair_weights(rows, block[0], own_pairs)
        parts = [_moments(s, w) for w in _groups(pairs, labels, bias_labels, *block[1:])]
        return _merge(moments, jax.tree.map(lambda *x: jnp.stack(x), *parts))

    local = positive_logits(rows, block[0], scale)
    # One number per group, made from local rows: `shard_map` needs the start to vary over devices.
    empty = _Moments(*[jnp.zeros_like(local, shape=4)] * 4)
    moments = yield from fold(step, empty, block, axis_name, chunk_size=chunk_size)
    # So far each device has the pairs of its own rows with all others.
    moments = _over_devices(moments, axis_name)
    if form == "authors":
        w = jnp.ones_like(local) if rows.weights is None else rows.weights
        total = jnp.stack([w.sum(), (w**2).sum()])
        total = total if axis_name is None else jax.lax.psum(total, axis_name)
        return _authors(moments, total[0] ** 2, total[1] ** 2, kld)
    # Within a tower each pair occurs twice, as (i, j) and (j, i).
    copies = 1 if own_pairs else 2
    return _sides(moments, form, variance_guard, copies)


class _Moments(NamedTuple):
    """For each group: sum of weights, sum of squared weights, mean, and squared deviations."""

    weight: Float[Array, "..."]
    square: Float[Array, "..."]
    mean: Float[Array, "..."]
    deviation: Float[Array, "..."]


def _pair_weights(rows: Rows, candidates: Rows, own_pairs: bool) -> Float[Array, "b c"]:
    """w_i w_j of all valid pairs, 0 for the others."""
    # Across towers the pair (i, i) is two different embeddings, so only padding is left out.
    present = (candidates.number > 0)[None, :] if own_pairs else is_other(rows, candidates)
    pairs = jnp.broadcast_to(present, (rows.z.shape[0], candidates.z.shape[0]))
    pairs = pairs.astype(logit_dtype(rows.z.dtype))
    if rows.weights is None or candidates.weights is None:
        return pairs
    return pairs * rows.weights[:, None] * candidates.weights[None, :]


def _groups(
    pairs: Float[Array, "b c"], labels, bias, candidate_labels, candidate_bias
) -> tuple[Float[Array, "b c"], ...]:
    """Weights of the pairs: positive aligned, positive conflicting, then the same for negatives."""
    # Unknown (-1) equals nothing, not even another unknown.
    pairs = jnp.where(_both_known(labels, candidate_labels), pairs, 0)
    if bias.ndim == 2:
        aligned = jnp.einsum("ik,jk->ij", bias, candidate_bias, preferred_element_type=pairs.dtype)
    else:
        pairs = jnp.where(_both_known(bias, candidate_bias), pairs, 0)
        aligned = (bias[:, None] == candidate_bias[None, :]).astype(pairs.dtype)
    same = labels[:, None] == candidate_labels[None, :]
    positive, negative = jnp.where(same, pairs, 0), jnp.where(same, 0, pairs)
    conflicting = 1 - aligned
    return positive * aligned, positive * conflicting, negative * aligned, negative * conflicting


def _both_known(a: Int[Array, " b"], b: Int[Array, " c"]) -> Bool[Array, "b c"]:
    return (a >= 0)[:, None] & (b >= 0)[None, :]


def _moments(s: Float[Array, "b c"], weights: Float[Array, "b c"]) -> _Moments:
    weight = weights.sum()
    mean = (weights * s).sum() / _or_one(weight)
    # Deviations from the mean sum to zero, and so does the gradient through the mean here.
    deviation = (weights * (s - jax.lax.stop_gradient(mean)) ** 2).sum()
    return _Moments(weight, (weights**2).sum(), mean, deviation)


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """The moments of two sets of pairs taken together."""
    weight = a.weight + b.weight
    # Two sets joined by their gap (Chan, Golub, LeVeque): no squares of large sums are subtracted.
    share = b.weight / _or_one(weight)
    gap = b.mean - a.mean
    deviation = a.deviation + b.deviation + gap**2 * a.weight * share
    return _Moments(weight, a.square + b.square, a.mean + gap * share, deviation)


def _over_devices(local: _Moments, axis_name: AxisName) -> _Moments:
    """The moments of the pairs of all devices taken together."""
    if axis_name is None:
        return local
    # Twice over the network, a few numbers each time: deviations need the common mean, and a difference of
    # sums of squares would lose digits.
    sums = (local.weight, local.square, local.weight * local.mean)
    weight, square, total = jax.lax.psum(sums, axis_name)
    mean = total / _or_one(weight)
    deviation = local.deviation + local.weight * (local.mean - mean) ** 2
    return _Moments(weight, square, mean, jax.lax.psum(deviation, axis_name))


def _sides(moments: _Moments, form: str, guard: float, copies: int) -> Float[Array, ""]:
    """The positive plus the negative side; each compares aligned with conflicting pairs."""
    mean = 2 - 2 * moments.mean
    variance, usable = _variance(moments, guard, copies)
    if form == "mean":
        # A mean needs one pair, a variance two.
        usable = moments.weight > 0
    total = jnp.zeros_like(mean[0])
    for a, c in ((0, 1), (2, 3)):
        there = _kl(mean[a], variance[a], mean[c], variance[c])
        back = _kl(mean[c], variance[c], mean[a], variance[a])
        side = {"mean": (mean[a] - mean[c]) ** 2, "kl": there, "jeffreys": there + back}[form]
        total += jnp.where(usable[a] & usable[c], side, 0)
    return total


def _variance(moments: _Moments, guard: float, copies: int):
    """Unbiased variances of the groups' distances, and which of them can be used.

    A single pair, which within a tower counts twice (`copies`), has no variance. Equal distances,
    which differ by rounding only, are not used either.
    """
    weight, square = moments.weight, moments.square
    # weight**2 / square is the number of pairs when all have the same weight; 1e-5 is for rounding.
    enough = weight**2 > copies * (1 + 1e-5) * square
    freedom = weight - square / _or_one(weight)
    # Var(2 - 2 s) = 4 Var(s).
    variance = 4 * moments.deviation / jnp.where(enough, freedom, 1) + guard
    # Equal distances do not give 0 but a few epsilons; a division by that would be noise.
    usable = enough & (variance > (8 * jnp.finfo(variance.dtype).eps) ** 2)
    return jnp.where(usable, variance, 1), usable


def _kl(mean, variance, other_mean, other_variance) -> Float[Array, ""]:
    """KL(N(mean, variance) || N(other mean, other variance))."""
    ratio = (variance + (mean - other_mean) ** 2) / other_variance
    return (ratio - jnp.log(variance / other_variance) - 1) / 2


def _authors(
    moments: _Moments, pairs: Float[Array, ""], square: Float[Array, ""], kld: float
) -> Float[Array, ""]:
    """The formula of the published code, see `fairkl`; takes sums of pair weights and their squares."""
    mean, total = moments.mean, moments.weight * moments.mean
    # Their matrix is filled with zeros outside of the group, so its moments are over all pairs.
    second = moments.deviation + moments.weight * mean**2
    # With equal weights this is the number of all pairs less one: the matrix is taken as a sample.
    freedom = pairs - square / _or_one(pairs)
    freedom = jnp.where(freedom > 1e-5 * pairs, freedom, 1)
    variance = (second - total**2 / _or_one(pairs)) / freedom
    spread = variance > 0
    # The inner `where`: sqrt has an infinite slope at 0, also in the branch that is not taken.
    deviation = jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 0)
    pa, pc, na, nc = range(4)
    means = (mean[pc] - mean[pa]) ** 2 + (mean[na] - mean[nc]) ** 2
    gaps = (deviation[pa] - deviation[pc]) ** 2 + (deviation[na] - deviation[nc]) ** 2
    return means + kld * gaps - mean[pc] + mean[na]


def _or_one(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(x > 0, x, 1)
