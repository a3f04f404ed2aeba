"""The end of a draw by the cube method: more constraints than undecided units, so that some must give way.

Reference: Deville, Tillé, Efficient balanced sampling: the cube method, Biometrika 2004, section 5: a
landing by dropping constraints, and one by a linear program over all outcomes. The first here drops
them by the harm that they can do, and the second has its own cost, begins late, and where there are
too many outcomes it takes a sample of good ones (Metropolis and others, Equation of state calculations
by fast computing machines, 1953).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Bool, Float, Int64

from bias_clip.balancing.thinning import hash01
from bias_clip.core.hashing import make_key

MomentsFn = Callable[[np.ndarray], np.ndarray]  # from units [b] to their moments [b, p]

ZERO = 1e-9  # of a chance or a moment: what rounding leaves of 0
# Units whose outcomes are compared; more take longer. With 40, the last problem of `tools.bench draws`
# had 2 % of the probability above its bound: dropping constraints from 136 to 40 units left no way within.
LAST = 220
_ALL = 1000  # outcomes up to which all are compared: those of 12 units, in milliseconds
_SAMPLES = 3  # at most, while some of the probability is left above the allowed harm, which is 1
# Of a sample: chains (or two per unit, if more), sweeps, and how many sweeps apart outcomes are taken; how
# fast the odds of units follow; and the least share of chains that aims to have a unit, or not to: without
# it, rare units have too few outcomes.
_CHAINS, _SWEEPS, _EVERY, _RATE, _RARE = 300, 100, 8, 0.3, 0.03
_MOST, _STEEP = 1e6, 1000.0


class Constraints(NamedTuple):
    """Sums that a draw should keep.

    Attributes:
      moments: of a unit, a number per constraint; see `MomentsFn`.
      scale: harm of a deviation by 1, comparable between constraints; a harm up to 1 is allowed.
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
    deviations rare. Up to `_ALL` outcomes it has all of them; beyond, a sample.
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
    seed = int(next(coins) * 2**53)
    spread = _spread(chances, taken, sums * scale - chances @ effects, effects, seed)
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
    seed: int,
) -> tuple[Float[np.ndarray, "o b"], Float[np.ndarray, " o"]] | None:
    """Outcomes and their probabilities, whose mean is `chances` and whose expected cost is low."""
    if math.comb(len(chances), taken) <= _ALL:
        places = np.array(list(itertools.combinations(range(len(chances)), taken)))
        outcomes = np.zeros((len(places), len(chances)))
        np.put_along_axis(outcomes, places, 1.0, axis=1)
        return _solve(chances, outcomes, base + outcomes @ effects)
    # Systematic sampling has these chances, so its outcomes alone are a solution, if not a good one.
    first = outcomes = _systematic(chances, seed)
    spread = None
    for sample in range(_SAMPLES):
        found = _sampled(first, chances, base, effects, seed + sample)
        outcomes = np.unique(np.concatenate([outcomes, found]), axis=0)
        ends = base + outcomes @ effects
        solved = _solve(chances, outcomes, ends)
        if solved is None:
            break  # what an earlier sample found still serves
        spread = solved
        if spread[1][np.abs(ends).max(1, initial=0) > 1 + ZERO].sum() <= ZERO:
            break
    return spread


def _solve(
    chances: Float[np.ndarray, " b"],
    outcomes: Float[np.ndarray, "o b"],
    ends: Float[np.ndarray, "o p"],
) -> tuple[Float[np.ndarray, "o b"], Float[np.ndarray, " o"]] | None:
    # With the number of units fixed, the rows of the units say that the probabilities sum to 1.
    solved = scipy.optimize.linprog(
        _costs(ends), A_eq=outcomes.T, b_eq=chances, bounds=(0, None), method="highs-ds"
    )
    return None if solved.status else (outcomes, solved.x)


def _systematic(chances: Float[np.ndarray, " b"], seed: int) -> Float[np.ndarray, "o b"]:
    """All outcomes of systematic sampling in some order: the units in which u, u + 1, ... fall."""
    order = np.argsort(hash01(int(make_key("landing", seed)), np.arange(len(chances))))
    ends = np.cumsum(chances[order])
    cuts = np.unique(np.append(ends % 1, (0.0, 1.0)))
    middle = ((cuts[1:] + cuts[:-1]) / 2)[np.diff(cuts) > ZERO]
    # As many of u, u + 1, ... as lie before an end.
    before = np.floor(np.append(0.0, ends) - middle[:, None])
    outcomes = np.zeros((len(middle), len(order)))
    outcomes[:, order] = np.diff(before, axis=1)
    return outcomes


