"""Evaluates a checkpoint of a run, with the run's own evaluators or those of a config.

    bias-clip evaluate --workdir runs/emoji --json results.json
    bias-clip evaluate --workdir runs/stage0 runs/stage1 --concat unit --out runs/both

Several workdirs are one model, whose embeddings are the features of all side by side: as they are
and normalised once (raw, as the authors of multistage contrastive learning do), or each of unit
norm first (unit). The evaluators are the last one's. Scale and bias are the means of the stages'.
Prints a metric per line; the results of a single run also go to `evals/` of its workdir.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import FORMS
from bias_clip.cli.shared.flags import Parser, add_json, add_workdirs, run_tool, show


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line per metric; for a single run, writes `evals/` of the workdir again."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Evaluates, writes, prints.

    Raises:
      ValueError: no run, no checkpoint of the step, or a config that has no such evaluators.
    """
    from bias_clip.cli.shared.evaluate_run import evaluate_alone, evaluate_stages
    from bias_clip.train.evaluation import flat_metrics, write_results
    from bias_clip.train.workdir.load_run import load_stages

    stages = load_stages(args.workdir, args.step)
    found: dict[str, Any]
    if len(stages) == 1 and args.out is None:
        metrics = evaluate_alone(stages[0], args.config)
        found = {"step": stages[0].step, **metrics}
    else:
        results = evaluate_stages(stages, form=args.concat, evaluators=args.config)
        metrics = flat_metrics(results)
        found = {"steps": [stage.step for stage in stages], "concat": args.concat, **metrics}
        if args.out:
            write_results(args.out, stages[-1].step, results)
    width = max(map(len, metrics), default=0)
    show("\n".join(f"{k:<{width}}  {value:.4f}" for k, value in metrics.items()), found, args.json)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add_workdirs(parser)
    parser.add_argument("--concat", choices=FORMS, default="raw", help="how stages are joined")
    parser.add_argument("--config", type=Path, help="take the evaluators of this config")
    parser.add_argument("--out", type=Path, help="folder for the details of several as one")
    add_json(parser)
    return parser


if __name__ == "__main__":
    main()
