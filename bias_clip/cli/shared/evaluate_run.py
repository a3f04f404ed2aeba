"""Evaluates runs from Python: one by its own evaluators, or several as one model."""

from collections.abc import Sequence
from pathlib import Path

from bias_clip.evals.concat import concat_encode
from bias_clip.evals.results import EvalResult
from bias_clip.train.config_io import load_config
from bias_clip.train.evaluation import (
    flat_metrics,
    make_evaluation,
    make_evaluators,
    write_results,
)
from bias_clip.train.workdir.load_model import load_model
from bias_clip.train.workdir.load_run import Trained, as_stage


def evaluate_run(
    workdir: Path, step: int | None = None, evaluators: Path | None = None
) -> tuple[int, dict[str, float]]:
    """Returns (step, metrics) of the run in `workdir`, and writes its `evals/` again.

    Raises:
      ValueError: if there is no run, or no checkpoint of that step.
    """
    trained = load_model(workdir, step)
    return trained.step, evaluate_alone(trained, evaluators)


def evaluate_alone(trained: Trained, evaluators: Path | None = None) -> dict[str, float]:
    """Returns the metrics of a run by the function that measured it while it trained.

    Writes `evals/` of its workdir again.
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
    # Published checkpoints come without evaluators.
    if not evals:
        raise ValueError(
            f"{stages[-1].workdir} states no evaluators; expected --config FILE, whose config.evals are used."
        )
    size = last.evaluation.batch_size
    encode = concat_encode([as_stage(s, size) for s in stages], form=form, batch_size=size)
    return {name: run(encode) for name, run in make_evaluators(evals.to_dict()).items()}
