"""Shared parts of the supervised losses: positives and negatives by label, their sums, the guard."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bias_clip.losses._checks import (
    as_scalar,
    check_labels,
    check_pairs,
    check_positives,
    check_temperature,
)
from bias_clip.losses._pairs import (
    Rows,
    is_other,
    is_same_cell,
    is_same_label,
    log_weights,
    logit_dtype,
    make_rows,
    nan_if_lost,
    nothing,
)
from bias_clip.losses._together import Needs


def prepare(
    z, labels, temperature, positives, cells, candidate_weights, axis_name
) -> Needs[tuple[Rows, Array]]:
    """Checks the inputs; returns the numbered rows and the scale of their logits."""
    check_temperature(temperature)
    z = jnp.asarray(z)
    check_pairs(z=z)
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    # Columns of `positives` are rows of all devices, while its rows are local.
    check_positives(len(z), devices * len(z), positives)
    check_labels(len(z), labels=labels)
    rows = yield from make_rows(
        z, labels=labels, cells=cells, candidate_weights=candidate_weights, axis_name=axis_name
    )
    return rows, 1 / as_scalar(temperature, logit_dtype(z.dtype))


def masks(rows: Rows, candidates: Rows, positives: Bool[Array, "b n"] | None):
    """The positives and the negatives among the candidates."""
    if positives is None:
        alike = is_same_label(rows, candidates)
    else:  # a padding row has number 0 and gets an arbitrary column; `is_other` leaves it out
        alike = jnp.take(positives, candidates.number - 1, axis=1, mode="clip")
    other = is_other(rows, candidates)
    # Cells limit negatives only: positives of other cells stay positives.
    return other & alike, other & ~alike & is_same_cell(rows, candidates)


def log_sum_of(logits, mask, candidates: Rows) -> Float[Array, " b"]:
    """log(sum over the masked candidates of w exp(logit))."""
    if candidates.weights is not None:
        logits = logits + log_weights(candidates.weights)[None, :]
    # The logarithm of an empty sum is `nothing` and not -inf, whose gradient would be NaN.
    return jax.nn.logsumexp(jnp.where(mask, logits, nothing(logits.dtype)), axis=1)


def masked_weights(mask, candidates: Rows) -> Float[Array, "b c"]:
    """The weights of the masked candidates, 0 for all others."""
    weights = 1.0 if candidates.weights is None else candidates.weights[None, :]
    return jnp.where(mask, weights, 0).astype(logit_dtype(candidates.z.dtype))


def top_logit(top, logits, candidates: Rows, log_guard: float) -> Float[Array, " b"]:
    """The largest logit of all rows so far, padding left out, as a constant; for the guard only."""
    if not log_guard:
        return top
    # Padding has logit 0, which could be the largest.
    present = (candidates.number > 0)[None, :]
    logits = jnp.where(present, jax.lax.stop_gradient(logits), nothing(logits.dtype))
    return jnp.maximum(top, logits.max(axis=1))


def guard(log_sum, top, log_guard: float) -> Float[Array, " b"]:
    """log(exp(log_sum) + log_guard * exp(top))."""
    # `top` makes the guard relative to the largest exponential, as in the authors' code, which subtracts the
    # row's maximum before it adds the guard.
    return jnp.logaddexp(log_sum, top + jnp.log(log_guard)) if log_guard else log_sum


def finish(
    value, positive_weight, scale, base_temperature: float | None, z, candidate_weights
) -> Float[Array, " b"]:
    """Sets rows without positives to 0, lost ones to NaN; applies the authors' factor if requested."""
    # Without positives the value means nothing (in the form "in" it is huge); it must not reach the mean.
    value = jnp.where(positive_weight > 0, value, 0)
    value = nan_if_lost(value, candidate_weights, z)
    return value if base_temperature is None else value / (scale * base_temperature)
