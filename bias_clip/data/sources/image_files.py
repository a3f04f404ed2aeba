"""Image files, and tables (CSV, JSON, JSON lines) that describe them.

Most benchmarks are published in this form. A table has one row per record. Its columns become attributes;
the arguments say which columns give the image's path and the captions. For published sets of pairs:

    MMVP-VLM     CSV with id, type and statement; images in a folder of each type
        directory="...", tables="questions.csv", image="{type}/{id}.jpg", captions=("statement",)
    SugarCrepe   a JSON of each kind, with a true and a false caption; images of COCO val2017
        directory="...", tables="*.json", image="val2017/{filename}",
        captions=("caption", "negative_caption")             kind of an item: the column "table"
    Winoground   two images and captions in an example: write a row for each of the two, with a
                 column that is equal for both

Look up the names of columns and folders in the downloaded data. The source `table` reads the same tables
with more options, and finds the columns itself.
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

    All attributes from CSV stay text; blanks after a comma are dropped.

    Args:
      directory: the folder that paths start from.
      tables: names or patterns of the tables; files that match a pattern are sorted by name.
      image: the path of a row's image; "{column}" stands for the column's value.
      captions: the columns that are captions, in this order; missing values are left out.
      identity: a template of the record's id from its columns, "{table}" (the table's name without
        its ending), and "{row}" (from 0).
      roots: further folders that images may be in, if paths lead out of `directory`.

    Raises: ValueError if there are no tables or rows, a table cannot be read, a column does not exist,
      or two records have the same id. An image that is missing, or outside of the folders, raises
      ValueError when it is read.

        image_files_source(directory="mmvp", tables="q.csv", image="{type}/{id}.jpg",
                           captions=("statement",))
    """
    # One string is one table, and not a list of letters.
    names = [tables] if isinstance(tables, str) else list(tables)
    files, tables, _ = find_tables([str(Path(directory) / name) for name in names])
    read = [read_table_file(file, Form(skip_blanks=True), "refuse") for file in files]
    rows = stack(files, tables, read, numbers=False)
    layout = make_layout(
        [*rows.names, "table"],
        table=str(files[0]),
        roots=make_roots(directory, roots),
        image=image,
        captions=captions,
        identity=identity,
    )
    return checked(RowRecords(rows, layout))
