"""Moments of weighted rows: by hand, as of repeated rows, and nothing known is not unbiased."""

import numpy as np
import pytest

from bias_clip.balancing import (
    association_bias,
    count,
    effective_sample_size,
    prevalence,
    prevalence_shift,
    representation_bias,
)

S = np.int8([[1], [1], [0], [0], [-1]])
Y = np.int8([[1, 1], [0, -1], [1, 0], [1, 0], [1, 1]])


def test_by_hand():
    w = np.array([1.0, 2, 1, 1, 7])
    np.testing.assert_allclose(representation_bias(S, np.array([0.5]), w), [3 / 5 - 0.5])
    np.testing.assert_allclose(association_bias(S, Y, w).gap, [[1 / 3 - 1, 1.0]])
    np.testing.assert_allclose(prevalence(Y, w), [10 / 12, 8 / 10])
    np.testing.assert_allclose(prevalence_shift(Y, w), [10 / 12 - 4 / 5, 8 / 10 - 2 / 4])
    assert effective_sample_size(w) == pytest.approx(12**2 / 56)


def test_a_whole_weight_is_the_row_repeated():
    times = np.array([1, 2, 3, 1, 2])
    s, y = np.repeat(S, times, axis=0), np.repeat(Y, times, axis=0)
    np.testing.assert_allclose(
        association_bias(S, Y, times.astype(float)).gap, association_bias(s, y).gap
    )
    np.testing.assert_allclose(prevalence(Y, times.astype(float)), prevalence(y))


def test_a_table_gives_what_its_rows_give():
    rng = np.random.default_rng(0)
    s, y = rng.integers(-1, 2, (2, 3000, 2)).astype(np.int8)
    table = count(s, y)
    q = rng.random(len(table.counts))
    each = np.repeat(q, table.counts)
    rows = [np.repeat(x, table.counts, axis=0) for x in (table.attributes, table.labels)]
    np.testing.assert_allclose(
        association_bias(*table[:2], q * table.counts).gap, association_bias(*rows, each).gap
    )
    np.testing.assert_allclose(
        prevalence_shift(table.labels, q, table.counts), prevalence_shift(rows[1], each)
    )
    assert effective_sample_size(q, table.counts) == pytest.approx(effective_sample_size(each))


def test_a_group_without_weight_is_nan_not_zero():
    gap = association_bias(S, Y, np.array([0.0, 0, 1, 1, 1]))
    assert np.isnan(gap.gap).all()
    assert np.isnan(gap.inside).all()
    assert (gap.outside == [[1, 0]]).all()
    nothing = np.array([0.0, 0, 0, 0, 1])
    assert np.isnan(representation_bias(S, np.array([0.5]), nothing)).all()
    assert np.isnan(effective_sample_size(np.zeros(3)))


def test_swapping_the_groups_swaps_the_sign():
    other = np.where(S < 0, S, 1 - S).astype(np.int8)
    np.testing.assert_allclose(association_bias(other, Y).gap, -association_bias(S, Y).gap)


@pytest.mark.parametrize("weights", [np.ones(4), -np.ones(5), np.full(5, np.nan)])
def test_wrong_weights_are_errors(weights, unchecked):
    with pytest.raises(ValueError, match="weights"):
        association_bias(S, Y, weights)


def test_wrong_columns_are_errors(unchecked):
    with pytest.raises(ValueError, match="attributes"):
        representation_bias(S + 2, np.array([0.5]))
    with pytest.raises(ValueError, match="targets"):
        representation_bias(S, np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="rows of"):
        association_bias(S, Y[:3])
