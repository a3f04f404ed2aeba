"""Loose picture files, and the tables (CSV, JSON, JSON lines) that say what is in each.

So most benchmarks are published. A table has one row a record: a line of CSV, or an object of JSON in
a list, by line, or by name. Its columns become attributes; those that are named make the picture's
path and the captions, as for the published layouts of sets of pairs:

    MMVP-VLM     CSV with id, type and statement; pictures in a folder of each type
        directory="...", tables="questions.csv", image="{type}/{id}.jpg", captions=("statement",)
    SugarCrepe   a JSON of each kind, with a true and a false caption; pictures of COCO val2017
        directory="...", tables="*.json", image="val2017/{filename}",
        captions=("caption", "negative_caption")             kind of an item: the column "table"
    Winoground   two pictures and captions in an example: write a row for each of the two, with a
                 column that is equal for both

What a downloaded set calls its columns and folders is best looked up there, and given here.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.data.records import Record, Source

OWN = ("id", "image", "captions", "table")


def image_files_source(
    *,
    directory: str,
    tables: str | Sequence[str] = "table.csv",
    image: str = "{image}",
    captions: Sequence[str] = ("caption",),
    identity: str = "{table}/{row}",
) -> Source:
    """Reads records from tables beside pictures, in the order of the tables and of their rows.

    Args:
      directory: that paths start from.
      tables: names or patterns of the tables; those of a pattern come by name.
      image: where a row's picture is; "{column}" stands for its value.
      captions: the columns that are captions, in this order; empty values are left out.
      identity: makes the id of a record from its columns, and "{table}", the table's name without
        its ending, and "{row}", from 0.

    Raises: ValueError for no tables or rows, a table that cannot be read, a column that is not there,
      ids that come twice. A picture that is missing raises ValueError when it is read.

        image_files_source(directory="mmvp", tables="q.csv", image="{type}/{id}.jpg",
                           captions=("statement",))
    """
    if isinstance(captions, str):
        raise ValueError(
            f"captions is {captions!r}; expected a list of columns, as ({captions!r},)."
        )
    folder, names = Path(directory), [tables] if isinstance(tables, str) else list(tables)
    paths = [path for name in names for path in _find(folder, name)]
    rows = [row for path in paths for row in _read(path)]
    if not rows:
        raise ValueError(f"the tables {[str(path) for path in paths]} have no rows.")
    records = [_record(row, folder, image, captions, identity) for row in rows]
    return _ImageFiles(records)


class _ImageFiles:
    """Records whose pictures are read when they are asked for."""

    def __init__(self, records: Sequence[Record]):
        self._records = records
        names = set(records[0]).intersection(*records) - {"image", "captions"}
        self.columns = {name: np.asarray([r[name] for r in records]) for name in sorted(names)}
        if len(set(self.columns["id"].tolist())) < len(records):
            values, counts = np.unique(self.columns["id"], return_counts=True)
            raise ValueError(
                f"ids come twice, such as {values[counts > 1][:3].tolist()}; give an `identity` that "
                "tells the rows apart."
            )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        try:
            return {**record, "image": record["image"].read_bytes()}
        except OSError as error:
            raise ValueError(f"the picture of record {record['id']!r}: {error}") from error


def _find(folder: Path, name: str) -> list[Path]:
    found = sorted(folder.glob(name)) if any(c in name for c in "*?[") else [folder / name]
    if not found or not all(path.is_file() for path in found):
        raise ValueError(f"there is no table {folder / name}; give tables within {folder}.")
    return found


def _read(path: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = list(_rows(path))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or None in row or None in row.values():
            raise ValueError(f"row {number} of {path} is {row}; expected a value of each column.")
        yield {**row, "table": path.stem, "row": number}


def _rows(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        yield from (json.loads(line) for line in text.splitlines() if line.strip())
    elif path.suffix == ".json":
        found = json.loads(text)
        yield from found.values() if isinstance(found, dict) else found
    else:
        reader = csv.DictReader(text.splitlines(keepends=True), skipinitialspace=True)
        yield from ({key and key.strip(): value for key, value in row.items()} for row in reader)


def _record(
    row: dict[str, Any], folder: Path, image: str, captions: Sequence[str], identity: str
) -> Record:
    try:
        texts = tuple(str(row[name]) for name in captions if str(row[name]).strip())
        path, name = folder / image.format(**row), identity.format(**row)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"row {row['row']} of the table {row['table']!r} has no {error}; it has {sorted(row)}."
        ) from error
    kept = {k: _plain(v) for k, v in row.items() if k not in (*captions, "row", *OWN[:3])}
    return {"id": name, "image": path, "captions": texts, **kept}


def _plain(value: Any) -> str | int:
    """Attributes are strings or whole numbers; whatever else a table holds is told as a string."""
    return value if isinstance(value, str | int) else json.dumps(value)
