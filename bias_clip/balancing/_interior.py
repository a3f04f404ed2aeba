"""A primal-dual interior method: multipliers near the optimum, for when Newton steps from 0 stall.

    minimise   1/2 E[(q - u)^2] + penalty * sum_j max(0, |E[q a_j]| - eps_j)
    subject to E[q] = 1,  0 <= q <= cap

Each hinge of each sign has a slack s, an excess t and a multiplier v in (0, penalty):
s - t = eps -+ E[q a]. After eliminating everything except w = v+ - v- and mu, a step solves one
positive definite system with one row per moment. The units are those of `_dual`.
Reference: Mehrotra, On the implementation of a primal-dual interior point method, 1992.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Float

from bias_clip.balancing._design import Design

_SIGNS = np.array([[1.0], [-1.0]])


class _Point(NamedTuple):
    q: Float[np.ndarray, " g"]
    low: Float[np.ndarray, " g"]  # multiplier of q >= 0
    high: Float[np.ndarray, " g"]  # of q <= cap
    v: Float[np.ndarray, "2 j"]
    slack: Float[np.ndarray, "2 j"]
    excess: Float[np.ndarray, "2 j"]
    mu: Float[np.ndarray, " 1"]


class _Bounds(NamedTuple):
    eps: Float[np.ndarray, " j"]
    penalty: float
    cap: float


def interior_multipliers(
    design: Design,
    eps: Float[np.ndarray, " j"],
    *,
    penalty: float,
    cap: float,
    tolerance: float = 1e-12,
    max_steps: int = 150,
) -> Float[np.ndarray, " j"]:
    """Returns signed multipliers w; needs penalty > 0 and cap > 1.

    Stops when the mean complementarity is below `tolerance`, or when steps become too short.
    """
    bounds = _Bounds(eps, penalty, cap)
    point = _start(design, bounds)
    for _ in range(max_steps):
        products = _products(point, bounds)
        level = _mean(design, products)
        if level < tolerance:
            break
        # Mehrotra's predictor and corrector: a first step aims at 0, and its progress sets the aim
        # of the second, which reuses the factorisation.
        step = _make_step(design, point, bounds)
        affine = step([-x for x in products])
        ahead = _moved(point, affine, _longest(point, affine, bounds))
        aim = level * min(1.0, _mean(design, _products(ahead, bounds)) / level) ** 3
        # With cap and penalty 0 the same products of the changes are the terms that linearising left out.
        second = _products(affine, _Bounds(eps, 0.0, 0.0))
        change = step([aim - x - y for x, y in zip(products, second, strict=True)])
        # Not all the way: a variable at exactly 0 could never leave its bound.
        length = min(1.0, 0.995 * _longest(point, change, bounds))
        moved = _moved(point, change, length)
        if length < 1e-9 or not all((x > 0).all() for x in _products(moved, bounds)):
            break
        point = moved
    return point.v[0] - point.v[1]


def _make_step(
    design: Design, point: _Point, bounds: _Bounds
) -> Callable[[list[np.ndarray]], _Point]:
    """Linearises the conditions; the returned function maps changes of the `_products` to a step."""
    room, left = bounds.cap - point.q, bounds.penalty - point.v
    curvature = 1 + point.low / point.q + point.high / room
    # Slack and excess of a hinge both follow its multiplier, so one number per hinge remains of them.
    spread = point.slack / point.v + point.excess / left
    pull = design.scores(point.v[0] - point.v[1])
    dual = point.q - design.utility + pull + point.mu - point.low + point.high
    primal = point.slack - point.excess + _SIGNS * design.moments(point.q) - bounds.eps
    stiffness = 1 / (1 / spread).sum(0)
    solve = _make_solve(design, 1 / curvature, stiffness)

    def step(changes: list[np.ndarray]) -> _Point:
        low, high, slack, excess = changes
        b = (low / point.q - high / room - dual) / curvature
        e = primal + slack / point.v - excess / left
        ratio = stiffness * (e[0] / spread[0] - e[1] / spread[1])
        missing = 1 - design.mass @ point.q
        dw, dmu = solve(design.moments(b) + ratio, float(design.mass @ b - missing))
        dq = b - (design.scores(dw) + dmu) / curvature
        dv = (_SIGNS * (stiffness * dw - ratio) + e) / spread
        return _Point(
            dq,
            (low - point.low * dq) / point.q,
            (high + point.high * dq) / room,
            dv,
            (slack - point.slack * dv) / point.v,
            (excess + point.excess * dv) / left,
            dmu,
        )

    return step


def _make_solve(design: Design, inverse: np.ndarray, stiffness: np.ndarray) -> Callable:
    """Solves for the changes of w and mu, given the right-hand sides of the moments and the mean."""
    # Moments and the mean are one system: w and mu change together.
    matrix = np.empty((len(stiffness) + 1,) * 2)
    matrix[:-1, :-1] = design.second(inverse) + np.diag(stiffness)
    matrix[:-1, -1] = matrix[-1, :-1] = design.moments(inverse)
    matrix[-1, -1] = design.mass @ inverse
    # Moments of rare labels are orders of magnitude smaller than those of frequent ones. With a diagonal of
    # 1 the ridge below means the same for all of them; it lets moments repeat others.
    scale = 1 / np.sqrt(matrix.diagonal())
    matrix *= scale[:, None] * scale
    matrix[np.diag_indices_from(matrix)] += 1e-14
    factor = scipy.linalg.lu_factor(matrix, overwrite_a=True, check_finite=False)

    def solve(moments: np.ndarray, mean: float) -> tuple[np.ndarray, np.ndarray]:
        right = scale * np.append(moments, mean)
        solved = scale * scipy.linalg.lu_solve(factor, right, check_finite=False)
        return solved[:-1], solved[-1:]

    return solve


def _start(design: Design, bounds: _Bounds) -> _Point:
    # The mean is already right, and every other quantity is well inside of its bounds.
    q = np.ones_like(design.mass)
    miss = _SIGNS * design.moments(q) - bounds.eps
    excess = np.maximum(miss, 0) + 0.1
    # Inside of (0, penalty): both v and penalty - v are divisors.
    v = np.full((2, len(bounds.eps)), min(0.5 * bounds.penalty, 1.0))
    multiplier = np.full_like(q, 0.1)
    return _Point(q, multiplier, multiplier.copy(), v, excess - miss, excess, np.zeros(1))


def _products(point: _Point, bounds: _Bounds) -> list[np.ndarray]:
    """The complementarity products: positive on the way, zero at the optimum."""
    return [
        point.low * point.q,
        point.high * (bounds.cap - point.q),
        point.v * point.slack,
        (bounds.penalty - point.v) * point.excess,
    ]


def _mean(design: Design, products: list[np.ndarray]) -> float:
    """The mean product, rows weighted by mass; a step of full length changes it as predicted."""
    low, high, *hinges = products
    total = design.mass @ low + design.mass @ high + sum(x.sum() for x in hinges)
    # 2 for the two bounds of q, whose masses sum to 1 each.
    return float(total) / (2 + sum(x.size for x in hinges))


def _moved(point: _Point, change: _Point, length: float) -> _Point:
    return _Point(*(x + length * dx for x, dx in zip(point, change, strict=True)))


def _longest(point: _Point, change: _Point, bounds: _Bounds) -> float:
    """The longest step, at most 1, that keeps all positive quantities positive."""
    # All except mu, which has no sign to keep.
    pairs = list(zip(point[:-1], change[:-1], strict=True))
    pairs += [(bounds.cap - point.q, -change.q), (bounds.penalty - point.v, -change.v)]
    length = 1.0
    for x, dx in pairs:
        falling = dx < 0
        if falling.any():
            length = min(length, float((-x[falling] / dx[falling]).min()))
    return length
