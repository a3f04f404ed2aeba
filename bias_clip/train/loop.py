"""The run: batches in, metrics, checkpoints and a report out."""

import contextlib
import datetime
import json
import math
import platform
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from bias_clip import __version__
from bias_clip.data.balance import Plan, make_plan, plain_plan
from bias_clip.data.image import make_image_fn
from bias_clip.data.pipeline import make_train_iterator
from bias_clip.data.sources import Source, make_source
from bias_clip.data.text import make_text_fn
from bias_clip.train import checkpoint
from bias_clip.train.config import to_plain
from bias_clip.train.evaluation import flat_metrics, make_evaluation, write_results
from bias_clip.train.flops import count_flops, peak_flops
from bias_clip.train.metrics import Clock, MetricWriter, Progress, format_duration
from bias_clip.train.report import write_report
from bias_clip.train.setup import Setup, make_setup
from bias_clip.train.sharding import make_mesh, to_global
from bias_clip.train.state import TrainState

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Interrupted(Exception):
    """The run was asked to stop; it saved its state and can be started again."""


def train(config: ml_collections.ConfigDict, workdir: Path, *, command: str) -> dict[str, float]:
    """Trains, evaluates and reports; continues where `workdir` was left.

    Args:
      config: validated (`train/config.py`).
      workdir: gets config.json, run.json, metrics.jsonl, tensorboard/, checkpoints/, evals/ and
        report.html.
      command: the line that started the run, for the report.

    Returns:
      The metrics of the last evaluation.

    Raises:
      ValueError: if the workdir holds a run of another config.
      FloatingPointError: if the loss is no finite number; the state is under `nonfinite/`.
      Interrupted: after SIGINT or SIGTERM, when the state has been saved.
    """
    source = make_source(**config.data.source.to_dict())
    # An epoch is as long as the plain data: as many examples whatever balancing keeps of them.
    setup = make_setup(config, mesh=make_mesh(**config.mesh), examples_per_epoch=len(source))
    evaluate = make_evaluation(
        config.evals.to_dict(),
        model=setup.model,
        mesh=setup.mesh,
        image=config.evaluation.image,
        text=config.data.text.to_dict(),
        batch_size=config.evaluation.batch_size,
    )
    plan = _make_plan(source, config.data.balance, setup)
    _open_workdir(workdir, config)
    iterator = make_train_iterator(
        source,
        image_fn=make_image_fn(config.data.image),
        text_fn=make_text_fn(**config.data.text.to_dict()),
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.num_threads,
        prefetch=config.data.prefetch,
        max_bad_share=config.data.max_bad_share,
        first_caption=config.data.first_caption,
        columns=config.data.columns.to_dict(),
        plan=plan,
    )
    manager = checkpoint.open_checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep)
    with contextlib.closing(iterator), contextlib.closing(manager):
        state, start, seconds = _first_state(setup, manager, iterator, config.seed)
        _write_run(workdir, setup, command)
        run = _Run(config, workdir, setup, evaluate, iterator, manager)
        return _steps(run, state, start, seconds)


def _make_plan(source: Source, balance: ml_collections.ConfigDict | None, setup: Setup) -> Plan:
    if balance is None:
        return plain_plan(source)
    return make_plan(source, **{**balance.to_dict(), "switch": setup.switch})


class _Run(NamedTuple):
    config: ml_collections.ConfigDict
    workdir: Path
    setup: Setup
    evaluate: Any
    iterator: Any
    manager: Any


def _steps(run: _Run, state: TrainState, start: int, seconds: float) -> dict[str, float]:
    """Runs the steps after `start`; `seconds` were spent before it."""
    setup, total = run.setup, run.setup.total_steps
    writer = MetricWriter(run.workdir, start_step=start)
    progress = Progress(total_steps=total, start_step=start)
    speed = _make_speed(run)
    clock, logged = Clock(), start
    results: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    progress.say(f"{'continuing after' if start else 'starting; total'} step {start or total}")
    with contextlib.closing(writer), contextlib.closing(progress), _stop_signal() as stop:
        for step in range(start + 1, total + 1):
            batch = clock.timed("input", next, run.iterator)
            jax.block_until_ready(metrics)  # one step runs while the next one's batch is made
            batch = {key: value for key, value in batch.items() if key != "index"}
            arrays = to_global(batch, setup.mesh)
            if step == start + 1:
                state, metrics = clock.timed("compile", _first_step, setup, state, arrays)
            else:
                state, metrics = setup.train_step(state, arrays)
            if step % setup.log_every == 0 or step == total:
                values = jax.device_get(metrics)
                _check_finite(run, state, step, values)
                elapsed, parts = clock.report()
                seconds += elapsed
                line = speed(step - logged, elapsed, parts)
                writer.write(step, _log_line(run, step, seconds, values) | line)
                progress.update(step, _say(run, values, line, total - step))
                logged = step
            if step % setup.evaluate_every == 0 or step == total:
                results = clock.timed("evaluate", _evaluate, run, state, step)
                writer.write(step, flat_metrics(results))
            if step % setup.save_every == 0 or step == total or stop:
                clock.timed("save", _save, run, state, step, seconds)
            if stop:
                run.manager.wait_until_finished()
                raise Interrupted(f"stopped by signal {stop[0]} after step {step}; state saved.")
        if not results:  # a finished run that was started again
            results = _evaluate(run, state, total)
        progress.say(f"report: {write_report(run.workdir)}")
    run.manager.wait_until_finished()
    return flat_metrics(results)


