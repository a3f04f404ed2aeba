"""Measures the quality of image-text pairs: size, captions, copies, similarity, as a table keyed by id.

    bias-clip measure --source webdataset path=shards --out runs/quality.parquet \\
        --measures size captions duplicates near --embeddings runs/z

`bias-clip filter` keeps rows by a rule over these columns, and the column `utility` can be the utility of
`bias-clip balance`. Similarity is the cosine of image and first caption; `bias-clip embed` makes the
embeddings with any model. Interrupted, the same command goes on where it stopped. Near copies and
languages need `pip install 'bias_clip[quality]'`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.choices import MEASURES
from bias_clip.cli.shared.flags import Parser, add_source, read_call, run_tool


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and writes the table."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Writes the table, and prints the quantiles of its columns.

    Raises:
      ValueError: an unknown source, or embeddings of another one.
    """
    from tqdm import tqdm

    from bias_clip.curation.quality.measures import KIND, measure_source
    from bias_clip.data.sources import make_source
    from bias_clip.data.tables import read_table
    from bias_clip.data.tables.embeddings import open_embeddings

    name, arguments = read_call(args.source, flag="--source")
    source = make_source(name=name, **arguments)
    # Before the records are read: wrong embeddings fail at once.
    embeddings = None if args.embeddings is None else open_embeddings(args.embeddings)
    with tqdm(total=len(source), unit=" examples", disable=None) as bar:
        manifest = measure_source(
            source,
            args.out,
            args.measures,
            about={"name": name, **arguments},
            similarity=embeddings,
            bits=args.bits,
            shard_rows=args.shard_rows,
            max_broken=args.max_broken,
            on_rows=bar.update,
        )
    for row, reason in manifest["broken"].items():
        print(f"no row for record {row}: {reason}")
    print(describe(read_table(args.out, kind=KIND).columns))
    print(f"{args.out}: {manifest['rows']:,} examples")


def describe(columns: dict) -> str:
    """Returns a line per column: five quantiles of numbers, the five commonest values of text."""
    import numpy as np

    lines = [f"{'':<16}" + "".join(f"{q:>10}" for q in ("least", "10 %", "median", "90 %", "most"))]
    for name, values in columns.items():
        if name == "id":
            continue
        if values.dtype.kind in "UO":
            # Long texts come as Python objects, which np.unique compares slowly.
            words, counts = np.unique(values.astype(str), return_counts=True)
            order = np.argsort(-counts, kind="stable")[:5]
            lines.append(f"{name:<16}  {', '.join(f'{words[i]} {counts[i]:,}' for i in order)}")
            continue
        # A similarity is NaN where a record could not be embedded.
        numbers = np.nanquantile(values.astype(float), [0, 0.1, 0.5, 0.9, 1])
        lines.append(f"{name:<16}" + "".join(f"{x:>10.4g}" for x in numbers))
    return "\n".join(lines)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_source(parser)
    add("--out", type=Path, required=True, metavar="FILE", help="the .parquet file to write")
    add(
        "--measures",
        nargs="*",
        choices=MEASURES,
        default=["size", "captions", "duplicates"],
        help="what is measured; near and language need the extra quality",
    )
    add("--embeddings", type=Path, metavar="DIR", help="for the similarity: a folder of embed")
    add("--bits", type=int, default=4, help="of 64 by which near copies may differ")
    add("--shard-rows", type=int, default=65536, help="what an interruption may cost")
    add("--max-broken", type=int, default=0, help="records that may be unreadable")
    return parser


if __name__ == "__main__":
    main()
