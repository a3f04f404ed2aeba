"""Laws of the debiased losses: their limits, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip import losses
from bias_clip.losses import weighted_mean
from tests.losses import cases
from tests.losses.cases import assert_close, compiled

ROWS = 8


def _batch(seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(cases.ROWS["za"](rng, ROWS)), jnp.asarray(cases.ROWS["zb"](rng, ROWS))


def test_prior_0_is_the_softmax_loss_and_the_floor_never_binds(x64):
    za, zb = _batch()

    @compiled
    def run(za, zb):
        return (
            losses.debiased_loss(za, zb, prior=0.0, scale=5.0),
            losses.softmax_loss(za, zb, scale=5.0),
            losses.debiased_floor(za, zb, prior=0.0, scale=5.0),
        )

    debiased, softmax, floor = run(za, zb)
    assert_close(debiased, softmax)
    assert not np.any(floor)


def test_prior_0_of_the_sigmoid_form_sums_to_the_sigmoid_loss(x64):
    za, zb = _batch()
    arguments = {"scale": 5.0, "bias": -2.0}
    debiased = losses.debiased_sigmoid_loss(za, zb, prior=0.0, **arguments)
    plain = losses.sigmoid_loss(za, zb, **arguments)
    assert_close(weighted_mean(debiased), weighted_mean(plain))


def test_concentration_0_is_the_debiased_loss(x64):
    za, zb = _batch()
    arguments = {"prior": 0.05, "scale": 5.0}
    hard = losses.hard_debiased_loss(za, zb, concentration=0.0, **arguments)
    assert_close(hard, losses.debiased_loss(za, zb, **arguments))


def test_a_prior_per_row_and_per_anchor_are_read_as_said(x64):
    za, zb = _batch()
    prior = jnp.linspace(0, 0.1, ROWS)

    def rows(prior, a=za, b=zb):
        return losses.debiased_loss(a, b, prior=prior, scale=3.0)

    assert_close(rows(jnp.stack([prior, prior], axis=1)), rows(prior))
    assert_close(rows(jnp.full(ROWS, 0.05)), rows(0.05))
    each = jnp.stack([prior, 0.1 - prior], axis=1)
    assert_close(rows(each, zb, za), rows(each[:, ::-1]))


def test_where_the_floor_binds_negatives_get_no_gradient(x64):
    """Own logits of 1 against negatives near -1, and a large prior: every anchor is floored."""
    za = jnp.eye(4)
    floor = losses.debiased_floor(za, za, prior=0.5, scale=5.0)
    np.testing.assert_array_equal(floor, np.ones(4))
    grad = jax.grad(lambda a: losses.debiased_loss(a, za, prior=0.5, scale=5.0).sum())(za)
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

    def per_class(prior):
        za = jnp.asarray(z[classes])
        rows = losses.debiased_loss(za, za, prior=jnp.asarray(prior), scale=2.0)
        return np.array([rows[classes == c][0] for c in range(4)])

    np.testing.assert_allclose(per_class(prior[classes]), expected, rtol=1e-12)
    constant = per_class(prior[classes].mean())
    assert constant[0] > expected[0] + 0.01
    assert constant[-1] < expected[-1] - 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": 1.0}, r"prior: got values from 1.0 to 1.0, expected them in \[0, 1\)"),
        ({"prior": jnp.linspace(-0.1, 0.5, ROWS)}, r"prior: got values from -0.1"),
        ({"prior": jnp.ones(3)}, r"prior: got shape \(3,\), expected a number, \(8,\)"),
        ({"negatives": "all"}, r"negatives: got 'all', expected one of 'cross', 'both'"),
        ({"zb": jnp.ones((3, 5))}, r"za\[8, 5\], zb\[3, 5\], expected one shape"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_says_what_was_got_and_expected(change, message, unchecked):
    za, zb = _batch()
    with pytest.raises(ValueError, match=message):
        losses.debiased_loss(**({"za": za, "zb": zb, "prior": 0.1, "scale": 5.0} | change))
