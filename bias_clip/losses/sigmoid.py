"""The pairwise sigmoid loss of SigLIP."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bias_clip.losses._blocks import AxisName
from bias_clip.losses._checks import check_scalars
from bias_clip.losses._pairs import logit_dtype, make_row_pairs, positive_logits
from bias_clip.losses._softplus import sum_softplus


def _plain_sigmoid_loss(
    zimg: Float[Array, "b d"], ztxt: Float[Array, "b d"], *, scale: float, bias: float
) -> Float[Array, " b"]:
    """The loss at its plainest: one device, no labels, no weights. The oracle of the tests."""
    z = scale * zimg @ ztxt.T + bias
    sign = 2 * jnp.eye(len(z)) - 1  # 1 for an image and its own text, -1 for all other pairs
    return jax.nn.softplus(-sign * z).sum(axis=1)


def sigmoid_loss(
    zimg: Float[Array, "b d"],
    ztxt: Float[Array, "b d"],
    *,
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    margin: Float[Array, ""] | float = 0.0,
    labels: Int[Array, " b"] | None = None,
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, " b"]:
    """SigLIP: every image-text pair is its own yes-or-no question.

    ::

        z_ij   = scale * <zimg_i, ztxt_j> + bias
        loss_i = softplus(-(z_ii - margin)) + sum_j w_j softplus(z_ij)

    where j runs over the negatives of i: all other rows, of all devices, except those of its own
    label, and only those of its own cell. The value of a row is a sum over its pairs;
    `weighted_mean` divides by rows (by the sum of their weights), not by pairs.

    With the same weights w here and in `weighted_mean`, pair (i, j) counts w_i w_j and pair (i, i)
    counts w_i: what independent draws of the rows with probabilities w give on average, before the
    division by the number of rows drawn. Weight 0 in both is the row removed.

    Memory: logits of one block at a time, b x b under `axis_name`, b x chunk_size with chunks;
    without either the one plain b x b product is kept. They are not computed twice: the gradient is
    collected in the forward pass, unless the rows' weights differ, and has reverse mode only.

    Args:
      zimg: image embeddings of unit norm; local rows under `axis_name`.
      ztxt: text embeddings of unit norm; row i describes image i.
      scale: multiplies the cosine (neither its logarithm nor 1/temperature's).
      bias: is added to every logit.
      margin: lowers the positive logits, in units of the logit. This project's own: a shift common
        to all pairs is absorbed by the bias, one of the positives is not.
      labels: rows with equal labels are not negatives of each other (the same caption twice, say);
        -1 is unknown and equals nothing.
      cells: negatives count only within the anchor's cell; any integers.
      candidate_weights: w_j, non-negative, the weight of row j as a negative; None is 1.
      chunk_size: rows of text per chunk; need not divide the batch. None for no chunks.
      axis_name: mapped axis or tuple of axes over which the batch is spread; None for one device.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings).

    Raises:
      ValueError: embeddings of different shapes or not [rows, width]; a scale, bias or margin that
        is not one number; labels or cells that are not one integer per row; weights that are
        negative or not one per row; chunk_size below 1. Numbers are looked at where they are known:
        not those of a traced array.

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
    images, texts = make_row_pairs(
        zimg,
        ztxt,
        labels=labels,
        cells=cells,
        candidate_weights=candidate_weights,
        axis_name=axis_name,
    )
    dtype = logit_dtype(images.z.dtype)
    scale, bias, margin = (jnp.asarray(x, dtype) for x in (scale, bias, margin))

    own = positive_logits(images, texts, scale)
    positives = jax.nn.softplus(margin - bias - own)
    # As vectors, so that all that the fold takes and gives belongs to local rows.
    scales, biases = jnp.zeros_like(own) + scale, jnp.zeros_like(own) + bias
    return positives + sum_softplus(images, texts, scales, biases, axis_name, chunk_size)
