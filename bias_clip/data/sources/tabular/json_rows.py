"""Rows of JSON: a list, rows by name, one list within an object, lists by column, or one per line."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bias_clip.data.records import as_array, is_missing
from bias_clip.data.sources.tabular.delimited import open_binary
from bias_clip.data.sources.tabular.places import Places, check_names
from bias_clip.data.sources.tabular.rows import plain

BAD_ROWS = ("refuse", "skip")


class JsonRows:
    """Rows of one or more tables of JSON objects, held in memory as JSON text."""

    def __init__(self, tables: Sequence[tuple[str, Sequence[Mapping[str, Any]] | pa.ChunkedArray]]):
        """Takes rows by the name of their table: as objects, or as an array of their JSON text."""
        parts = [(n, r if isinstance(r, pa.ChunkedArray) else self.pack(r)) for n, r in tables]
        self._text = pa.chunked_array([chunk for _, text in parts for chunk in text.chunks])
        self._places = Places([(name, len(text)) for name, text in parts])
        self.names = list(dict.fromkeys(n for row in self._objects() for n in row))

    def __len__(self) -> int:
        return len(self._places)

    @staticmethod
    def pack(rows: Sequence[Mapping[str, Any]]) -> pa.ChunkedArray:
        """Rows as an array of their JSON text."""
        # Text in Arrow's buffers: as Python objects, rows take several times the memory.
        text = [json.dumps(row).encode() for row in rows]
        return pa.chunked_array([pa.array(text, pa.large_binary())])

    def row(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row; one that the row does not have is None."""
        found = {**json.loads(self._text[index].as_py()), **self._places.at(index)}
        return {name: value_at(found, name) for name in names}

    def attributes(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row; lists and objects as JSON text."""
        return {name: plain(value) for name, value in self.row(index, names).items()}

    def values(self, name: str) -> list[Any]:
        """Returns one column of all rows."""
        return self._places.values(name) or [value_at(row, name) for row in self._objects()]

    def column(self, name: str) -> np.ndarray:
        """Returns one column of all rows as an array; lists and objects as JSON text."""
        return as_array([plain(value) for value in self.values(name)], name)

    def _objects(self) -> Iterator[dict[str, Any]]:
        return (json.loads(text.as_py()) for text in self._text)


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """A value by its name, or by a path such as "caption.en" into an inner object."""
    if name in row:
        return None if is_missing(row[name]) else row[name]
    found: Any = row
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return None if is_missing(found) else found


def read_lines(path: Path, *, bad_rows: str, encoding: str | None = None) -> pa.ChunkedArray:
    r"""Reads JSON lines: an object per line, of which only "\n" ends one; blank lines are left out.

    Raises: ValueError for a line that is not an object, with its number; with bad_rows "skip" it is
      counted in the log.
    """
    found, bad = list[bytes](), dict[int, str]()
    with open_binary(path) as file:
        for number, line in enumerate(file, 1):
            # Some editors begin a file with a byte-order mark, which is not JSON.
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                _check_object(_loads(line.decode(encoding or "utf-8")), path)
                found.append(line.strip())
            # RecursionError: brackets nested thousands of levels deep.
            except (ValueError, RecursionError) as error:
                bad[number] = str(error)
    if bad:
        first = next(iter(bad.items()))
        said = f"{path}: {len(bad)} of {len(bad) + len(found)} lines are not JSON objects; the first is line "
        if bad_rows == "refuse":
            raise ValueError(f"{said}{first[0]}: {first[1]}. Correct it, or give bad_rows='skip'.")
        logging.getLogger(__name__).warning("%s%d: %s; left out", said, *first)
    return pa.chunked_array([pa.array(found, pa.large_binary())])


def read_documents(path: Path, encoding: str | None = None) -> Any:
    """Reads a JSON file; several objects one after another become a list.

    Raises: ValueError for a file that is not JSON.
    """
    with open_binary(path) as file:
        raw = file.read()
    text = raw.decode(encoding or json.detect_encoding(raw)).lstrip("\ufeff")
    decoder, found, place = json.JSONDecoder(object_pairs_hook=_no_twice), [], 0
    try:
        while (place := _skip(text, place)) < len(text):
            value, place = decoder.raw_decode(text, place)
            found.append(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not found:
        raise ValueError(f"{path} cannot be read: it is empty.")
    return found[0] if len(found) == 1 else found


def rows_of(document: Any, path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON document.

    Raises: ValueError for a document of another shape.
    """
    rows = document
    if isinstance(document, Mapping):
        lists = {key: value for key, value in document.items() if isinstance(value, list)}
        tables = [v for v in lists.values() if v and all(isinstance(row, Mapping) for row in v)]
        # Rows by name before lists: an object whose values are all objects cannot be anything else.
        if document and all(isinstance(value, Mapping) for value in document.values()):
            rows = [{"id": name, **row} for name, row in document.items()]
        elif len(tables) == 1:
            rows = tables[0]
        elif lists and len(lists) == len(document):
            rows = _by_column(lists, path)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(
            f"{path} holds {json.dumps(document, default=str)[:80]}; expected a list of rows, rows by "
            "name, an object with one list of rows, or lists by column."
        )
    for row in rows:
        _check_object(row, path)
    return rows


def _by_column(lists: Mapping[str, list[Any]], path: Path) -> list[dict[str, Any]]:
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError(
            f"{path} has lists of { ({k: len(v) for k, v in lists.items()}) } values; expected equal ones."
        )
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_no_twice)


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python's parser keeps the last of two equal names and drops the other silently.
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def _check_object(row: Any, path: Path) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"got {json.dumps(row)[:80]}, expected an object")
    check_names(list(row), path)


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
