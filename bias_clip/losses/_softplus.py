"""The sum of softplus(logit) over a row's negatives; the forward pass also collects its gradient.

Logits that are not kept must be computed again for the gradient: four matrix products of the batch
with itself instead of three. However, the slope of softplus at one pair does not depend on other
pairs, so the forward pass can already sum the gradient. Only the weights of the rows are missing:
they arrive in the backward pass, from the caller of the loss. In a plain mean all weights are equal,
and nothing is computed again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bias_clip.losses._blocks import AxisName, add_trees, fold_blocks, fold_blocks_both
from bias_clip.losses._pairs import Rows, is_negative, nothing, pair_logits
from bias_clip.losses._together import Needs, fold


def sum_softplus(
    anchors: Rows,
    candidates: Rows,
    scale: Float[Array, " b"],
    bias: Float[Array, " b"],
    axis_name: AxisName,
    chunk_size: int | None,
) -> Needs[Float[Array, " b"]]:
    """`sum_j w_j softplus(scale_i <a_i, b_j> + bias_i)` over the negatives j of i, on all devices.

    With a ring or chunks the gradient has reverse mode only. It is exact for any weights of the
    rows. Equal weights cost no further product of the batch with itself; other weights cost two.

    Args:
      anchors: local rows; their weights are not read.
      candidates: local rows, which travel round the ring.
      scale: the same number in each row; a vector, so that its gradient belongs to local rows.
      bias: as scale.
      axis_name: as for `fold_blocks`.
      chunk_size: as for `fold_blocks`.
    """
    alone = axis_name is None or jax.lax.axis_size(axis_name) == 1
    in_one = alone and (chunk_size is None or chunk_size >= len(scale))
    step, start = _adding(anchors, scale, bias), jnp.zeros_like(scale)
    rule = functools.partial(_sum_by_rule, anchors, candidates, scale, bias, axis_name, chunk_size)
    # In one block, plain differentiation keeps the logits, so the custom rule would gain nothing. Nor does
    # it beside other losses, which compute the logits again for themselves.
    return (
        yield from fold(
            step,
            start,
            candidates,
            axis_name,
            chunk_size=chunk_size,
            alone=None if in_one else rule,
        )
    )


def _adding(anchors, scale, bias):
    """The step of a fold that adds up the terms of each anchor."""

    def step(total, block):
        terms = jax.nn.softplus(_logits(anchors, block, scale, bias))
        return total + _apply_weights(terms, block).sum(1)

    return step


def _sum(anchors, candidates, scale, bias, axis_name, chunk_size):
    # The primal of the custom rule: without differentiation, no gradient is collected.
    step, start = _adding(anchors, scale, bias), jnp.zeros_like(scale)
    return fold_blocks(step, start, candidates, axis_name, chunk_size=chunk_size)


def _forward(anchors, candidates, scale, bias, axis_name, chunk_size):
    """The sums, and what the gradients need, from the slopes p_ij of anchor i and candidate j."""
    # Gradients are sums over the whole batch, so they are float32 even for bfloat16 rows.
    wide = _wide(anchors, scale.dtype)

    def step(carry, block, block_carry):
        # What belongs to an anchor stays on this device. What belongs to a candidate travels with its block,
        # and is home again after a full turn of the ring.
        (total, grad_anchors, slope), (grad_candidates, grad_weights) = carry, block_carry
        z = _logits(anchors, block, scale, bias)
        t, p = jax.nn.softplus(z), jax.nn.sigmoid(z)
        # Before weighting: `_backward` multiplies the candidates' gradients by their weights once,
        # and the gradient of a weight is the unweighted softplus.
        grad_candidates = grad_candidates + _contract_rows(p, scale[:, None] * wide)
        grad_weights = grad_weights + t.sum(axis=0)
        t, p = _apply_weights(t, block), _apply_weights(p, block)
        grad_anchors = grad_anchors + p @ _wide(block, scale.dtype)
        return (total + t.sum(1), grad_anchors, slope + p.sum(1)), (grad_candidates, grad_weights)

    # start[1::-1] is (zeros [b, d], zeros [b]): the candidates' gradients and those of their weights.
    start = (jnp.zeros_like(scale), jnp.zeros_like(wide), jnp.zeros_like(scale))
    (total, grad_anchors, slope), (grad_candidates, grad_weights) = fold_blocks_both(
        step, start, candidates, start[1::-1], axis_name, join=add_trees, chunk_size=chunk_size
    )
    # Instead of logits, a few arrays of the size of the rows: this is what makes the rule worth having.
    kept = (anchors, candidates, scale, bias, grad_anchors, slope, grad_candidates, grad_weights)
    return total, kept


def _backward(axis_name, chunk_size, kept, g):
    anchors, candidates, scale, bias, grad_anchors, slope, grad_candidates, grad_weights = kept
    # g has one weight per anchor. If all are equal, one factor turns the collected sums into gradients.
    low, high = g.min(), g.max()
    if axis_name is not None:
        # All devices must take the same branch below: `again` contains collectives, and a device
        # that skipped them would leave the others waiting.
        low, high = jax.lax.pmin(low, axis_name), jax.lax.pmax(high, axis_name)

    def as_collected(g):
        return g[:1] * grad_candidates, g[:1] * grad_weights  # all rows have the same weight

    def again(g):
        return _collect(anchors, candidates, scale, bias, g, axis_name, chunk_size)

    grad_candidates, grad_weights = jax.lax.cond(low == high, as_collected, again, g)
    # Both branches leave out the candidates' own weights, see `_forward`.
    if candidates.weights is not None:
        grad_candidates = candidates.weights[:, None] * grad_candidates
    of_anchors = _gradient_of(anchors, (g * scale)[:, None] * grad_anchors, None)
    of_candidates = _gradient_of(candidates, grad_candidates, grad_weights)
    # sum_j w_j p_ij <a_i, b_j> = <a_i, sum_j w_j p_ij b_j>: the scale needs no product of its own.
    of_scale = g * jnp.sum(_wide(anchors, scale.dtype) * grad_anchors, axis=1)
    return of_anchors, of_candidates, of_scale, g * slope


# Axis name and chunk size are Python values, which cannot be traced.
_sum_by_rule = jax.custom_vjp(_sum, nondiff_argnums=(4, 5))
_sum_by_rule.defvjp(_forward, _backward)


def _collect(anchors, candidates, scale, bias, g, axis_name, chunk_size):
    """The gradients of candidates for anchors of different weights g; computes the logits again."""
    wide = (g * scale)[:, None] * _wide(anchors, scale.dtype)

    def step(carry, block, block_carry):
        grad_candidates, grad_weights = block_carry
        z = _logits(anchors, block, scale, bias)
        grad_candidates = grad_candidates + _contract_rows(jax.nn.sigmoid(z), wide)
        return carry, (grad_candidates, grad_weights + g @ jax.nn.softplus(z))

    start = (jnp.zeros_like(wide), jnp.zeros_like(g))
    return fold_blocks_both(
        step, (), candidates, start, axis_name, join=add_trees, chunk_size=chunk_size
    )[1]


def _logits(anchors: Rows, block: Rows, scale: Array, bias: Array) -> Float[Array, "b c"]:
    z = pair_logits(anchors, block, scale[:, None]) + bias[:, None]
    # softplus and its slope are exactly 0 at `nothing`: the sums and gradients need no second mask.
    return jnp.where(is_negative(anchors, block), z, nothing(z.dtype))


def _apply_weights(x: Float[Array, "b c"], block: Rows) -> Float[Array, "b c"]:
    return x if block.weights is None else x * block.weights


def _contract_rows(p: Float[Array, "b c"], wide: Float[Array, "b d"]) -> Float[Array, "c d"]:
    return jax.lax.dot_general(p, wide, (((0,), (0,)), ((), ())))


def _wide(rows: Rows, dtype: Any) -> Float[Array, "b d"]:
    return rows.z.astype(dtype)


def _gradient_of(rows: Rows, z: Array, weights: Array | None) -> Rows:
    """The gradient of `rows` from that of its embeddings and weights; None where there is none."""
    weights = (
        None if rows.weights is None or weights is None else weights.astype(rows.weights.dtype)
    )
    # None stands for a zero gradient; integers have no other.
    nothing_of = dict.fromkeys(("number", "labels", "cells"))
    return Rows(z=z.astype(rows.z.dtype), weights=weights, **nothing_of)  # type: ignore[arg-type]
