"""Evaluates a checkpoint of a run, with the run's own evaluators or those of a config.

    python tools/evaluate.py runs/emoji [--step N] [--config configs/emoji.py] [--json results.json]
    python tools/evaluate.py runs/stage0 runs/stage1 [--concat raw|unit] [--out runs/both]

Several workdirs are one model, whose embeddings are the features of all side by side: as they are
and normalised once (raw, as the authors of multistage contrastive learning do), or each of unit
norm first (unit). The evaluators are the last one's. Scale and bias are the means of the stages'.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_clip.core.storage import NotSavedError
from bias_clip.core.write import write_file
from bias_clip.evals.concat import FORMS, concat_encode
from bias_clip.evals.results import EvalResult
from bias_clip.train.config import load_config
from bias_clip.train.evaluation import (
    flat_metrics,
    make_evaluation,
    make_evaluators,
    write_results,
)
from bias_clip.train.workdir.load_run import Trained, as_stage, load_stages, load_trained


def main(argv: list[str] | None = None) -> None:
    """Prints one line per metric; for a single run, writes `evals/` of the workdir anew."""
    args = _parse(argv)
    try:
        stages = load_stages(args.workdirs, args.step)
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
    except (ValueError, NotSavedError) as error:
        sys.exit(f"error: {error}")
    width = max(map(len, metrics), default=0)
    for name, value in metrics.items():
        print(f"{name:<{width}}  {value:.4f}")
    if args.json:
        write_file(args.json, json.dumps(found, indent=2))


def evaluate_run(
    workdir: Path, step: int | None = None, evaluators: Path | None = None
) -> tuple[int, dict[str, float]]:
    """Returns (step, metrics) of the run in `workdir`, and writes its `evals/` anew.

    Raises:
      ValueError: if there is no run, or no checkpoint of that step.
    """
    trained = load_trained(workdir, step)
    return trained.step, evaluate_alone(trained, evaluators)


def evaluate_alone(trained: Trained, evaluators: Path | None = None) -> dict[str, float]:
    """Returns the metrics of a run by the function that measured it while it trained.

    Writes `evals/` of its workdir anew.
    """
    config = trained.config
    evals = config.evals if evaluators is None else load_config(evaluators).evals
    evaluate = make_evaluation(
        evals.to_dict(),
        model=trained.model,
        mesh=trained.mesh,
        image=config.evaluation.image,
        text=config.data.text.to_dict(),
        batch_size=config.evaluation.batch_size,
    )
    results = evaluate(trained.params)
    write_results(trained.workdir / "evals", trained.step, results)
    return flat_metrics(results)


def evaluate_stages(
    stages: Sequence[Trained], *, form: str, evaluators: Path | None = None
) -> dict[str, EvalResult]:
    """Evaluates several runs as one model, see `concat_encode`.

    The evaluators and the batch size are those of the last run, or the evaluators of a config.
    """
    last = stages[-1].config
    evals = last.evals if evaluators is None else load_config(evaluators).evals
    size = last.evaluation.batch_size
    encode = concat_encode([as_stage(s, size) for s in stages], form=form, batch_size=size)
    return {name: run(encode) for name, run in make_evaluators(evals.to_dict()).items()}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", type=Path, nargs="*", metavar="workdir")
    parser.add_argument("--workdir", type=Path, action="append", default=[], help="one more")
    parser.add_argument(
        "--step", type=int, action="append", default=[], help="of the checkpoint; once a workdir"
    )
    parser.add_argument("--concat", choices=FORMS, default="raw", help="how stages are joined")
    parser.add_argument("--config", type=Path, help="take the evaluators of this config")
    parser.add_argument("--json", type=Path, help="also write the metrics here")
    parser.add_argument("--out", type=Path, help="folder for the details of several as one")
    args = parser.parse_args(argv)
    args.workdirs += args.workdir
    return args


if __name__ == "__main__":
    main()
