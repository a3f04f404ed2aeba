"""Evaluates a run or a published checkpoint, with the run's own evaluators or those of a config.

    bias-clip evaluate --workdir runs/emoji --json results.json
    bias-clip evaluate --workdir hf://google/siglip-base-patch16-224 --config my_evals.py --out runs/siglip
    bias-clip evaluate --workdir runs/stage0 runs/stage1 --concat unit --out runs/both

Several workdirs are one model, whose embeddings are the features of all side by side: as they are
and normalised once (raw, as the authors of multistage contrastive learning do), or each of unit
norm first (unit). The evaluators are the last one's. Scale and bias are the means of the stages'.
Prints a metric per line; the results of a single run also go to `evals/` of its workdir. A published
checkpoint has no evaluators, so it needs --config. It is only read: its results go to --out, which
`bias-clip compare` takes like a run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import FORMS
from bias_clip.cli.shared.flags import (
    Parser,
    add_json,
    add_workdirs,
    print_notes,
    read_changes,
    run_tool,
    show,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line per metric; for a single run, writes `evals/` of the workdir again."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Evaluates, writes, prints.

    Raises:
      ValueError: neither a run nor a checkpoint, no checkpoint of the step, or no evaluators.
    """
    from bias_clip.cli.shared.evaluate_run import evaluate_alone, evaluate_stages
    from bias_clip.train.evaluation import flat_metrics, write_results
    from bias_clip.train.workdir.load_model import load_models

    stages = load_models(args.workdir, args.step, changes=read_changes(args.set))
    print_notes(stages, to_stderr=args.json == "-")
    found: dict[str, Any]
    # Another preprocessing is not the run's own: what `evals/` says of the run must stay true.
    own = len(stages) == 1 and stages[0].origin is None and not stages[0].changed
    if own and args.out is None:
        metrics = evaluate_alone(stages[0], args.config)
        found = {"step": stages[0].step, **metrics}
    else:
        results = evaluate_stages(stages, form=args.concat, evaluators=args.config)
        metrics = flat_metrics(results)
        found = {"steps": [stage.step for stage in stages], "concat": args.concat, **metrics}
        if notes := [note for stage in stages for note in stage.notes]:
            found["notes"] = notes
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
    parser.add_argument("--out", type=Path, help="folder for the results, other than a run's own")
    add_json(parser)
    return parser


if __name__ == "__main__":
    main()
