"""The cube method: a random subset with given chances whose sums stay what they are expected to be.

A draw by coins has each unit with its chance, but its sums vary. Here the chances take a random walk
in the space of vectors whose sums are the expected ones, until each chance is 0 or 1. A step is as
likely to go forth as its length back demands, so no chance changes on average, whatever the direction.

Reference: Deville, Tillé, Efficient balanced sampling: the cube method, Biometrika 2004: the flight is
its section 4.2, one unit entering at a time as in Chauvet, Tillé, A fast algorithm of balanced
sampling, 2006. The landing is this project's: see `land`.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from bias_clip.balancing.landing import LAST, ZERO, Constraints, MomentsFn, land, step
from bias_clip.balancing.thinning import hash01
from bias_clip.core.hashing import make_key

_SMALL_PIVOT = 1e-4  # below it a replacement loses digits, so the inverse is computed again
# Undecided units per independent constraint at which the flight ends, if `land` can compare their outcomes.
# To go on to 1 is to keep the sums at any price: in one of 20 draws of a problem, some unit then had no
# outcome within the allowed harm. Pairs, of which one is drawn, have 2, so their sums stay exact.
_SPARE = 1.8
_BLOCK = 1024  # units whose moments are looked up at a time


def cube(
    seed: int, chances: Float[np.ndarray, " g"], constraints: Constraints
) -> Bool[np.ndarray, " g"]:
    """Draws each unit with its chance, and keeps the number of units and the sums of their moments.

    The number drawn is the sum of the chances, rounded down or up. Other sums are exact until few
    more units are undecided than there are independent constraints. From there on see `land`.

    Of the seed and the arguments alone. A machine with other linear algebra agrees except where
    rounding decides between equal steps.

    Args:
      seed: an integer of 64 bits.
      chances: in [0, 1].

    Example:
      >>> import numpy as np
      >>> from bias_clip.balancing.cube import cube
      >>> from bias_clip.balancing.landing import Constraints
      >>> sides = Constraints(lambda unit: np.array([[1.0], [1.0], [-1.0], [-1.0]])[unit], *np.ones((2, 1)))
      >>> int(cube(0, np.full(4, 0.5), sides) @ [1, 1, -1, -1])
      0
    """
    x = np.append(chances, np.ceil(chances.sum()) - chances.sum())  # the last makes a whole number
    x[x < ZERO], x[x > 1 - ZERO] = 0, 1
    # Units at 0 or 1 are decided before the draw begins.
    open_ = np.flatnonzero((x > 0) & (x < 1))
    order = hash01(int(make_key("cube order", seed)), open_)
    # Each step decides a unit or more. The last choice has a seed, and asks at most once per outcome.
    coins = iter(hash01(int(make_key("cube", seed)), np.arange(len(open_) + LAST + 3)))
    rows = _rows_fn(constraints, len(chances))
    left = _fly(x, open_[np.argsort(order, kind="stable")], rows, coins)
    land(x, left, rows(left), constraints, coins)
    # The last was the unit that made a whole number.
    return x[:-1] > 0.5


def _rows_fn(constraints: Constraints, units: int) -> MomentsFn:
    """Moments with a first column of 1, the number of units; the last unit has only that one."""

    def rows(chosen: np.ndarray) -> np.ndarray:
        found = np.zeros((len(chosen), 1 + len(constraints.scale)))
        real = chosen < units
        found[:, 0] = 1
        found[real, 1:] = constraints.moments(chosen[real])
        return found

    return rows


class _Basis:
    """Undecided units with independent moments, and the inverse that tells a further one by them.

    `inverse @ moments.T` of the units is the first columns of the identity matrix.
    """

    def __init__(self, size: int) -> None:
        self.units: list[int] = []
        self.vectors: list[np.ndarray] = []
        self.inverse = np.eye(size)
        self.pivots = 0

    def add(self, unit: int, vector: np.ndarray, c: np.ndarray) -> bool:
        """Adds a unit whose vector, `c` by the inverse, is independent of the others; else False."""
        m = len(self.units)
        # The part outside of the span of the basis, relative to what rounding leaves of it.
        if m == len(c) or np.abs(c[m:]).max() <= ZERO * max(1.0, np.abs(c).max()):
            return False
        # The largest pivot loses the fewest digits.
        i = m + int(np.abs(c[m:]).argmax())
        self.inverse[[m, i]], c[[m, i]] = self.inverse[[i, m]], c[[i, m]]
        self.units.append(unit)
        self.vectors.append(vector)
        self._pivot(c, m)
        return True

    def replace(self, i: int, unit: int, vector: np.ndarray, c: np.ndarray) -> None:
        """Puts a unit in the place of one that it has a part of."""
        self.units[i], self.vectors[i] = unit, vector
        self._pivot(c, i)

    def remove(self, i: int) -> None:
        """Takes a unit out; its row of the inverse becomes one that no unit has a part of."""
        last = len(self.units) - 1
        self.inverse[[i, last]] = self.inverse[[last, i]]
        self.units[i], self.vectors[i] = self.units[last], self.vectors[last]
        del self.units[last], self.vectors[last]

    def renewed(self) -> tuple["_Basis", list[int]]:
        """The same from nothing, without what rounding added up; and units found dependent."""
        fresh, dependent = _Basis(len(self.inverse)), []
        for unit, vector in zip(self.units, self.vectors, strict=True):
            if not fresh.add(unit, vector, fresh.inverse @ vector):
                dependent.append(unit)
        fresh.pivots = 0
        return fresh, dependent

    def _pivot(self, c: np.ndarray, i: int) -> None:
        self.inverse[i] /= c[i]
        touched = np.flatnonzero(np.abs(c) > 0)  # few: a unit has few labels
        touched = touched[touched != i]
        self.inverse[touched] -= c[touched, None] * self.inverse[i]
        self.pivots += 1
        if abs(c[i]) < _SMALL_PIVOT:
            self.pivots += len(c) * 10  # renew now


def _fly(x: np.ndarray, order: np.ndarray, rows: MomentsFn, coins: Iterator[float]) -> np.ndarray:
    """Decides units while their moments depend on each other; returns the undecided."""
    basis = _Basis(rows(order[:0]).shape[1])
    queue: deque[int] = deque()
    undecided = len(order)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        # Moments of one block at a time: those of all units would be a dense matrix of the whole table.
        known = dict(zip(block.tolist(), rows(block), strict=True))
        queue.extend(block.tolist())
        while queue:
            if undecided <= min(LAST, _SPARE * len(basis.units)):
                return np.array([*basis.units, *queue, *order[start + _BLOCK :]], np.int64)
            unit = queue.popleft()
            vector = known.get(unit)
            vector = rows(np.array([unit]))[0] if vector is None else vector
            c = basis.inverse @ vector
            if not basis.add(unit, vector, c):
                undecided -= _enter(x, basis, unit, vector, c, coins)
            # Each pivot adds rounding to the inverse; a new one costs as many pivots as it has units.
            if basis.pivots > 2 * len(c) + 50:
                basis, dependent = basis.renewed()
                queue.extend(dependent)
    return np.array(basis.units, np.int64)


def _enter(
    x: np.ndarray,
    basis: _Basis,
    unit: int,
    vector: np.ndarray,
    c: np.ndarray,
    coins: Iterator[float],
) -> int:
    """A step along the dependence of a unit on the basis; whoever is decided leaves. Returns how many."""
    m = len(basis.units)
    step(x, np.array([*basis.units, unit]), np.append(-c[:m], 1.0), coins)
    done = [i for i in range(m) if x[basis.units[i]] in (0.0, 1.0)]
    decided = len(done)
    if 0 < x[unit] < 1:  # takes the place of the one that it has the largest part of
        # The largest part is the largest pivot.
        place = max(done, key=lambda i: abs(c[i]))
        basis.replace(place, unit, vector, c)
        done.remove(place)
    else:
        decided += 1
    # From the end, because removal moves the last unit to the place that it frees.
    for i in sorted(done, reverse=True):
        basis.remove(i)
    return decided
