"""Writes weights, a draw, priors and labels as columns by record number, so that runs of any size start at once.

    bias-clip columns --source webdataset path=shards --weights runs/weights.parquet --seed 0 \\
        --tables runs/priors.parquet --out runs/columns

Training then takes `config.data.balance.table="runs/columns"`, and
`config.data.columns = dict(prior=dict(table="runs/columns"))`. The arrays are memory-mapped: a run reads no
table, joins no ids and holds no array of the rows in memory. `--verify FOLDER` reads all of it again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import DRAWS
from bias_clip.cli.shared.flags import Parser, read_call, run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, and writes or verifies the folder."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Writes or verifies, and says the bytes per record.

    Raises:
      ValueError: nothing to write, tables of other examples, columns of text.
    """
    from bias_clip.data.tables.mapped import verify_mapped

    if args.verify:
        verify_mapped(args.verify)
        print(f"{args.verify}: as it was written")
        return
    if not args.source or not args.out or not (args.weights or args.tables):
        raise ValueError("expected --source, --out, and --weights or --tables; or --verify FOLDER.")
    manifest = write(args)
    for name, about in manifest["arrays"].items():
        per = about["bytes"] / manifest["records"]
        print(f"{name}: {about['length']:,} {about['dtype']}, {per:.2f} bytes per record")
    print(f"{args.out}: columns of {manifest['records']:,} records")


def write(args: argparse.Namespace) -> dict[str, Any]:
    """Joins the tables with the source once, and writes the arrays."""
    import numpy as np

    from bias_clip.core.hashing import array_sha256
    from bias_clip.data.sources import column, make_source
    from bias_clip.data.stream.draws import DRAWN, WEIGHT, draw_rows, read_weights
    from bias_clip.data.tables import KEY, file_sha256, join, read_table
    from bias_clip.data.tables.mapped import ID_HASH, hash_ids, write_mapped
    from bias_clip.data.tables.table import read_kind

    name, arguments = read_call(args.source, flag="--source")
    # Ids are joined here, once; runs find their numbers by the place of a record.
    ids = column(make_source(name=name, **arguments), KEY)
    arrays: dict[str, Any] = {ID_HASH: hash_ids(ids)}
    about: dict[str, Any] = {"source": {"name": name, **arguments}, "tables": {}}
    if args.weights:
        weighted = read_weights(str(args.weights), ids)
        arrays[WEIGHT] = weighted.weights.astype(np.float32)
        rows = draw_rows(weighted, args.seed, args.draw)
        # What a run of the table itself has as its identity, so that it can go on with the columns.
        about["draw"] = {"seed": args.seed, "draw": args.draw, "sha256": array_sha256(rows)}
        about["weights_sha256"] = array_sha256(arrays[WEIGHT])
        # Half the bytes of int64, for up to 2^32 records.
        arrays[DRAWN] = rows.astype(np.uint32 if len(ids) <= 2**32 else np.int64)
        about["tables"][str(args.weights)] = file_sha256(args.weights)
    for path in args.tables:
        found = join(read_table(path, kind=read_kind(path)), ids)
        twice = sorted((set(found) - {KEY}) & set(arrays))
        if twice:
            raise ValueError(f"{path}: the columns {twice} are there already; name one table.")
        arrays |= {k: v for k, v in found.items() if k != KEY and v.dtype.kind in "biuf"}
        about["tables"][str(path)] = file_sha256(path)
    return write_mapped(args.out, arrays, about, records=len(ids))


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--source", nargs="+", metavar=("NAME", "KEY=VALUE"), help="of the records, as for training"
    )
    add("--weights", type=Path, metavar="FILE", help="of balance or filter")
    add("--seed", type=int, default=0, help="of the draw, as config.data.balance.seed")
    add("--draw", choices=DRAWS, help="default: the cube, where the table says its cells")
    add(
        "--tables",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="priors, annotations, ...",
    )
    add("--out", type=Path, metavar="FOLDER", help="for the arrays and their manifest")
    add("--verify", type=Path, metavar="FOLDER", help="compares all bytes with the manifest")
    return parser


if __name__ == "__main__":
    main()
