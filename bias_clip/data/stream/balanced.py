"""Training on a table of weights: rows are drawn as often as their weight says, or weighted in the loss.

Either way nothing is solved here: the table has the weight of each example, and training looks it up.
A run may also see the plain data for a part of its steps, before or after the balanced ones.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64

from bias_clip.balancing.thinning import keep
from bias_clip.core.hashing import array_sha256
from bias_clip.data.records import LazyColumns, Record, Source, column
from bias_clip.data.stream.batch import WEIGHTS
from bias_clip.data.stream.plan import Phase, Plan
from bias_clip.data.tables import join, read_table

KIND, WEIGHT = "weights", "weight"  # of the table, and its column
USES = ("thin", "weight")
MAX_WEIGHT = 1e6  # copies of one record; beyond it only a mistake explains a weight
MAX_DRAWN = 2**31 - 1  # rows of an epoch
PHASES = ("balanced", "plain")


def make_plan(
    source: Source,
    *,
    table: str,
    use: str,
    seed: int = 0,
    first: str = "balanced",
    switch: int | None = None,
) -> Plan:
    """Makes the plan of a run on balanced data.

    Args:
      source: of the records, whose ids the table has.
      table: path of a table of weights, see `write_table`: columns `id` and `weight`.
      use: "thin": a record is drawn from `keep(seed, id, weight)` times an epoch, 0 times, once or
        more, the same ones in every epoch; or "weight": all are drawn, and `weights` of the batch has
        their weight, 1 while the data are plain.
      seed: of the thinning; not that of the run, so that runs of several seeds see the same records.
      first: which phase comes first, "balanced" or "plain".
      switch: the step, counted from 0, from which on the other phase is drawn from; None: never.

    Thinning is the faithful use: in a contrastive loss a row is also a negative of the others, which
    its weight does not change unless the objective says `weight_candidates`.

    Raises: ValueError for an unknown use or phase, a table that does not hold weights, lacks a record,
      or has weights that are negative, not finite or all 0, and if thinning leaves nothing.

    Reference: Alabdulmohsin et al., CLIP the Bias, ICLR 2024: rows drawn with the probabilities q, in
      two phases whose first is 0, 10, 90 or 100 % of training.

        make_plan(source, table="runs/weights.parquet", use="thin", first="plain", switch=900)
    """
    for name, value, valid in (("use", use, USES), ("first", first, PHASES)):
        if value not in valid:
            raise ValueError(f"balance: got {name}={value!r}, expected one of {list(valid)}.")
    if switch is not None and switch < 0:
        raise ValueError(f"balance: got switch={switch}, expected a step from 0 on.")
    ids = column(source, "id")
    weights = _read_weights(table, ids)
    if use == "thin":
        counts = keep(seed, ids, weights)
        if counts.sum() > MAX_DRAWN:  # told before memory is taken for it
            raise ValueError(
                f"{table}: thinning would draw {counts.sum()} rows of {len(ids)} records, expected at "
                f"most {MAX_DRAWN}; scale the weights down."
            )
        drawn = np.repeat(np.arange(len(ids)), counts)
        balanced, plain, values = _thinned(source, drawn), Phase(source, {}), drawn
    else:
        values = weights.astype(np.float32)
        balanced, plain = (Phase(source, {WEIGHTS: w}) for w in (values, np.ones_like(values)))
    phases = (balanced, plain) if first == "balanced" else (plain, balanced)
    identity = {"use": use, "first": first, "switch": switch, "sha256": array_sha256(values)}
    return Plan(phases[: 1 if switch is None else 2], switch or 0, {"balance": identity})


@dataclass(frozen=True)
class DrawnRecords:
    """Some records of a source, each as often as its index is in `rows`."""

    source: Source
    rows: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        """Returns the record of a row; one that is broken is named by its index in the source."""
        row = int(self.rows[index])
        try:
            return self.source[row]
        except ValueError as error:
            raise ValueError(f"record {row} of the data before thinning: {error}") from error

    @cached_property
    def columns(self) -> LazyColumns | None:
        """The attributes of the rows by name; None where the source has no arrays of them."""
        whole = getattr(self.source, "columns", None)
        return None if whole is None else LazyColumns(list(whole), self._column)

    def _column(self, name: str) -> np.ndarray:
        return self.source.columns[name][self.rows]  # type: ignore[attr-defined]


def _thinned(source: Source, rows: Int64[np.ndarray, " n"]) -> Phase:
    if not len(rows):
        raise ValueError(
            f"balance: thinning keeps none of {len(source)} records; solve for a higher rate."
        )
    return Phase(DrawnRecords(source, rows), {"index": rows})


def _read_weights(path: str, ids: np.ndarray) -> Float[np.ndarray, " n"]:
    table = read_table(path, kind=KIND)
    if WEIGHT not in table.columns:
        raise ValueError(
            f"{path} has columns {sorted(table.columns)}, expected {WEIGHT!r} of each."
        )
    try:
        weights = join(table, ids)[WEIGHT]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if weights.dtype.kind not in "iuf" or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"{path}: {WEIGHT!r} must hold finite numbers of at least 0.")
    if weights.max() > MAX_WEIGHT:
        raise ValueError(
            f"{path}: the largest weight is {weights.max():g}, expected at most {MAX_WEIGHT:g}: a record "
            "would be drawn so often in each epoch. Solve again with a bound on the weights."
        )
    if not weights.any():
        raise ValueError(f"{path}: every weight is 0, which leaves nothing to train on.")
    return weights.astype(np.float64)
