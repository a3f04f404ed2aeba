"""Loose image files, and the tables (CSV, JSON, JSON lines) that say what is in each.

So most benchmarks are published. A table has one row per record. Its columns become attributes; those
that are named make the image's path and the captions, as for the published layouts of sets of pairs:

    MMVP-VLM     CSV with id, type and statement; images in a folder of each type
        directory="...", tables="questions.csv", image="{type}/{id}.jpg", captions=("statement",)
    SugarCrepe   a JSON of each kind, with a true and a false caption; images of COCO val2017
        directory="...", tables="*.json", image="val2017/{filename}",
        captions=("caption", "negative_caption")             kind of an item: the column "table"
    Winoground   two images and captions in an example: write a row for each of the two, with a
                 column that is equal for both

What a downloaded set calls its columns and folders is best looked up there, and given here. `table`
reads the same tables with more choices, and finds the columns itself.
"""

from collections.abc import Sequence
from pathlib import Path

from bias_clip.data.records import Source
from bias_clip.data.sources.table import checked, find_tables, read_table_file, stack
from bias_clip.data.sources.tabular.contained import make_roots
from bias_clip.data.sources.tabular.delimited import Form
from bias_clip.data.sources.tabular.rows import RowRecords, make_layout


def image_files_source(
    *,
    directory: str,
    tables: str | Sequence[str] = "table.csv",
    image: str = "{image}",
    captions: Sequence[str] = ("caption",),
    identity: str = "{table}/{row}",
    roots: Sequence[str] = (),
) -> Source:
    """Reads records from tables beside images, in the order of the tables and of their rows.

    All attributes of CSV stay text, and blanks after a comma are left out.

    Args:
      directory: that paths start from.
      tables: names or patterns of the tables; those of a pattern come by name.
      image: where a row's image is; "{column}" stands for its value.
      captions: the columns that are captions, in this order; missing values are left out.
      identity: makes the id of a record from its columns, and "{table}", the table's name without
        its ending, and "{row}", from 0.
      roots: further folders that images may be in, where paths lead out of `directory`.

    Raises: ValueError for no tables or rows, a table that cannot be read, a column that is not there,
      ids that come twice. An image that is missing, or outside of the folders, raises ValueError when
      it is read.

        image_files_source(directory="mmvp", tables="q.csv", image="{type}/{id}.jpg",
                           captions=("statement",))
    """
    names = [tables] if isinstance(tables, str) else list(tables)
    files, _ = find_tables([str(Path(directory) / name) for name in names])
    rows = stack(
        files, [read_table_file(f, Form(skip_blanks=True), "refuse") for f in files], numbers=False
    )
    layout = make_layout(
        [*rows.names, "table"],
        table=str(files[0]),
        roots=make_roots(directory, roots),
        image=image,
        captions=captions,
        identity=identity,
    )
    return checked(RowRecords(rows, layout))
