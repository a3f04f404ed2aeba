"""The moments of a count table as one matrix: one row per distinct (moments, mass, utility)."""

from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: a run that trains needs none
from jaxtyping import Float, Int64

from bias_clip.balancing.counts import CountTable, group_rows
from bias_clip.balancing.problem import Problem, centred, group_values

_DENSE_ENTRIES = 30_000_000  # a quarter of a gigabyte; beyond it, or where mostly zero, sparse


class Design(NamedTuple):
    """The problem in units of eta, so that mass and q have mean 1; a column per group and label.

    Rows of the table with the same moments and utility share one row here; for example, all
    unannotated rows with the same utility.
    """

    matrix: Any  # [g, j]; NumPy, or a sparse array of SciPy
    mass: Float[np.ndarray, " g"]  # sums to 1
    utility: Float[np.ndarray, " g"]  # of mean 1
    row: Int64[np.ndarray, " t"]  # of each row of the table

    def scores(self, w: Float[np.ndarray, " j"]) -> Float[np.ndarray, " g"]:
        """a'w of each row."""
        return self.matrix @ w

    def moments(self, q: Float[np.ndarray, " g"]) -> Float[np.ndarray, " j"]:
        """E[q a]."""
        return self.matrix.T @ (self.mass * q)

    def second(self, q: Float[np.ndarray, " g"]) -> Float[np.ndarray, "j j"]:
        """E[q a a']."""
        weights = (self.mass * q)[:, None]
        if isinstance(self.matrix, np.ndarray):
            return self.matrix.T @ (self.matrix * weights)
        return (self.matrix.T @ self.matrix.multiply(weights)).toarray()


def make_design(table: CountTable, problem: Problem) -> Design:
    """Arranges the constraints as columns: for each group all labels, then the group alone."""
    z = centred(problem, group_values(problem, table.attributes))
    # A row with z = 0 in all groups is in no constraint, whatever its labels.
    held = (z != 0).any(1)
    present = (table.labels == 1) & held[:, None]  # an unknown label adds to no moment
    # All such rows get one key, so they become one row per utility: mostly the unannotated data.
    values = np.where(held[:, None], group_values(problem, table.attributes), -1)
    columns = np.concatenate([values, present], axis=1).astype(np.int8)
    first, row = group_rows(columns, table.utility)
    counts = np.bincount(row, weights=table.counts.astype(np.float64), minlength=len(first))
    mass = counts / counts.sum()
    utility = table.utility[first]
    return Design(_matrix(z[first], present[first]), mass, utility / (mass @ utility), row)


def columns_of(design: Design, keep: np.ndarray) -> Design:
    """The design restricted to some of its columns."""
    return design._replace(matrix=design.matrix[:, keep])


def _matrix(z: np.ndarray, present: np.ndarray) -> Any:
    ones = np.ones((len(z), 1))
    y = np.concatenate([present, ones], axis=1)
    # The share of entries that are not zero. The sparse product pays only where it is small.
    filled = y.mean() * (z != 0).mean()
    entries = z.shape[1] * y.size
    if entries <= 1_000_000 or (filled > 0.15 and entries <= _DENSE_ENTRIES):
        # [g, k, c1] to [g, k * c1]: groups first, as the tolerances are ravelled.
        return (z[:, :, None] * y[:, None, :]).reshape(len(z), -1)
    y = scipy.sparse.csr_array(y)
    # The same order of columns as above.
    return scipy.sparse.csr_array(scipy.sparse.hstack([y.multiply(k[:, None]) for k in z.T]))
