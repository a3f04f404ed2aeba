"""The draw is each row's own: of seed, id and weight, and of nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.balancing import hash01, keep

IDS = np.arange(-5000, 35_000)


def _names(n):
    return [f"image/{i}.jpg" for i in range(n)]


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_order_and_shard_do_not_matter(kind):
    ids = list(IDS[:3000]) if kind == "integers" else _names(3000)
    w = np.random.default_rng(0).uniform(0, 3, 3000)
    whole = keep(1, np.array(ids) if kind == "integers" else ids, w)
    order = np.random.default_rng(1).permutation(3000)
    for part in np.split(order, [10, 700, 701]):
        chosen = [ids[i] for i in part]
        chosen = np.array(chosen) if kind == "integers" else chosen
        np.testing.assert_array_equal(keep(1, chosen, w[part]), whole[part])


@pytest.mark.parametrize("weight", [0.05, 0.5, 0.9, 1.7])
@pytest.mark.parametrize("ids", [IDS, _names(40_000)], ids=["integers", "strings"])
def test_copies_are_the_weight_on_average(ids, weight):
    copies = keep(7, ids, np.full(40_000, weight))
    fraction = weight % 1
    sigma = np.sqrt(fraction * (1 - fraction) / 40_000)
    assert abs(copies.mean() - weight) < 4 * sigma
    assert set(copies) == {int(weight), int(weight) + 1}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(-(2**63), 2**64 - 1), st.floats(0, 3), st.floats(0, 3))
def test_more_weight_never_drops_a_row(seed, a, b):
    low, high = sorted((a, b))
    ids = IDS[:500]
    assert (keep(seed, ids, np.full(500, low)) <= keep(seed, ids, np.full(500, high))).all()


def test_whole_weights_leave_nothing_to_chance():
    w = np.arange(40_000) % 4
    np.testing.assert_array_equal(keep(3, IDS, w.astype(float)), w)


def test_other_seeds_draw_independently():
    a, b = (hash01(seed, IDS) for seed in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(IDS))
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 4 / np.sqrt(len(IDS))


def test_the_hash_is_uniform():
    """Chi-square of 100 bins: mean 99, deviation 14."""
    for ids in (IDS, IDS * 2**20, _names(40_000)):
        bins = np.bincount((hash01(5, ids) * 100).astype(int), minlength=100)
        assert ((bins - 400) ** 2 / 400).sum() < 99 + 4 * 14


def test_the_hash_does_not_change_between_versions():
    """Values of the first version: a subset that was trained on must be drawn again."""
    assert hash01(0, np.array([0, 1, -1])).tolist() == REGISTERED["integers"]
    assert hash01(42, ["a", "b/c.png", "é"]).tolist() == REGISTERED["strings"]


def test_arrays_lists_and_widths_of_ids_agree():
    np.testing.assert_array_equal(hash01(0, np.arange(9, dtype=np.int32)), hash01(0, np.arange(9)))
    np.testing.assert_array_equal(hash01(0, np.array(_names(9))), hash01(0, _names(9)))
    as_bytes = [name.encode() for name in _names(9)]
    np.testing.assert_array_equal(hash01(0, as_bytes), hash01(0, _names(9)))
    assert hash01(0, []).shape == (0,)


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        (np.arange(2), np.array([0.5, -0.5]), "negative"),
        (np.arange(2), np.array([0.5, np.nan]), "non-finite"),
        (np.arange(2), np.ones(3), "one per id"),
        (np.array([0.5, 1.5]), np.ones(2), "integers, strings or bytes"),
        (np.zeros((2, 2), int), np.ones(2), "one id per row"),
        ([None, "a"], np.ones(2), "integers, strings or bytes"),
    ],
)
def test_what_is_wrong_is_said(ids, weights, message, unchecked):
    with pytest.raises(ValueError, match=message):
        keep(0, ids, weights)


REGISTERED = {
    "integers": [0.8833108082136426, 0.8242198252979852, 0.21722594638153103],
    "strings": [0.02250653891412102, 0.9495330906830229, 0.5219491495082066],
}
