"""The same problems written out row by row for another solver: CVXPY with Clarabel."""

import cvxpy as cp
import numpy as np
import pytest

from bias_clip.balancing import count, lookup, solve, tolerances
from tests.balancing.samples import problem_of, sample


def _draw(seed):
    """A small problem; about half of them cannot be met."""
    rng = np.random.default_rng(seed)
    shape = dict(attributes=int(rng.integers(1, 4)), labels=int(rng.integers(0, 5)))
    s, y = sample(seed, rows=80, unknown=rng.choice([0.0, 0.3]), **shape)
    y[rng.random(y.shape) < 0.1 * (seed % 3)] = -1
    u = np.ones(80) if seed % 2 else rng.integers(0, 4, 80) / 2
    problem = problem_of(
        s,
        y,
        target=float(rng.choice([0.3, 0.5])),
        eta=float(rng.choice([0.3, 0.5, 0.8])),
        cap=float(rng.choice([1.0, 2.0])),
        penalty=float(rng.choice([0.2, 2.0, 10.0])),
        eps_representation=float(rng.choice([0.0, 0.02])),
        eps_association=float(rng.choice([0.0, 0.02, 0.1])),
        tolerance=str(rng.choice(["prevalence", "relative", "absolute"])),
        unknown=str(rng.choice(["masked", "unmasked"])),
    )
    return s, y, u, problem


def _oracle(s, y, u, problem, eps):
    q, n = cp.Variable(len(s)), len(s)
    excess = 0
    for k, target in enumerate(problem.targets):
        for r in range(y.shape[1] + 1):
            label = (y[:, r] == 1) if r < y.shape[1] else np.ones(n)
            known = 1.0 * (s[:, k] >= 0) if problem.unknown == "masked" else np.ones(n)
            moment = known * ((s[:, k] == 1) - target) * label / n
            excess = excess + cp.pos(cp.abs(moment @ q) - eps[k, r])
    distance = cp.sum_squares(q - problem.eta * u / u.mean()) / (2 * n)
    within = [cp.sum(q) / n == problem.eta, q >= 0, q <= problem.cap]
    programme = cp.Problem(cp.Minimize(distance + problem.penalty * excess), within)
    tight = dict(tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    optimum = programme.solve(solver=cp.CLARABEL, **tight)
    return optimum, q.value


@pytest.mark.parametrize("seed", range(40))
def test_objective_and_weights_are_those_of_another_solver(seed):
    s, y, u, problem = _draw(seed)
    table = count(s, y, u)
    solution = solve(table, problem, min_retained=0.0)
    eps = tolerances(problem, table, problem.eta)
    optimum, q = _oracle(s, y, u, problem, eps)
    assert solution.gap < 1e-8 * (1 + solution.primal)
    assert solution.primal == pytest.approx(optimum, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(solution.weights[lookup(table, s, y, u)], q, rtol=0, atol=1e-4)


def test_the_problems_above_are_of_both_kinds():
    feasible = []
    for seed in range(40):
        s, y, u, problem = _draw(seed)
        feasible.append(solve(count(s, y, u), problem, min_retained=0.0).feasible)
    assert 8 <= sum(feasible) <= 32


def _narrow(seed):
    """A problem with tolerances far below those of the other draws, which rounding could decide."""
    s, y, u, _ = _draw(seed)
    rng = np.random.default_rng(1_000 + seed)
    eps = {
        name: float(rng.choice([0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6]))
        for name in ("eps_representation", "eps_association")
    }
    return s, y, u, {"target": 0.5, "eta": 0.3, "cap": 2.0, **eps}


@pytest.mark.parametrize("seed", range(16))
def test_narrow_tolerances_and_large_penalties_are_solved(seed):
    s, y, u, arguments = _narrow(seed)
    table = count(s, y, u)
    small = solve(table, problem_of(s, y, penalty=100.0, **arguments), min_retained=0.0)
    assert small.gap < 1e-8 * (1 + small.primal)
    if small.feasible and small.max_v < 50:  # then a larger penalty changes nothing
        for penalty in (1e4, 1e6, 1e8):
            large = solve(table, problem_of(s, y, penalty=penalty, **arguments), min_retained=0.0)
            np.testing.assert_allclose(large.weights, small.weights, rtol=0, atol=1e-6)
