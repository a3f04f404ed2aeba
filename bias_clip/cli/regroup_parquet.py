"""Writes Parquet files again with small row groups, so that records are read at random at low cost.

    python -m bias_clip.cli.regroup_parquet data/train-00000-of-00002.parquet ... regrouped --rows 16

All columns, types and metadata stay as they are. A file that is there already, whole, is left as it is.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 16


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="+", metavar="FILE", help="Parquet files")
    parser.add_argument("folder", help="where to write files of the same names")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows per group")
    args = parser.parse_args(argv)
    try:
        for name in args.files:
            target = Path(args.folder) / Path(name).name
            print(f"{target}: {regroup(name, target, rows=args.rows)} rows")
    except (ValueError, OSError, pa.ArrowException) as error:
        parser.error(str(error))


def regroup(path: str | Path, target: str | Path, *, rows: int = ROWS) -> int:
    """Writes one file again; its name appears when it is whole.

    Returns: the number of rows.
    Raises: ValueError for rows below 1, or a target that is the file itself.
    """
    source, target = pq.ParquetFile(path), Path(target)
    if rows < 1 or target.resolve() == Path(path).resolve():
        raise ValueError(f"got rows={rows} and target {target}; expected at least 1, another file.")
    count = source.metadata.num_rows
    if target.exists() and pq.read_metadata(target).num_rows == count:
        return count
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    # Images are compressed already; page checksums let a damaged file be told.
    options = {"compression": "none", "write_page_checksum": True}
    with pq.ParquetWriter(partial, source.schema_arrow, **options) as writer:
        for batch in source.iter_batches(batch_size=rows):
            writer.write_batch(batch, row_group_size=rows)
    partial.replace(target)
    return count


if __name__ == "__main__":
    main()
