"""How biased were the data that a run was fed? Representation and association bias, of any of its steps.

python tools/exposure_bias.py --workdir runs/m4/90 --by gender --groups woman man --label concept [--parts 10]

Prints a line a part of the training: what thinning, weights and stages made of the source. The
model's own biases, which its evaluators measured, are in the run's report.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any, cast

SHOWN = ("representation", "association_mean", "association_max", "ess")


def main() -> None:
    """Reads the run, counts, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--by", required=True, help="column of the groups")
    parser.add_argument("--groups", nargs="+", help="its values; default: all")
    parser.add_argument("--label", required=True, help="column of the labels")
    parser.add_argument("--separator", help="splits the column into several labels")
    parser.add_argument("--parts", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    chosen = {"by": args.by, "groups": args.groups, "label": args.label}
    try:
        rows = measure(args.workdir, args.parts, **chosen, separator=args.separator)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'steps':<16}" + "".join(f"{name:>18}" for name in SHOWN))
    for row in rows:
        numbers = "".join(f"{100 * row[name]:>17.2f}%" for name in SHOWN)
        print(f"{row['start']:>6} to {row['stop']:<6}" + numbers)


def measure(workdir: Path, parts: int, **arguments: Any) -> list[dict[str, float]]:
    """Returns `data_bias` of what each part of the run's steps was fed.

    Args:
      workdir: of a run, finished or not; its config.json says what it is fed.
      parts: into how many the steps are divided.
      arguments: of `make_data_bias`, but for source and weights.

    Raises:
      ValueError: fewer than one part, a workdir without a run, or what `make_data_bias` raises.
    """
    import numpy as np

    from bias_clip.core.storage import run_folder
    from bias_clip.data.sources import make_source
    from bias_clip.data.stream.balanced import make_plan, plain_plan
    from bias_clip.data.stream.exposure import fed_weights
    from bias_clip.evals.bias.data_bias import make_data_bias
    from bias_clip.train.config import from_plain
    from bias_clip.train.optim.schedule import parse_duration

    path = run_folder(workdir) / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: there is no {path}.")
    config = from_plain(json.loads(path.read_text()))
    source = make_source(**config.data.source.to_dict())
    known: dict[str, Any] = {"batch_size": config.batch_size, "examples_per_epoch": len(source)}
    total = parse_duration(config.total, **known)
    if not 1 <= parts <= total:
        raise ValueError(f"got {parts} parts; expected 1 to {total}, the steps of the run.")
    plan, balance = plain_plan(source), config.data.balance
    if balance is not None:
        switch = balance.switch
        switch = None if switch is None else parse_duration(switch, total_steps=total, **known)
        plan = make_plan(source, **{**balance.to_dict(), "switch": switch})
    rows, edges = [], np.linspace(0, total, parts + 1).round().astype(int).tolist()
    for start, stop in itertools.pairwise(edges):
        steps = {"start": start, "stop": stop}
        fed = fed_weights(source, plan, batch_size=config.batch_size, seed=config.seed, **steps)
        evaluate = make_data_bias(source, weights=fed, **arguments)
        rows.append({**steps, **evaluate(cast(Any, None)).metrics})  # it looks at no picture
    return rows


if __name__ == "__main__":
    main()
