"""Laws of the balancing solution: each is one that a wrong solver breaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.balancing import (
    association_bias,
    count,
    effective_sample_size,
    keep,
    lookup,
    make_problem,
    max_eta,
    merge,
    representation_bias,
    solve,
)
from bias_clip.balancing._design import make_design
from bias_clip.balancing._dual import Dual, dual_point
from bias_clip.balancing._interior import interior_multipliers
from tests.balancing.samples import EXACT, SLACK, problem_of, row_weights, sample

SEEDS = st.integers(0, 10**6)
CLOSE = dict(rtol=0, atol=1e-9)
laws = settings(max_examples=10, deadline=None, derandomize=True)


def _solve(s, y, utility=None, min_retained=0.0, **arguments):
    return solve(count(s, y, utility), problem_of(s, y, **arguments), min_retained=min_retained)


@laws
@given(
    SEEDS,
    st.sampled_from([0.0, 0.01]),
    st.sampled_from([0.4, 0.9, 1.0]),
    st.sampled_from([1.0, 2.5]),
)
def test_weights_are_within_bounds_and_of_mean_eta_with_a_certificate(seed, eps, eta, cap):
    rng = np.random.default_rng(seed)
    s, y = sample(seed, rows=300, unknown=0.3)
    u = rng.integers(0, 4, 300) / 2
    table = count(s, y, u)
    problem = problem_of(s, y, eta=eta, cap=cap, eps_representation=eps, eps_association=eps)
    solution = solve(table, problem, min_retained=0.0)
    q = solution.weights
    assert q.min() >= 0
    assert q.max() <= cap * (1 + 1e-15)
    assert q @ table.counts / 300 == pytest.approx(eta, abs=1e-12)
    assert solution.gap < 1e-10 * (1 + solution.primal)
    assert solution.kkt_residual < 1e-10
    assert solution.dual <= solution.primal + 1e-12


def test_balanced_data_is_left_alone():
    cells = np.array([(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)], np.int8)
    rows = np.repeat(cells, 7, axis=0)
    solution = _solve(rows[:, :2], rows[:, 2:], eta=0.6)
    np.testing.assert_allclose(solution.weights, 0.6, rtol=0, atol=1e-15)
    assert not solution.v.any()
    assert solution.mu == pytest.approx(0, abs=1e-15)
    assert solution.primal == pytest.approx(0, abs=1e-20)


def test_rows_of_no_known_attribute_share_one_weight():
    s, y = sample(3, unknown=0.8)
    q = row_weights(s, y, problem_of(s, y, **SLACK | {"eta": 0.9}))
    nobody = q[(s < 0).all(1)]
    assert np.ptp(nobody) == 0
    assert nobody[0] > 0.9


def test_rows_of_no_known_attribute_do_not_share_one_weight_unmasked():
    s, y = sample(3, unknown=0.5)
    q = row_weights(s, y, problem_of(s, y, target=0.2, unknown="unmasked", **SLACK))
    assert np.ptp(q[(s < 0).all(1)]) > 0.01


@laws
@given(SEEDS, st.integers(1, 7))
def test_order_shards_and_repetition_change_no_bit(seed, times):
    s, y = sample(seed, rows=400)
    problem = problem_of(s, y, **EXACT)
    rows = row_weights(s, y, problem, min_retained=0.0)
    order = np.random.default_rng(seed).permutation(400)
    shards = [count(s[part], y[part]) for part in np.array_split(order, times)] * times
    table = merge(shards)
    solution = solve(table, problem, min_retained=0.0)
    assert (solution.weights[lookup(table, s, y)] == rows).all()


@laws
@given(SEEDS)
def test_the_complement_is_balanced_alike_and_adds_nothing(seed):
    s, y = sample(seed, rows=400, unknown=0.2)
    other = np.where(s < 0, -1, 1 - s).astype(np.int8)
    given = dict(eta=0.6, eps_representation=0.01, eps_association=0.01, tolerance="relative")
    q = row_weights(s, y, problem_of(s, y, target=0.4, **given), min_retained=0.0)
    swapped = row_weights(other, y, problem_of(other, y, target=0.6, **given), min_retained=0.0)
    np.testing.assert_allclose(swapped, q, **CLOSE)
    hard = given | dict(eps_representation=0.0, eps_association=0.0, penalty=1000.0, eta=0.3)
    one = row_weights(s[:, :1], y, problem_of(s[:, :1], y, target=0.4, **hard), min_retained=0.0)
    both = np.concatenate([s[:, :1], other[:, :1]], axis=1)
    names = make_problem({"a": 0.4, "b": 0.6}, [f"y{r}" for r in range(4)], **hard)
    np.testing.assert_allclose(row_weights(both, y, names, min_retained=0.0), one, **CLOSE)


@pytest.mark.parametrize("extra", ["none", "all", "copy", "copies"])
@pytest.mark.parametrize("hard", [True, False])
def test_labels_that_say_nothing_new_change_nothing(extra, hard):
    s, y = sample(5)
    columns = {
        "none": np.zeros((len(y), 1), np.int8),
        "all": np.ones((len(y), 1), np.int8),
        "copy": y[:, :1],
        "copies": np.concatenate([y, y], axis=1),
    }
    more = np.concatenate([y, columns[extra]], axis=1)
    given = EXACT if hard else SLACK
    solution = _solve(s, y, **given)
    assert solution.feasible
    q = row_weights(s, y, problem_of(s, y, **given))
    np.testing.assert_allclose(row_weights(s, more, problem_of(s, more, **given)), q, **CLOSE)


@laws
@given(SEEDS, st.floats(0.2, 5))
def test_scaling_rate_cap_tolerance_and_penalty_scales_the_weights(seed, factor):
    s, y = sample(seed, rows=300)
    base = dict(eta=0.8, cap=1.0, penalty=2.0, eps_representation=0.02, eps_association=0.004)
    scaled = {name: factor * value for name, value in base.items()}
    q = row_weights(s, y, problem_of(s, y, tolerance="absolute", **base), min_retained=0.0)
    p = row_weights(s, y, problem_of(s, y, tolerance="absolute", **scaled), min_retained=0.0)
    np.testing.assert_allclose(p, factor * q, rtol=0, atol=1e-9 * factor)


def test_the_scale_of_the_utility_does_not_matter():
    s, y = sample(6, rows=500)
    u = np.random.default_rng(0).integers(1, 4, 500).astype(float)
    problem = problem_of(s, y, **SLACK)
    q = row_weights(s, y, problem, u)
    np.testing.assert_allclose(row_weights(s, y, problem, 8 * u), q, **CLOSE)
    assert np.corrcoef(q, u)[0, 1] > 0.5


@laws
@given(SEEDS)
def test_the_optimum_is_monotone_in_tolerance_cap_and_penalty(seed):
    s, y = sample(seed, rows=300)
    base = dict(eta=0.9, cap=1.0, penalty=3.0, eps_representation=0.0, eps_association=0.0)

    def path(name, values):
        return [_solve(s, y, tolerance="absolute", **(base | {name: x})) for x in values]

    for name, values in {
        "eps_association": (0.0, 0.003, 0.02),
        "eps_representation": (0.0, 0.01, 0.1),
        "cap": (0.9, 1.0, 1.5),
    }.items():
        optimum = [solution.primal for solution in path(name, values)]
        assert np.all(np.diff(optimum) <= 1e-9), name
    violation = [np.abs(x.moments).sum() for x in path("penalty", (0.0, 0.1, 1.0, 10.0))]
    assert np.all(np.diff(violation) <= 1e-9)


def test_a_penalty_above_the_largest_multiplier_changes_nothing():
    s, y = sample(7)
    solution = _solve(s, y, **SLACK, penalty=100.0)
    assert solution.feasible
    assert not solution.saturated.any()
    above = _solve(s, y, **SLACK, penalty=1.01 * solution.max_v)
    np.testing.assert_allclose(above.weights, solution.weights, **CLOSE)
    below = _solve(s, y, **SLACK, penalty=0.5 * solution.max_v)
    assert below.saturated.any()
    assert not below.feasible


def test_no_penalty_leaves_the_utility():
    s, y = sample(8, rows=300)
    u = np.random.default_rng(0).integers(0, 3, 300).astype(float)
    table = count(s, y, u)
    q = solve(table, problem_of(s, y, eta=0.4, cap=5.0, penalty=0.0)).weights
    np.testing.assert_allclose(q, 0.4 * table.utility / u.mean(), **CLOSE)


@laws
@given(SEEDS, st.sampled_from([0.0, 0.4]), st.floats(0, 0.05), st.floats(0, 0.02))
def test_bias_is_within_its_bounds(seed, unknown, eps_r, eps_d):
    """|p - target| <= eps_R / W and AB <= (eps_D + eps_R E_q[y]) / (W p (1 - p)), W = E[q known]."""
    s, y = sample(seed, rows=1000, unknown=unknown)
    given = dict(eta=0.4, eps_representation=eps_r, eps_association=eps_d, tolerance="absolute")
    table = count(s, y)
    solution = solve(table, problem_of(s, y, **given), min_retained=0.0)
    if not solution.feasible:
        return
    w = solution.weights * table.counts
    bias = representation_bias(table.attributes, np.full(2, 0.5), w)
    gaps = association_bias(table.attributes, table.labels, w).gap
    for k in range(2):
        known = table.attributes[:, k] >= 0
        mass, p = w[known].sum() / 1000, bias[k] + 0.5
        assert abs(bias[k]) <= eps_r / mass + 1e-9
        share = w[known] @ (table.labels[known] == 1) / w[known].sum()
        bound = (eps_d + eps_r * share) / (mass * p * (1 - p))
        assert np.all(np.abs(gaps[k]) <= bound + 1e-9)


def test_no_tolerance_and_no_saturation_is_no_bias():
    s, y = sample(9, unknown=0.5)
    table = count(s, y)
    solution = solve(table, problem_of(s, y, **EXACT))
    assert solution.feasible
    w = solution.weights * table.counts
    before = association_bias(table.attributes, table.labels, table.counts.astype(float)).gap
    assert np.abs(before).max() > 0.1
    assert np.abs(association_bias(table.attributes, table.labels, w).gap).max() < 1e-9
    assert np.abs(representation_bias(table.attributes, np.full(2, 0.5), w)).max() < 1e-9
    assert 0.3 < effective_sample_size(solution.weights, table.counts) / 3000 < 1


def test_what_was_drawn_is_left_alone():
    s, y = sample(10, rows=20_000)
    problem = problem_of(s, y, eta=0.5, eps_representation=0.02, eps_association=0.1)
    kept = keep(0, np.arange(20_000), row_weights(s, y, problem)) == 1
    again = problem_of(s, y, eta=0.9, eps_representation=0.05, eps_association=0.25)
    np.testing.assert_allclose(row_weights(s[kept], y[kept], again), 0.9, rtol=0, atol=1e-12)


def test_proxies_are_labels():
    s, y = sample(11)
    targets = {"s0": 0.5, "s1": 0.5}
    apart = make_problem(targets, ["y0", "y1"], proxies=["y2", "y3"], **SLACK)
    together = make_problem(targets, ["y0", "y1", "y2", "y3"], **SLACK)
    assert (row_weights(s, y, apart) == row_weights(s, y, together)).all()
    strict = make_problem(targets, ["y0", "y1"], proxies=["y2", "y3"], eta=1.0)
    names = solve(count(s, y), strict).violated
    assert any(name.startswith("E[q (s0 - 0.5) y2] (proxy) = ") for name in names)
    assert any(name.startswith("E[q (s0 - 0.5)] = ") for name in names)


def test_an_intersection_reaches_its_target():
    s, y = sample(12)
    targets = {"s0": 0.5, "s1": 0.5}
    given = dict(eta=0.3, eps_representation=0.0, eps_association=0.0)
    labels = [f"y{r}" for r in range(4)]
    table = count(s, y)
    for share in (0.2, 0.3):
        problem = make_problem(targets, labels, intersections={("s0", "s1"): share}, **given)
        w = solve(table, problem).weights * table.counts
        assert w[(table.attributes == 1).all(1)].sum() / w.sum() == pytest.approx(share, abs=1e-9)


def test_the_largest_rate_is_where_constraints_stop_holding():
    s, y = sample(13)
    table = count(s, y)
    for tolerance in ("prevalence", "relative", "absolute"):
        given = dict(eps_representation=0.02, eps_association=0.01, tolerance=tolerance)
        largest = max_eta(table, problem_of(s, y, **given))
        assert 0.3 < largest < 0.999
        below = solve(table, problem_of(s, y, eta=0.999 * largest, penalty=1e3, **given))
        above = solve(table, problem_of(s, y, eta=1.001 * largest, penalty=1e3, **given))
        assert below.feasible
        assert not above.feasible
        at = solve(table, problem_of(s, y, eta="max", penalty=1e4, **given))
        assert at.feasible
        assert at.eta == pytest.approx(largest, rel=1e-5)


def test_a_larger_cap_allows_a_larger_rate():
    """12 of 100 wanted at half: 24 of cap 1, 48 of cap 2; above a cap of 8.3 the mean is 1 and more."""
    s = np.int8([[1]] * 12 + [[0]] * 88)
    table = count(s, s[:, :0])
    for cap in (1.0, 2.0, 10.0):
        problem = make_problem({"a": 0.5}, cap=cap, eps_representation=0.0)
        assert max_eta(table, problem) == pytest.approx(0.24 * cap, rel=1e-6)


def test_weights_follow_from_the_multipliers():
    """q = clip(eta u - a'(v+ - v-) - mu, 0, cap): what a later pass over other rows uses."""
    s, y = sample(14)
    solution = _solve(s, y, eta=0.9)
    table = count(s, y)
    z, w = table.attributes - 0.5, solution.v[0] - solution.v[1]
    pull = ((z @ w) * np.append(table.labels, np.ones((len(z), 1)), axis=1)).sum(1)
    np.testing.assert_allclose(np.clip(0.9 - pull - solution.mu, 0, 1), solution.weights, **CLOSE)
    assert (solution.v >= 0).all()
    assert solution.v.max() == solution.max_v


def test_small_contradictory_problems_of_large_penalty_are_solved():
    """What stalls Newton steps from zero: two in three of these end by the interior method."""
    for seed in range(6):
        s, y = sample(seed, rows=60, attributes=3, labels=6)
        given = dict(eps_representation=0.0, eps_association=0.001, eta=0.3, penalty=1000.0)
        solution = _solve(s, y, unknown="unmasked", **given)
        assert solution.gap < 1e-9 * (1 + solution.primal), seed


def test_the_interior_method_ends_near_the_optimum():
    s, y = sample(15)
    solution = _solve(s, y, eta=0.9)
    design = make_design(count(s, y), problem_of(s, y))
    eps = solution.tolerances.ravel() / 0.9
    w = interior_multipliers(design, eps, penalty=10 / 0.9, cap=1 / 0.9)
    point = dual_point(Dual(design, eps, 10 / 0.9, 1 / 0.9), w)
    np.testing.assert_allclose(0.9 * point.q[design.row], solution.weights, rtol=0, atol=1e-6)


def test_many_rare_labels_of_a_long_tail():
    """200 labels of Zipf frequency, many cells: the sparse path, to the same certificate."""
    rng = np.random.default_rng(0)
    s = (rng.random((60_000, 1)) < 0.4).astype(np.int8)
    tilt = np.exp(0.5 * rng.normal(size=200) * (2 * s - 1))
    y = (rng.random((60_000, 200)) < 0.1 / np.arange(1, 201) * tilt).astype(np.int8)
    solution = _solve(s, y, eta=0.6)
    assert len(solution.weights) > 4000
    assert solution.gap < 1e-12
    assert solution.kkt_residual < 1e-12
    assert solution.feasible
