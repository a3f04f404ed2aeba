"""Compares tables of weights on the same examples: what each keeps, of whom, and how biased it is.

    bias-clip compare-weights --annotations runs/annotations.parquet --tables runs/quality.parquet \\
        --weights filter=runs/kept.parquet balance=runs/weights.parquet joint=runs/joint.parquet

A filter, balancing, balancing what a filter kept (`balance --filter`) and the joint solve with the
similarity as utility (`balance --utility FILE utility`) are tables of weights. Per table: the kept share,
the effective share, the mean similarity, the gaps of labels between groups, and the kept rate per group.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, add_json, read_pairs, run_tool, show


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and prints the comparison."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Reads, compares, prints.

    Raises:
      ValueError: tables of other examples, or an option that cannot be read.
    """
    import numpy as np

    from bias_clip.curation.quality.kept import KIND, WEIGHT, read_columns
    from bias_clip.curation.weights import read_names
    from bias_clip.data.tables import KEY, join, read_table
    from bias_clip.report.kept import kept_statistics, kept_text

    tables = read_columns([args.annotations, *args.tables])
    plans = {}
    for name, path in read_pairs(args.weights, flag="--weights", example="filter=FILE").items():
        found = join(read_table(path, kind=KIND), tables.columns[KEY])
        plans[name] = found[WEIGHT].astype(np.float64)
    names = read_names(args.annotations)
    numbers = kept_statistics(tables.columns, names, plans, least=args.least, seed=args.seed)
    show(kept_text(numbers), numbers, args.json)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, metavar="FILE", help="groups and labels")
    add("--tables", nargs="*", type=Path, default=[], metavar="FILE", help="with a similarity")
    add("--weights", nargs="+", required=True, metavar="NAME=FILE", help="tables to compare")
    add("--least", type=int, default=10, help="examples of a label on each side of a gap")
    add("--seed", type=int, default=0, help="of the resamples for the intervals")
    add_json(parser)
    return parser


if __name__ == "__main__":
    main()
