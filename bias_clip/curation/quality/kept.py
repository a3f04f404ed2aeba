"""Filters as tables of weights 0 and 1, so that training, balancing and hand-over take them as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from bias_clip.curation.quality.rule import apply_rule, rule_columns
from bias_clip.data.tables import KEY, file_sha256, join, read_manifest, read_table, write_table
from bias_clip.data.tables.table import read_kind

KIND = "weights"
WEIGHT = "weight"


class Columns(NamedTuple):
    """Columns of several tables, joined by id.

    Attributes:
      columns: by name, `id` among them, in the order of the first table.
      about: path and SHA-256 of each table.
    """

    columns: dict[str, np.ndarray]
    about: list[dict[str, str]]


def read_columns(paths: Sequence[str | Path]) -> Columns:
    """Reads tables of measures, annotations or others with an `id`, and joins them.

    Raises: ValueError for no table, a column that two tables have, or a later table that lacks an
      example of the first.
    """
    if not paths:
        raise ValueError("got no table; name at least one that has the columns of the rule.")
    whole: dict[str, np.ndarray] = {}
    for path in paths:
        table = read_table(path, kind=read_kind(path))
        # The first table decides which examples there are, and their order.
        found = table.columns if not whole else join(table, whole[KEY])
        twice = sorted((set(found) & set(whole)) - {KEY})
        if twice:
            raise ValueError(f"{path}: the columns {twice} are in an earlier table too; name one.")
        whole |= found if not whole else {k: v for k, v in found.items() if k != KEY}
    return Columns(whole, [{"path": str(p), "sha256": file_sha256(p)} for p in paths])


def write_kept(path: str | Path, tables: Columns, rule: str) -> Bool[np.ndarray, " n"]:
    """Writes weight 1 for the examples that a rule keeps, and 0 for the others; returns which are kept.

    Raises: ValueError as `apply_rule`, and for a rule that keeps nothing.
    """
    kept = apply_rule(rule, tables.columns)
    if not kept.any():
        ranges = {name: _range(tables.columns[name]) for name in rule_columns(rule)}
        raise ValueError(f"the rule {rule!r} keeps none of {len(kept)} examples; values: {ranges}.")
    columns = {KEY: tables.columns[KEY], WEIGHT: kept.astype(np.float64)}
    about: Mapping[str, Any] = {"rule": rule, "tables": tables.about, "kept": int(kept.sum())}
    write_table(path, columns, {"kind": KIND, "filter": about})
    return kept


def read_kept(path: str | Path, ids: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Which of some examples a filter keeps.

    Raises: ValueError for a table that is not of a filter, or that lacks an example.
    """
    manifest = read_manifest(path, kind=KIND)
    if "filter" not in manifest:
        raise ValueError(
            f"{path} has weights, but not of a filter; write one with bias-clip filter."
        )
    return join(read_table(path, kind=KIND), ids)[WEIGHT] > 0


def _range(values: np.ndarray) -> str:
    if values.dtype.kind in "UO":
        names, counts = np.unique(values.astype(str), return_counts=True)
        return ", ".join(names[np.argsort(-counts)][:5].tolist())
    return f"{np.nanmin(values):g} to {np.nanmax(values):g}"
