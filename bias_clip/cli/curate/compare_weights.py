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
from typing import Any

from bias_clip.cli.shared.flags import Parser, add_json, read_call, read_pairs, run_tool, show


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
    from bias_clip.report.kept import kept_statistics, kept_text, word_shifts, words_text

    tables = read_columns([args.annotations, *args.tables])
    plans = {}
    for name, path in read_pairs(args.weights, flag="--weights", example="filter=FILE").items():
        # In the order of the annotations, whatever order the table has.
        found = join(read_table(path, kind=KIND), tables.columns[KEY])
        plans[name] = found[WEIGHT].astype(np.float64)
    names = read_names(args.annotations)
    numbers = kept_statistics(tables.columns, names, plans, least=args.least, seed=args.seed)
    text = kept_text(numbers)
    if args.words:
        numbers["words"] = word_shifts(_texts(args, tables.columns[KEY]), plans, words=args.words)
        text += "\n\n" + words_text(numbers["words"])
    show(text, numbers, args.json)


def _texts(args: argparse.Namespace, ids: Any) -> list[str]:
    """The captions of each annotated example, joined.

    Raises:
      ValueError: no source, or one without an annotated example.
    """
    from bias_clip.curation.sharded_table import read_range
    from bias_clip.data.bad_records import captions
    from bias_clip.data.sources import make_source

    if not args.source:
        raise ValueError("--words needs --source: the captions are read from it.")
    name, arguments = read_call(args.source, flag="--source")
    source = make_source(name=name, **arguments)
    # By id: the annotations may lack records that could not be read.
    taken = read_range(source, range(len(source)), lambda r: (r["id"], " ".join(captions(r)))).taken
    texts = dict(taken)
    missing = [name for name in ids.tolist() if name not in texts]
    if missing:
        raise ValueError(f"the source lacks {len(missing)} annotated examples: {missing[:5]}.")
    return [texts[name] for name in ids.tolist()]


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, metavar="FILE", help="groups and labels")
    add("--tables", nargs="*", type=Path, default=[], metavar="FILE", help="with a similarity")
    add("--weights", nargs="+", required=True, metavar="NAME=FILE", help="tables to compare")
    add("--least", type=int, default=10, help="examples of a label on each side of a gap")
    add("--seed", type=int, default=0, help="of the resamples for the intervals")
    add(
        "--words",
        type=int,
        default=0,
        help="commonest words whose shares are shown; needs --source",
    )
    add("--source", nargs="+", metavar=("NAME", "KEY=VALUE"), help="of the captions")
    add_json(parser)
    return parser


if __name__ == "__main__":
    main()
