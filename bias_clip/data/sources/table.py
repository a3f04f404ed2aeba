"""Tables that name image files: CSV, TSV, JSON, JSON lines, and the published caption files."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from bias_clip.core.remote import find, is_remote
from bias_clip.data.bad_records import file_fault
from bias_clip.data.sources.tabular.caption_files import (
    caption_rows,
    find_images,
    flickr_rows,
    take_splits,
)
from bias_clip.data.sources.tabular.contained import make_roots
from bias_clip.data.sources.tabular.copies import local_copy
from bias_clip.data.sources.tabular.delimited import Form, TextRows, read_delimited
from bias_clip.data.sources.tabular.groups import group_rows
from bias_clip.data.sources.tabular.json_rows import (
    BAD_ROWS,
    JsonRows,
    read_documents,
    read_lines,
    rows_of,
)
from bias_clip.data.sources.tabular.rows import RowRecords, Rows, make_layout
from bias_clip.data.sources.tar.files import common_folder

_REMOTE_READS = 32  # images of one chunk of a batch, read at the same time
_LINES = (".jsonl", ".ndjson")
_PACKED = (".gz", ".bz2", ".xz")


def table_source(
    *,
    path: str | Sequence[str],
    root: str | None = None,
    image: str | Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    identity: str | None = None,
    attributes: Sequence[str] | None = None,
    split: str | Sequence[str] | None = None,
    separator: str | None = None,
    quoting: str = "strict",
    encoding: str | None = None,
    header: Sequence[str] | None = None,
    bad_rows: str = "refuse",
    numbers: bool = True,
    roots: Sequence[str] = (),
    group_by: str | None = None,
) -> RowRecords:
    """Reads records from tables, in the order of the tables and of their rows.

    The form is recognised by ending and content, also if compressed with gzip, bzip2 or xz: CSV, TSV
    and other separated text; JSON (a list of rows, rows by name, an object with one list of rows, lists
    by column); JSON lines; or COCO's captions, Karpathy's splits and Flickr30k's files, which give one
    record per image with all its captions. Empty cells, null and NaN are missing values; a list
    holds several captions.

    Args:
      path: a file, an address, a pattern, or a list of those; files of a pattern are sorted by name.
      root: the folder, or its address, that paths of images start from; by default that of the (first)
        table.
      image: the column of the path, or a template such as "{type}/{id}.jpg"; several of them give a
        record several images. None: the first column with a usual name, see `rows.IMAGES`.
      captions: columns or templates, in this order; None: the first column with a usual name.
      identity: a template of the id, of columns, "{table}" (the table's name without its ending) and
        "{row}" (from 0). None: the column id, uid or key, else "{table}/{row}".
      attributes: the columns to keep; None keeps all others.
      split: the splits to read, if a file has several.
      separator: None: a tab for .tsv, else the one in the first line.
      quoting: "strict", or "none" if quotes are ordinary characters.
      encoding: None: UTF-8, or UTF-16 if the file says so.
      header: the names of the columns, if the first line does not hold them.
      bad_rows: "refuse", or "skip" leaves out lines that are not JSON and says so in the log.
      numbers: columns of separated text in which every value is a number become numbers.
      roots: further folders, and beginnings of addresses, that images may be in, for paths that lead
        out of `root`, as ["https://host/images/"].
      group_by: a column, mostly that of the image: rows with the same value in it become one record, which
        has the captions of all and everything else from the first.

    Raises: ValueError for a table that is missing, damaged or empty, or is given twice, an unknown column,
      or an id that occurs twice. A record whose image is missing, outside of the folders, or not a file, raises
      ValueError when it is read.

        table_source(path="captions.tsv", captions=("title",))
    """
    if bad_rows not in BAD_ROWS:
        raise ValueError(f"got bad_rows={bad_rows!r}, expected one of {list(BAD_ROWS)}.")
    files, tables, folder = find_tables(path)
    form = Form(separator, quoting, encoding, None if header is None else tuple(header))
    read = [read_table_file(file, form, bad_rows) for file in files]
    # A published form is recognised by its content and comes as a list of rows; other tables as arrays of
    # text.
    published = all(isinstance(table, list) for table in read)
    if published:
        read = [take_splits(table, split, file) for table, file in zip(read, files, strict=True)]
    elif split is not None:
        raise ValueError(f"got split={split!r}, but {files[0]} has no splits; leave it out.")
    if published and root is None and image is None:
        if is_remote(folder):
            raise ValueError(f"{files[0]}: give the address of the images as `root`, and `image`.")
        folder, image = find_images(read[0], Path(folder))
    rows = stack(files, tables, read, numbers=numbers)
    layout = make_layout(
        [*rows.names, "table"],
        table=str(files[0]),
        roots=make_roots(root or folder, roots),
        image=image,
        captions=captions,
        identity=identity,
        attributes=attributes,
    )
    elsewhere = is_remote(layout.roots.root) or any(map(is_remote, layout.roots.further))
    groups = None if group_by is None else group_rows(rows, group_by, str(files[0]))
    return checked(
        RowRecords(rows, layout, threads=_REMOTE_READS if elsewhere else 1, groups=groups)
    )


def find_tables(path: str | Sequence[str]) -> tuple[list[Path], list[str], str | Path]:
    """The files of a path, an address, a pattern, or several of them; their names; the folder of the first.

    Raises: ValueError if there is none, or if one comes twice.
    """
    names = [str(path)] if isinstance(path, str | Path) else [str(name) for name in path]
    found = list[str]()
    for name in names:
        if not has_magic(name):
            found.append(name)
        elif is_remote(name):
            found += [file.address for file in find(name)]
        else:
            found += sorted(glob(name, recursive=True))
    missing = [name for name in found if not is_remote(name) and not Path(name).is_file()]
    if missing or not found:
        raise ValueError(f"there is no table {missing[0] if missing else names}; give its path.")
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"tables come twice: {twice}; name each once. A mixture repeats a source.")
    folder = found[0].rpartition("/")[0] if is_remote(found[0]) else Path(found[0]).parent
    files = [local_copy(name) if is_remote(name) else Path(name) for name in found]
    return files, table_names(found), folder


def stack(
    files: Sequence[Path], names: Sequence[str], read: Sequence[Any], *, numbers: bool
) -> Rows:
    """The rows of all tables as one; raises ValueError for no rows, and tables of several kinds."""
    tables = list(zip(names, read, strict=True))
    if not any(len(table) for table in read):
        raise ValueError(f"the tables {[str(file) for file in files]} have no rows.")
    text = [hasattr(table, "column_names") for table in read]
    if any(text) and not all(text):
        raise ValueError(
            f"{[str(f) for f in files]}: got JSON beside separated text; read each alone."
        )
    return TextRows(tables, types=numbers) if all(text) else JsonRows(tables)


def table_name(path: Path) -> str:
    """The name of a table without its endings."""
    # "pairs.csv.gz" is the table "pairs": compressing a file must not change the ids of its records.
    inner = path.with_suffix("") if path.suffix in _PACKED else path
    return inner.stem


def table_names(files: Sequence[str]) -> list[str]:
    """The names of the files without endings; with folders, then endings, where two would have one name."""
    names = [table_name(Path(file)) for file in files]
    # Otherwise the rows of both would have equal ids.
    shared = len(common_folder(files))
    inner = [file[shared:].lstrip("/") for file in files]
    if len(set(names)) < len(names):
        names = [str(Path(file).with_name(table_name(Path(file)))) for file in inner]
    return names if len(set(names)) == len(names) else inner


def checked(source: RowRecords) -> RowRecords:
    """Returns the source; raises ValueError if an id occurs twice."""
    # Ids from table names and row numbers are unique, and need no column in memory.
    if not source.numbered() and len(set(source.columns["id"].tolist())) < len(source):
        values, counts = np.unique(source.columns["id"], return_counts=True)
        raise ValueError(
            f"ids come twice, such as {values[counts > 1][:3].tolist()}; give an `identity` that differs "
            "for each row, such as '{table}/{row}'."
        )
    return source


def read_table_file(path: Path, form: Form, bad_rows: str) -> Any:
    """A list of rows, of a published form; an array of JSON text; or a table of text."""
    inner = (path.with_suffix("") if path.suffix in _PACKED else path).suffix.lower()
    with file_fault(path):
        if inner in _LINES:
            return read_lines(path, bad_rows=bad_rows, encoding=form.encoding)
        if inner == ".json":
            document = read_documents(path, form.encoding)
            published = caption_rows(document, path)
            return published if published is not None else JsonRows.pack(rows_of(document, path))
        published = None if form.header else flickr_rows(path)
        return published if published is not None else read_delimited(path, form)
