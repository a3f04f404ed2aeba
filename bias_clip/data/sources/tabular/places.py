"""Which table a row is in, and where, if the rows of several tables are numbered consecutively."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OWN = ("table", "row")  # columns that a reader adds to those of a table


class Places:
    """The tables in their order: "table" and "row" of each row."""

    def __init__(self, tables: Sequence[tuple[str, int]]):
        """Takes the name and the number of rows of each table."""
        self.tables = tuple(tables)
        self._starts = [0]
        for _, rows in tables:
            self._starts.append(self._starts[-1] + rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def find(self, index: int) -> tuple[int, int]:
        """The number of the row's table, and the row's number in that table."""
        # An empty table has the start of the next one; bisect_right skips it.
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def at(self, index: int) -> dict[str, Any]:
        """The values of `OWN` for one row."""
        number, row = self.find(index)
        return {"table": self.tables[number][0], "row": row}

    def values(self, name: str) -> list[Any]:
        """One of `OWN` for all rows; an empty list for another name."""
        if name == "table":
            return [table for table, rows in self.tables for _ in range(rows)]
        return [row for _, rows in self.tables for row in range(rows)] if name == "row" else []


def check_names(names: Sequence[str], path: Path) -> None:
    """Raises ValueError for a column name that occurs twice, or that the reader itself uses."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(
            f"{path} has the columns {twice} twice; give each column a different name."
        )
    own = sorted(set(names) & set(OWN))
    if own:
        raise ValueError(
            f"{path} has the columns {own}, names that the reader gives itself (the table's name, and the "
            "row's number); rename them."
        )
