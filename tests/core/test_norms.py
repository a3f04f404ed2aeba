"""Rows of any size have unit length afterwards, and ordinary rows have the bits of a plain division."""

import numpy as np
import pytest

from bias_clip.core.norms import unit_rows

DIRECTIONS = np.random.default_rng(0).normal(size=(5, 3))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (np.float32, (1e-38, 1e-30, 1e-20, 1, 1e18, 1e30, 1e38)),
        (np.float64, (1e-300, 1e-160, 1, 1e160, 1e300)),
    ],
)
def test_the_size_of_a_row_does_not_change_its_direction(dtype, sizes):
    for size in sizes:
        unit, length = unit_rows((DIRECTIONS * size).astype(dtype))
        assert unit.dtype == length.dtype == dtype
        np.testing.assert_allclose(unit, DIRECTIONS, atol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(length / dtype(size), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_extreme_row_does_not_change_the_bits_of_others(dtype):
    z = np.random.default_rng(1).normal(size=(200, 64)).astype(dtype)
    z *= np.random.default_rng(2).lognormal(0, 3, size=(200, 1)).astype(dtype)
    length = np.linalg.norm(z, axis=1)
    for last in (1.0, float(np.finfo(dtype).max) / 10, float(np.finfo(dtype).tiny)):
        unit, found = unit_rows(np.concatenate([z, np.full((1, 64), last, dtype)]))
        np.testing.assert_array_equal(unit[:-1], z / length[:, None])
        np.testing.assert_array_equal(found[:-1], length)
        np.testing.assert_allclose(unit[-1], 1 / 8, rtol=1e-6)


def test_a_length_beyond_the_dtype_is_infinite_and_its_direction_is_right():
    unit, length = unit_rows(np.full((1, 4), 3e38, np.float32))
    np.testing.assert_array_equal(unit, 0.5)
    assert np.isinf(length[0])


def test_zeros_stay_and_what_is_not_finite_has_no_finite_length():
    unit, length = unit_rows(np.array([[0.0, 0.0], [3.0, -4.0]]))
    np.testing.assert_allclose(unit, [[0, 0], [0.6, -0.8]])
    np.testing.assert_array_equal(length, [0, 5])
    with np.errstate(invalid="ignore"):
        _, length = unit_rows(np.array([[np.inf, 1.0], [np.nan, 1.0], [1e-200, 0.0]]))
    np.testing.assert_array_equal(np.isfinite(length), [False, False, True])


def test_any_leading_axes_and_no_rows():
    z = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_array_equal(unit_rows(z)[0][1], unit_rows(z[1])[0])
    assert unit_rows(np.zeros((0, 4)))[0].shape == (0, 4)