def _first_step(setup: Setup, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
    """Compiles in the call, and runs: both belong to no speed."""
    return jax.block_until_ready(setup.train_step(state, batch))


def _first_state(
    setup: Setup, manager: Any, iterator: Any, seed: int
) -> tuple[TrainState, int, float]:
    step = manager.latest_step()
    if step is None:
        return setup.init(jax.random.key(seed)), 0, 0.0
    state, data = checkpoint.restore(manager, step, setup.abstract_state)
    iterator.set_state(data["iterator"])
    return state, step, data["seconds"]


def _save(run: _Run, state: TrainState, step: int, seconds: float) -> None:
    data = {"iterator": run.iterator.get_state(), "seconds": seconds}
    checkpoint.save(run.manager, step, state, data)


def _evaluate(run: _Run, state: TrainState, step: int) -> dict[str, Any]:
    results = run.evaluate(state.params if state.ema is None else state.ema)
    write_results(run.workdir / "evals", step, results)
    return results


def _make_speed(run: _Run) -> Any:
    """Returns a function that tells how fast an interval between two log lines went."""
    batch = run.setup.abstract_batch
    model, params = run.setup.model, run.setup.abstract_state.params
    # A training step is counted as three forward passes: recomputation is not useful work.
    flops = 3 * count_flops(model.apply, params, batch["image"], batch["text"])
    peak = peak_flops(run.config.model.dtype)

    def speed(steps, elapsed, parts):
        useful = elapsed - sum(parts.get(part, 0.0) for part in ("evaluate", "save", "compile"))
        steps -= "compile" in parts  # the time of that step is left out, so is the step
        per_second = steps / max(useful, 1e-9)
        return {
            "examples_per_second": per_second * run.config.batch_size,
            "mfu": per_second * flops / peak,
            "input_wait": parts.get("input", 0.0) / max(useful, 1e-9),
        }

    return speed


def _log_line(run: _Run, step: int, seconds: float, values: dict[str, Any]) -> dict[str, Any]:
    line = {
        "examples": step * run.config.batch_size,
        "seconds": seconds,
        "lr": run.config.optimizer.lr * float(run.setup.schedule(step - 1)),
        "replaced_records": run.iterator.stats().replaced,
    }
    return line | {f"train/{name}": value for name, value in values.items()}


def _say(run: _Run, values: dict[str, Any], line: dict[str, float], steps_left: int) -> str:
    per_second = line["examples_per_second"]
    left = steps_left * run.config.batch_size / per_second if per_second else 0.0
    return (
        f"loss {values['loss']:.3f}  {per_second:.0f} examples/s  MFU {line['mfu']:.0%}  "
        f"waiting for data {line['input_wait']:.1%}  {format_duration(left)} left"
    )


def _check_finite(run: _Run, state: TrainState, step: int, values: dict[str, Any]) -> None:
    if math.isfinite(values["loss"]):
        return
    directory = run.workdir / "nonfinite"
    with contextlib.closing(checkpoint.open_checkpoints(directory, keep=1)) as manager:
        checkpoint.save(manager, step, state, {"iterator": run.iterator.get_state()})
        manager.wait_until_finished()
    shown = {name: float(value) for name, value in values.items()}
    raise FloatingPointError(
        f"the loss is {shown['loss']} at step {step}; the state is in {directory}; checkpoints of "
        f"steps {list(run.manager.all_steps())} are untouched. Metrics of the step: {shown}. "
        "Try a lower optimizer.lr, a longer schedule.warmup or a smaller optimizer.clip_norm."
    )


def _open_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    plain = to_plain(config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "config.json"
        found = json.loads(path.read_text()) if path.exists() else plain
        now, then = _flat(plain), _flat(found)
        differ = [key for key in {**now, **then} if now.get(key) != then.get(key)]
        if not differ:
            path.write_text(json.dumps(plain, indent=2))
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be written: {error}.") from error
    if differ:
        shown = "; ".join(f"{key}: {then.get(key)!r} there, {now.get(key)!r} now" for key in differ)
        raise ValueError(
            f"{workdir} holds a run of another config ({shown}). Give another --workdir, or the "
            "config it was started with to continue it."
        )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested dict as {"a.b": value}; an empty dict is a value."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {
        key: leaf
        for part, inner in value.items()
        for key, leaf in _flat(inner, f"{name}.{part}" if name else part).items()
    }


def _write_run(workdir: Path, setup: Setup, command: str) -> None:
    params = jax.tree.leaves(setup.abstract_state.params)
    device = jax.devices()[0]
    record = {
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"bias_clip": __version__, "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "devices": f"{jax.device_count()} x {device.device_kind or device.platform}",
        "parameters": sum(math.prod(leaf.shape) for leaf in params),
        "total_steps": setup.total_steps,
    }
    (workdir / "run.json").write_text(json.dumps(record, indent=2))


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[str]]:
    """Yields a list that is empty until SIGINT or SIGTERM comes; a second one acts as usual."""
    received: list[str] = []
    previous: dict[int, Any] = {}

    def handler(number, _frame):
        received.append(signal.Signals(number).name)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handler)
    try:
        yield received
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)
