"""The text tower: pooling, the embedding's gradient, tokens that do not exist, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bias_clip.models import text
from tests.models.cases import assert_close, build, call

LENGTH, VOCAB = 6, 11


def make(**arguments):
    arguments = {"variant": "mu", "vocab_size": VOCAB, "length": LENGTH, **arguments}
    return build(text.TextTransformer(**arguments))


def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (3, LENGTH)), jnp.int32)


@pytest.mark.parametrize("pool", text.POOLS)
def test_every_token_and_its_place_count(pool):
    tower, x = make(pool=pool, out_dim=5), tokens()
    places = np.arange(LENGTH)
    changed = jnp.stack([x.at[:, i].set((x[:, i] + 1) % VOCAB) for i in places])
    swapped = x[:, ::-1]
    y = call(tower, jnp.concatenate([x[None], changed, swapped[None]]).reshape(-1, LENGTH))
    y = np.asarray(y).reshape(LENGTH + 2, 3, 5)
    # Full attention: also what comes before the pooled token counts.
    assert np.all(np.abs(y[1:] - y[0]).max(axis=-1) > 1e-4)


def test_last_pool_takes_the_last_token():
    tower = make()

    def by_hand(text):
        return tower.encoder(tower.embedding[...][text] + tower.pos_embedding[...])[:, -1]

    assert_close(call(tower, tokens()), jax.jit(by_hand)(tokens()))


def test_gradient_of_the_table_sums_over_the_places_of_a_token():
    tower = make()
    graph, state = nnx.split(tower)
    x = jnp.array([[2, 5, 2, 2, 7, 1], [5, 5, 1, 1, 1, 1]])

    def scalar(state):
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(x)))

    def by_place(rows):  # the same scalar from rows already looked up
        return jnp.sum(jnp.sin(tower.encoder(rows + tower.pos_embedding[...])[:, -1]))

    got = jax.jit(jax.grad(scalar))(state)["embedding"][...]
    rows = jax.jit(jax.grad(by_place))(tower.embedding[...][x])
    expected = np.zeros(got.shape)
    np.add.at(expected, np.asarray(x), rows)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert not np.any(np.asarray(got)[[0, 3, 4, 6, 8, 9, 10]])


def test_a_token_outside_the_vocabulary_shows_as_nan():
    y = np.asarray(call(make(), tokens().at[1, 2].set(VOCAB)))
    assert np.all(np.isnan(y[1]))
    assert np.all(np.isfinite(y[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "mu/16"}, "no patch"),
        ({"variant": "XL"}, "expected one of mu, Ti"),
        ({"pool": "first"}, "'first', expected one of last, gap, map"),
        ({"vocab_size": 0}, "vocab_size and length must be positive: got 0 and 6"),
        ({"length": 0}, "got 11 and 0"),
    ],
)
def test_what_cannot_be_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
