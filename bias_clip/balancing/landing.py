"""The end of a draw by the cube method: more constraints than undecided units, so that some must give way.

Reference: Deville, Tillé, Efficient balanced sampling: the cube method, Biometrika 2004, section 5: a
landing by dropping constraints, and one by a linear program over all outcomes. The first here drops
them by the harm that they can do, and the second has its own cost, begins late, and where there are
too many outcomes it looks for those that it needs (column generation: Gilmore, Gomory, 1961).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Float

from bias_clip.balancing.thinning import hash01
from bias_clip.core.hashing import make_key

MomentsFn = Callable[[np.ndarray], np.ndarray]  # from units [b] to their moments [b, p]

ZERO = 1e-9  # of a chance or a moment: what rounding leaves of 0
LAST = 40  # units whose outcomes are compared; more take longer and make no draw of the benchmark better
_ALL = 1000  # outcomes up to which all are compared: those of 12 units, in milliseconds
# Of the search for outcomes, which takes one or two seconds at most.
_ROUNDS, _SWAPS, _ORDERS = 12, 15, 3
_BLOCK = 32  # outcomes whose swaps are compared at a time: in the cache of a core
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
    harm: scale times the farthest from 0 that the sum can end. Of the last units the outcomes are
    compared: a linear program gives them probabilities that keep each unit's chance, and make large
    deviations rare. Up to `_ALL` outcomes it has all of them; beyond, those that a search finds.
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
    chances = x[left]
    taken = round(float(chances.sum()))
    if not 0 < taken < len(left):
        return False
    # The harm of an outcome [b] to each constraint is base + outcome @ effects.
    effects = moments[:, 1:] * scale
    spread = _spread(chances, taken, sums * scale - chances @ effects, effects)
    if spread is None:
        return False
    outcomes, probabilities = spread
    likely = np.flatnonzero(probabilities > ZERO)
    rest = float(probabilities[likely].sum())
    for j in likely[:-1]:
        rest -= probabilities[j]
        if _goes_forth(coins, rest, float(probabilities[j])):
            x[left] = outcomes[j]
            return True
    x[left] = outcomes[likely[-1]]
    return True


def _spread(
    chances: Float[np.ndarray, " b"],
    taken: int,
    base: Float[np.ndarray, " p"],
    effects: Float[np.ndarray, "b p"],
) -> tuple[Float[np.ndarray, "o b"], Float[np.ndarray, " o"]] | None:
    """Outcomes and their probabilities, whose mean is `chances` and whose expected cost is low."""
    if math.comb(len(chances), taken) <= _ALL:
        places = np.array(list(itertools.combinations(range(len(chances)), taken)))
        outcomes = np.zeros((len(places), len(chances)))
        np.put_along_axis(outcomes, places, 1.0, axis=1)
        ends = base + outcomes @ effects
        solved = _solve(chances, outcomes, _costs(ends, _unit(ends)))
        return None if solved.status else (outcomes, solved.x)
    # Systematic sampling has these chances, so its outcomes alone are a solution, if not a good one.
    outcomes = _systematic(chances, 0)
    found = _swapped(outcomes, base, effects, _unit(base + outcomes @ effects), 0 * chances)
    unit = _unit(base + found @ effects)
    for rounds in range(1, _ROUNDS + 1):
        outcomes = np.unique(np.concatenate([outcomes, found]), axis=0)
        solved = _solve(chances, outcomes, _costs(base + outcomes @ effects, unit))
        if solved.status:
            return None
        if rounds == _ROUNDS:
            break
        # An outcome lowers the expected cost if it costs less than its units are worth: their prices.
        # From those in use alone the search would not get far.
        starts = np.concatenate([outcomes[solved.x > ZERO], _systematic(chances, rounds)])
        found = _swapped(starts, base, effects, unit, solved.eqlin.marginals)
    return outcomes, solved.x


def _solve(chances: np.ndarray, outcomes: np.ndarray, costs: np.ndarray) -> Any:
    # With the number of units fixed, the rows of the units say that the probabilities sum to 1.
    return scipy.optimize.linprog(
        costs, A_eq=outcomes.T, b_eq=chances, bounds=(0, None), method="highs-ds"
    )


def _systematic(chances: Float[np.ndarray, " b"], number: int) -> Float[np.ndarray, "o b"]:
    """All outcomes of systematic sampling in a few orders: the units in which u, u + 1, ... fall."""
    found = []
    for i in range(_ORDERS):
        order = np.argsort(hash01(int(make_key("landing", number, i)), np.arange(len(chances))))
        ends = np.cumsum(chances[order])
        cuts = np.unique(np.append(ends % 1, (0.0, 1.0)))
        middle = ((cuts[1:] + cuts[:-1]) / 2)[np.diff(cuts) > ZERO]
        # As many of u, u + 1, ... as lie before an end.
        before = np.floor(np.append(0.0, ends) - middle[:, None])
        outcomes = np.zeros((len(middle), len(order)))
        outcomes[:, order] = np.diff(before, axis=1)
        found.append(outcomes)
    return np.concatenate(found)


def _swapped(
    outcomes: Float[np.ndarray, "o b"],
    base: Float[np.ndarray, " p"],
    effects: Float[np.ndarray, "b p"],
    unit: float,
    prices: Float[np.ndarray, " b"],
) -> Float[np.ndarray, "o b"]:
    """Each outcome after swaps of two units, as long as they lower its cost less its units' prices."""
    outcomes, ends = outcomes.copy(), base + outcomes @ effects
    row = np.arange(len(outcomes))

    def best(ends: np.ndarray, allowed: np.ndarray, sign: int) -> np.ndarray:
        """The unit to take in (sign 1) or out (-1) of each outcome."""
        worth = np.full(outcomes.shape, np.inf)
        for first in range(0, len(worth), _BLOCK):
            some = slice(first, first + _BLOCK)
            o, i = np.nonzero(allowed[some])
            worth[some][o, i] = _costs(ends[some][o] + sign * effects[i], unit) - sign * prices[i]
        return worth.argmin(1)

    for _ in range(_SWAPS):
        out = best(ends, outcomes > 0, -1)
        into = best(ends - effects[out], outcomes == 0, 1)
        moved = ends - effects[out] + effects[into]
        gain = _costs(ends, unit) - _costs(moved, unit) - prices[out] + prices[into]
        better = gain > ZERO
        if not better.any():
            break
        outcomes[row[better], out[better]], outcomes[row[better], into[better]] = 0, 1
        ends[better] = moved[better]
    return outcomes


def _unit(ends: Float[np.ndarray, "o p"]) -> float:
    """What the best outcome's worst constraint suffers: the unit of costs, so that tolerances mean something."""
    worst = np.abs(ends).max(1, initial=0)
    return max(float(worst.min()), 1e-3 * float(worst.max())) or 1.0


def _costs(ends: Float[np.ndarray, "o p"], unit: float) -> Float[np.ndarray, " o"]:
    """The cost of each outcome: nearly that of its worst constraint, so that the others still count."""
    # The sum of eighth powers: near a maximum; of sixteenth, the smaller deviations are not seen any more.
    # By products, because NumPy's power takes ten times as long, which was most of a draw.
    fourth = ends / unit
    for _ in range(2):
        fourth *= fourth
    return np.minimum(np.einsum("op,op->o", fourth, fourth), _MOST)


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
