"""Rows of CSV, TSV and other separated text, read strictly: damage is an error that gives the line."""

import bz2
import csv
import gzip
import io
import lzma
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bias_clip.data.records import as_array
from bias_clip.data.sources.tabular.places import Places, check_names

QUOTING = ("strict", "none")
_SEPARATORS = (",", "\t", ";", "|")
_CHUNK = 65536  # rows held as Python strings at a time
# Numbers in exactly the form in which they would be written again; "007" is text.
# At most 18 digits, so that all of them fit in int64, which ends at 9.2e18.
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|nan|NaN)$"
_MAGIC = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class Form(NamedTuple):
    """How a table is written.

    Attributes:
      separator: of its columns; None: by the ending, or the one in the first line.
      quoting: "strict": a field in quotes may hold separators and line breaks; or "none": a quote is
        an ordinary character, as in most TSV of scraped text.
      encoding: None is UTF-8, or UTF-16 if the file says so.
      header: the names of the columns, if the first line does not hold them.
      skip_blanks: drops blanks after a separator.
    """

    separator: str | None = None
    quoting: str = "strict"
    encoding: str | None = None
    header: tuple[str, ...] | None = None
    skip_blanks: bool = False


class TextRows:
    """Rows of one or more tables whose cells are text; columns of numbers become arrays of numbers."""

    def __init__(self, tables: Sequence[tuple[str, pa.Table]], *, types: bool):
        """Takes tables by name; with `types`, columns of only numbers become numbers."""
        # Tables of one data set may lack a column: "default" fills it with missing values.
        self._text = pa.concat_tables([t for _, t in tables], promote_options="default")
        self._places = Places([(name, len(t)) for name, t in tables])
        self.names = self._text.column_names
        self._types = types
        self._typed: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return len(self._text)

    def row(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row as text."""
        own = self._places.at(index)
        return {n: own[n] if n in own else self._text.column(n)[index].as_py() for n in names}

    def attributes(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of a row, with the types of these columns."""
        own = self._places.at(index)
        return {n: own[n] if n in own else self._column(n)[index].as_py() for n in names}

    def values(self, name: str) -> list[Any]:
        """Returns one column of all rows as text."""
        return self._places.values(name) or self._text.column(name).to_pylist()

    def column(self, name: str) -> np.ndarray:
        """Returns one column of all rows as an array, of numbers if every value is a number."""
        return as_array(self._places.values(name) or self._column(name).to_pylist(), name)

    def _column(self, name: str) -> pa.ChunkedArray:
        if not self._types:
            return self._text.column(name)
        if name not in self._typed:  # two threads may both do this: the results are equal
            self._typed[name] = _numbers(self._text.column(name))
        return self._typed[name]


def open_binary(path: Path) -> BinaryIO:
    """Opens a file that may be compressed with gzip, bzip2 or xz, which its first bytes show."""
    with path.open("rb") as file:
        start = file.read(6)
    opener: Any = next((f for magic, f in _MAGIC.items() if start.startswith(magic)), open)
    return opener(path, "rb")


def read_delimited(path: Path, form: Form) -> pa.Table:
    """Reads a table of separated text; all cells are text, or None if they are empty.

    Raises: ValueError, with the line, for a quote that does not enclose a whole field, a row with more
      or fewer values than the header, names that occur twice, or bytes of another encoding.
    """
    if form.quoting not in QUOTING:
        raise ValueError(f"got quoting={form.quoting!r}, expected one of {list(QUOTING)}.")
    if form.separator is not None and len(form.separator) != 1:
        raise ValueError(f"got separator={form.separator!r}, expected one character.")
    with open_binary(path) as raw:
        start = raw.read(4)
        raw.seek(0)
        encoding = form.encoding or _encoding(start)
        # newline="": the csv module itself splits lines, and keeps line breaks within quotes.
        with io.TextIOWrapper(raw, encoding=encoding, newline="") as text:
            try:
                return _read(text, path, form)
            except UnicodeError as error:
                raise ValueError(
                    f"{path} is not {encoding}: {error}; give its `encoding`, such as 'latin-1'."
                ) from error


def _numbers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as numbers, if all of them are numbers in the form in which they would be written."""
    if values.null_count == len(values):
        return values
    for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64())):
        if pc.all(pc.match_substring_regex(values, pattern)).as_py():
            return values.cast(kind)
    return values


def _read(text: io.TextIOWrapper, path: Path, form: Form) -> pa.Table:
    lines = iter(text)
    header = form.header
    first = ""
    if header is None:
        first = next(lines, "")
    separator = form.separator or _separator(path, first)
    settings: dict[str, Any] = {"delimiter": separator, "strict": True}
    settings["skipinitialspace"] = form.skip_blanks
    if form.quoting == "none":
        settings["quoting"] = csv.QUOTE_NONE
    reader = csv.reader(_with_first(first, lines), **settings)
    if header is None:
        names = [name.strip() for name in next(reader, [])]
        header = tuple(name or f"unnamed_{i}" for i, name in enumerate(names))
    check_names(header, path)
    return _collect(_checked(reader, len(header), path), header)


def _with_first(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _checked(reader: Any, width: int, path: Path) -> Iterator[list[str]]:
    number, line = 0, reader.line_num + 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: {error}. A quote opens a field there that does not close, or does "
                "not close before a separator; correct the line or, if quotes are ordinary "
                "characters, give quoting='none'."
            ) from error
        if row and len(row) != width:
            raise ValueError(
                f"row {number} of {path} (line {line}) has {len(row)} values: {str(row)[:200]}; expected "
                f"a value of each column, {width}."
            )
        if row:
            number += 1
            yield row
        # A quoted field may span lines, so a row's first line is counted before it is read.
        line = reader.line_num + 1


def _collect(rows: Iterator[list[str]], header: Sequence[str]) -> pa.Table:
    # large_string, because offsets of string are 32 bits: 2 GiB of text per column chunk at most.
    schema = pa.schema([(name, pa.large_string()) for name in header])
    batches, pending = [], list[list[str]]()
    for row in rows:
        pending.append(row)
        if len(pending) == _CHUNK:
            batches.append(_batch(pending, schema))
            pending = []
    if pending:
        batches.append(_batch(pending, schema))
    return pa.Table.from_batches(batches, schema)


def _batch(rows: list[list[str]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [[cell or None for cell in cells] for cells in zip(*rows, strict=True)]
    return pa.record_batch([pa.array(cells, pa.large_string()) for cells in columns], schema)


def _separator(path: Path, first: str) -> str:
    name = path.name.lower()
    usual = "\t" if re.search(r"\.(tsv|tab|token)(\.|$)", name) else ","
    found = [s for s in _SEPARATORS if s in first]
    # The usual one wins: a comma in the first line of a .csv separates, whatever else is in it.
    if usual in found or not found:
        return usual
    if len(found) > 1:
        raise ValueError(f"{path}: is its separator one of {found}? Give it as `separator`.")
    return found[0]


def _encoding(start: bytes) -> str:
    # "utf-8-sig" reads UTF-8 with and without a byte-order mark.
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
