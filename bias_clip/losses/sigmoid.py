"""The pairwise sigmoid loss of SigLIP."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bias_clip.losses._blocks import AxisName
from bias_clip.losses._checks import Scalar, as_scalar, check_scalars
from bias_clip.losses._explicit import on_explicit_axes
from bias_clip.losses._pairs import logit_dtype, make_row_pairs, nan_if_lost, positive_logits
from bias_clip.losses._softplus import sum_softplus
from bias_clip.losses._together import Needs, by_folds


def _plain_sigmoid_loss(
    zimg: Float[Array, "b d"], ztxt: Float[Array, "b d"], *, scale: float, bias: float
) -> Float[Array, " b"]:
    """The loss at its plainest: one device, no labels, no weights. The oracle of the tests."""
    z = scale * zimg @ ztxt.T + bias
    sign = 2 * jnp.eye(len(z)) - 1  # 1 for an image and its own text, -1 for all other pairs
    return jax.nn.softplus(-sign * z).sum(axis=1)


@on_explicit_axes(per_row=True)
@by_folds
def sigmoid_loss(
    zimg: Float[Array, "b d"],
    ztxt: Float[Array, "b d"],
    *,
    scale: Scalar,
    bias: Scalar,
    margin: Scalar = 0.0,
    labels: Int[Array, " b"] | None = None,
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """SigLIP: every image-text pair is its own yes-or-no question.

    ::

        z_ij   = scale * <zimg_i, ztxt_j> + bias
        loss_i = softplus(-(z_ii - margin)) + sum_j w_j softplus(z_ij)

    where j runs over the negatives of i: all other rows, on all devices, that have another label
    and the same cell. The value of a row is a sum over its pairs. `weighted_mean` divides by the
    number of rows (or the sum of their weights), not by the number of pairs.

    With the same weights w here and in `weighted_mean`, pair (i, j) counts w_i w_j and pair (i, i)
    counts w_i. This is the average over independent draws of the rows with probabilities w, before
    the division by the number of drawn rows. Weight 0 in both equals removing the row.

    Memory: one block of logits at a time, b x b under `axis_name`, b x chunk_size with chunks.
    Without either, the plain b x b product is kept. The forward pass also collects the gradient, so
    logits are computed again only if the rows' weights differ. Only reverse mode is supported.

    Args:
      zimg: image embeddings of unit norm; local rows under `axis_name`.
      ztxt: text embeddings of unit norm; row i describes image i.
      scale: multiplies the cosine; the factor itself, not its logarithm.
      bias: is added to every logit.
      margin: lowers the positive logits, in units of the logit. This is the project's own addition.
        The bias would absorb a shift of all logits, but not a shift of the positives alone.
      labels: rows with equal labels are not negatives of each other (for example, the same caption
        twice); -1 is unknown and equals no label.
      cells: negatives count only within the anchor's cell; any integers.
      candidate_weights: w_j, non-negative, the weight of row j as a negative; None is 1.
      chunk_size: rows of text per chunk; need not divide the batch. None for no chunks.
      axis_name: mapped axis or tuple of axes over which the batch is spread; None for one device.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings).

    Raises:
      ValueError: embeddings of different shapes or not [rows, width]; a scale, bias or margin that
        is not one number; labels or cells that are not one integer per row; weights that are
        negative or not one per row; chunk_size below 1. The values of traced arrays are not checked.

    Reference:
      Zhai, Mustafa, Kolesnikov, Beyer: Sigmoid Loss for Language Image Pre-Training, 2023,
      section 3.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import sigmoid_loss, weighted_mean
      >>> z = jnp.eye(4)
      >>> loss = weighted_mean(sigmoid_loss(z, z, scale=10.0, bias=-10.0))
      >>> print(round(float(loss), 4))
      0.6933
    """
    check_scalars(scale=scale, bias=bias, margin=margin)
    images, texts = yield from make_row_pairs(
        zimg,
        ztxt,
        labels=labels,
        cells=cells,
        candidate_weights=candidate_weights,
        axis_name=axis_name,
    )
    dtype = logit_dtype(images.z.dtype)
    scale, bias, margin = (as_scalar(x, dtype) for x in (scale, bias, margin))

    own = positive_logits(images, texts, scale)
    # softplus(-(z_ii - margin)), with z_ii = own + bias.
    positives = jax.nn.softplus(margin - bias - own)
    # As vectors, so that everything that the fold takes and returns belongs to local rows.
    scales, biases = jnp.zeros_like(own) + scale, jnp.zeros_like(own) + bias
    negatives = yield from sum_softplus(images, texts, scales, biases, axis_name, chunk_size)
    return nan_if_lost(positives + negatives, candidate_weights, zimg, ztxt)
