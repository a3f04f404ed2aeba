"""What the reader of a published layout gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from bias_clip.data.bad_records import file_fault
from bias_clip.data.records import LazyColumns, Record, Source, column
from bias_clip.data.sources.tabular.contained import make_roots
from bias_clip.data.sources.tabular.json_rows import JsonRows
from bias_clip.data.sources.tabular.rows import RowRecords, make_layout


@dataclass(frozen=True)
class SuiteData:
    """A data set as its suite needs it.

    Attributes:
      source: images, with captions where the layout has them.
      codes: column to a code for each image, in the published order of `names`; -1 for unknown.
      names: column to the names of its codes.
      classes: objective to class names; the objective is "" where there is only one.
      templates: objective to templates with "{}".
      labels: 0/1 table of images and classes, for data sets with several labels.
      skipped: file or row, and why it was left out.
      clusters: of each image, where one person, scene or concept has several; None where each stands
        for itself. Clusters are resampled as a whole.
      cluster: what the images of a cluster share, such as "person".
    """

    source: Source
    codes: Mapping[str, Int[np.ndarray, " n"]] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Int[np.ndarray, "n c"] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    clusters: Int[np.ndarray, " n"] | None = None
    cluster: str = ""


class Rows:
    """Some of the records of a source, in the order of `rows`."""

    def __init__(self, source: Source, rows: Int[np.ndarray, " m"]):
        self.source = source
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.rows[index])]

    @property
    def columns(self) -> LazyColumns:
        """The columns of the same records; AttributeError if the source has none."""
        names = tuple(self.source.columns)  # type: ignore[attr-defined]
        return LazyColumns(names, lambda name: column(self.source, name)[self.rows])


def take(data: SuiteData, rows: Int[np.ndarray, " m"]) -> SuiteData:
    """Returns the data of some of the images; one encoder embeds the whole source once for all parts."""
    own = data.source
    # Never rows of rows: an audit embeds the whole source once, and takes these rows of it.
    source = Rows(own.source, own.rows[rows]) if isinstance(own, Rows) else Rows(own, rows)
    return replace(
        data,
        source=source,
        codes={key: values[rows] for key, values in data.codes.items()},
        labels=None if data.labels is None else data.labels[rows],
        clusters=None if data.clusters is None else data.clusters[rows],
    )


def need(path: Path, what: str) -> Path:
    """Returns the path; raises ValueError, which says what it should be, if it is not there."""
    if not path.exists():
        raise ValueError(f"there is no {path}: expected {what}, as published; give its folder.")
    return path


def read_text(path: Path, what: str) -> str:
    """Returns the text of a file in UTF-8; ValueError, which names it, if it is absent or damaged."""
    with file_fault(need(path, what), advice="download it again"):
        return path.read_text("utf-8-sig")  # programs of Windows begin a file with a mark


def read_lines(path: Path, what: str) -> list[str]:
    """Returns the lines of a text file without blanks around them, empty ones left out.

    Only line feeds end a line, also after a carriage return: `str.splitlines` would cut a caption at
    each of Unicode's other separators.

    Raises:
      ValueError: no such file, a damaged one, or one without a line; names it.
    """
    found = [line.strip() for line in read_text(path, what).split("\n")]
    lines = [line for line in found if line]
    if not lines:
        raise ValueError(f"{path} is empty; expected {what}.")
    return lines


def rows_source(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    image: str,
    identity: str,
    captions: Sequence[str] = (),
) -> RowRecords:
    """A source of rows that name image files in the folder.

    Raises:
      ValueError: no rows.
    """
    if not rows:
        raise ValueError(f"{folder} has no image of the published form; see the suite's layout.")
    table = JsonRows([(folder.name, rows)])
    layout = make_layout(
        table.names,
        table=str(folder),
        roots=make_roots(folder, ()),
        image=image,
        captions=captions,
        identity=identity,
    )
    return RowRecords(table, layout)


def coded(
    values: Sequence[str], names: Sequence[str], *, where: str, what: str
) -> Int[np.ndarray, " n"]:
    """The place of each value among the names.

    Raises:
      ValueError: a value that is not among them; names it, and the row.
    """
    # By name and not by the numbers in the file: editions of a data set number their groups differently.
    index = {name: i for i, name in enumerate(names)}
    wrong = [(i, value) for i, value in enumerate(values) if value not in index]
    if wrong:
        raise ValueError(
            f"{where}: {what} is {wrong[0][1]!r} in row {wrong[0][0]}; expected one of {list(names)}."
        )
    return np.array([index[value] for value in values], np.int64)
