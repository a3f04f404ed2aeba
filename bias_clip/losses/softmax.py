"""The softmax loss of CLIP, in both directions, with an optional margin."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bias_clip.losses._blocks import AxisName
from bias_clip.losses._checks import Scalar, as_scalar, check_scalars
from bias_clip.losses._explicit import on_explicit_axes
from bias_clip.losses._pairs import (
    log_weights,
    logit_dtype,
    make_row_pairs,
    nan_if_lost,
    negative_logits,
    nothing,
    positive_logits,
)
from bias_clip.losses._together import Needs, by_folds, fold_both


def _plain_softmax_loss(
    zimg: Float[Array, "b d"], ztxt: Float[Array, "b d"], *, scale: float
) -> Float[Array, " b"]:
    """The loss at its plainest: one device, no labels, no weights. The oracle of the tests."""
    z = scale * zimg @ ztxt.T
    i2t = -jnp.diag(jax.nn.log_softmax(z, axis=1))
    t2i = -jnp.diag(jax.nn.log_softmax(z, axis=0))
    return (i2t + t2i) / 2


@on_explicit_axes(per_row=True)
@by_folds
def softmax_loss(
    zimg: Float[Array, "b d"],
    ztxt: Float[Array, "b d"],
    *,
    scale: Scalar,
    epsilon: Scalar = 0.0,
    labels: Int[Array, " b"] | None = None,
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """CLIP: find the text of an image among all texts, and the image of a text among all images.

    ::

        z_ij   = scale * <zimg_i, ztxt_j>
        i2t_i  = log(exp(z_ii - epsilon) + sum_j w_j exp(z_ij)) - z_ii
        t2i_i  = log(exp(z_ii - epsilon) + sum_j w_j exp(z_ji)) - z_ii
        loss_i = (i2t_i + t2i_i) / 2

    where j runs over the negatives of i: all other rows, on all devices, that have another label
    and the same cell. The value of a row is the mean of two losses: its image as anchor and its text
    as anchor. Both use the same weight for a candidate row. The smallest possible value is -epsilon.
    There is no bias argument because an added bias would cancel.

    Memory: one block of logits at a time, b x b under `axis_name`, b x chunk_size with chunks. The
    backward pass recomputes them. Without either, the plain b x b product is kept. Every logit
    is computed once for both directions: a text's running sum travels with the text.

    Args:
      zimg: image embeddings of unit norm; local rows under `axis_name`.
      ztxt: text embeddings of unit norm; row i describes image i.
      scale: multiplies the cosine; the factor itself, not its logarithm.
      epsilon: margin in units of the logit; epsilon / scale in cosine. 0 is CLIP.
      labels: rows with equal labels are not negatives of each other (for example, the same caption
        twice); -1 is unknown and equals no label.
      cells: negatives count only within the anchor's cell; any integers.
      candidate_weights: w_j, non-negative, the weight of row j as a negative; None is 1. The
        anchors' weights enter in `weighted_mean`; weight 0 in both is the row removed.
      chunk_size: rows of text per chunk; need not divide the batch. None for no chunks.
      axis_name: mapped axis or tuple of axes over which the batch is spread; None for one device.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings).

    Raises:
      ValueError: embeddings of different shapes or not [rows, width]; a scale or epsilon that is
        not one number; labels or cells that are not one integer per row; weights that are negative
        or not one per row; chunk_size below 1. The values of traced arrays are not checked.

    Reference:
      Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, 2021,
      figure 3; for epsilon: Barbano, Dufumier, Tartaglione, Grangetto, Gori: Unbiased Supervised
      Contrastive Learning, 2023, equation 2, applied to each direction.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import softmax_loss, weighted_mean
      >>> z = jnp.eye(4)
      >>> loss = weighted_mean(softmax_loss(z, z, scale=10.0))
      >>> print(round(float(loss), 6))
      0.000136
    """
    check_scalars(scale=scale, epsilon=epsilon)
    images, texts = yield from make_row_pairs(
        zimg,
        ztxt,
        labels=labels,
        cells=cells,
        candidate_weights=candidate_weights,
        axis_name=axis_name,
    )
    dtype = logit_dtype(images.z.dtype)
    scale, epsilon = as_scalar(scale, dtype), as_scalar(epsilon, dtype)

    def step(image_sums, texts, text_sums):
        # Running sums are logarithms, because at scale 100 their exponentials overflow float32.
        z = negative_logits(images, texts, scale)
        i2t, t2i = z, z
        # The candidate's weight counts: the text's in rows, the image's in columns.
        if texts.weights is not None:
            i2t = z + log_weights(texts.weights)[None, :]
            t2i = z + log_weights(images.weights)[:, None]
        image_sums = jnp.logaddexp(image_sums, jax.nn.logsumexp(i2t, axis=1))
        text_sums = jnp.logaddexp(text_sums, jax.nn.logsumexp(t2i, axis=0))
        return image_sums, text_sums

    positives = positive_logits(images, texts, scale)
    # Both sums also have the positive's own term. The images' begin with it; those of the texts get it at
    # the end, because several devices may begin one.
    start = positives - epsilon
    none = jnp.full_like(start, nothing(dtype))
    of_images, of_texts = yield from fold_both(
        step, start, texts, none, axis_name, join=jnp.logaddexp, chunk_size=chunk_size
    )
    rows = (of_images + jnp.logaddexp(start, of_texts)) / 2 - positives
    return nan_if_lost(rows, candidate_weights, zimg, ztxt)
