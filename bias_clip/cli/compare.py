"""Compares groups of finished runs: mean and deviation over seeds of what they measured last.

python tools/compare.py plain=runs/emoji_0,runs/emoji_1 biased=runs/biased_0,runs/biased_1 \\
    [--metrics 'style/acc' 'gender/(preference|recognition)$'] [--json FILE] [--plot FILE]

Prints a Markdown table: a row a metric, a column a group. Metrics are those in `evals/` of the
workdirs, "evaluator/metric"; regexes are searched for in their names.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from bias_clip.core.write import write_file

Group = dict[str, list[float]]  # metric to its values, one a run


def main() -> None:
    """Parses, reads, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="+", metavar="NAME=WORKDIR,WORKDIR,...")
    parser.add_argument("--metrics", nargs="+", default=[""], metavar="REGEX")
    parser.add_argument("--json", type=Path, help="also write all values here")
    parser.add_argument("--plot", type=Path, help="also draw the metrics here (needs matplotlib)")
    args = parser.parse_args()
    try:
        groups = dict(map(split_group, args.groups))
        compare(groups, args.metrics, json_path=args.json, plot_path=args.plot)
    except ValueError as error:
        sys.exit(f"error: {error}")


def compare(
    workdirs: dict[str, list[Path]],
    regexes: list[str],
    *,
    json_path: Path | None = None,
    plot_path: Path | None = None,
) -> None:
    """Prints the table of groups of runs; writes their values and a plot where paths are given.

    Raises:
      ValueError: from `read_group` and `make_table`.
    """
    groups = {name: read_group(paths) for name, paths in workdirs.items()}
    print("\n".join(make_table(groups, regexes)))
    if json_path:
        write_file(json_path, json.dumps(groups, indent=1) + "\n")
    if plot_path:
        plot(groups, chosen_metrics(groups, regexes), plot_path)


def split_group(text: str) -> tuple[str, list[Path]]:
    """Takes "name=a,b" apart."""
    name, equals, paths = text.partition("=")
    if not (name and equals and paths):
        raise ValueError(
            f"got {text!r}; expected a name and workdirs, such as plain=runs/a,runs/b."
        )
    return name, [Path(path) for path in paths.split(",")]


def read_group(workdirs: list[Path]) -> Group:
    """Returns the last value of each evaluation metric of each run.

    Raises:
      ValueError: a workdir without evaluations, or runs that measured different things.
    """
    from bias_clip.core.storage import run_folder

    runs = []
    for workdir in workdirs:
        files = sorted((run_folder(workdir) / "evals").glob("*.json"))
        if not files:
            raise ValueError(f"{workdir} has no evals/*.json; is the run finished?")
        last: dict[str, float] = {}
        for path in files:
            metrics = json.loads(path.read_text())["metrics"]
            last |= {f"{path.stem}/{name}": value for name, value in metrics.items()}
        runs.append(last)
    for workdir, run in zip(workdirs, runs, strict=True):
        if run.keys() != runs[0].keys():
            differ = sorted(run.keys() ^ runs[0].keys())
            raise ValueError(f"{workdir} and {workdirs[0]} differ in what they measured: {differ}.")
    return {name: [run[name] for run in runs] for name in runs[0]}


def make_table(groups: dict[str, Group], regexes: list[str]) -> list[str]:
    """Returns the lines of a Markdown table.

    Raises:
      ValueError: a regex that finds no metric.
    """
    lines = [f"| | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for name in chosen_metrics(groups, regexes):
        cells = [_cell(group[name]) if name in group else "" for group in groups.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


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


def plot(groups: dict[str, Group], metrics: list[str], path: Path) -> None:
    """Draws a panel a metric: a dot a run, a bar the mean, a column a group."""
    import matplotlib.pyplot as plt

    across = min(4, len(metrics))
    down = -(-len(metrics) // across)
    figure, panels = plt.subplots(
        down, across, figsize=(3 * across, 2.6 * down), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(metrics) :]:
        panel.set_visible(False)
    for panel, metric in zip(panels.flat, metrics, strict=False):
        for place, group in enumerate(groups.values()):
            values = [value for value in group.get(metric, []) if value is not None]
            if values:
                mean = statistics.mean(values)
                panel.plot([place - 0.25, place + 0.25], [mean, mean], color=f"C{place}", lw=3)
                panel.plot([place] * len(values), values, "o", color=f"C{place}", mec="white")
        panel.set_xticks(range(len(groups)), list(groups))
        panel.set_xlim(-0.6, len(groups) - 0.4)
        panel.set_title(metric, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _cell(values: list[float]) -> str:
    if None in values:  # JSON has no NaN
        return "no value"
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
