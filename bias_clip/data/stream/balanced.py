"""Training on a table of weights: rows are drawn as often as their weight says, or weighted in the loss.

Either way nothing is solved here: the table has the weight of each example, and training looks it up.
A run may also see the plain data for a part of its steps, before or after the balanced ones.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int64

from bias_clip.core.hashing import array_sha256
from bias_clip.data.records import LazyColumns, Record, Source, column
from bias_clip.data.stream.batch import WEIGHTS
from bias_clip.data.stream.draws import DRAWN, WEIGHT, draw_rows, fresh_order, read_weights
from bias_clip.data.stream.plan import Phase, Plan
from bias_clip.data.tables.mapped import check_source, is_mapped, open_mapped

USES = ("thin", "weight")
PHASES = ("balanced", "plain")


def make_plan(
    source: Source,
    *,
    table: str,
    use: str,
    seed: int = 0,
    first: str = "balanced",
    switch: int | None = None,
    draw: str | None = None,
    fresh: bool = False,
    run_seed: int = 0,
) -> Plan:
    """Makes the plan of a run on balanced data.

    Args:
      source: of the records, whose ids the table has.
      table: path of a table of weights, see `write_table`: columns `id` and `weight`. Or the folder that
        `bias-clip columns` made of it: then no id is joined, and no array of the rows is in memory.
      use: "thin": a record is drawn as often as its weight says, 0 times, once or more, the same ones
        in every epoch unless `fresh`; or "weight": all are drawn, and `weights` of the batch has
        their weight, 1 while the data are plain.
      seed: of the thinning; not that of the run, so that runs of several seeds see the same records.
      first: which phase comes first, "balanced" or "plain".
      switch: the step, counted from 0, from which on the other phase is drawn from; None: never.
      draw: how the records are chosen, see `draw_rows`: "cube" is as balanced as the weights, "coin"
        decides each record by itself; None: the cube where the table says the cells it needs.
      fresh: a draw of its own for each epoch, by the cube, see `fresh_order`.
      run_seed: of the order within a fresh epoch.

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
    # Before any column of ids is made: that a run needs no array of its rows is what the folder is for.
    if is_mapped(table):
        balanced, plain, sha256 = _from_columns(source, table, use, seed, draw, fresh)
        return _plan(balanced, plain, first, switch, use, sha256)
    ids = column(source, "id")
    weighted = read_weights(table, ids)
    if use == "thin":
        if fresh and draw == "coin":
            raise ValueError(
                "balance: got fresh=True with draw='coin', whose epochs differ in length; expected "
                "draw='cube'."
            )
        values = draw_rows(weighted, seed, "cube" if fresh else draw)
        balanced, plain = _thinned(source, values), Phase(source, {})
        if fresh:
            balanced = Phase(source, {}, fresh_order(weighted, seed, run_seed))
    elif fresh or draw is not None:
        raise ValueError(
            f"balance: draw and fresh are of use='thin'; got use={use!r}. Remove them."
        )
    else:
        # The loss reads float32, so the identity below is that of these numbers.
        values = weighted.weights.astype(np.float32)
        balanced, plain = (Phase(source, {WEIGHTS: w}) for w in (values, np.ones_like(values)))
    return _plan(balanced, plain, first, switch, use, array_sha256(values), fresh=fresh)


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


def _plan(
    balanced: Phase,
    plain: Phase,
    first: str,
    switch: int | None,
    use: str,
    sha256: str,
    *,
    fresh: bool = False,
) -> Plan:
    phases = (balanced, plain) if first == "balanced" else (plain, balanced)
    identity = {"use": use, "first": first, "switch": switch, "sha256": sha256}
    identity |= {"fresh": True} if fresh else {}  # no new key otherwise: older runs resume
    return Plan(phases[: 1 if switch is None else 2], switch or 0, {"balance": identity})


def _from_columns(
    source: Source, folder: str, use: str, seed: int, draw: str | None, fresh: bool
) -> tuple[Phase, Phase, str]:
    """The phases from memory-mapped columns, and the identity that the table itself would give."""
    mapped = open_mapped(folder)
    check_source(mapped, source, folder)
    if WEIGHT not in mapped.arrays or "draw" not in mapped.manifest:
        raise ValueError(f"{folder} has no weights; write it with bias-clip columns --weights.")
    if use == "weight":
        if fresh or draw is not None:
            raise ValueError("balance: draw and fresh are of use='thin'; got use='weight'.")
        weights: Any = mapped.arrays[WEIGHT]
        ones: Any = Constant(1.0, len(source))
        phases = (Phase(source, {WEIGHTS: weights}), Phase(source, {WEIGHTS: ones}))
        return (*phases, mapped.manifest["weights_sha256"])
    made = mapped.manifest["draw"]
    if fresh or made["seed"] != seed or draw not in (None, made["draw"]):
        raise ValueError(
            f"{folder} holds the draw { ({k: made[k] for k in ('seed', 'draw')}) }; got {seed=}, {draw=}, "
            f"{fresh=}. Write it again with these, or give the table of weights."
        )
    rows: Any = mapped.arrays[DRAWN].astype(np.int64)
    return _thinned(source, rows), Phase(source, {}), made["sha256"]


class Constant:
    """An array of one number, without its memory."""

    def __init__(self, value: float, length: int):
        self._value, self._length = np.float32(value), length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.full(np.shape(index), self._value)


def _thinned(source: Source, rows: Int64[np.ndarray, " n"]) -> Phase:
    if not len(rows):
        raise ValueError(
            f"balance: thinning keeps none of {len(source)} records; solve for a higher rate."
        )
    # Batches then name a record by its number in the source and not among the drawn rows.
    return Phase(DrawnRecords(source, rows), {"index": rows})
