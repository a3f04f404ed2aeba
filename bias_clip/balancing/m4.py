"""Solves M4 exactly: the weights that balance a count table, with a certificate of optimality.

The problem is the paper's (see `problem`). Solving it on a table of counts, up to rounding, through
its dual is this project's method. The paper updates per example; that is `stream`.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Bool, Float

from bias_clip.balancing._checks import check_groups, check_retained, retained_shares
from bias_clip.balancing._design import Design, columns_of, make_design
from bias_clip.balancing._dual import Dual, DualPoint, maximise
from bias_clip.balancing.counts import CountTable
from bias_clip.balancing.problem import Problem, constraint_name, tolerances

_PENALTIES = (1e3, 1e5)  # in units of eta; above the multipliers of most problems
GAP = 1e-8  # relative; a larger one is an error, not a solution


class Solution(NamedTuple):
    """Weights and their certificate; k groups, c labels, and a last column for the group alone.

    `primal`, `dual`, `gap` and `moments` are in the units of the formula of `make_problem`.
    """

    weights: Float[np.ndarray, " g"]  # of each row of the table
    v: Float[np.ndarray, "2 k c1"]  # multipliers of moments too large, and too small
    mu: float
    eta: float  # what "max" came to
    primal: float
    dual: float
    gap: float
    kkt_residual: float
    moments: Float[np.ndarray, "k c1"]
    tolerances: Float[np.ndarray, "k c1"]
    saturated: Bool[np.ndarray, "k c1"]  # multipliers at the penalty: what may be violated
    feasible: bool
    violated: tuple[str, ...]  # constraints that do not hold, by name
    max_v: float  # a penalty above it changes nothing
    retained: dict[str, float]  # of each group and label, see `solve`


def solve(table: CountTable, problem: Problem, *, min_retained: float = 0.1) -> Solution:
    """Solves M4 to optimality.

    On one machine the result is the same bit for bit, for any order and sharding of the data.
    Utilities are scaled to mean 1. Time grows with the number of distinct rows and of moments, not
    with the size of the data.

    Some constraints can only be met by giving their rows almost no weight: contradictory targets, or
    a label that occurs in one group only. No multiplier then reaches the penalty. So `solve` fails if
    less than `min_retained` is left. The retained share of a group is the smaller of two ratios: the
    weight of the rows where it is known, relative to their share of the data, and their effective
    sample size, relative to their number. The retained share of a label is the weight of the rows
    that have it and a known group, relative to their share of the data.

    Args:
      table: counts of the data.
      problem: of `make_problem`, its columns those of the table.
      min_retained: smallest share retained of any constrained group or label; 0 allows deletion.

    Returns:
      A `Solution`. If not all constraints can be met at this eta, it is the best compromise at this
      penalty: `feasible` is False, and `violated` names the constraints that do not hold.

    Raises:
      ValueError: columns other than the problem's; no rows; no utility above 0; a group that has no
        row or every row although its target is another share; less retained than `min_retained`;
        eta="max" when no weights meet the constraints.
      ArithmeticError: the optimality gap is not below 1e-8 of the objective.

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing import count, make_problem, solve
      >>> table = count(np.int8([[1], [0], [0], [0]]), np.zeros((4, 0), np.int8))
      >>> problem = make_problem({"woman": 0.5}, eta=0.5, eps_representation=0.0)
      >>> solve(table, problem).weights.round(6)
      array([0.333333, 1.      ])
    """
    check_groups(table, problem)
    design = make_design(table, problem)
    eta = problem.eta if isinstance(problem.eta, float) else _largest_rate(design, table, problem)
    eps = tolerances(problem, table, eta)
    point = _optimum(design, eps.ravel() / eta, problem.penalty / eta, problem.cap / eta)
    solution = _solution(design, point, problem, eta, eps)
    # Relative to eta^2 where the primal is nearly 0: there a relative gap would be all rounding.
    if solution.gap > GAP * max(eta**2, solution.primal):
        raise ArithmeticError(
            f"no optimum: the gap is {solution.gap:.1e} of {solution.primal:.1e}. Got penalty "
            f"{problem.penalty}; expected at most a few times the largest multiplier, "
            f"{solution.max_v:.3g} here: lower it."
        )
    retained = retained_shares(table, problem, solution.weights, eta)
    check_retained(retained, min_retained)
    return solution._replace(retained=retained)


def max_eta(table: CountTable, problem: Problem) -> float:
    """The largest mean weight at which all constraints can be met, by a linear programme.

    It maximises E[q] subject to the tolerances and 0 <= q <= cap. Close to this eta many weights are
    0 or the cap. The problem's own eta and penalty are not used.

    Raises:
      ValueError: as `solve`, for the table.
    """
    check_groups(table, problem)
    return _max_eta(make_design(table, problem), table, problem)


def _max_eta(design: Design, table: CountTable, problem: Problem) -> float:
    eps = tolerances(problem, table, 1.0).ravel()
    # An infinite tolerance is not a constraint, and would be an infinite bound here.
    keep = np.isfinite(eps)
    matrix = scipy.sparse.csr_array(design.matrix[:, keep])
    # The floor is for labels that no row has: their size is 0.
    size = np.maximum(abs(matrix).T @ design.mass, 1e-300)
    # Unknowns are x = mass * q. Each row is divided by its size because the solver's feasibility
    # tolerance is absolute: it then has the same meaning for rare and frequent labels.
    rows = scipy.sparse.csr_array(matrix.multiply(1 / size)).T
    bound = eps[keep] / size
    zero, infinite = np.zeros_like(bound), np.full_like(bound, np.inf)
    if problem.tolerance == "absolute":
        constraints = [scipy.optimize.LinearConstraint(rows, -bound, bound)]
    else:  # the tolerances are shares of E[q], which becomes the last variable
        above, below = (scipy.sparse.hstack([rows, sign * bound[:, None]]) for sign in (-1, 1))
        mean = np.append(np.ones(len(design.mass)), -1.0)[None]
        constraints = [
            scipy.optimize.LinearConstraint(scipy.sparse.csr_array(above), -infinite, zero),
            scipy.optimize.LinearConstraint(scipy.sparse.csr_array(below), zero, infinite),
            scipy.optimize.LinearConstraint(mean, 0, 0),
        ]
    extra = [] if problem.tolerance == "absolute" else [0.0]
    # Without integers `milp` is a plain linear programme. Unlike `linprog` it takes constraints with two
    # sides.
    result = scipy.optimize.milp(
        np.append(-np.ones(len(design.mass)), extra),
        constraints=constraints,
        bounds=scipy.optimize.Bounds(
            0, np.append(problem.cap * design.mass, [problem.cap] * len(extra))
        ),
    )
    if result.x is None:
        raise ArithmeticError(f"the linear programme of max_eta failed: {result.message}")
    # The solver may leave the bounds by its tolerance.
    return float(np.clip(-result.fun, 0, problem.cap))


def _largest_rate(design: Design, table: CountTable, problem: Problem) -> float:
    # At the maximum itself, rounding would decide whether the constraints can be met.
    eta = _max_eta(design, table, problem) * (1 - 1e-6)
    # Below this share of the cap the maximum is 0 up to the solver's tolerance.
    if eta <= 1e-6 * problem.cap:
        raise ValueError(
            "eta='max': no positive mean weight meets the constraints. Got "
            f"{problem.targets} for {problem.groups}; expected targets that agree, or wider tolerances."
        )
    return eta


def _optimum(design: Design, eps: np.ndarray, penalty: float, cap: float) -> DualPoint:
    """Solves the constraints with finite tolerances; the other multipliers are 0.

    A penalty above twice the largest multiplier changes nothing: the optimum of a smaller one that meets
    the constraints is that of every larger one. Large ones multiply the rounding of the moments,
    so smaller ones are tried first.
    """
    keep = np.isfinite(eps)
    kept = columns_of(design, keep)
    for smaller in (p for p in _PENALTIES if p < penalty):
        point = maximise(Dual(kept, eps[keep], smaller, cap))
        if point.gap <= GAP and 2 * np.abs(point.w).max(initial=0) < smaller:
            break
    else:
        point = maximise(Dual(kept, eps[keep], penalty, cap))
    w = np.zeros_like(eps)
    w[keep] = point.w
    return point._replace(w=w, moments=design.moments(point.q))


def _solution(design: Design, point: DualPoint, problem: Problem, eta: float, eps) -> Solution:
    """Converts back from units of eta, and from rows of the design to rows of the table."""
    w, moments = (eta * x.reshape(eps.shape) for x in (point.w, point.moments))
    size = np.asarray(abs(design.matrix).T @ design.mass).reshape(eps.shape)
    # Rounding is relative to the size of a moment's terms, not to the tolerance, which may be 0.
    over = np.abs(moments) > eps + 1e-9 * eta * size
    excess = np.where(np.isfinite(eps), np.maximum(np.abs(moments) - eps, 0), 0)
    distance = design.mass @ (point.q - design.utility) ** 2
    # In the units of the caller: distances grow with eta^2, moments with eta.
    primal = eta**2 * float(distance) / 2 + problem.penalty * float(excess.sum())
    violated = tuple(
        f"{constraint_name(problem, k, r)} = {moments[k, r]:.3g}, tolerance {eps[k, r]:.3g}"
        for k, r in np.argwhere(over).tolist()
    )
    return Solution(
        weights=eta * point.q[design.row],
        v=np.stack([np.maximum(w, 0), np.maximum(-w, 0)]),
        mu=eta * point.mu,
        eta=eta,
        primal=primal,
        dual=primal - eta**2 * point.gap,
        gap=eta**2 * point.gap,
        kkt_residual=eta * point.residual,
        moments=moments,
        tolerances=eps,
        saturated=(np.abs(w) >= problem.penalty * (1 - 1e-9)) & np.isfinite(eps) & (size > 0),
        feasible=not violated,
        violated=violated,
        max_v=float(np.abs(w).max(initial=0)),
        retained={},
    )
