"""Writes any source as ArrayRecord or tar shards: in parallel, restartable, with a report of what was dropped.

    bias-clip prepare --source folder path=photos --out prepared --workers 8

Train on the result with `config.data.source = dict(name="array_record", path="prepared")`; attributes
are in the records. A record without a caption, or whose image cannot be decoded, is dropped, and
report.json names it. The bytes do not depend on the number of workers; an interrupted command continues
after the last whole shard.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import CHECKS, SHARD_FORMS
from bias_clip.cli.shared.flags import Parser, add_source, read_call, run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and writes the shards."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Writes the shards, and says what was dropped and why.

    Raises:
      ValueError: an unknown source, a folder of other shards, or more dropped records than allowed.
    """
    import numpy as np
    from tqdm import tqdm

    from bias_clip.data.record_shards import write_record_shards
    from bias_clip.data.sources import make_source

    name, arguments = read_call(args.source, flag="--source")
    words = {"name": name, **arguments}
    records = len(make_source(**words))
    with tqdm(total=records, unit=" records", disable=None) as bar:
        report = write_record_shards(
            words,
            args.out,
            np.arange(records),
            form=args.form,
            shard_rows=args.shard_rows,
            check=args.check,
            workers=args.workers,
            on_rows=bar.update,
        )
    print(describe(report))
    dropped = report["rows"] - report["written"]
    # After the report was written: it names what has to be repaired.
    if args.max_dropped is not None and dropped > args.max_dropped:
        raise ValueError(
            f"{dropped} of {records} records were dropped, --max-dropped allows {args.max_dropped}; "
            f"{args.out / 'report.json'} names them. The shards are whole, without these records."
        )


def describe(report: Mapping[str, Any]) -> str:
    """Returns the report as lines of text."""
    lines = [
        f"{report['written']:,} of {report['rows']:,} records in {report['shards']:,} shards, "
        f"{report['bytes'] / 1e6:,.1f} MB"
    ]
    for reason, count in sorted(report["dropped"].items(), key=lambda pair: -pair[1]):
        row, said = next(iter(report["examples"][reason].items()))
        lines.append(f"dropped: {count:,} {reason}, such as record {row}: {said}")
    return "\n".join(lines)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_source(parser)
    add("--out", type=Path, required=True, metavar="FOLDER", help="for the shards")
    add("--form", choices=SHARD_FORMS, default="array_record", help="of the shards")
    add("--check", choices=CHECKS, default="decode", help="of images; none: they must be readable")
    add("--shard-rows", type=int, default=10_000, help="records per shard")
    add("--workers", type=int, default=1, help="processes that write shards")
    add("--max-dropped", type=int, metavar="N", help="more end with an error after the report")
    return parser


if __name__ == "__main__":
    main()