def _sampled(
    first: Float[np.ndarray, "f b"],
    chances: Float[np.ndarray, " b"],
    base: Float[np.ndarray, " p"],
    effects: Float[np.ndarray, "b p"],
    seed: int,
) -> Float[np.ndarray, "o b"]:
    """A sample of outcomes, likelier the less they cost, that has each unit about as often as its chance.

    Many chains start from the outcomes `first` and swap two units at a time, by the rule of Metropolis.
    After each sweep the odds rise of units that too few chains have.
    """
    units, chains = len(chances), max(_CHAINS, 2 * len(chances))
    luck = hash01(int(make_key("chains", seed)), np.arange(chains))
    start = first[(luck * len(first)).astype(int)]
    inside, ends = start.T > 0.5, (base + start @ effects).T
    aim = np.clip(chances, _RARE, 1 - _RARE)
    wanted = np.log(aim / (1 - aim))
    odds, found = wanted.copy(), []
    for sweep in range(_SWEEPS):
        luck = hash01(int(make_key("sweep", seed, sweep)), np.arange(units * (chains + 1)))
        others = (luck[:units] * units).astype(int)
        _swap(inside, ends, effects, others, odds, np.log(luck[units:]).reshape(units, chains))
        share = (inside.sum(1) + 0.5) / (chains + 1)
        odds += _RATE * (wanted - np.log(share / (1 - share)))
        # Before, the chains still remember their start.
        if sweep >= _SWEEPS / 2 and sweep % _EVERY == 0:
            found.append(inside.T.astype(float))
    return np.concatenate(found)


def _swap(
    inside: Bool[np.ndarray, "b c"],
    ends: Float[np.ndarray, "p c"],
    effects: Float[np.ndarray, "b p"],
    others: Int64[np.ndarray, " b"],
    odds: Float[np.ndarray, " b"],
    luck: Float[np.ndarray, "b c"],
) -> None:
    """Offers each unit, for its other one or the reverse, to all chains that have one of the two."""
    # The unit of costs falls as the chains improve, so that they are ever harder to make worse.
    # A few chains have up to twice that, so that they still move when the others are stuck.
    unit = _unit(ends.T) * (1 + np.linspace(0, 1, inside.shape[1]) ** 4)
    for i, k in enumerate(others):
        chains = np.flatnonzero(inside[i] != inside[k])
        change = effects[k] - effects[i]
        touched = np.flatnonzero(change)
        sign = np.where(inside[i, chains], 1.0, -1.0)
        now = ends[touched[:, None], chains]
        then = now + change[touched, None] * sign
        gain = _eighth(now, unit[chains]).sum(0) - _eighth(then, unit[chains]).sum(0)
        takes = luck[i, chains] < gain + sign * (odds[k] - odds[i])
        chains = chains[takes]
        ends[touched[:, None], chains] = then[:, takes]
        inside[i, chains] ^= True
        inside[k, chains] ^= True


def _unit(ends: Float[np.ndarray, "o p"]) -> float:
    """What the best outcome's worst constraint suffers: the unit of costs, so that tolerances mean something."""
    worst = np.abs(ends).max(1, initial=0)
    return max(float(worst.min()), 1e-3 * float(worst.max())) or 1.0


def _costs(ends: Float[np.ndarray, "o p"]) -> Float[np.ndarray, " o"]:
    """The cost of each outcome: nearly that of its worst constraint, so that the others still count."""
    unit = _unit(ends)
    # Otherwise a little harm above the allowed may be cheaper than many draws that come near to it.
    above = np.maximum(np.abs(ends) - max(unit, 1.0), 0).sum(1)
    return np.minimum(_eighth(ends, unit).sum(1), _MOST) + _STEEP * above / unit


def _eighth(ends: np.ndarray, unit: float | np.ndarray) -> np.ndarray:
    # The sum of eighth powers is near a maximum; that of sixteenth does not see smaller deviations.
    # By products, because NumPy's power takes ten times as long.
    power = ends / unit
    for _ in range(3):
        power *= power
    return power


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
