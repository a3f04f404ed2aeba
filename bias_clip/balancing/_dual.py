"""The dual of the balancing problem, and its maximum: a Newton method.

In units of eta, with one signed multiplier w in [-penalty, penalty] for each moment (the paper's two
halves are its positive and negative part):

    d(w) = min over q of  E[1/2 (q - u)^2 + q a'w] - eps'|w|   subject to  E[q] = 1, 0 <= q <= cap

The minimiser is q = clip(u - a'w - mu, 0, cap) with the mu that makes its mean 1. d is concave and
piecewise quadratic. So once the multipliers and weights at a bound are known, Newton steps reach the
optimum exactly, not only in the limit. This is the project's own derivation.
Reference for the steps: Hintermueller, Ito, Kunisch, The primal-dual active set strategy as a
semismooth Newton method, 2002; Lee, Sun, Saunders, Proximal Newton-type methods, 2014.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Float

from bias_clip.balancing._design import Design
from bias_clip.balancing._interior import interior_multipliers

Vector = Float[np.ndarray, " j"]


_SWEEPS = 30
# Relative gap; well below `m4.GAP`, so that the interior method runs before `solve` would fail.
_CONVERGED = 1e-11


class Dual(NamedTuple):
    """The function to maximise."""

    design: Design
    eps: Vector
    penalty: float
    cap: float


class DualPoint(NamedTuple):
    """Multipliers, the weights that follow from them, and how far from optimal they are."""

    w: Vector
    mu: float
    q: Float[np.ndarray, " g"]
    moments: Vector  # E[q a]
    value: float
    gap: float  # primal less dual objective
    residual: float  # largest violation of the optimality conditions


def dual_point(dual: Dual, w: Vector) -> DualPoint:
    """Evaluates multipliers.

    ::

        gap       sum_j penalty * max(0, |g_j| - eps_j) + eps_j |w_j| - w_j g_j,  g = E[q a]
        residual  max_j |w_j - clip(soft(w_j + g_j, eps_j), -penalty, penalty)|, and |E[q] - 1|

    All terms of the gap are non-negative, so it does not lose digits as a difference of two large
    objectives would.
    """
    design, eps, penalty, cap = dual
    pull = design.scores(w)
    score = design.utility - pull
    mu = _mean_multiplier(score, design.mass, cap)
    q = np.clip(score - mu, 0, cap)
    g = design.moments(q)
    value = design.mass @ (0.5 * (q - design.utility) ** 2 + q * pull) - eps @ np.abs(w)
    gap = penalty * np.maximum(0, np.abs(g) - eps) + eps * np.abs(w) - w * g
    residual = np.abs(w - _shrink(w + g, eps, penalty)).max(initial=0)
    residual = max(float(residual), abs(float(design.mass @ q) - 1))
    return DualPoint(w, mu, q, g, float(value), float(gap.sum()), residual)


def maximise(dual: Dual) -> DualPoint:
    """The maximum, as exact as rounding allows; the caller must check the gap.

    Newton steps start from w = 0 and need few iterations even for many rows. They can stall on few
    rows with contradictory constraints and large penalties. Then they start again from the result of
    the interior method.
    """
    best = _newton(dual, np.zeros_like(dual.eps))
    # With a cap of 1, in units of eta, all weights are at the cap: the method below has no interior.
    if best.gap < _CONVERGED * (1 + abs(best.value)) or dual.cap <= 1:
        return best
    w = interior_multipliers(dual.design, dual.eps, penalty=dual.penalty, cap=dual.cap)
    # The gap certifies both, so the better of the two can be told.
    return min(best, _newton(dual, np.clip(w, -dual.penalty, dual.penalty)), key=_gap)


def _gap(point: DualPoint) -> float:
    return point.gap


def _newton(dual: Dual, w: Vector, max_steps: int = 60) -> DualPoint:
    """Takes `_binding_step` if it cuts the gap to less than 0.3, else a step that raises the value."""
    design = dual.design
    # A moment that no row has would have size 0; the floor avoids the division.
    size = np.maximum(design.second(np.ones_like(design.mass)).diagonal(), 1e-300)
    best = at = dual_point(dual, w)
    # Relative to `size`; grows when steps must be shortened and shrinks when they need not be.
    ridge = 1e-3
    for _ in range(max_steps):
        # The conditions hold up to the rounding of w.
        if at.residual < 1e-15 * (1 + np.abs(at.w).max(initial=0)):
            break
        hessian = _hessian(dual, at)
        ahead = dual_point(dual, _binding_step(dual, at, hessian, size))
        # 1e-14: rounding alone may lower a value by that.
        if ahead.gap > 0.3 * at.gap or ahead.value < at.value - 1e-14 * (1 + abs(at.value)):
            aim = _model_step(dual, at, hessian, size, ridge)
            ahead, length = _climb(dual, at, aim)
            if length == 0:
                break
            ridge = max(ridge / 4, 1e-9) if length == 1 else min(ridge * 2, 1.0)
        at = ahead
        best = min(best, at, key=_gap)
    return best


def _hessian(dual: Dual, at: DualPoint) -> Float[np.ndarray, "j j"]:
    """The Hessian of -d: the covariance of the moments over weights inside their bounds, or 0."""
    inside = ((at.q > 0) & (at.q < dual.cap)).astype(float)
    share = float(dual.design.mass @ inside)
    # All weights are at a bound: d is linear here.
    if share == 0:
        return np.zeros((len(at.w), len(at.w)))
    mean = dual.design.moments(inside)
    # Less the part along mu, which moves with w to keep the mean of the weights 1.
    return dual.design.second(inside) - np.outer(mean, mean) / share


def _binding_step(dual: Dual, at: DualPoint, hessian: np.ndarray, size: Vector) -> Vector:
    """Sets multipliers to 0 or the penalty as w + g / size suggests; solves g = eps for the others.

    `size` is E[a^2]: it brings moments of rare labels to the scale of their multipliers.
    """
    aim = _shrink(at.w + at.moments / size, dual.eps / size, dual.penalty)
    free = (aim != 0) & (np.abs(aim) < dual.penalty)
    change = np.where(free, 0.0, aim - at.w)
    right = at.moments - dual.eps * np.sign(aim) - hessian @ change
    change[free] = _solve(hessian[np.ix_(free, free)], right[free], size[free])
    return np.clip(at.w + change, -dual.penalty, dual.penalty)


def _model_step(dual: Dual, at: DualPoint, hessian: np.ndarray, size: Vector, ridge: float):
    """Multipliers that raise the quadratic model of d, by sweeps over the coordinates.

    A step towards them raises d, whatever bounds it meets. Newton steps that are clipped at the
    bounds need not raise it and can get stuck (measured: on 3 of 2700 random problems).
    """
    matrix = hessian + np.diag(ridge * size)
    w, slope = at.w.copy(), at.moments.copy()
    for _ in range(_SWEEPS):
        before = w.copy()
        for j, curvature in enumerate(matrix.diagonal()):
            x, eps = w[j] + slope[j] / curvature, dual.eps[j] / curvature
            # `_shrink` of one number: calls of NumPy would take most of this loop's time.
            x = min(max(x - eps, 0.0), dual.penalty) + max(min(x + eps, 0.0), -dual.penalty)
            if x != w[j]:
                # The slope of the model follows each change, so later coordinates see it in the same sweep.
                slope -= (x - w[j]) * matrix[j]
                w[j] = x
        if np.abs(w - before).max() < 1e-12:
            break
    return w


def _climb(dual: Dual, at: DualPoint, aim: Vector) -> tuple[DualPoint, float]:
    """Halves the step towards `aim` until d rises by a fraction of what its slope predicts."""
    # What the slope predicts. A fraction of 1e-4 below is the usual one of Armijo's rule.
    promise = at.moments @ (aim - at.w) - dual.eps @ (np.abs(aim) - np.abs(at.w))
    for length in 0.5 ** np.arange(40):
        ahead = dual_point(dual, at.w + length * (aim - at.w))
        enough = at.value + 1e-4 * length * float(promise)
        if ahead.value > enough or _still_rising(dual, at, ahead):
            return ahead, float(length)
    return at, 0.0


def _still_rising(dual: Dual, at: DualPoint, ahead: DualPoint) -> bool:
    """Whether d still rises at the end of the step; slopes tell when values differ by rounding."""
    change = ahead.w - at.w
    slope = float(ahead.moments @ change - dual.eps @ (np.sign(ahead.w) * change))
    return slope > 0 and ahead.residual < at.residual


def _solve(matrix: np.ndarray, right: Vector, size: Vector) -> Vector:
    """Nearly matrix^-1 right: a small ridge lets redundant moments share a multiplier."""
    if not len(right):
        return right
    scale = 1 / np.sqrt(size)
    matrix = matrix * scale[:, None] * scale
    matrix[np.diag_indices_from(matrix)] += 1e-13
    return scale * scipy.linalg.solve(matrix, scale * right, assume_a="sym", check_finite=False)


def _shrink(x: Vector, eps: Vector, penalty: float) -> Vector:
    """Shrinks towards 0 by eps, then clips to the penalty."""
    return np.clip(np.sign(x) * np.maximum(np.abs(x) - eps, 0), -penalty, penalty)


def _mean_multiplier(score: np.ndarray, mass: np.ndarray, cap: float) -> float:
    """The mu with E[clip(score - mu, 0, cap)] = 1, by bracketed Newton on a piecewise linear function."""
    # At `low` all weights are at the cap, at `high` all are 0: the mean of 1 lies between.
    low, high = float(score.min()) - cap, float(score.max())
    if cap <= 1:  # a mean of 1 then needs all weights at the cap; any low enough mu does that
        return low - 1
    # Exact if no weight meets a bound.
    mu = min(max(float(mass @ score) - 1, low), high)
    for _ in range(200):
        q = score - mu
        excess = float(mass @ np.clip(q, 0, cap)) - 1
        slope = float(mass @ ((q > 0) & (q < cap)))
        low, high = (mu, high) if excess > 0 else (low, mu)
        ahead = mu + excess / slope if slope > 0 else np.inf
        # Newton left the bracket, or all weights are at a bound: halve the bracket.
        if not low < ahead < high:
            ahead = (low + high) / 2
        if ahead == mu or abs(excess) < 2e-16 or high - low <= 4e-16 * (abs(low) + abs(high)):
            break
        mu = ahead
    return mu
