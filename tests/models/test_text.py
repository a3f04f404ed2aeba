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
    eos = {"eos_id": 3} if pool == "eos" else {}
    tower, x = make(pool=pool, out_dim=5, **eos), tokens()
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


def test_end_of_text_is_the_largest_id_or_the_first_equal_to_one():
    x = jnp.array([[9, 4, 7, 2, 10, 0], [9, 7, 10, 7, 10, 1], [9, 4, 5, 6, 4, 3]])
    for pool, places in (
        ({"pool": "argmax"}, [4, 2, 0]),
        ({"pool": "eos", "eos_id": 7}, [2, 1, 0]),
    ):
        tower = make(mask="causal", **pool)

        def by_hand(x, tower=tower, places=places):
            y = tower.encoder(tower.embedding[...][x] + tower.pos_embedding[...])
            return y[jnp.arange(3), jnp.array(places)]

        assert_close(call(tower, x), jax.jit(by_hand)(x))


def test_causal_mask_hides_what_comes_after_the_end():
    x = jnp.array([[9, 4, 10, 2, 5, 0]])
    later, before = x.at[0, 3:].set(1), x.at[0, 1].set(5)
    tower = make(mask="causal", pool="argmax", out_dim=5, head_bias=False)
    y = np.asarray(call(tower, jnp.concatenate([x, later, before])))
    np.testing.assert_allclose(y[1], y[0], atol=1e-6)
    assert np.abs(y[2] - y[0]).max() > 1e-3


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
        ({"pool": "eos"}, "needs an eos_id in the vocabulary of 11: got None"),
        ({"pool": "eos", "eos_id": VOCAB}, "got 11"),
        ({"eos_id": 3}, "got eos_id 3 with pool 'last'"),
        ({"mask": "full"}, "'full', expected one of none, causal"),
        ({"activation": "relu"}, "'relu', expected one of gelu_tanh, gelu, quick_gelu"),
    ],
)
def test_what_cannot_be_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("pool", "expected", "places"),
    [
        # The last token stays where it is.
        ("last", [[2, 5, 1], [4, 6, 1], [4, 6, 1]], [0, 1, 5]),
        ("gap", [[2, 5, 7], [4, 6, 3], [4, 6, 8]], [0, 1, 2]),
        # The largest token is the end: at places 4, 3 and 2.
        ("argmax", [[2, 5, 9], [4, 6, 8], [4, 6, 8]], [0, 1, 2]),
        # 3 is the end: at places 2 and 4. The first text has none, so that its first token is pooled.
        ("eos", [[2, 5, 7], [4, 6, 3], [4, 6, 3]], [0, 1, 2]),
    ],
)
def test_a_text_that_is_cut_keeps_the_token_that_is_pooled(pool, expected, places):
    tower = make(pool=pool, **({"eos_id": 3} if pool == "eos" else {}))
    x = jnp.array([[2, 5, 7, 2, 9, 1], [4, 6, 3, 8, 1, 1], [4, 6, 8, 2, 3, 1]])
    cut, table = tower._cut(x, tower.pos_embedding[...], 3)
    np.testing.assert_array_equal(cut, expected)
    np.testing.assert_array_equal(table, tower.pos_embedding[...][:, np.array(places)])
    whole = nnx.jit(lambda x: tower(x, length=LENGTH))(x)
    np.testing.assert_array_equal(whole, call(tower, x))
