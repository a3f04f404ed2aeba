"""In-cell batches: the authors' sequence, and what holds for any cells, step and host."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.core.hashing import make_key, mix
from bias_clip.stages._bijection import permute
from bias_clip.stages.mcl_plan import (
    MODES,
    SEQUENCES,
    epoch_rows,
    global_rows,
    make_batch_plan,
    make_epoch,
    plan_stats,
)

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name):
    with np.load(GOLDEN / f"metric_{name}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("file", [0, 1])
def test_the_authors_sequence_and_counts_without_their_repeats(file):
    case = golden(f"mclbatch_{file}")
    labels = case["pseudo_label"]
    size = int(case["batch_size_per_rank"] * case["world_size"])
    plan = make_batch_plan(labels, batch_size=size, seed=0, stage=1, sequence="round_robin")
    stats = plan_stats(plan)
    assert stats.steps == case["steps_per_epoch"]
    assert stats.dropped == case["dropped_per_cluster"].sum()
    steps = [global_rows(plan, step) for step in range(stats.steps)]
    assert [labels[rows[0]] for rows in steps] == case["cluster_sequence"].tolist()
    for rows, theirs in zip(steps, case["batches_example"], strict=True):
        assert set(labels[rows]) == set(labels[theirs.ravel()])
    rows = np.concatenate(steps)
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_array_equal(
        np.bincount(labels) - np.bincount(labels[rows]), case["dropped_per_cluster"]
    )


@st.composite
def plans(draw):
    """Cells and a plan of them, of any words."""
    sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=6))
    size = draw(st.integers(1, max(sizes)))
    cells = np.random.default_rng(draw(st.integers(0, 9))).permutation(
        np.repeat(np.arange(len(sizes)), sizes)
    )
    words = {"mode": draw(st.sampled_from(MODES)), "sequence": draw(st.sampled_from(SEQUENCES))}
    seed = draw(st.integers(0, 2**40))
    return cells, make_batch_plan(cells, batch_size=size, seed=seed, stage=1, **words)


def epoch_of(plan, number):
    epoch, steps = make_epoch(plan, number), plan_stats(plan).steps
    return [epoch_rows(plan, epoch, step) for step in range(steps)]


@settings(deadline=None, max_examples=80)
@given(plans(), st.integers(0, 3))
def test_an_epoch_has_no_example_twice_and_counts_the_others(given_plan, number):
    cells, plan = given_plan
    stats, steps = plan_stats(plan), epoch_of(plan, number)
    rows = np.concatenate(steps)
    assert len(set(rows.tolist())) == len(rows) == stats.used
    assert stats.used + stats.dropped == len(cells)
    counts = np.bincount(cells)
    assert stats.cells == len(counts)
    assert stats.small == (counts < plan.batch_size).sum()
    if plan.mode == "batch":
        assert stats.never == counts[counts < plan.batch_size].sum()
        np.testing.assert_array_equal(
            np.bincount(cells[rows], minlength=len(counts)), counts - counts % plan.batch_size
        )
    else:
        assert stats.never == 0
        assert stats.dropped == len(cells) % plan.batch_size


@settings(deadline=None, max_examples=80)
@given(plans())
def test_batches_have_one_cell_but_for_those_of_what_is_left(given_plan):
    cells, plan = given_plan
    of = [set(cells[rows].tolist()) for rows in epoch_of(plan, 0)]
    counts = np.bincount(cells)
    if plan.mode == "batch":
        assert all(len(own) == 1 for own in of)
    whole = (counts // plan.batch_size).sum()
    assert sum(len(own) == 1 for own in of) >= whole


@settings(deadline=None, max_examples=40)
@given(plans(), st.integers(0, 40), st.integers(1, 5))
def test_any_rows_of_any_step_are_computed_alone(given_plan, step, hosts):
    _, plan = given_plan
    steps = plan_stats(plan).steps
    epochs = itertools.chain.from_iterable(epoch_of(plan, e) for e in range(step // steps + 1))
    replayed = next(itertools.islice(epochs, step, None))
    np.testing.assert_array_equal(global_rows(plan, step), replayed)
    cuts = np.linspace(0, plan.batch_size, hosts + 1).astype(int).tolist()
    epoch = make_epoch(plan, step // steps)
    parts = [epoch_rows(plan, epoch, step % steps, a, b) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), replayed)


def test_what_is_dropped_is_drawn_anew_in_every_epoch():
    cells = np.repeat([0, 1], [11, 14])
    for mode in MODES:
        plan = make_batch_plan(cells, batch_size=4, seed=0, stage=1, mode=mode)
        dropped = [frozenset(range(25)) - set(np.concatenate(epoch_of(plan, e))) for e in range(40)]
        assert len(set(dropped)) > 12
        assert len(frozenset.union(*dropped)) > 12


def test_seeds_stages_and_epochs_draw_differently():
    cells = np.repeat([0, 1, 2], 40)
    plans = [
        make_batch_plan(cells, batch_size=8, seed=s, stage=j) for s, j in [(0, 1), (1, 1), (0, 2)]
    ]
    orders = [tuple(np.concatenate(epoch_of(p, e)).tolist()) for p in plans for e in range(3)]
    assert len(set(orders)) == 9


def test_a_shuffled_sequence_has_no_end_of_the_largest_cell_alone():
    cells = np.repeat(np.arange(8), [400, *[40] * 7])
    ends = {}
    for sequence in SEQUENCES:
        plan = make_batch_plan(cells, batch_size=10, seed=0, stage=1, sequence=sequence)
        ends[sequence] = [int(cells[rows[0]]) for rows in epoch_of(plan, 0)[-20:]]
    assert set(ends["round_robin"]) == {0}
    assert len(set(ends["shuffle"])) > 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("cells", "arguments", "message"),
    [
        ([0, 0, 1], {"batch_size": 3}, "largest has 2: no batch of 3"),
        ([0, 2], {}, r"none is \[1\]; leave no gaps"),
        ([0.0, 1.0], {}, "expected one integer of 0 or more"),
        ([-1, 0], {}, "expected one integer of 0 or more"),
        ([0, 1], {"batch_size": 0}, "batch_size: got 0"),
        ([0, 1], {"mode": "bach"}, "mode: got 'bach'"),
        ([0, 1], {"sequence": "random"}, "sequence: got 'random'"),
    ],
)
def test_a_plan_of_nothing_is_refused(cells, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_batch_plan(np.array(cells), **{"batch_size": 1, "seed": 0, "stage": 1, **arguments})


# Permutations.


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_every_key_permutes(size):
    for key in range(5):
        found = permute(np.arange(size), np.full(size, size), np.full(size, make_key(key)))
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [2, 3, 5, 6])
def test_all_orders_are_equally_likely(size):
    orders = math.factorial(size)
    trials = 30 * orders
    keys = np.repeat(mix(np.arange(trials, dtype=np.uint64)), size)
    found = permute(np.tile(np.arange(size), trials), np.full(size * trials, size), keys)
    _, seen = np.unique(found.reshape(trials, size), axis=0, return_counts=True)
    assert len(seen) == orders
    spread = ((seen - 30) ** 2 / 30).sum()
    freedom = orders - 1
    assert spread < freedom + 5 * math.sqrt(2 * freedom)  # chi-square, five standard deviations


def test_a_large_range_is_covered_evenly():
    size, tries = 10**9, 4000
    found = permute(np.arange(tries), np.full(tries, size), np.full(tries, make_key("x")))
    assert len(set(found.tolist())) == tries
    seen = np.bincount(found * 20 // size, minlength=20)
    assert ((seen - 200) ** 2 / 200).sum() < 19 + 5 * math.sqrt(38)
