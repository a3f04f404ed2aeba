"""Balances annotated data: a weight for each example, and a report of what that does and costs.

    bias-clip balance --annotations runs/annotations.parquet --out runs/weights.parquet \\
        --report runs/balance --targets man=0.5 --eta 0.9

The method is M4: weights as equal as possible under which attributes have the shares that are asked
for and labels, proxies too, are as frequent in each group as outside. With --q 1 a weight is the
chance to keep an example. `bias-clip annotate` makes the annotations; training takes the weights.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import DRAWS, TOLERANCES, UNKNOWNS
from bias_clip.cli.shared.flags import Parser, run_tool
from bias_clip.core.write import write_file

REPORT = ("report.txt", "report.html", "report.json")  # the last one is written last


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, writes the table of weights, and prints and writes the report."""
    run_tool(make_parser(), work, argv, errors=(ArithmeticError,))


def work(args: argparse.Namespace) -> None:
    """Balances, and shows what that did."""
    found = balance(args)
    from bias_clip.report import balancing_text

    text = balancing_text.to_text(found)
    print(text)
    if args.report:
        write_report(found, text, args.report)
    print(f"{args.out}: {found['rows']:,} weights")


def balance(args: argparse.Namespace) -> dict[str, Any]:
    """Counts, solves, writes the table, and returns the report's numbers.

    Raises:
      ValueError: what the flags ask for cannot be had of these annotations.
    """
    from tqdm import tqdm

    from bias_clip.balancing import max_eta
    from bias_clip.cli.shared.balance_options import read_problem, read_utility, solve_problem
    from bias_clip.curation import weights
    from bias_clip.data.tables import read_manifest
    from bias_clip.report import balancing

    if args.counts is not None:
        return balance_counts(args)
    problem = read_problem(args)
    rows = read_manifest(args.annotations, kind=weights.ANNOTATIONS)["rows"]
    utility = read_utility(args)
    kept = None if args.filter is None else weights.read_filter(args.annotations, args.filter)
    # The annotations are read twice: to count and to look weights up.
    with tqdm(total=2 * rows, unit=" examples", disable=None, desc="counting") as bar:
        counted = weights.count_annotations(
            args.annotations, problem, utility, kept=kept, on_rows=bar.update
        )
        # After counting, because rare labels are known only then.
        problem = weights.release_rare(problem, counted.table, args.min_per_side)
        bar.set_description(f"solving {len(counted.table.counts):,} distinct rows")
        solution = solve_problem(counted, problem, args.min_retained)
        most = None if solution.feasible else max_eta(counted.table, problem)
        manifest = weights.make_manifest(counted, problem, solution, min_retained=args.min_retained)
        bar.set_description("writing")
        drawn = weights.write_weights(
            *(args.out, args.annotations, counted, problem, solution.weights, manifest),
            seed=args.seed,
            draw=args.draw,
            on_rows=bar.update,
        )
    found = balancing.statistics(counted.table, problem, solution, drawn, largest_eta=most)
    # The sums of the file as written: the report then says which weights it is of.
    written = read_manifest(args.out, kind=weights.KIND)
    about = {key: written[key] for key in ("config_sha256", "file_sha256", "ids_sha256")}
    return {"weights_table": {"path": str(args.out), **about}, **found}


