"""Hands weights on to other trainers: draws rows by them, and writes ids, copies, a subset or shards.

    bias-clip hand-on --weights runs/weights.parquet --as ids --out kept.txt
    bias-clip hand-on --weights runs/weights.parquet --as datacomp --uid uid --out subset.npy \\
        --source webdataset path=shards
    bias-clip hand-on --weights runs/weights.parquet --as tar --out balanced --source webdataset path=shards

The draw is that of training with `use="thin"` and the same seed. `--as copies` writes a table with the
copies of each row, for samplers. Shards are written in parallel, the same bytes for any number of
workers, and an interrupted command continues. Tables of `filter` are weights too.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import DRAWS
from bias_clip.cli.shared.flags import Parser, read_call, run_tool

FORMS = ("ids", "copies", "datacomp", "tar", "array_record")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, draws, and writes."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Draws, writes, and says how many rows.

    Raises:
      ValueError: shards without a source, weights of other examples, ids that are not uids.
    """
    import numpy as np

    from bias_clip.curation import hand_on
    from bias_clip.data.sources import column, make_source
    from bias_clip.data.stream.draws import KIND, draw_rows, read_weights
    from bias_clip.data.tables import KEY, read_table

    words: dict[str, Any] = {}
    if args.source:
        name, arguments = read_call(args.source, flag="--source")
        words = {"name": name, **arguments}
        source = make_source(**words)
        ids = column(source, KEY)
    # Ids and copies need the table alone; shards and uids need the records.
    elif args.form in ("tar", "array_record") or args.uid:
        raise ValueError(f"--as {args.form} and --uid need --source: the records are read from it.")
    else:
        ids = read_table(args.weights, kind=KIND).columns[KEY]
    rows = draw_rows(read_weights(str(args.weights), ids), args.seed, args.draw)
    # minlength: the last records may not be drawn, and have 0 copies.
    copies = np.bincount(rows, minlength=len(ids))
    if args.form == "ids":
        written = hand_on.write_ids(args.out, ids, copies)
    elif args.form == "copies":
        written = hand_on.write_copies(args.out, ids, copies)
    elif args.form == "datacomp":
        uids = column(source, args.uid) if args.uid else ids
        written = hand_on.write_subset(args.out, uids.tolist(), copies)
    else:
        written = _write_shards(args, words, rows)
    print(f"{args.out}: {written:,} rows of {len(ids):,} examples")


def _write_shards(args: argparse.Namespace, words: dict[str, Any], rows: Any) -> int:
    from tqdm import tqdm

    from bias_clip.cli.curate.prepare import describe
    from bias_clip.data.record_shards import write_record_shards
    from bias_clip.data.tables import file_sha256

    with tqdm(total=len(rows), unit=" rows", disable=None) as bar:
        report = write_record_shards(
            words,
            args.out,
            rows,
            form=args.form,
            shard_rows=args.shard_rows,
            # No record is dropped here: rows were drawn to be written as often as their weights say.
            check="none",
            need_caption=False,
            workers=args.workers,
            about={"weights": file_sha256(args.weights), "seed": args.seed},
            on_rows=bar.update,
        )
    print(describe(report))
    return report["written"]


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--weights", type=Path, required=True, metavar="FILE", help="of balance or filter")
    add("--as", dest="form", choices=FORMS, required=True, help="what is written")
    add("--out", type=Path, required=True, metavar="PATH", help="a file; a folder for shards")
    add(
        "--source",
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="of the records, for shards and --uid: webdataset, parquet, ..., then its arguments",
    )
    add("--uid", metavar="NAME", help="attribute with DataComp's uid; default: the id itself")
    add("--seed", type=int, default=0, help="of the draw")
    add("--draw", choices=DRAWS, help="default: the cube, where the table says its cells")
    add("--shard-rows", type=int, default=10_000, help="rows per shard")
    add("--workers", type=int, default=1, help="processes that write shards")
    return parser


if __name__ == "__main__":
    main()
