"""Laws that hold for every batch and every hyper-parameter: limits, margins, and debiasing."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip import losses
from tests.losses import cases
from tests.losses.cases import assert_close, compiled

ROWS = 8
few = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)
scales = st.floats(0.5, 30)
margins = st.floats(0, 3)


def _batch(seed):
    """Two towers, labels (-1 is unknown) and weights."""
    rng = np.random.default_rng(seed)
    za, zb = (jnp.asarray(cases.ROWS["z"](rng, ROWS)) for _ in range(2))
    return za, zb, jnp.asarray(rng.integers(-1, 3, ROWS)), jnp.asarray(rng.uniform(0, 2, ROWS))


@compiled
def _epsilon_0(za, zb, labels, w, scale):
    rest = {"temperature": 1 / scale, "candidate_weights": w}
    return (
        losses.softmax_loss(za, zb, scale=scale, epsilon=0.0, candidate_weights=w),
        _clip(za, zb, w, scale),
        losses.eps_supcon_loss(za, labels, epsilon=0.0, **rest),
        losses.supcon_loss(za, labels, **rest),
    )


def _clip(za, zb, w, scale):
    """The two cross-entropies, each candidate but the own one multiplied by its weight."""
    z = scale * za @ zb.T
    z += jnp.where(jnp.eye(ROWS), 0, jnp.log(w)[None, :])
    back = scale * zb @ za.T
    back += jnp.where(jnp.eye(ROWS), 0, jnp.log(w)[None, :])
    entropies = [-jnp.diag(jax.nn.log_softmax(x, axis=1)) for x in (z, back)]
    return sum(entropies) / 2


@few
@given(seeds, scales)
def test_epsilon_0_is_clip_and_supcon(seed, scale):
    with jax.enable_x64(True):
        softmax, clip, eps_supcon, supcon = _epsilon_0(*_batch(seed), scale)
        assert_close(softmax, clip)
        assert_close(eps_supcon, supcon)


@compiled
def _margin(za, zb, labels, w, scale, epsilon):
    def lowered(za, zb):
        z = scale * za @ zb.T - epsilon * jnp.eye(ROWS)
        log_softmax = jax.nn.log_softmax(z, axis=0), jax.nn.log_softmax(z, axis=1)
        return -sum(jnp.diag(x) for x in log_softmax) / 2

    def ours(za, zb):
        return losses.softmax_loss(za, zb, scale=scale, epsilon=epsilon)

    rows, grads = (
        (loss(za, zb), jax.grad(lambda *z: (w * loss(*z)).sum(), (0, 1))(za, zb))  # noqa: B023
        for loss in (ours, lowered)
    )
    supervised = losses.eps_supinfonce_loss(za, labels, temperature=1 / scale, epsilon=epsilon)
    return rows, grads, supervised


@few
@given(seeds, scales, margins)
def test_epsilon_is_an_additive_margin_less_epsilon(seed, scale, epsilon):
    """Cross-entropy with the own logit lowered by epsilon, less epsilon; the gradient is the same.

    So no row is below -epsilon, of the supervised form neither.
    """
    with jax.enable_x64(True):
        ours, lowered, supervised = _margin(*_batch(seed), scale, epsilon)
        assert_close(ours[0], lowered[0] - epsilon)
        assert_close(ours[1], lowered[1])
        assert min(ours[0].min(), supervised.min()) >= -epsilon * (1 + 1e-12) - 1e-12


@compiled
def _prior_0(za, zb, labels, w, scale, concentration, prior):
    views = {"scale": scale, "candidate_weights": w}
    pairs = {"scale": scale, "bias": -1.0, "candidate_weights": w}
    return {
        "InfoNCE": (
            losses.debiased_loss(za, zb, prior=0.0, **views),
            losses.softmax_loss(za, zb, **views),
        ),
        "sigmoid": (
            losses.weighted_mean(losses.debiased_sigmoid_loss(za, zb, prior=0.0, **pairs), w),
            losses.weighted_mean(losses.sigmoid_loss(za, zb, **pairs), w),
        ),
        "concentration": (
            losses.hard_debiased_loss(za, zb, prior=prior, concentration=0.0, **views),
            losses.debiased_loss(za, zb, prior=prior, **views),
        ),
        "one for all": (
            losses.debiased_loss(za, zb, prior=jnp.full(ROWS, prior), **views),
            losses.debiased_loss(za, zb, prior=prior, **views),
        ),
    }, losses.hard_debiased_loss(za, zb, prior=0.0, concentration=concentration, **views)


@few
@given(seeds, st.floats(0.5, 10), st.floats(0, 3), st.floats(0, 0.9))
def test_limits_of_the_debiased_losses(seed, scale, concentration, prior):
    """Prior 0 is InfoNCE, concentration 0 the debiased loss; concentration only adds to a row."""
    with jax.enable_x64(True):
        pairs, hard = _prior_0(*_batch(seed), scale, concentration, prior)
        for got, expected in pairs.values():
            assert_close(got, expected)
        assert np.all(hard >= pairs["InfoNCE"][1] - 1e-9)


CLASSES = 5


@compiled
def _of_classes(z, chances, prior, scale):
    """Exponentials and softplus that are left as negatives, per class, of a mixture of classes.

    One row per class, weighted by its chance: a sum over candidates is then its expectation over
    draws from the mixture. All of a class share an embedding. The anchors are rows of their own.
    """
    anchors, whole = jnp.zeros(CLASSES), jnp.concatenate([z, z])
    rest = {"candidate_weights": jnp.concatenate([anchors, chances]), "scale": scale}
    prior = jnp.broadcast_to(prior, CLASSES)
    prior = jnp.concatenate([prior, prior])
    own = scale * jnp.ones(CLASSES)
    softmax = losses.debiased_loss(whole, whole, prior=prior, **rest)[:CLASSES]
    sigmoid = losses.debiased_sigmoid_loss(whole, whole, prior=prior, bias=-1.0, **rest)[:CLASSES]
    return (jnp.exp(softmax) - 1) * jnp.exp(own), sigmoid - jax.nn.softplus(1 - own)


def _unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@few
@given(
    seeds,
    st.lists(st.integers(1, 200), min_size=CLASSES, max_size=CLASSES, unique=True),
    st.floats(0.5, 5),
)
def test_the_true_class_probability_of_each_example_leaves_the_true_negatives(seed, sizes, scale):
    """In expectation over draws from a long-tailed mixture, for each class; a constant one cannot.

    With the mean probability for all, too much is left for classes more frequent than it, too
    little for rarer ones.
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        z = _unit(rng.normal(size=(CLASSES, 6)))
        chances = np.array(sizes) / np.sum(sizes)
        others = chances * ~np.eye(CLASSES, dtype=bool)
        cosines = z @ z.T
        terms = np.exp(scale * cosines), np.logaddexp(0, scale * cosines - 1)
        true = [(others * x).sum(1) / (1 - chances) for x in terms]
        exact = _of_classes(jnp.asarray(z), chances, jnp.asarray(chances), scale)
        assert_close(exact, tuple(true), rtol=1e-8)
        mean = (chances**2).sum()
        off = np.sign(np.where(np.abs(chances - mean) > 1e-3, chances - mean, 0))
        for left, expected in zip(
            _of_classes(jnp.asarray(z), chances, mean, scale), true, strict=True
        ):
            sign = np.sign(left - expected)
            assert np.all((sign == off) | (off == 0))


