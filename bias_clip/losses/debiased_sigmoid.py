"""The sigmoid loss with false negatives removed from its negatives, in expectation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bias_clip.losses._blocks import AxisName, add_trees
from bias_clip.losses._checks import Scalar, as_scalar, check_prior, check_scalars
from bias_clip.losses._explicit import on_explicit_axes
from bias_clip.losses._pairs import (
    is_negative,
    logit_dtype,
    make_row_pairs,
    nan_if_lost,
    pair_logits,
    positive_logits,
    prior_of_anchors,
)
from bias_clip.losses._together import Needs, by_folds, fold_both


def _plain_debiased_sigmoid_loss(
    zimg: Float[Array, "b d"], ztxt: Float[Array, "b d"], *, prior: float, scale: float, bias: float
) -> Float[Array, " b"]:
    """The loss at its plainest: one device, no weights. The oracle of the tests."""
    z, n = scale * zimg @ ztxt.T + bias, len(zimg) - 1
    terms, own = jax.nn.softplus(z), jnp.diag(z)
    total = (terms.sum(axis=1) + terms.sum(axis=0)) / 2 - jax.nn.softplus(own)
    rest = (total - prior * n * jax.nn.softplus(own)) / (1 - prior)  # above its floor
    return jax.nn.softplus(-own) + rest


@on_explicit_axes(per_row=True)
@by_folds
def debiased_sigmoid_loss(
    zimg: Float[Array, "b d"],
    ztxt: Float[Array, "b d"],
    *,
    prior: Float[Array, ""] | Float[Array, " b"] | Float[Array, "b 2"] | float,
    scale: Scalar,
    bias: Scalar,
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """Sample-specific debiasing of the sigmoid loss; designed in this project, not from a paper.

    ::

        z_ij   = scale * <zimg_i, ztxt_j> + bias
        S_i    = sum over negatives j of w_j softplus(z_ij),  N_i = sum over negatives j of w_j
        G_i    = max((S_i - prior_i N_i softplus(z_ii)) / (1 - prior_i),
                     N_i softplus(bias - scale))
        loss_i = softplus(-z_ii) + (G_i + G'_i) / 2, G' the same with the towers swapped

    This is learning from positive and unlabelled pairs. A random text has the image's class with
    probability `prior`, and then its softplus equals, on average, that of the positive. The floor is
    the smallest sum that N_i negatives can have. Without it the subtracted term would pull positives
    without end; scale and bias get no gradient through it. Half of each pair belongs to its image as
    anchor and half to its text. So with prior 0 the rows differ from those of `sigmoid_loss`, but
    their sum does not.

    Memory: as `sigmoid_loss`; one set of logits serves both directions.

    Args:
      zimg: image embeddings of unit norm; local rows under `axis_name`.
      ztxt: text embeddings of unit norm; row i describes image i.
      prior: probability in [0, 1) that a random candidate is of the anchor's class: a number, one
        per row, or two per row, for its image and its text as anchor.
      scale: multiplies the cosine.
      bias: is added to every logit.
      cells: negatives count only within the anchor's cell; any integers.
      candidate_weights: w_j, non-negative; None is 1. The anchors' weights enter in
        `weighted_mean`; weight 0 in both equals removing the row.
      chunk_size: rows of text per chunk; need not divide the batch. None for no chunks.
      axis_name: mapped axis or tuple of axes over which the batch is spread; None for one device.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings).

    Raises:
      ValueError: a prior outside [0, 1) or of another shape; and as `sigmoid_loss`.

    Reference:
      None; from Zhai et al.: Sigmoid Loss for Language Image Pre-Training, 2023, and Wang et al.:
      Sample-Specific Debiasing for Better Image-Text Models, 2023.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import debiased_sigmoid_loss, weighted_mean
      >>> z = jnp.eye(4)
      >>> loss = weighted_mean(debiased_sigmoid_loss(z, z, prior=0.0, scale=10.0, bias=-10.0))
      >>> print(round(float(loss), 4))
      0.6933
    """
    check_scalars(scale=scale, bias=bias)
    images, texts = yield from make_row_pairs(
        zimg,
        ztxt,
        labels=None,
        cells=cells,
        candidate_weights=candidate_weights,
        axis_name=axis_name,
    )
    check_prior(images.z.shape[0], prior)
    dtype = logit_dtype(images.z.dtype)
    scale, bias = as_scalar(scale, dtype), as_scalar(bias, dtype)

    def step(image_sums, texts, text_sums):
        # One set of logits serves both directions: rows sum into the images, which stay, and columns into
        # the texts, which travel.
        terms = jax.nn.softplus(pair_logits(images, texts, scale) + bias)
        negative = is_negative(images, texts)
        one = jnp.ones_like(terms[0, 0])
        of_texts = one if texts.weights is None else texts.weights[None, :]
        of_images = one if images.weights is None else images.weights[:, None]
        return (
            _add(image_sums, terms, jnp.where(negative, of_texts, 0), axis=1),
            _add(text_sums, terms, jnp.where(negative, of_images, 0), axis=0),
        )

    own = positive_logits(images, texts, scale) + bias
    zeros = (jnp.zeros_like(own), jnp.zeros_like(own))
    sums = yield from fold_both(
        step, zeros, texts, zeros, axis_name, join=add_trees, chunk_size=chunk_size
    )
    # [b] of the images, then [b] of the texts: 2b anchors.
    total, weight = (jnp.concatenate([x, y]) for x, y in zip(*sums, strict=True))
    prior = prior_of_anchors(prior, total, candidate_weights)
    false = prior * weight * jnp.tile(jax.nn.softplus(own), 2)
    # softplus(bias - scale) belongs to cosine -1, the smallest that a negative can have.
    floor = weight * jax.nn.softplus(jax.lax.stop_gradient(bias - scale))
    corrected = (total - false) / (1 - prior)
    # `where` and not `maximum`, which would split the gradient at a tie.
    negatives = jnp.where(corrected < floor, floor, corrected)
    # Half of the negatives to each direction, but the positive once: it is one pair.
    rows = jax.nn.softplus(-own) + negatives.reshape(2, -1).mean(axis=0)
    return nan_if_lost(rows, candidate_weights, zimg, ztxt)


def _add(sums, terms: Float[Array, "b c"], weights: Float[Array, "b c"], axis: int):
    """Adds weighted terms and weights along an axis to their sums."""
    return sums[0] + (weights * terms).sum(axis=axis), sums[1] + weights.sum(axis=axis)
