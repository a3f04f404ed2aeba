"""Compares groups of finished runs: mean and deviation over seeds of what they measured last.

    bias-clip compare plain=runs/emoji_0,runs/emoji_1 biased=runs/biased_0,runs/biased_1 \\
        --metrics 'style/acc' 'gender/(preference|recognition)$' --plot page.html

Prints a Markdown table: a row per metric, a column per group. Metrics are those in `evals/` of the
workdirs, "evaluator/metric"; regexes are searched for in their names. Nothing is measured here: a
published checkpoint stands as the folder that `bias-clip evaluate --workdir CHECKPOINT --config FILE
--out DIR` wrote, so evaluate it with the evaluators of the runs first.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, add_json, read_pairs, run_tool, show
from bias_clip.core.json_object import read_object
from bias_clip.core.write import write_file

Group = dict[str, list[float]]  # metric to its values, one per run


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, reads, prints."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Compares the groups of the command line.

    Raises:
      ValueError: see `read_groups` and `compare`.
    """
    groups = read_groups(args.groups)
    compare(groups, args.metrics, json_path=args.json, plot_path=args.plot)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "groups", nargs="+", metavar="NAME=WORKDIR,...", help="a group, and its runs"
    )
    add_table_arguments(parser)
    return parser


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is shown of the groups, for `sweep` too."""
    parser.add_argument(
        "--metrics", nargs="+", default=[""], metavar="REGEX", help="which; all unless given"
    )
    add_json(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.html", help="also write a page with charts there"
    )


def compare(
    workdirs: dict[str, list[Path]],
    regexes: list[str],
    *,
    json_path: str | None = None,
    plot_path: Path | None = None,
) -> None:
    """Shows the table of groups of runs, see `show`, and writes a page where a path is given.

    Raises:
      ValueError: from `read_group` and `make_table`.
    """
    # Before the runs are read, which may be in a bucket.
    check_page(plot_path)
    groups = {name: read_group(paths) for name, paths in workdirs.items()}
    details = read_details(next(iter(workdirs.values()))[0])
    intervals = read_intervals(workdirs)
    show("\n".join(make_table(groups, regexes, details, intervals)), groups, json_path)
    if plot_path:
        from bias_clip.report.comparison import render_comparison, sorted_keys

        keys = sorted_keys(chosen_metrics(groups, regexes), details)
        write_file(plot_path, render_comparison(groups, keys, details, intervals))


def read_groups(words: Sequence[str]) -> dict[str, list[Path]]:
    """Reads name=workdir,workdir,...

    Raises:
      ValueError: a word of another form, or a name that comes twice.
    """
    pairs = read_pairs(words, flag="a group of runs", example="plain=runs/a,runs/b")
    return {name: [Path(path) for path in paths.split(",")] for name, paths in pairs.items()}


def read_group(workdirs: list[Path]) -> Group:
    """Returns the last value of each evaluation metric of each run.

    Raises:
      ValueError: a workdir without evaluations, or runs that measured different things.
    """
    runs = []
    for workdir in workdirs:
        last: dict[str, float] = {}
        for evaluator, record in read_results(workdir).items():
            last |= {f"{evaluator}/{name}": value for name, value in record["metrics"].items()}
        runs.append(last)
    for workdir, run in zip(workdirs, runs, strict=True):
        # A mean over different numbers of runs per metric would mislead.
        if run.keys() != runs[0].keys():
            differ = sorted(run.keys() ^ runs[0].keys())
            raise ValueError(f"{workdir} and {workdirs[0]} differ in what they measured: {differ}.")
    return {name: [run[name] for run in runs] for name in runs[0]}


def read_details(workdir: Path) -> dict[str, dict]:
    """Returns what each evaluator of a run says beside its metrics (its kind, its groups)."""
    return {name: record["details"] for name, record in read_results(workdir).items()}


def read_results(path: Path) -> dict[str, dict]:
    """Returns the records of a run's `evals/`, or of a folder that `evaluate --out` wrote, by evaluator.

    Raises:
      ValueError: it has none, or is a published checkpoint, which has to be evaluated first.
    """
    from bias_clip.core.storage import is_run, run_folder
    from bias_clip.report.run_read import read_evals

    folder = run_folder(path)
    # A run first; then a folder of bare results, as `evaluate --out` writes it.
    if found := read_evals(folder):
        return found
    if is_run(path):
        raise ValueError(f"{path} has no evals/*.json; is the run finished?")
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    records = {file.stem: read_object(file, advice="evaluate again") for file in files}
    if not records or not all(
        {"metrics", "details"} <= record.keys() for record in records.values()
    ):
        raise ValueError(
            f"{path} has no evals/*.json; is the run finished? Expected one, or the folder that evaluate --out wrote. For a "
            f"published checkpoint, first: bias-clip evaluate --workdir {path} --config FILE --out DIR."
        )
    return records


def read_intervals(workdirs: Mapping[str, list[Path]]) -> dict[str, dict[str, tuple]]:
    """Returns the intervals over images of groups of one run; several runs have a deviation instead."""
    found = {}
    for name, paths in workdirs.items():
        if len(paths) == 1:
            found[name] = {
                f"{evaluator}/{key}": tuple(ends)
                for evaluator, details in read_details(paths[0]).items()
                for key, ends in details.get("intervals", {}).items()
            }
    return found


def make_table(
    groups: dict[str, Group],
    regexes: list[str],
    details: Mapping[str, Mapping],
    intervals: Mapping[str, Mapping[str, tuple]] | None = None,
) -> list[str]:
    """Returns the lines of a Markdown table, the most important evaluators first.

    Args:
      groups: the values of each group.
      regexes: which metrics, see `chosen_metrics`.
      details: of each evaluator, for the units of its metrics.
      intervals: see `read_intervals`.

    Raises:
      ValueError: a regex that finds no metric.
    """
    from bias_clip.report.comparison import markdown_table, sorted_keys

    keys = sorted_keys(chosen_metrics(groups, regexes), details)
    return markdown_table(groups, keys, details, intervals)


def chosen_metrics(groups: dict[str, Group], regexes: list[str]) -> list[str]:
    """Returns the metrics that one of the regexes finds.

    Raises:
      ValueError: a regex that finds none.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    for regex in regexes:
        if not any(re.search(regex, name) for name in names):
            raise ValueError(f"{regex!r} finds none of the metrics {names}.")
    return [name for name in names if any(re.search(regex, name) for regex in regexes)]


def check_page(path: Path | None) -> None:
    """Raises ValueError for a page that no browser would open."""
    if path and path.suffix != ".html":
        raise ValueError(f"--plot {path}: expected a name that ends in .html; it writes a page.")


if __name__ == "__main__":
    main()
