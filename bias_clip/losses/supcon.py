"""Supervised contrastive losses of one tower: SupCon and its epsilon-margin relatives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bias_clip.losses._blocks import AxisName
from bias_clip.losses._checks import Scalar, as_scalar, check_choice, check_scalars
from bias_clip.losses._explicit import on_explicit_axes
from bias_clip.losses._pairs import nothing, pair_logits, positive_logits
from bias_clip.losses._supervised import (
    finish,
    guard,
    log_sum_of,
    masked_weights,
    masks,
    prepare,
    top_logit,
)
from bias_clip.losses._together import Needs, by_folds, fold, needs_of


def _plain_eps_supcon_loss(
    z: Float[Array, "b d"], labels: Int[Array, " b"], *, temperature: float, epsilon: float
) -> Float[Array, " b"]:
    """epsilon-SupCon (epsilon 0: SupCon) at its plainest. The oracle of the tests."""
    s, other = z @ z.T / temperature, ~jnp.eye(len(z), dtype=bool)
    positive = other & (labels[:, None] == labels)
    total = jnp.sum(jnp.exp(s - epsilon * positive), axis=1, where=other)
    mean = jnp.sum(s, axis=1, where=positive) / jnp.maximum(positive.sum(axis=1), 1)
    return jnp.where(positive.any(axis=1), jnp.log(total) - mean, 0)


def _plain_eps_supinfonce_loss(
    z: Float[Array, "b d"], labels: Int[Array, " b"], *, temperature: float, epsilon: float
) -> Float[Array, " b"]:
    """epsilon-SupInfoNCE, form "out", at its plainest. The oracle of the tests."""
    s, same = z @ z.T / temperature, labels[:, None] == labels
    positive = same & ~jnp.eye(len(z), dtype=bool)
    negatives = jnp.sum(jnp.exp(s), axis=1, where=~same, keepdims=True)
    each = jnp.log(jnp.exp(s - epsilon) + negatives) - s
    return jnp.sum(each, axis=1, where=positive) / jnp.maximum(positive.sum(axis=1), 1)


@on_explicit_axes(per_row=True)
@by_folds
def supcon_loss(
    z: Float[Array, "b d"],
    labels: Int[Array, " b"],
    *,
    temperature: Scalar,
    base_temperature: float | None = None,
    positives: Bool[Array, "b n"] | None = None,
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """SupCon: find all rows with the anchor's label among all rows.

    This is `eps_supcon_loss` with epsilon 0; arguments, weights and memory are described there.

    ::

        s_ij   = <z_i, z_j> / temperature
        loss_i = log(sum_{k != i} exp(s_ik)) - mean over positives p of s_ip

    If labels number the items, and all views of an item are rows with its label, this is the
    multi-view InfoNCE (NT-Xent) loss.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings); 0 without a positive.

    Raises:
      ValueError: as `eps_supcon_loss`.

    Reference:
      Khosla et al.: Supervised Contrastive Learning, 2020, equation 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import supcon_loss
      >>> z, labels = jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 0, 1])
      >>> print([round(float(x), 4) for x in supcon_loss(z, labels, temperature=1.0)])
      [0.3133, 0.3133, 0.0]
    """
    whole = needs_of(eps_supcon_loss)(
        z,
        labels,
        temperature=temperature,
        epsilon=0.0,
        base_temperature=base_temperature,
        positives=positives,
        cells=cells,
        candidate_weights=candidate_weights,
        chunk_size=chunk_size,
        axis_name=axis_name,
    )
    return (yield from whole)


@on_explicit_axes(per_row=True)
@by_folds
def eps_supcon_loss(
    z: Float[Array, "b d"],
    labels: Int[Array, " b"],
    *,
    temperature: Scalar,
    epsilon: Scalar,
    base_temperature: float | None = None,
    log_guard: float = 0.0,
    positives: Bool[Array, "b n"] | None = None,
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """epsilon-SupCon: negatives at least epsilon below the positives, and positives close together.

    ::

        s_ij   = <z_i, z_j> / temperature
        D_i    = sum over positives t of w_t exp(s_it - epsilon)
                 + sum over negatives j of w_j exp(s_ij)
        loss_i = log(D_i) - sum over positives p of w_p s_ip / (sum over positives p of w_p)

    Positives are the other rows with the anchor's label. Negatives are the rows with another label
    within the anchor's cell. Candidate weights w enter every sum over candidates. Each sum equals
    the average over rows drawn with probabilities w. A row without positives has the value 0 and, as
    in the authors' code, stays in `weighted_mean`; give it the anchor weight 0 to leave it out.

    Memory: one block of logits at a time, b x b under `axis_name`, b x chunk_size with chunks. The
    backward pass recomputes them. Without either, the plain b x b product is kept.

    Args:
      z: embeddings of unit norm; local rows under `axis_name`. Several views of an item are
        several rows.
      labels: integer label per row; -1 is unknown: a negative of all rows, a positive of none.
      temperature: divides the cosine.
      epsilon: margin in units of the logit; epsilon * temperature in cosine.
      base_temperature: multiplies the loss by temperature / base_temperature; None leaves it.
      log_guard: added inside the logarithm, after division by the row's largest exponential (that of
        the row with itself included), which gets no gradient; 0 is exact.
      positives: the positives of row i by row number over all devices, instead of equal labels.
      cells: negatives count only within the anchor's cell; any integers.
      candidate_weights: w_j, non-negative; None is 1. The anchors' weights enter in
        `weighted_mean`; weight 0 in both equals removing the row.
      chunk_size: candidates per chunk; need not divide the batch. None for no chunks.
      axis_name: mapped axis or tuple of axes over which the batch is spread; None for one device.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings); 0 without a positive.

    Raises:
      ValueError: embeddings that are not [rows, width]; labels or cells that are not one integer
        per row; positives that are not booleans [rows, all rows]; a temperature that is not one
        number above 0; weights that are negative or not one per row; chunk_size below 1. The
        values of traced arrays are not checked.

    Reference:
      Barbano, Dufumier, Tartaglione, Grangetto, Gori: Unbiased Supervised Contrastive Learning,
      2023, equation 5 without its constant epsilon in front.
    Differs from the authors' code: exact by default; base_temperature=0.07 and log_guard=1e-6 give
      theirs.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import eps_supcon_loss
      >>> z, labels = jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 0, 1])
      >>> rows = eps_supcon_loss(z, labels, temperature=1.0, epsilon=0.5)
      >>> print([round(float(x), 4) for x in rows])
      [-0.0259, -0.0259, 0.0]
    """
    check_scalars(epsilon=epsilon)
    rows, scale = yield from prepare(
        z, labels, temperature, positives, cells, candidate_weights, axis_name
    )
    epsilon = as_scalar(epsilon, scale.dtype)

    def step(carry, candidates):
        log_sum, positive_sum, positive_weight, top = carry
        s = pair_logits(rows, candidates, scale)
        positive, negative = masks(rows, candidates, positives)
        # The margin lowers positives in the denominator only; the numerator below takes plain s.
        margined = jnp.where(positive, s - epsilon, s)
        log_sum = jnp.logaddexp(log_sum, log_sum_of(margined, positive | negative, candidates))
        share = masked_weights(positive, candidates)
        positive_sum += (share * s).sum(axis=1)
        return (
            log_sum,
            positive_sum,
            positive_weight + share.sum(axis=1),
            top_logit(top, s, candidates, log_guard),
        )

    own = positive_logits(rows, rows, scale)
    zero = jnp.zeros_like(own)
    start = (jnp.full_like(own, nothing(own.dtype)), zero, zero, jax.lax.stop_gradient(own))
    log_sum, positive_sum, positive_weight, top = yield from fold(
        step, start, rows, axis_name, chunk_size=chunk_size
    )
    # Without positives this divides by 1; `finish` then sets the row to 0.
    mean = positive_sum / jnp.where(positive_weight > 0, positive_weight, 1)
    return finish(
        guard(log_sum, top, log_guard) - mean,
        positive_weight,
        scale,
        base_temperature,
        z,
        candidate_weights,
    )


@on_explicit_axes(per_row=True)
@by_folds
def eps_supinfonce_loss(
    z: Float[Array, "b d"],
    labels: Int[Array, " b"],
    *,
    temperature: Scalar,
    epsilon: Scalar,
    form: str = "out",
    base_temperature: float | None = None,
    log_guard: float = 0.0,
    positives: Bool[Array, "b n"] | None = None,
    cells: Int[Array, " b"] | None = None,
    candidate_weights: Float[Array, " b"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Needs[Float[Array, " b"]]:
    """epsilon-SupInfoNCE: every negative at least epsilon below every positive.

    ::

        s_ij   = <z_i, z_j> / temperature
        N_i    = sum over negatives j of w_j exp(s_ij)
        loss_i = mean over positives p, by w_p, of log(exp(s_ip - epsilon) + N_i) - s_ip     "out"
        loss_i = log(exp(-epsilon) P_i / W_i + N_i) - log(P_i)                                "in"

    with P_i the sum over positives p of w_p exp(s_ip) and W_i the sum of w_p. Positives do not
    compete with each other. "out" walks the candidates twice because its terms need the finished
    N_i. Everything else is as in `eps_supcon_loss`.

    Args:
      z: as `eps_supcon_loss`.
      labels: as `eps_supcon_loss`.
      temperature: divides the cosine.
      epsilon: margin in units of the logit; epsilon * temperature in cosine.
      form: "out" has the sum over positives outside the logarithm, "in" inside.
      base_temperature: multiplies the loss by temperature / base_temperature; None leaves it.
      log_guard: as `eps_supcon_loss`; for the form "out" only.
      positives: as `eps_supcon_loss`.
      cells: as `eps_supcon_loss`.
      candidate_weights: as `eps_supcon_loss`.
      chunk_size: as `eps_supcon_loss`.
      axis_name: as `eps_supcon_loss`.

    Returns:
      One value per local row, float32 (float64 for float64 embeddings); 0 without a positive.

    Raises:
      ValueError: an unknown form; a log_guard with the form "in"; and as `eps_supcon_loss`.

    Reference:
      Barbano, Dufumier, Tartaglione, Grangetto, Gori: Unbiased Supervised Contrastive Learning,
      2023, equation 4, divided by the number of positives as in the authors' code.
    Differs from the authors' code: exact by default; base_temperature=0.07 and log_guard=1e-6 give
      theirs. Their "in" form is infinite for a row without positives; here it is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from bias_clip.losses import eps_supinfonce_loss
      >>> z, labels = jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 0, 1])
      >>> rows = eps_supinfonce_loss(z, labels, temperature=1.0, epsilon=0.5)
      >>> print([round(float(x), 4) for x in rows])
      [-0.0259, -0.0259, 0.0]
    """
    check_choice(form=form, choices=("out", "in"))
    check_scalars(epsilon=epsilon)
    if form == "in" and log_guard:
        raise ValueError(f"log_guard: got {log_guard}, expected 0 for the form 'in'")
    rows, scale = yield from prepare(
        z, labels, temperature, positives, cells, candidate_weights, axis_name
    )
    epsilon = as_scalar(epsilon, scale.dtype)

    def sums(carry, candidates):
        positive_sum, negative_sum, weight, top = carry
        s = pair_logits(rows, candidates, scale)
        positive, negative = masks(rows, candidates, positives)
        return (
            jnp.logaddexp(positive_sum, log_sum_of(s, positive, candidates)),
            jnp.logaddexp(negative_sum, log_sum_of(s, negative, candidates)),
            weight + masked_weights(positive, candidates).sum(axis=1),
            top_logit(top, s, candidates, log_guard),
        )

    own = positive_logits(rows, rows, scale)
    zero, none = jnp.zeros_like(own), jnp.full_like(own, nothing(own.dtype))
    start = (none, none, zero, jax.lax.stop_gradient(own))
    positive_sum, negative_sum, weight, top = yield from fold(
        sums, start, rows, axis_name, chunk_size=chunk_size
    )
    if form == "in":
        # exp(-epsilon) P / W + N, as logarithms; W = 0 is replaced and selected out by `finish`.
        log_weight = jnp.log(jnp.where(weight > 0, weight, 1))
        value = jnp.logaddexp(positive_sum - epsilon - log_weight, negative_sum) - positive_sum
        return finish(value, weight, scale, base_temperature, z, candidate_weights)
    negative_sum = guard(negative_sum, top, log_guard)

    # A second walk, because each positive's term needs N over all blocks and devices.
    # log(exp(s - epsilon) + N) - s = softplus(log(N) + epsilon - s) - epsilon, which does not overflow.
    level = negative_sum + epsilon

    def gaps(total, candidates):
        s = pair_logits(rows, candidates, scale)
        positive, _ = masks(rows, candidates, positives)
        gap = jnp.where(positive, level[:, None] - s, nothing(s.dtype))
        return total + (masked_weights(positive, candidates) * jax.nn.softplus(gap)).sum(axis=1)

    total = yield from fold(gaps, zero, rows, axis_name, chunk_size=chunk_size)
    # Each term has this -epsilon, and the shares of the positives sum to 1.
    value = total / jnp.where(weight > 0, weight, 1) - epsilon
    return finish(value, weight, scale, base_temperature, z, candidate_weights)
