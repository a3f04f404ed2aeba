"""Laws of the supervised losses that the contract and the golden files do not show."""

import functools

import jax.numpy as jnp
import numpy as np

from bias_clip import losses
from tests.losses import cases
from tests.losses.cases import assert_close, compiled

ROWS = 8
LABELS = jnp.array([0, 0, 1, 1, 1, 2, -1, -1])


def _z(seed=0):
    return jnp.asarray(cases.ROWS["z"](np.random.default_rng(seed), ROWS))


def test_epsilon_0_of_eps_supcon_is_supcon_and_of_eps_supinfonce_is_not(x64):
    z = _z()
    supcon = losses.supcon_loss(z, LABELS, temperature=0.3)
    assert_close(losses.eps_supcon_loss(z, LABELS, temperature=0.3, epsilon=0.0), supcon)
    infonce = losses.eps_supinfonce_loss(z, LABELS, temperature=0.3, epsilon=0.0)
    assert_close(infonce[:2], supcon[:2])  # one positive each: the same
    assert np.all(infonce[2:5] < supcon[2:5] - 0.01)  # two: they compete in SupCon only


def test_rows_without_positives_are_0_and_unknown_labels_match_nothing(x64):
    z = _z()
    for loss in (losses.eps_supcon_loss, losses.eps_supinfonce_loss):
        rows = loss(z, LABELS, temperature=0.3, epsilon=0.2)
        np.testing.assert_array_equal(rows == 0, [False] * 5 + [True] * 3)
        distinct = LABELS.at[5:].set(jnp.array([7, 8, 9], LABELS.dtype))
        assert_close(loss(z, distinct, temperature=0.3, epsilon=0.2), rows)


def test_explicit_positives_equal_labels(x64):
    z = _z()
    positives = (LABELS[:, None] == LABELS) & (LABELS >= 0)
    none = jnp.full(ROWS, -1)
    for form in ("out", "in"):
        arguments = {"temperature": 0.3, "epsilon": 0.2, "form": form, "chunk_size": 3}
        loss = compiled(functools.partial(losses.eps_supinfonce_loss, z, **arguments))
        assert_close(loss(none, positives=positives), loss(LABELS))


def test_the_loss_is_never_below_minus_epsilon_and_reaches_it(x64):
    z = jnp.eye(2)[jnp.array([0, 0, 1, 1])]
    labels = jnp.array([0, 0, 1, 1])
    loss = compiled(lambda z: losses.eps_supinfonce_loss(z, labels, temperature=0.01, epsilon=0.5))
    assert_close(loss(z), np.full(4, -0.5))


def test_cells_restrict_negatives_only(x64):
    """Without negatives, and with one positive each, the margin is all that is left."""
    z, labels = _z()[:4], jnp.array([0, 0, 1, 1])
    alone = jnp.array([0, 1, 2, 3])
    rows = losses.eps_supcon_loss(z, labels, temperature=0.3, epsilon=0.2, cells=alone)
    assert_close(rows, np.full(4, -0.2))
