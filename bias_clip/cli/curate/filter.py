"""Keeps rows by a rule over columns, and reports who was dropped.

    bias-clip filter --tables runs/quality.parquet --annotations runs/annotations.parquet \\
        --rule "words >= 2 and near_first == 1 and similarity >= 0.1" --out runs/kept.parquet

The table that it writes has weight 1 for a kept row and 0 for a dropped one. So training takes it as
`config.data.balance.table`, `bias-clip balance --filter` balances the kept rows, and `bias-clip hand-on`
writes them. The report gives the kept rate of each group and label with intervals, and how the
association bias moved. `bias-clip measure` makes the columns.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, run_tool
from bias_clip.core.write import write_file


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, writes the table, and prints the report."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Filters, reports, and says how many rows are kept.

    Raises:
      ValueError: a rule that cannot be read, or that names a column which no table has.
    """
    from bias_clip.curation.captions import Names
    from bias_clip.curation.quality.kept import read_columns, write_kept
    from bias_clip.curation.weights import read_names
    from bias_clip.report.kept import kept_statistics, kept_text

    # Annotations last: the first table decides which rows there are.
    every = [*args.tables, *([args.annotations] if args.annotations else [])]
    tables = read_columns(every)
    kept = write_kept(args.out, tables, args.rule)
    # Without annotations the report has no groups, only the kept share.
    names = read_names(args.annotations) if args.annotations else Names()
    found = kept_statistics(tables.columns, names, {"filtered": kept.astype(float)})
    text = kept_text(found)
    print(text)
    if args.report:
        args.report.mkdir(parents=True, exist_ok=True)
        write_file(args.report / "filter.txt", text + "\n")
        write_file(args.report / "filter.json", json.dumps(found, indent=1) + "\n")
    print(f"{args.out}: {int(kept.sum()):,} of {len(kept):,} examples are kept")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--tables",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="tables with the columns of the rule, joined by id",
    )
    add("--annotations", type=Path, metavar="FILE", help="for the report: groups and labels")
    add("--rule", required=True, help="such as \"words >= 2 and language in ('en', 'de')\"")
    add("--out", type=Path, required=True, metavar="FILE", help="the .parquet file to write")
    add("--report", type=Path, metavar="FOLDER", help="folder for filter.txt and filter.json")
    return parser


if __name__ == "__main__":
    main()