def balance_counts(args: argparse.Namespace) -> dict[str, Any]:
    """Solves on counts, writes weights shard by shard, and returns the report's numbers.

    Raises:
      ValueError: a utility, a filter or coins, which counts do not have; counts of other shards.
    """
    from tqdm import tqdm

    from bias_clip.balancing import max_eta
    from bias_clip.cli.shared.balance_options import read_problem, solve_problem
    from bias_clip.curation import weights, weights_of_shards
    from bias_clip.curation.counts_file import read_counts
    from bias_clip.report import balancing

    if args.utility or args.filter or args.draw != "cube":
        raise ValueError(
            "--counts: --utility, --filter and --draw coin need the examples; drop them."
        )
    shards = weights_of_shards.find_shards(args.annotations)
    counts = read_counts(args.counts)
    problem = read_problem(args, counts.names)
    # The counts may have more columns than are balanced: rows that become equal are merged.
    table = weights_of_shards.select_counts(counts, problem)
    problem = weights.release_rare(problem, table, args.min_per_side)
    counted = weights.Counted(table, shards.manifests[0], None)
    solution = solve_problem(counted, problem, args.min_retained)
    most = None if solution.feasible else max_eta(table, problem)
    args.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=int(table.counts.sum()), unit=" examples", disable=None) as bar:
        drawn = weights_of_shards.write_shard_weights(
            *(args.out, shards, table, problem, solution),
            min_retained=args.min_retained,
            seed=args.seed,
            on_rows=bar.update,
        )
    found = balancing.statistics(table, problem, solution, drawn, largest_eta=most)
    return {"weights_table": {"path": str(args.out), "shards": len(shards.paths)}, **found}


def write_report(found: Mapping[str, Any], text: str, folder: Path) -> None:
    """Writes report.txt, report.html and report.json, each whole, in place of former ones."""
    from bias_clip.report import balancing_page

    page = balancing_page.to_html(found)
    folder.mkdir(parents=True, exist_ok=True)
    for name in reversed(REPORT):
        # The last file goes first: a report.json beside an older page would look whole.
        (folder / name).unlink(missing_ok=True)
    # NaN would not be JSON; the statistics have None instead, and a NaN that is left is an error.
    numbers = json.dumps(found, indent=1, allow_nan=False)
    for name, content in zip(REPORT, (text, page, numbers), strict=True):
        write_file(folder / name, content + "\n")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--annotations",
        type=Path,
        required=True,
        help="the table that annotate wrote; with --counts, the folder of beam-annotate",
    )
    add(
        "--out",
        type=Path,
        required=True,
        help="the .parquet file to write: id and weight; with --counts, a folder",
    )
    add("--counts", type=Path, metavar="FILE", help="counts.parquet of beam-annotate: solve on it")
    add("--report", type=Path, help="folder for report.txt, report.html and report.json")
    several: dict[str, Any] = {"nargs": "+", "default": []}
    share = {"metavar": "NAME=SHARE", **several}
    add("--targets", **share, help="target shares; a single attribute's is 0.5 unless given")
    add("--intersections", **share, help="target shares of several at once: woman+old=0.2")
    add("--labels", type=_names, metavar="A,B", help="default: all of the table")
    add("--proxies", type=_names, metavar="A,B", help="default: all of the table")
    add("--no-proxies", dest="proxies", action="store_const", const=(), help="without proxies")
    add("--eta", type=_eta, default=0.9, help="mean weight, or max: the largest that is feasible")
    add("--q", type=float, default=1.0, help="largest weight; 1 to thin")
    add("--v", type=float, default=10.0, help="penalty of a constraint that does not hold")
    eps: dict[str, Any] = {"nargs": "+", "default": ["0.01"], "metavar": "NUMBER or NAME=NUMBER"}
    add("--eps", **eps, help="tolerance of all, then of some groups or labels; inf: none")
    add("--tolerance", choices=TOLERANCES, default="prevalence", help="unit of --eps")
    add("--unknown", choices=UNKNOWNS, default="masked", help="rows where an attribute is unknown")
    add("--utility", nargs="+", metavar="[FILE] COLUMN", help="of the table, or of a Parquet file")
    add("--filter", type=Path, metavar="FILE", help="a table of filter; dropped rows get weight 0")
    add("--buckets", type=int, default=64, help="of a utility of more distinct values than that")
    add("--min-per-side", type=int, default=0, help="free labels rarer in or outside a group")
    add("--min-retained", type=float, default=0.1, help="least share left of a group or label")
    add("--seed", type=int, default=0, help="of the draw that the report shows")
    add(
        "--draw",
        choices=DRAWS,
        default="cube",
        help="that draw: balanced by the cube, or a coin per row",
    )
    return parser


def _eta(text: str) -> float | str:
    return text if text == "max" else float(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


if __name__ == "__main__":
    main()
