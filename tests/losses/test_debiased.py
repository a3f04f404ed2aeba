"""Laws of the debiased losses: their limits, and what they are for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from bias_clip import losses
from tests.losses import cases
from tests.losses.cases import assert_close, compiled

ROWS = 8


def _batch(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(cases.ROWS["za"](rng, ROWS)), jnp.asarray(cases.ROWS["zb"](rng, ROWS))


def test_a_prior_per_row_and_per_anchor_are_read_as_said(x64):
    za, zb = _batch()
    prior = jnp.linspace(0, 0.1, ROWS)

    @compiled
    def rows(prior, a=za, b=zb):
        return losses.debiased_loss(a, b, prior=prior, scale=3.0)

    assert_close(rows(jnp.stack([prior, prior], axis=1)), rows(prior))
    assert_close(rows(jnp.full(ROWS, 0.05)), rows(0.05))
    each = jnp.stack([prior, 0.1 - prior], axis=1)
    assert_close(rows(each, zb, za), rows(each[:, ::-1]))


def test_where_the_floor_binds_negatives_get_no_gradient(x64):
    """Own logits of 1 against negatives near -1, and a large prior: every anchor is floored."""
    za = jnp.eye(4)

    def run(a):
        floor = losses.debiased_floor(a, za, prior=0.5, scale=5.0)
        return losses.debiased_loss(a, za, prior=0.5, scale=5.0).sum(), floor

    grad, floor = compiled(jax.grad(run, has_aux=True))(za)
    np.testing.assert_array_equal(floor, np.ones(4))
    assert not np.any(np.where(np.eye(4), 0, grad))


def test_the_class_probability_of_each_example_removes_false_negatives_exactly(x64):
    """A long-tailed batch: each anchor's sum becomes the mean of its true negatives, times N.

    With one constant probability it does not: too little goes for frequent classes, too much for
    rare ones.
    """
    counts = np.array([20, 12, 6, 2])
    classes = np.repeat(np.arange(4), counts)
    z = cases.ROWS["z"](np.random.default_rng(1), 4)
    e = np.exp(2 * z @ z.T)
    mean_of_true = (e * counts - np.diag(np.diag(e) * counts)).sum(1) / (40 - counts)
    expected = np.log(1 + 39 * mean_of_true / np.diag(e))
    prior = (counts - 1) / 39  # of the other rows; an anchor is not its own candidate

    @compiled
    def rows(prior):
        za = jnp.asarray(z)[classes]
        return losses.debiased_loss(za, za, prior=prior, scale=2.0)

    def per_class(prior):
        return np.asarray(rows(prior))[np.cumsum(counts) - 1]

    np.testing.assert_allclose(per_class(prior[classes]), expected, rtol=1e-12)
    constant = per_class(prior[classes].mean())
    assert constant[0] > expected[0] + 0.01
    assert constant[-1] < expected[-1] - 0.01


def _floor(za, zb, prior, axis_name=None, chunk_size=None):
    return losses.debiased_floor(
        za, zb, prior=prior, scale=5.0, axis_name=axis_name, chunk_size=chunk_size
    )


def test_the_floor_never_binds_at_prior_0_and_is_the_same_sharded_and_in_chunks(x64):
    rng = np.random.default_rng(4)
    za, zb = (jnp.asarray(cases.ROWS["za"](rng, cases.ROWS_PER_BATCH)) for _ in range(2))
    zb = (za + zb) / jnp.linalg.norm(za + zb, axis=1, keepdims=True)
    prior = jnp.linspace(0, 0.4, cases.ROWS_PER_BATCH)
    floor = compiled(_floor)
    dense = floor(za, zb, prior)
    assert not np.any(floor(za, zb, 0 * prior))
    assert set(np.unique(dense)) == {0.0, 0.5, 1.0}
    mesh, axes = cases.make_mesh("4x2"), ("data", "fsdp")
    for chunk_size in (None, 2):
        spread = jax.shard_map(
            functools.partial(_floor, axis_name=axes, chunk_size=chunk_size),
            mesh=mesh,
            in_specs=P(axes),
            out_specs=P(axes),
        )
        np.testing.assert_array_equal(compiled(spread)(za, zb, prior), dense)
