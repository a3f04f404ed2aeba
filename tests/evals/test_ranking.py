import numpy as np
import pytest

from bias_clip.evals.ranking import best_ranks, row_blocks, similarity, top_columns, unit
from tests.evals.cases import normal


def ranks_by_sorting(z, candidates, rows, columns):
    """The definition: sort all candidates of a row, look for the first right one."""
    out = []
    for i, scores in enumerate(similarity(z, candidates)):
        right = columns[rows == i]
        order = np.argsort(-scores, kind="stable")
        out.append(int(np.flatnonzero(np.isin(order, right))[0]) if len(right) else len(candidates))
    return np.array(out)


@pytest.mark.parametrize("block_size", [None, 1, 3, 7, 100])
def test_ranks_are_those_of_a_full_stable_sort_whatever_the_blocks(block_size):
    z, candidates = normal(0, 30, 4), normal(1, 17, 4)
    candidates[5] = candidates[11] = candidates[2]  # exact ties
    z[9] = z[3]
    rng = np.random.default_rng(2)
    rows, columns = rng.integers(0, 25, 60), rng.integers(0, 17, 60)  # rows 25.. have no pair
    expected = ranks_by_sorting(z, candidates, rows, columns)
    got = best_ranks(z, candidates, rows, columns, block_size=block_size)
    np.testing.assert_array_equal(got, expected)
    assert (got[25:] == 17).all()


def test_the_largest_dot_product_comes_first():
    z, candidates = np.array([[1.0, 0.0]], np.float32), np.array([[0.2, 9], [0.9, 0], [-1, 0]])
    np.testing.assert_allclose(similarity(z, candidates), [[0.2, 0.9, -1]], atol=1e-7)
    ranks = [int(best_ranks(z, candidates, np.array([0]), np.array([i]))[0]) for i in range(3)]
    assert ranks == [1, 0, 2]


def test_equal_scores_go_to_the_smaller_index():
    z, candidates = np.ones((1, 2), np.float32), np.ones((3, 2), np.float32)
    for own in range(3):
        assert best_ranks(z, candidates, np.array([0]), np.array([own])) == own


def test_a_row_that_is_not_a_number_comes_last_not_first():
    z = normal(0, 3, 4)
    z[1] = np.nan
    with np.errstate(invalid="ignore"):
        ranks = best_ranks(z, normal(1, 5, 4), np.arange(3), np.zeros(3, int))
    assert ranks[1] == 5
    assert (ranks[[0, 2]] < 5).all()


def test_blocks_cover_the_rows_once_and_hold_few_scores():
    blocks = list(row_blocks(10_000, 5_000))
    assert np.array_equal(np.concatenate([np.arange(10_000)[b] for b in blocks]), np.arange(10_000))
    assert max(b.stop - b.start for b in blocks) * 5_000 <= 2**22
    with pytest.raises(ValueError, match="at least 1"):
        list(row_blocks(3, 3, -1))


def test_top_columns_agree_with_ranks():
    z, candidates = normal(0, 6, 4), normal(1, 9, 4)
    top, scores = top_columns(z, candidates, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    for place in range(4):
        ranks = best_ranks(z, candidates, np.arange(6), top[:, place])
        assert (ranks == place).all()


def test_unit_vectors_have_length_one_and_zeros_stay():
    z = unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(z, [[0.6, 0.8], [0, 0]], atol=1e-7)
    for size in (1e-30, 1e30):
        np.testing.assert_allclose(unit(np.array([[3.0, 4.0]]) * size), [[0.6, 0.8]], atol=1e-7)