def test_drawn_batches_average_to_the_true_negatives_only_with_each_class_s_probability(x64):
    """200 batches of 128 draws for each class of a long tail, within five standard errors."""
    draws, rows, scale = 200, 128, 1.0
    chances, rng = np.array([0.6, 0.3, 0.1]), np.random.default_rng(0)
    z = _unit(rng.normal(size=(3, 6)))
    e = np.exp(scale * z @ z.T)
    true = ((e - np.diag(np.diag(e))) @ chances) / (1 - chances)

    @compiled
    @jax.vmap
    def left(anchor, others, prior):
        za = jnp.asarray(z)[jnp.concatenate([anchor[None], others])]
        row = losses.debiased_loss(za, za, prior=prior, scale=scale, chunk_size=rows)[0]
        return (jnp.exp(row) - 1) * jnp.exp(scale) / rows

    anchors = np.repeat(np.arange(3), draws)
    others = rng.choice(3, size=(3 * draws, rows), p=chances)

    def mean_and_error(prior):
        got = np.asarray(left(anchors, others, prior)).reshape(3, draws)
        return got.mean(axis=1), got.std(axis=1) / np.sqrt(draws)

    mean, error = mean_and_error(chances[anchors])
    assert np.all(np.abs(mean - true) < 5 * error)
    mean, error = mean_and_error(np.full(3 * draws, (chances**2).sum()))
    assert mean[0] > true[0] + 5 * error[0]
    assert mean[-1] < true[-1] - 5 * error[-1]
