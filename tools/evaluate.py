"""Evaluates a checkpoint of a run, with the run's own evaluators or those of a config.

python tools/evaluate.py runs/emoji [--step N] [--config configs/emoji.py] [--json results.json]
"""

import argparse
import json
import sys
from pathlib import Path

from bias_clip.data.sources import make_source
from bias_clip.train import checkpoint
from bias_clip.train.config import from_plain, load_config
from bias_clip.train.evaluation import flat_metrics, make_evaluation, write_results
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh


def main() -> None:
    """Prints one line per metric; writes `evals/` of the workdir anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--step", type=int, help="of the checkpoint; the newest by default")
    parser.add_argument("--config", type=Path, help="take the evaluators of this config")
    parser.add_argument("--json", type=Path, help="also write the metrics here")
    args = parser.parse_args()
    try:
        step, metrics = evaluate_run(args.workdir, args.step, args.config)
    except ValueError as error:
        sys.exit(f"error: {error}")
    width = max(map(len, metrics), default=0)
    for name, value in metrics.items():
        print(f"{name:<{width}}  {value:.4f}")
    if args.json:
        args.json.write_text(json.dumps({"step": step, **metrics}, indent=2))


def evaluate_run(
    workdir: Path, step: int | None, evaluators: Path | None = None
) -> tuple[int, dict[str, float]]:
    """Returns (step, metrics) of the run in `workdir`.

    Raises:
      ValueError: if there is no run, or no checkpoint of that step.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: there is no {path}.")
    config = from_plain(json.loads(path.read_text()))
    evals = config.evals if evaluators is None else load_config(evaluators).evals
    mesh = make_mesh(**config.mesh)
    setup = make_setup(
        config, mesh=mesh, examples_per_epoch=len(make_source(**config.data.source.to_dict()))
    )
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as saved:
        steps = list(saved.all_steps())
        step = saved.latest_step() if step is None else step
        if step not in steps:
            raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {steps}.")
        state, _ = checkpoint.restore(saved, step, setup.abstract_state)
    evaluate = make_evaluation(
        evals.to_dict(),
        model=setup.model,
        mesh=mesh,
        image=config.evaluation.image,
        text=config.data.text.to_dict(),
        batch_size=config.evaluation.batch_size,
    )
    results = evaluate(state.params if state.ema is None else state.ema)
    write_results(workdir / "evals", step, results)
    return step, flat_metrics(results)


if __name__ == "__main__":
    main()
