"""Balances annotated data: a weight for each example, and a report of what that does and costs.

    python tools/balance.py --annotations runs/annotations.parquet --out runs/weights.parquet \
        --report runs/balance --targets man=0.5 --eta 0.9

The method is M4: weights as equal as possible under which attributes have the shares that are asked
for and labels, proxies too, are as frequent in each group as outside. With --q 1 a weight is the
chance to keep an example. `tools/annotate.py` makes the annotations; training takes the weights.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bias_clip.balancing import Problem, make_problem, max_eta, solve
from bias_clip.balancing.problem import TOLERANCES, UNKNOWNS
from bias_clip.core.write import write_file
from bias_clip.curation import weights
from bias_clip.data.tables import read_manifest
from bias_clip.report import balancing, balancing_page, balancing_text

REPORT = ("report.txt", "report.html", "report.json")  # the last one is written last


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, writes the table of weights, and prints and writes the report."""
    args = _parser().parse_args(argv)
    try:
        problem = _problem(args)
        found = balance(args, problem)
        text = balancing_text.to_text(found)
        print(text)
        if args.report:
            write_report(found, text, args.report)
        print(f"{args.out}: {found['rows']:,} weights")
    except (ValueError, ArithmeticError) as error:
        sys.exit(f"error: {error}")


def balance(args: argparse.Namespace, problem: Problem) -> dict[str, Any]:
    """Counts, solves, writes the table, and returns the report's numbers."""
    rows = read_manifest(args.annotations, kind=weights.ANNOTATIONS)["rows"]
    utility = _utility(args)
    with tqdm(total=2 * rows, unit=" examples", disable=None, desc="counting") as bar:
        counted = weights.count_annotations(args.annotations, problem, utility, on_rows=bar.update)
        problem = weights.release_rare(problem, counted.table, args.min_per_side)
        bar.set_description(f"solving {len(counted.table.counts):,} distinct rows")
        solution = _solve(counted, problem, args.min_retained)
        most = None if solution.feasible else max_eta(counted.table, problem)
        manifest = weights.make_manifest(counted, problem, solution, min_retained=args.min_retained)
        bar.set_description("writing")
        drawn = weights.write_weights(
            *(args.out, args.annotations, counted, problem, solution.weights, manifest),
            seed=args.seed,
            on_rows=bar.update,
        )
    found = balancing.statistics(counted.table, problem, solution, drawn, largest_eta=most)
    written = read_manifest(args.out, kind=weights.KIND)
    about = {key: written[key] for key in ("config_sha256", "file_sha256", "ids_sha256")}
    return {"weights_table": {"path": str(args.out), **about}, **found}


def write_report(found: Mapping[str, Any], text: str, folder: Path) -> None:
    """Writes report.txt, report.html and report.json, each whole, in place of former ones."""
    page = balancing_page.to_html(found)
    folder.mkdir(parents=True, exist_ok=True)
    for name in reversed(REPORT):
        (folder / name).unlink(missing_ok=True)
    numbers = json.dumps(found, indent=1, allow_nan=False)
    for name, content in zip(REPORT, (text, page, numbers), strict=True):
        write_file(folder / name, content + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="the table that annotate.py wrote")
    add("--out", type=Path, required=True, help="the .parquet file to write: id and weight")
    add("--report", type=Path, help="folder for report.txt, report.html and report.json")
    several: dict[str, Any] = {"nargs": "+", "default": []}
    share = {"metavar": "NAME=SHARE", **several}
    add("--targets", **share, help="wanted shares; a single attribute's is 0.5 unless given")
    add("--intersections", **share, help="wanted shares of several at once: woman+old=0.2")
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
    add("--buckets", type=int, default=64, help="of a utility of more distinct values than that")
    add("--min-per-side", type=int, default=0, help="free labels rarer in or outside a group")
    add("--min-retained", type=float, default=0.1, help="least share left of a group or label")
    add("--seed", type=int, default=0, help="of the draw that the report shows")
    return parser


def _problem(args: argparse.Namespace) -> Problem:
    """From the flags, completed by what the table of annotations has."""
    names = weights.read_names(args.annotations)
    targets = _shares("--targets", args.targets)
    if not targets:
        if len(names.attributes) != 1:
            raise ValueError(
                f"{args.annotations} has the attributes {list(names.attributes)}; expected --targets "
                "with a share for each that is to be balanced, such as man=0.5."
            )
        targets = {names.attributes[0]: 0.5}
    proxies = names.proxies if args.proxies is None else args.proxies
    given = [n for n in names.labels if n not in proxies] if args.labels is None else args.labels
    products = _shares("--intersections", args.intersections)
    intersections = {tuple(name.split("+")): share for name, share in products.items()}
    groups = [*targets, *(" & ".join(name) for name in intersections)]
    eps = _tolerances(args.eps, groups, [*given, *proxies])
    return make_problem(
        targets,
        given,
        proxies=proxies,
        intersections=intersections,
        eps_representation={name: eps[name] for name in groups},
        eps_association={name: eps[name] for name in (*given, *proxies)},
        tolerance=args.tolerance,
        unknown=args.unknown,
        penalty=args.v,
        eta=args.eta,
        cap=args.q,
    )


def _solve(counted: weights.Counted, problem: Problem, min_retained: float) -> Any:
    try:
        return solve(counted.table, problem, min_retained=min_retained)
    except ValueError as error:
        raise ValueError(
            f"{error} (Flags: --targets, --eta, --q, --eps NAME=inf, --min-retained; --min-per-side 10 "
            "frees the labels that fewer than 10 examples have in a group or outside it.)"
        ) from error


def _utility(args: argparse.Namespace) -> weights.Utility | None:
    if args.utility is None:
        return None
    if len(args.utility) > 2:
        raise ValueError(f"--utility: got {args.utility}, expected COLUMN, or FILE COLUMN.")
    scores = args.utility[0] if len(args.utility) == 2 else None
    return weights.read_utility(
        args.annotations, args.utility[-1], scores=scores, buckets=args.buckets
    )


def _shares(flag: str, words: Sequence[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        if not (name and equals):
            raise ValueError(f"{flag}: got {word!r}, expected NAME=NUMBER, such as man=0.5.")
        if name in shares:
            raise ValueError(f"{flag}: {name!r} is given twice; choose one target.")
        shares[name] = _number(flag, value)
    return shares


def _tolerances(
    words: Sequence[str], groups: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    """--eps 0.01 nurse=0.1 woman+old=0.02"""
    plain = [word for word in words if "=" not in word]
    if len(plain) > 1:
        raise ValueError(f"--eps: got the numbers {plain}, expected one, then NAME=NUMBER.")
    every = _number("--eps", plain[0]) if plain else 0.01
    some = _shares("--eps", [word for word in words if "=" in word])
    some = {name.replace("+", " & ") if "+" in name else name: x for name, x in some.items()}
    unknown = sorted(set(some) - {*groups, *labels})
    if unknown:
        raise ValueError(f"--eps: got {unknown}, expected names of {[*groups, *labels]}.")
    return {name: some.get(name, every) for name in (*groups, *labels)}


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{flag}: got {text!r}, expected a number.") from error


def _eta(text: str) -> float | str:
    return text if text == "max" else float(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


if __name__ == "__main__":
    main()
