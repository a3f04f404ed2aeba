"""Writes Parquet files again with small row groups, so that records are read at random at low cost.

    bias-clip regroup-parquet data/train-*.parquet --out regrouped --rows 16

All columns, types and metadata stay as they are. A file that is there already, whole, is left as it is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, run_tool

ROWS = 16


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and writes the files."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Writes each file, and says how many rows it has.

    Raises:
      ValueError: see `regroup`, and for what is not Parquet.
    """
    for name in args.files:
        target = args.out / Path(name).name
        print(f"{target}: {regroup(name, target, rows=args.rows)} rows")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="Parquet files")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for files of the same names"
    )
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help="rows per group")
    return parser


def regroup(path: str | Path, target: str | Path, *, rows: int = ROWS) -> int:
    """Writes one file again; its name appears when it is whole.

    Returns: the number of rows.
    Raises: ValueError for rows below 1, a target that is the file itself, or a damaged file.
    """
    import pyarrow.parquet as pq

    from bias_clip.core.write import whole_file
    from bias_clip.data.bad_records import file_fault

    with file_fault(path):
        source, target = pq.ParquetFile(path, page_checksum_verification=True), Path(target)
    if rows < 1 or target.resolve() == Path(path).resolve():
        raise ValueError(f"got rows={rows} and target {target}; expected at least 1, another file.")
    count = source.metadata.num_rows
    # Files appear whole, so that the number of rows tells a finished one.
    if target.exists() and pq.read_metadata(target).num_rows == count:
        return count
    target.parent.mkdir(parents=True, exist_ok=True)
    # Images are compressed already; page checksums let a damaged file be told.
    options = {"compression": "none", "write_page_checksum": True}
    with (
        file_fault(path),
        whole_file(target) as partial,
        pq.ParquetWriter(partial, source.schema_arrow, **options) as writer,
    ):
        for batch in source.iter_batches(batch_size=rows):
            # A damaged offset would be written again, and end the process that reads it.
            batch.validate(full=True)
            writer.write_batch(batch, row_group_size=rows)
    return count


if __name__ == "__main__":
    main()
