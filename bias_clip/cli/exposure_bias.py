"""How biased were the data that a run saw? Representation and association bias, of any of its steps.

    bias-clip exposure-bias --workdir runs/m4/90 --by gender --groups woman man --label concept

Prints a line per part of the training: what thinning, weights and phases made of the source. The
model's own biases, which its evaluators measured, are in the run's report.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from bias_clip.cli.shared.flags import Parser, add_json, run_tool, show

SHOWN = ("representation", "association_mean", "association_max", "ess")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the run, counts, prints."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Prints the table, or writes its numbers.

    Raises:
      ValueError: see `measure`.
    """
    chosen = {"by": args.by, "groups": args.groups, "label": args.label}
    rows = measure(args.workdir, args.parts, **chosen, separator=args.separator)
    lines = [f"{'steps':<16}" + "".join(f"{name:>18}" for name in SHOWN)]
    for row in rows:
        numbers = "".join(f"{100 * row[name]:>17.2f}%" for name in SHOWN)
        lines.append(f"{row['start']:>6} to {row['stop']:<6}" + numbers)
    show("\n".join(lines), rows, args.json)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, metavar="DIR", help="of the run")
    add("--by", required=True, metavar="COLUMN", help="column of the groups")
    add("--groups", nargs="+", metavar="VALUE", help="its values; all unless given")
    add("--label", required=True, metavar="COLUMN", help="column of the labels")
    add("--separator", metavar="TEXT", help="splits the column into several labels")
    add("--parts", type=int, default=10, metavar="N", help="into which the steps are divided")
    add_json(parser)
    return parser


def measure(workdir: Path, parts: int, **arguments: Any) -> list[dict[str, float]]:
    """Returns `data_bias` of the examples in each part of the run's steps.

    Args:
      workdir: of a run, finished or not; its config.json describes its data.
      parts: number of parts of the steps.
      arguments: of `make_data_bias`, except source and weights.

    Raises:
      ValueError: fewer than one part, a workdir without a run, or what `make_data_bias` raises.
    """
    import numpy as np

    from bias_clip.core.json_object import read_object
    from bias_clip.core.storage import run_folder
    from bias_clip.data.sources import make_source
    from bias_clip.data.stream.batch import WEIGHTS
    from bias_clip.data.stream.columns import make_columns
    from bias_clip.data.stream.exposure import count_exposure
    from bias_clip.evals.bias.data_bias import make_data_bias
    from bias_clip.train.config_io import from_plain
    from bias_clip.train.optim.schedule import parse_duration
    from bias_clip.train.stream import plan_of

    path = run_folder(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: there is no {path}.")
    config = from_plain(read_object(path, advice="restore it from a copy"))
    source = make_source(**config.data.source.to_dict())
    known: dict[str, Any] = {"batch_size": config.batch_size, "examples_per_epoch": len(source)}
    total = parse_duration(config.total, **known)
    if not 1 <= parts <= total:
        raise ValueError(f"got {parts} parts; expected 1 to {total}, the steps of the run.")
    balance, columns = config.data.balance, config.data.columns.to_dict()
    switch = None if balance is None else balance.switch
    if switch is not None:  # the config says a duration such as "10%"; the plan takes a step
        switch = parse_duration(switch, total_steps=total, **known)
    plan = plan_of(config, source, switch)
    given = {key: how for key, how in columns.items() if key == WEIGHTS}
    own = make_columns(source, given).get(
        WEIGHTS, 1.0
    )  # weights in the loss beside those of the plan
    # Rounded edges: parts differ by a step at most, and leave none out.
    rows, edges = [], np.linspace(0, total, parts + 1).round().astype(int).tolist()
    for start, stop in itertools.pairwise(edges):
        steps = {"start": start, "stop": stop}
        fed = count_exposure(source, plan, batch_size=config.batch_size, seed=config.seed, **steps)
        evaluate = make_data_bias(source, weights=fed * own, **arguments)
        rows.append({**steps, **evaluate(cast(Any, None)).metrics})  # it needs no model
    return rows


if __name__ == "__main__":
    main()
