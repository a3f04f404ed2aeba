"""What a record and a source are, and how attributes are read from them."""

from typing import Any, Protocol

import numpy as np

# id: str; image: uint8 array [h,w,3 or 4], encoded bytes, or a tuple of those (equally good
# pictures of one thing); captions: tuple of str; any further key is an attribute, str or int.
Record = dict[str, Any]


class Source(Protocol):
    """Random access to records; may have `columns`, all attributes as arrays by name."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int, /) -> Record:
        """Returns one record; raises ValueError when it is broken."""


def column(source: Source, name: str) -> np.ndarray:
    """Returns one attribute (or "id") of all records as an array.

    From `source.columns` where there is one, else by reading every record.

    Raises: ValueError for an unknown attribute, listing the valid ones.
    """
    columns = getattr(source, "columns", None)
    if columns is None:
        return np.asarray([_attribute(source[i], name) for i in range(len(source))])
    if name not in columns:
        raise ValueError(f"no attribute {name!r}, the source has {sorted(columns)}.")
    return columns[name]


def attributes(record: Record) -> dict[str, str | int]:
    """Returns what a record has besides its id, pictures and captions."""
    return {k: v for k, v in record.items() if k not in ("id", "image", "captions")}


def _attribute(record: Record, name: str) -> str | int:
    values = {"id": record["id"], **attributes(record)}
    if name not in values:
        raise ValueError(f"no attribute {name!r} in record {record['id']!r}: {sorted(values)}.")
    return values[name]
