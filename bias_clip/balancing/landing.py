"""The end of a draw by the cube method: more constraints than undecided units, so that some must give way.

Reference: Deville, Tillé, Efficient balanced sampling: the cube method, Biometrika 2004, section 5: a
landing by dropping constraints, and one by a linear program over all outcomes. The first here drops
them by the harm that they can do, and the second has its own cost and begins late.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float

MomentsFn = Callable[[np.ndarray], np.ndarray]  # from units [b] to their moments [b, p]

ZERO = 1e-9  # of a chance or a moment: what rounding leaves of 0
LAST = 12  # units whose outcomes are compared: at most 924, in milliseconds
_POWER = 8  # near a maximum; at 16 the smaller deviations are not seen any more
_MOST = 1e6


class Constraints(NamedTuple):
    """Sums that a draw should keep.

    Attributes:
      moments: of a unit, a number per constraint; see `MomentsFn`.
      scale: harm of a deviation by 1, comparable between constraints.
      start: the sums expected, from 0 as the ideal: a constraint far from 0 is kept more eagerly.
    """

    moments: MomentsFn
    scale: Float[np.ndarray, " p"]
    start: Float[np.ndarray, " p"]


def land(
    x: np.ndarray,
    left: np.ndarray,
    moments: np.ndarray,
    constraints: Constraints,
    coins: Iterator[float],
) -> None:
    """Decides the rest; column 0 of the moments, the number of units, is always kept.

    While more than `LAST` units are undecided, each step gives up the constraints that can do least
    harm: scale times the farthest from 0 that the sum can end. Of the last units all outcomes are
    compared: a linear program gives them probabilities that keep each unit's chance, and make large
    deviations as rare as can be.
    """
    sums = constraints.start.copy()
    while len(left):
        if len(left) <= LAST and _choose(x, left, moments, sums, constraints.scale, coins):
            return
        gain, loss = np.maximum(moments[:, 1:], 0), np.maximum(-moments[:, 1:], 0)
        # The largest and smallest sums that the undecided units can still lead to.
        high = sums + gain.T @ (1 - x[left]) + loss.T @ x[left]
        low = sums - gain.T @ x[left] - loss.T @ (1 - x[left])
        moved = (moments[:, 1:] != 0).any(0)
        harm = np.where(moved, constraints.scale * np.maximum(high, -low), -1)
        order = np.argsort(-harm, kind="stable")
        # Column 0 is the number of units. Constraints that nobody moves are left out.
        kept = np.append(0, 1 + order[: np.count_nonzero(moved)])
        before = x[left]
        step(x, left, _direction(moments[:, kept]), coins)
        sums += moments[:, 1:].T @ (x[left] - before)
        stay = (x[left] > 0) & (x[left] < 1)
        left, moments = left[stay], moments[stay]


def _choose(
    x: np.ndarray,
    left: np.ndarray,
    moments: np.ndarray,
    sums: np.ndarray,
    scale: np.ndarray,
    coins: Iterator[float],
) -> bool:
    """Draws one outcome of the last units; False where rounding left no such choice."""
    m, taken = len(left), round(float(x[left].sum()))
    if not 0 < taken < m:
        return False
    places = np.array(list(itertools.combinations(range(m), taken)))
    outcomes = np.zeros((len(places), m))
    np.put_along_axis(outcomes, places, 1.0, axis=1)
    ends = np.abs(sums + (outcomes - x[left]) @ moments[:, 1:]) * scale
    # With the number of units fixed, the rows of the units say that the probabilities sum to 1.
    solved = scipy.optimize.linprog(
        _costs(ends), A_eq=outcomes.T, b_eq=x[left], bounds=(0, None), method="highs-ds"
    )
    if solved.status:
        return False
    likely = np.flatnonzero(solved.x > ZERO)
    rest = float(solved.x[likely].sum())
    for j in likely[:-1]:
        rest -= solved.x[j]
        if _goes_forth(coins, rest, float(solved.x[j])):
            x[left] = outcomes[j]
            return True
    x[left] = outcomes[likely[-1]]
    return True


def _costs(ends: Float[np.ndarray, "o p"]) -> Float[np.ndarray, " o"]:
    """The cost of each outcome: nearly that of its worst constraint, so that the others still count."""
    worst = ends.max(1, initial=0)
    if worst.max() == 0:
        return worst
    # In units of the best outcome, and bounded, so that the solver's tolerances mean something.
    unit = max(worst.min(), 1e-3 * worst.max())
    return np.minimum(((ends / unit) ** _POWER).sum(1), _MOST)


def step(x: np.ndarray, units: np.ndarray, direction: np.ndarray, coins: Iterator[float]) -> None:
    """Moves chances along a direction, forth or back, until one of them is 0 or 1."""
    # What rounding left of 0 must not move a unit, nor shorten the step.
    direction = np.where(np.abs(direction) > ZERO * np.abs(direction).max(), direction, 0)
    moving = direction != 0
    at, d = x[units[moving]], direction[moving]
    up, down = (1 - at) / np.abs(d), at / np.abs(d)
    forth, back = np.where(d > 0, up, down), np.where(d > 0, down, up)
    go = _goes_forth(coins, float(forth.min()), float(back.min()))
    first = int((forth if go else back).argmin())
    at = at + (forth[first] if go else -back[first]) * d
    at[first] = round(at[first])  # whatever rounding left of it
    at[at < ZERO], at[at > 1 - ZERO] = 0, 1
    x[units[moving]] = at


def _goes_forth(coins: Iterator[float], forth: float, back: float) -> bool:
    """Each way with the chance that the other's length says: then no unit's chance changes."""
    # Back's share of the length is the chance to go forth: the expected move is 0.
    return bool(next(coins) * (forth + back) < back)


def _direction(moments: np.ndarray) -> np.ndarray:
    """A direction that keeps the first columns, as many as leave one."""
    units = len(moments)
    if units == 1:
        return np.ones(1)
    columns = moments
    while True:
        first = columns[:, : units - 1]
        q, r = np.linalg.qr(first, mode="complete")
        parts = np.abs(np.diagonal(r))
        dependent = np.flatnonzero(parts <= ZERO * np.abs(first).max())
        if not len(dependent) or columns.shape[1] <= units - 1:
            # The last column of a complete QR is orthogonal to all others, thus to all kept constraints.
            return q[:, -1]
        columns = np.delete(columns, dependent, axis=1)  # they are kept with the others
