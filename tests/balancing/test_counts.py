"""The table is that of the data, bit for bit, however the data come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.balancing import CountTable, count, lookup, merge

UTILITIES = np.array([0.0, 0.1, 0.5, 2.0])


def _rows(seed, rows=500, attributes=3, labels=5):
    rng = np.random.default_rng(seed)
    columns = rng.integers(-1, 2, (rows, attributes + labels)).astype(np.int8)
    return columns[:, :attributes], columns[:, attributes:], rng.choice(UTILITIES, rows)


def _assert_same_bits(a: CountTable, b: CountTable):
    for left, right in zip(a, b, strict=True):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 200), max_size=6), st.integers(1, 90))
def test_any_order_and_sharding_gives_the_same_bits(seed, cuts, labels):
    """Up to 93 columns: one to three words."""
    rows = _rows(seed, rows=200, labels=labels)
    whole = count(*rows)
    order = np.random.default_rng(seed).permutation(200)
    shards = [count(*(x[part] for x in rows)) for part in np.split(order, sorted(cuts))]
    _assert_same_bits(merge(shards), whole)
    _assert_same_bits(merge([merge(shards[1:]), shards[0]]) if len(shards) > 1 else whole, whole)


def test_counts_are_those_of_a_dictionary():
    s, y, u = _rows(0, rows=2000, labels=1)
    table, by_hand = count(s, y, u), {}
    for row in zip(map(tuple, s), map(tuple, y), u, strict=True):
        by_hand[row] = by_hand.get(row, 0) + 1
    rows = zip(map(tuple, table.attributes), map(tuple, table.labels), table.utility, strict=True)
    keys = list(rows)
    assert dict(zip(keys, table.counts.tolist(), strict=True)) == by_hand
    assert keys == sorted(by_hand)


def test_blocks_are_joined(monkeypatch):
    rows = _rows(1)
    whole = count(*rows)
    monkeypatch.setattr("bias_clip.balancing.counts._BLOCK", 64)
    monkeypatch.setattr("bias_clip.balancing.counts._CHUNK", 10)
    _assert_same_bits(count(*rows), whole)
    _assert_same_bits(
        count(*rows[:2]), merge([count(*(x[i::3] for x in rows[:2])) for i in range(3)])
    )


@pytest.mark.parametrize("labels", [0, 5, 80])
def test_lookup_finds_each_row(labels):
    s, y, u = _rows(2, labels=labels)
    table = count(s, y, u)
    cell = lookup(table, s, y, u)
    np.testing.assert_array_equal(table.attributes[cell], s)
    np.testing.assert_array_equal(table.labels[cell], y)
    np.testing.assert_array_equal(table.utility[cell], u)
    assert (np.bincount(cell, minlength=len(table.counts)) == table.counts).all()


def test_lookup_of_a_row_not_counted_is_an_error(unchecked):
    s, y, u = _rows(3, labels=60)
    table = count(s[1:], y[1:], u[1:])
    with pytest.raises(ValueError, match="1 are not in the table, the first at 0"):
        lookup(table, s, y, u)
    with pytest.raises(ValueError, match="500 are not in the table"):
        lookup(count(s[:0], y[:0], u[:0]), s, y, u)
    with pytest.raises(ValueError, match="as in the table"):
        lookup(table, s[:, :1], y, u)


def test_lookup_wants_the_row_and_not_only_its_parts(unchecked):
    s = np.int8([[0], [1]])
    table = count(s, s, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="2 are not in the table"):
        lookup(table, s, s, np.array([2.0, 1.0]))


def test_edges_put_a_utility_in_the_middle_of_its_bucket():
    s = np.ones((5, 1), np.int8)
    table = count(s, s, np.array([0.0, 0.9, 1.0, 2.9, 3.0]), edges=[0.0, 1.0, 3.0])
    assert table.utility.tolist() == [0.5, 2.0]
    assert table.counts.tolist() == [2, 3]


def test_negative_zero_is_zero():
    s = np.ones((2, 1), np.int8)
    assert count(s, s, np.array([0.0, -0.0])).counts.tolist() == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(attributes=np.int8([[0], [2]])), r"got 2 in column 0 \(man\)"),
        (dict(labels=np.int8([[0, -3], [0, 1]])), r"got -3 in column 1 \(cook\)"),
        (dict(labels=np.array([[0.0, np.nan], [0, 1]])), "expected integers"),
        (dict(attributes=np.int8([0, 1])), "rows, columns"),
        (dict(attributes=np.int8([[0]])), "same number of rows"),
        (dict(attributes=np.zeros((2, 0), np.int8)), "at least one attribute"),
        (dict(utility=np.array([1.0, np.nan])), "got nan"),
        (dict(utility=np.array([1.0, np.inf])), "got inf"),
        (dict(utility=np.array([1.0, -1.0])), "none below 0"),
        (dict(utility=np.ones(3)), "one per row"),
        (dict(utility=np.array([1.0, 5.0]), edges=[0.0, 1.0]), "within the edges"),
        (dict(utility=np.ones(2), edges=[1.0, 0.0]), "ascending"),
    ],
)
def test_what_is_wrong_is_said(change, message, unchecked):
    rows = dict(attributes=np.int8([[0], [1]]), labels=np.zeros((2, 2), np.int8))
    with pytest.raises(ValueError, match=message):
        count(**(rows | change), names=["man", "nurse", "cook"])


def test_merging_different_columns_is_an_error(unchecked):
    s, y, u = _rows(4)
    with pytest.raises(ValueError, match="same columns"):
        merge([count(s, y, u), count(s, y[:, :2], u)])
    with pytest.raises(ValueError, match="at least one"):
        merge([])
