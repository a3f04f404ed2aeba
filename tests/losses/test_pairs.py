"""Laws of the two image-text losses that the contract does not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip.losses import sigmoid_loss, softmax_loss, weighted_mean
from tests.losses import cases
from tests.losses.cases import assert_close, compiled

ROWS = 10


def _batch(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(cases.ROWS["zimg"](rng, ROWS)), jnp.asarray(cases.ROWS["ztxt"](rng, ROWS))


def _sigmoid_by_hand(z, negative):
    softplus = np.logaddexp(0, z)
    return np.logaddexp(0, -np.diag(z)) + np.where(negative, softplus, 0).sum(1)


def _softmax_by_hand(z, negative):
    e = np.exp(z)
    own = np.diag(e)
    i2t = np.log(own + np.where(negative, e, 0).sum(1))
    t2i = np.log(own + np.where(negative, e, 0).sum(0))
    return (i2t + t2i) / 2 - np.diag(z)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_labels_and_cells_equal_an_explicit_mask(chunk_size, x64):
    zimg, ztxt = _batch()
    labels = np.array([3, -1, 3, 0, -1, 0, 0, 7, -5, -5], np.int32)  # negative ids are unknown
    cells = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, -1], np.int32)
    duplicate = (labels[:, None] == labels) & (labels >= 0)
    negative = ~duplicate & (cells[:, None] == cells) & ~np.eye(ROWS, dtype=bool)
    ids = {"labels": jnp.asarray(labels), "cells": jnp.asarray(cells), "chunk_size": chunk_size}
    z = np.asarray(5 * zimg @ ztxt.T)

    @compiled
    def both(zimg, ztxt):
        return sigmoid_loss(zimg, ztxt, scale=5.0, bias=-1.0, **ids), softmax_loss(
            zimg, ztxt, scale=5.0, **ids
        )

    sigmoid, softmax = both(zimg, ztxt)
    np.testing.assert_allclose(sigmoid, _sigmoid_by_hand(z - 1, negative), rtol=1e-12)
    np.testing.assert_allclose(softmax, _softmax_by_hand(z, negative), rtol=1e-12)


@pytest.mark.parametrize("case", cases.CASES[:2], ids=lambda case: case.name)
def test_without_any_option_sharded_equals_dense(case, x64):
    """Nothing but embeddings travels; the contract runs the losses with every option at once."""
    plain = case._replace(rows=("zimg", "ztxt"))
    inputs = cases.make_inputs(plain, weights=False)
    dense = cases.value_and_grad(plain, inputs)
    assert_close(cases.value_and_grad(plain, inputs, mesh="8"), dense)


@pytest.mark.parametrize(("rows", "expected"), [(256, 10.01), (8192, 10.37)])
def test_start_up_loss_is_the_closed_form(rows, expected):
    """Towers that know nothing: all cosines 0, published start (scale 10, bias -10)."""
    zimg, ztxt = jnp.tile(jnp.eye(2)[:1], (rows, 1)), jnp.tile(jnp.eye(2)[1:], (rows, 1))

    @jax.jit
    def both(zimg, ztxt):
        sigmoid = sigmoid_loss(zimg, ztxt, scale=10.0, bias=-10.0, chunk_size=128)
        return weighted_mean(sigmoid), softmax_loss(zimg, ztxt, scale=10.0, chunk_size=128)

    sigmoid, softmax = both(zimg, ztxt)
    closed = np.logaddexp(0, 10) + (rows - 1) * np.logaddexp(0, -10)
    np.testing.assert_allclose(sigmoid, closed, rtol=1e-5)
    assert abs(closed - expected) < 0.005
    np.testing.assert_allclose(softmax, np.full(rows, np.log(rows)), rtol=1e-5)


def test_swapping_the_towers_keeps_the_softmax(x64):
    zimg, ztxt = _batch()
    weights = jnp.linspace(0.1, 2, ROWS)
    there = softmax_loss(zimg, ztxt, scale=7.0, epsilon=0.3, candidate_weights=weights)
    back = softmax_loss(ztxt, zimg, scale=7.0, epsilon=0.3, candidate_weights=weights)
    assert_close(there, back)


def test_a_margin_is_a_shift_of_the_positives_only(x64):
    zimg, ztxt = _batch()
    alone = {"cells": jnp.arange(ROWS), "scale": 5.0}
    plain = sigmoid_loss(zimg, ztxt, bias=-2.0, margin=0.7, **alone)
    assert_close(plain, sigmoid_loss(zimg, ztxt, bias=-2.7, **alone))
    with_negatives = sigmoid_loss(zimg, ztxt, scale=5.0, bias=-2.0, margin=0.7)
    without_margin = sigmoid_loss(zimg, ztxt, scale=5.0, bias=-2.0)
    own = sigmoid_loss(zimg, ztxt, bias=-2.0, **alone)
    assert_close(with_negatives - without_margin, plain - own)


def test_softmax_is_never_below_minus_epsilon_and_reaches_it(x64):
    z = jnp.eye(6)
    assert_close(softmax_loss(z, z, scale=500.0, epsilon=0.5), np.full(6, -0.5))


def test_a_scalar_array_and_a_number_give_the_same(x64):
    zimg, ztxt = _batch()
    number = sigmoid_loss(zimg, ztxt, scale=10.0, bias=-10.0)
    array = sigmoid_loss(zimg, ztxt, scale=jnp.float32(10), bias=jnp.float32(-10))
    assert_close(number, array)


def test_the_gradient_reaches_scale_bias_and_weights(x64):
    """Central differences, so that the scan's transpose is not only compared with itself."""
    zimg, ztxt = _batch()

    def total(x):
        rows = sigmoid_loss(
            zimg, ztxt, scale=x[0], bias=x[1], candidate_weights=x[2:], chunk_size=4
        )
        return (
            weighted_mean(rows)
            + softmax_loss(
                zimg, ztxt, scale=x[0], epsilon=x[1], candidate_weights=x[2:], chunk_size=4
            ).mean()
        )

    at = jnp.concatenate([jnp.array([4.0, -0.5]), jnp.linspace(0.2, 1.5, ROWS)])
    steps = 1e-5 * jnp.eye(len(at))
    slope = jax.vmap(lambda h: (total(at + h) - total(at - h)) / 2e-5)
    assert_close(compiled(jax.grad(total))(at), compiled(slope)(steps), rtol=1e-7)
