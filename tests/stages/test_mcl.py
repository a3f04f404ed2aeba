"""Cells: the authors' numbers, and what holds for the clusters of any stages."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.stages import mcl, mcl_plan
from bias_clip.stages.mcl import accumulate, merge_small

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name):
    with np.load(GOLDEN / f"metric_{name}.npz", allow_pickle=False) as file:
        return dict(file)


# Accumulated labels.


def number(found, k):
    """The tuple of each example as a number with a digit a stage, the first most significant."""
    stages = found.tuples.shape[1]
    return (found.tuples @ k ** np.arange(stages - 1, -1, -1))[found.cells]


@pytest.mark.parametrize("file", [0, 1])
def test_labels_are_the_papers_and_not_those_of_the_released_script(file):
    case = golden(f"mcllabel_{file}")
    k, labels = int(case["clusters_per_stage"]), case["stage_labels"]
    for stage in range(len(labels)):
        found = accumulate(list(labels[: stage + 1]))
        np.testing.assert_array_equal(number(found, k), case["accumulated"][stage])
        # The script takes the newest stage for every digit.
        newest = accumulate([labels[stage]] * (stage + 1))
        np.testing.assert_array_equal(number(newest, k), case["released_cluster_script"][stage])
        assert stage == 0 or len(newest.tuples) < len(found.tuples)


LABELS = st.integers(1, 30).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1, max_size=4
    ).map(np.array)
)


@settings(deadline=None, max_examples=60)
@given(LABELS)
def test_examples_share_a_cell_if_they_share_all_clusters(labels):
    found = accumulate(list(labels))
    np.testing.assert_array_equal(found.tuples[found.cells], labels.T)
    assert sorted(set(found.cells.tolist())) == list(range(len(found.tuples)))
    assert found.tuples.tolist() == sorted(map(list, {tuple(t) for t in labels.T.tolist()}))


@settings(deadline=None, max_examples=60)
@given(LABELS)
def test_a_stage_refines_the_one_before(labels):
    before, after = accumulate(list(labels[:1])), accumulate(list(labels))
    parents = {(a, b) for a, b in zip(after.cells.tolist(), before.cells.tolist(), strict=True)}
    assert len(parents) == len(after.tuples)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "got shapes"),
        ([np.zeros(3, int), np.zeros(4, int)], "got shapes"),
        ([np.zeros(0, int)], "got shapes"),
        ([np.array([0, -1])], "stage 0.*from -1 to 0"),
        ([np.zeros(2, int), np.zeros(2)], "stage 1.*float64"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        accumulate(labels)


# Merging.


@settings(deadline=None, max_examples=60)
@given(LABELS, st.integers(1, 12), st.booleans())
def test_merging_leaves_a_small_cell_only_where_its_whole_family_is_small(labels, least, near):
    found = accumulate(list(labels))
    counts = np.bincount(found.cells)
    centres = np.random.default_rng(0).normal(size=(len(counts), 3)) if near else None
    merged = merge_small(counts, found.tuples, least=least, centres=centres)
    sizes = np.bincount(merged, weights=counts)
    families = [tuple(t[:-1]) for t in found.tuples.tolist()]
    for cell, size in enumerate(sizes):
        of = {family for family, m in zip(families, merged, strict=True) if m == cell}
        assert len(of) == 1, "only siblings are merged"
        total = sum(c for c, family in zip(counts, families, strict=True) if family in of)
        assert size >= least or size == total
    assert sorted(set(merged.tolist())) == list(range(len(sizes)))
    assert list(dict.fromkeys(merged.tolist())) == list(range(len(sizes))), "in order of first use"
    if (counts >= least).all():
        np.testing.assert_array_equal(merged, np.arange(len(counts)))


def test_a_small_cell_goes_to_the_largest_sibling_or_to_the_nearest():
    counts, tuples = np.array([9, 2, 5]), np.array([[0], [1], [2]])
    assert merge_small(counts, tuples, least=4).tolist() == [0, 0, 1]
    centres = np.array([[0.0], [2.0], [3.0]])
    assert merge_small(counts, tuples, least=4, centres=centres).tolist() == [0, 1, 1]


def test_the_centre_of_merged_cells_is_their_mean():
    # 0 joins 1, whose centre moves from 1 to 1/2: now 2 is nearer than 3.
    counts, tuples = np.array([2, 2, 5, 9]), np.array([[0], [1], [2], [3]])
    centres = np.array([[0.0], [1.0], [-1.2], [2.5]])
    assert merge_small(counts, tuples, least=5, centres=centres).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("module", [mcl, mcl_plan])
def test_examples_in_the_documentation_run(module):
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
