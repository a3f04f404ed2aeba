"""Data that would be balanced by deleting it, and problems that no weights solve."""

import numpy as np
import pytest

from bias_clip.balancing import count, make_problem, max_eta, solve
from tests.balancing.samples import problem_of, sample

LABELS = ["y0", "y1", "y2", "y3"]


def _mostly_nobody(seed=0):
    return sample(seed, rows=4000, unknown=0.7)


@pytest.mark.parametrize("value", [0, 1])
def test_a_group_of_nobody_or_everybody_is_refused(value, unchecked):
    s, y = _mostly_nobody()
    s[s[:, 0] >= 0, 0] = value
    with pytest.raises(ValueError, match=r"group 's0': got .* Leave it out"):
        solve(count(s, y), problem_of(s, y))
    with pytest.raises(ValueError, match="group 's0'"):
        max_eta(count(s, y), problem_of(s, y))


def test_a_group_that_is_never_known_is_refused(unchecked):
    s, y = _mostly_nobody()
    s[:, 0] = -1
    with pytest.raises(ValueError, match="group 's0': got 0 of 0"):
        solve(count(s, y), problem_of(s, y))


def test_an_empty_intersection_is_refused(unchecked):
    s, y = _mostly_nobody()
    s[(s == 1).all(1), 1] = 0
    problem = make_problem({"s0": 0.5, "s1": 0.5}, LABELS, intersections={("s0", "s1"): 0.2})
    with pytest.raises(ValueError, match="group 's0 & s1': got 0"):
        solve(count(s, y), problem)


def test_an_empty_group_whose_target_is_none_is_solved():
    s, y = _mostly_nobody()
    s[s[:, 0] >= 0, 0] = 0
    problem = make_problem({"s0": 0.0, "s1": 0.5}, LABELS, eta=0.6)
    assert solve(count(s, y), problem).feasible


def test_targets_that_contradict_each_other_are_not_met_by_silent_deletion(unchecked):
    """Two groups that exclude each other, wanted at .7 each: all constraints hold at weight 0."""
    s, y = _mostly_nobody()
    s[s[:, 0] >= 0, 1] = 1 - s[s[:, 0] >= 0, 0]
    problem = make_problem({"s0": 0.7, "s1": 0.7}, LABELS, eta=0.65)
    with pytest.raises(ValueError, match=r"min_retained: got .* below 0.1: .*s0"):
        solve(count(s, y), problem)
    solution = solve(count(s, y), problem, min_retained=0.0)
    assert solution.feasible
    assert not solution.saturated.any()
    assert solution.retained["s0"] < 0.06  # the optimum is 0.05


def test_a_few_rows_that_stand_for_all_are_refused(unchecked):
    """5 of 1000 wanted at half: all the weight is kept, by rows that count as 20."""
    s = np.int8([[1]] * 5 + [[0]] * 995)
    problem = make_problem({"a": 0.5}, cap=200.0, penalty=1e3, eps_representation=0.0)
    with pytest.raises(ValueError, match=r"below 0\.1: a 0\.02\."):
        solve(count(s, s[:, :0]), problem)
    assert solve(count(s, s[:, :0]), problem, min_retained=0.01).feasible


def test_a_label_of_one_group_is_not_silently_deleted(unchecked):
    s, y = sample(1)
    y[s[:, 0] == 0, 2] = 0
    exact = dict(eta=0.4, eps_representation=0.01)
    with pytest.raises(ValueError, match="label y2"):
        solve(count(s, y), problem_of(s, y, eps_association=0.0, **exact))
    kept = dict.fromkeys(LABELS, 0.0) | {"y2": np.inf}
    solution = solve(count(s, y), problem_of(s, y, eps_association=kept, **exact))
    assert "label y2" not in solution.retained
    gone = solve(count(s, y), problem_of(s, y, eps_association=0.0, **exact), min_retained=0.0)
    assert gone.retained["label y2"] < 1e-9
    assert gone.feasible


def test_a_rate_that_cannot_be_met_is_said_by_name():
    s, y = sample(2)
    solution = solve(count(s, y), problem_of(s, y, eta=0.99))
    assert not solution.feasible
    assert solution.saturated.any()
    assert any("s0 - 0.5" in name and "tolerance" in name for name in solution.violated)


def test_the_full_rate_forces_equal_weights_and_still_has_a_certificate():
    s, y = sample(3)
    solution = solve(count(s, y), problem_of(s, y, eta=1.0, cap=1.0))
    np.testing.assert_array_equal(solution.weights, 1.0)
    assert solution.gap < 1e-10
    assert not solution.feasible


def test_above_the_full_rate_weights_vary():
    s, y = sample(3)
    solution = solve(count(s, y), problem_of(s, y, eta=1.0, cap=4.0))
    assert solution.feasible
    assert solution.weights.max() > 1.2


def test_a_half_of_all_rows_cannot_be_met_unmasked_where_most_show_nobody():
    s, y = sample(4, unknown=0.8)
    solution = solve(count(s, y), problem_of(s, y, eta=0.7, unknown="unmasked"), min_retained=0.0)
    assert not solution.feasible


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda s, y: count(s[:0], y[:0]), "no rows"),
        (lambda s, y: count(s, y, np.zeros(len(s))), "0 for all rows"),
        (lambda s, y: count(s[:, :1], y), "got 1 attributes"),
        (lambda s, y: count(s, y[:, :2]), "and 2 labels"),
    ],
)
def test_a_table_that_does_not_fit_is_said(table, message, unchecked):
    s, y = sample(5, rows=100)
    with pytest.raises(ValueError, match=message):
        solve(table(s, y), problem_of(s, y))


def test_a_maximal_rate_of_nothing_is_said(unchecked):
    s = np.int8([[1, 0], [0, 1]] * 50)
    problem = make_problem({"a": 0.7, "b": 0.7}, eta="max", eps_representation=0.0)
    with pytest.raises(ValueError, match="no positive mean weight"):
        solve(count(s, np.zeros((100, 0), np.int8)), problem)


def test_a_share_retained_out_of_range_is_said(unchecked):
    s, y = sample(6)
    with pytest.raises(ValueError, match="share in"):
        solve(count(s, y), problem_of(s, y, eta=0.4), min_retained=2.0)


def test_a_single_row_with_no_constraint():
    one = np.ones((1, 1), np.int8)
    problem = make_problem({"a": 1.0}, eta=0.5)
    assert solve(count(one, one[:, :0]), problem).weights.tolist() == [0.5]
