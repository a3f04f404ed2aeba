"""The run: batches in, metrics, checkpoints and a report out."""

import contextlib
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from bias_clip.core.formatting import format_large
from bias_clip.core.storage import run_folder
from bias_clip.data.sources import make_source
from bias_clip.evals.headlines import headlines
from bias_clip.models.two_towers import count_parameters
from bias_clip.report.run_page import write_report
from bias_clip.train.config_io import to_plain
from bias_clip.train.display import goodput
from bias_clip.train.display.sinks import Sink, open_sinks
from bias_clip.train.display.speed import WAITS, make_speed, speed_text
from bias_clip.train.display.terminal import Progress, format_table, say, waiting
from bias_clip.train.evaluation import flat_metrics, make_evaluation, write_results
from bias_clip.train.guards import is_healthy, stop_sick_run
from bias_clip.train.hosts.distributed import asked_to_stop, check_same, is_main, wait_for_all
from bias_clip.train.hosts.recheck import step_twice
from bias_clip.train.hosts.signals import stop_signal
from bias_clip.train.hosts.slow import describe as describe_slow
from bias_clip.train.hosts.slow import gather_times, host_names, slow_hosts
from bias_clip.train.hosts.watchdog import Watchdog
from bias_clip.train.metrics import Clock, MetricWriter, plain_numbers
from bias_clip.train.setup import Setup, make_setup, step_after
from bias_clip.train.sharding import make_mesh, to_global
from bias_clip.train.state import TrainState
from bias_clip.train.stream import open_stream
from bias_clip.train.workdir import checkpoint
from bias_clip.train.workdir.folder import (
    check_room,
    hold_workdir,
    open_workdir,
    write_run,
    write_start,
)
from bias_clip.train.workdir.initial_state import first_state


class Interrupted(Exception):
    """The run was asked to stop; its state is saved, and the same command continues it."""


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    command: str,
    recheck_every: int | None = None,
) -> dict[str, float]:
    """Trains, evaluates and reports; continues the run that `workdir` holds, if there is one.

    Args:
      config: validated (`train/config.py`).
      workdir: a folder, or "gs://bucket/folder"; gets config.json, run.json, metrics.jsonl,
        tensorboard/, checkpoints/, evals/ and report.html.
      command: the line that started the run, for the report.
      recheck_every: run every so many steps twice and compare bits, see `step_twice`; None: never.

    Returns:
      The metrics of the last evaluation.

    Raises:
      ValueError: if the workdir is an address of another kind, holds a run of another config, cannot be
        written, or has no room; or if its newest checkpoint is damaged.
      FloatingPointError: if the loss is not finite, or `guards.max_consecutive` consecutive steps
        were skipped; the state is under `nonfinite/`. Or if a step gave other bits the second time.
      NotSavedError: if a checkpoint, the metrics or the report could not be written; what was saved
        before is intact.
      Interrupted: after SIGINT or SIGTERM, when the state has been saved.
    """
    # Before the data is read, which counts as part of the start.
    began = time.time()
    workdir = run_folder(workdir)
    with waiting("reading the data") as found:
        source = make_source(**config.data.source.to_dict())
        found.append(f"{len(source):,} examples found")
    # An epoch has as many examples as the source, also when balancing thins it: so that runs with and
    # without balancing train equally long.
    setup = make_setup(config, mesh=make_mesh(**config.mesh), examples_per_epoch=len(source))
    say(_describe(setup))
    evaluate = make_evaluation(
        config.evals.to_dict(),
        model=setup.model,
        mesh=setup.mesh,
        image=config.evaluation.image,
        text=config.data.text.to_dict(),
        batch_size=config.evaluation.batch_size,
    )
    iterator = open_stream(config, source, switch=setup.switch)
    # A draw depends on how a machine rounds: hosts that drew other rows would train on a mixture of both.
    order = json.dumps(iterator.get_state(), sort_keys=True)
    check_same("the order of the data", order, advice="give all hosts the same files and packages.")
    with (
        contextlib.closing(iterator),
        hold_workdir(workdir) as check_lock,  # before anything is written or deleted there
        _opened(workdir, config, setup) as manager,
    ):
        there = len(manager.all_steps())
        check_room(workdir, setup.abstract_state, keep=config.checkpoint.keep, there=there)
        init_from = None if config.init_from is None else config.init_from.to_dict()
        with waiting("making the parameters"):
            state, start, seconds = first_state(
                setup,
                manager,
                iterator,
                seed=config.seed,
                init_from=init_from,
                config=config,
                on_start=functools.partial(write_start, workdir),
            )
        write_run(workdir, setup, command)
        sinks = open_sinks(config.sinks, workdir=workdir, config=to_plain(config))
        run = _Run(
            config, workdir, setup, evaluate, iterator, manager, sinks, check_lock, recheck_every
        )
        try:
            spent = goodput.start(workdir, step=start, began=began)
            return _steps(run, state, start, seconds, spent)
        finally:
            for sink in sinks:
                sink.close()


def _opened(
    workdir: Path, config: ml_collections.ConfigDict, setup: Setup
) -> contextlib.AbstractContextManager[Any]:
    """The checkpoints of a workdir that is this config's."""
    open_workdir(workdir, config)
    return checkpoint.closing(
        checkpoint.open_checkpoints(
            workdir / "checkpoints",
            keep=config.checkpoint.keep,
            keep_every=setup.keep_every,
            clean=True,
        )
    )


def _describe(setup: Setup) -> str:
    devices, params = setup.mesh.devices.flat, setup.abstract_state.params
    kind = devices[0].device_kind or devices[0].platform
    light = "" if setup.light is None else f", the first {setup.light.until:,} of them light"
    return (
        f"device: {setup.mesh.size} x {kind}; model: {format_large(count_parameters(params))} "
        f"parameters; {setup.total_steps:,} steps{light}"
    )


class _Run(NamedTuple):
    config: ml_collections.ConfigDict
    workdir: Path
    setup: Setup
    evaluate: Any
    iterator: Any
    manager: Any
    sinks: list[Sink]
    check_lock: Callable[[], None]  # raises if the workdir is another run's by now
    recheck_every: int | None


def _steps(
    run: _Run, state: TrainState, start: int, seconds: float, spent: goodput.Goodput
) -> dict[str, float]:
    """Runs the steps after `start`; `seconds` were spent before it, and `spent` in all starts."""
    setup, total = run.setup, run.setup.total_steps
    kinds = {name: section.type for name, section in run.config.evals.items()}
    writer = MetricWriter(run.workdir, start_step=start, evaluators=kinds)
    progress = Progress(total_steps=total, start_step=start)
    speed = make_speed(setup)
    clock, logged, compiled = Clock(), start, 0
    dog = Watchdog(run.workdir, seconds=run.config.stall_seconds, step=start)
    hosts = host_names() if jax.process_count() > 1 else []
    results: dict[str, Any] = {}
    metrics: dict[str, Any] = {}

    def timed(part, function, *arguments):
        dog.doing(part)
        quiet = contextlib.nullcontext()
        with waiting(WAITS[part], progress.say) if part in WAITS else quiet:
            result = clock.timed(part, function, *arguments)
        dog.doing("step")
        return result

    def write(step, values):
        # Another run may have taken the workdir over while this one was silent.
        run.check_lock()
        writer.write(step, values)
        for sink in run.sinks:
            sink.write(step, plain_numbers(values))

    progress.say(f"{'continuing after' if start else 'starting; total'} step {start or total}")
    with (
        contextlib.closing(dog),
        contextlib.closing(writer),
        contextlib.closing(progress),
        stop_signal() as stop,
    ):
        for step in range(start + 1, total + 1):
            batch = timed("input", next, run.iterator)
            batch = {key: value for key, value in batch.items() if key != "index"}
            arrays = to_global(batch, setup.mesh)
            jax.block_until_ready(metrics)  # after the next batch: it is made while this step runs
            if "skipped_in_row" in metrics:
                _check_health(run, state, step - 1, metrics)
            dog.done(step - 1)
            train_step = step_after(setup, step - 1)
            if step == start + 1 or (setup.light is not None and step == setup.light.until + 1):
                state, metrics = timed("compile", _first_step, train_step, state, arrays, step)
                compiled += 1
            elif run.recheck_every is not None and step % run.recheck_every == 0:
                state, metrics = step_twice(train_step, state, arrays, step=step, hosts=hosts)
            else:
                state, metrics = train_step(state, arrays)
            if step % setup.log_every == 0 or step == total:
                values = jax.device_get(metrics)
                _check_health(run, state, step, values)
                # A save in the background may have failed meanwhile; the loop reports that within one log
                # interval.
                checkpoint.check(run.manager)
                elapsed, parts = clock.report()
                seconds += elapsed
                spent = goodput.add(spent, elapsed, parts)
                goodput.write(run.workdir, spent)
                line = speed(logged, step, compiled, elapsed, parts)
                write(step, _log_line(run, step, seconds, values) | line | goodput.line(spent))
                if hosts:
                    _say_slow(progress, hosts, elapsed, parts)
                progress.update(step, speed_text(values, line, setup, total - step))
                logged, compiled = step, 0
            if step % setup.evaluate_every == 0 or step == total:
                results = timed("evaluate", _evaluate, run, state, step)
                write(step, flat_metrics(results))
            if asked_to_stop(step):  # on many hosts, all stop after the same step
                stop.append("SIGTERM")
            if step % setup.save_every == 0 or step == total or stop:
                writer.flush()  # before the checkpoint: a continued run then has all lines up to it
                timed("save", _save, run, state, step, seconds)
                # The time up to the save belongs to it: a restart continues there, and counts the rest as
                # lost.
                now = goodput.mark_saved(goodput.add(spent, *clock.passed()), step)
                goodput.write(run.workdir, now)
                spent = spent._replace(saved=now.saved)
            if stop:
                # The save must be on disk before the process ends.
                checkpoint.wait(run.manager)
                raise Interrupted(f"stopped by signal {stop[0]} after step {step}; state saved.")
        if logged > start:  # the last evaluation and save came after the last line
            # The time of the last evaluation and save is not in any line yet.
            spent = goodput.add(spent, *clock.report())
            goodput.write(run.workdir, spent)
            write(total, goodput.line(spent))
        if not results:  # a finished run that was started again
            results = _evaluate(run, state, total)
        _say_bad_records(run, progress)
        if rows := headlines(results):
            progress.say(format_table(rows))
        if is_main():
            writer.flush()
            progress.say(f"report: {write_report(run.workdir)}")
    checkpoint.wait(run.manager)
    return flat_metrics(results)


def _first_step(
    train_step: Any, state: TrainState, batch: Any, step: int
) -> tuple[TrainState, dict[str, Any]]:
    """Compiles and runs the first step of its kind; its time does not count for the speed."""
    if jax.process_count() > 1:
        # The first collective waits for all hosts with a deadline (30 s on CPUs, minutes on GPUs), and
        # hosts may differ by more in compiling. So they meet in between, without a deadline.
        train_step.lower(state, batch).compile()  # kept: the call below compiles nothing
        wait_for_all(f"step {step} is compiled")
    return jax.block_until_ready(train_step(state, batch))


def _save(run: _Run, state: TrainState, step: int, seconds: float) -> None:
    run.check_lock()
    data = {"iterator": run.iterator.get_state(), "seconds": seconds}
    checkpoint.save(run.manager, step, state, data)


def _evaluate(run: _Run, state: TrainState, step: int) -> dict[str, Any]:
    # The average if there is one: it is what a user of the model loads.
    results = run.evaluate(state.params if state.ema is None else state.ema)
    write_results(run.workdir / "evals", step, results)
    return results


def _log_line(run: _Run, step: int, seconds: float, values: dict[str, Any]) -> dict[str, Any]:
    line = {
        "examples": step * run.config.batch_size,
        "seconds": seconds,
        # `step` counts from 1; the schedule counts updates from 0.
        "lr": run.config.optimizer.lr * float(run.setup.schedule(step - 1)),
        "replaced_records": run.iterator.stats().replaced,
    }
    return line | {f"train/{name}": value for name, value in values.items()}


def _say_bad_records(run: _Run, progress: Progress) -> None:
    stats = run.iterator.stats()
    if stats.replaced:
        named = "; ".join(f"{name}: {reason}" for name, reason in list(stats.bad.items())[:10])
        progress.say(
            f"{stats.replaced} of {stats.examples} examples stood in for bad records: {named}"
        )


def _say_slow(
    progress: Progress, hosts: list[str], elapsed: float, parts: dict[str, float]
) -> None:
    """Compares the hosts' times since the last line; all hosts call it after the same step."""
    own = {"step": elapsed - sum(parts.values()), "input": parts.get("input", 0.0)}
    found = slow_hosts(gather_times(own, ("step", "input")), hosts)
    if found and is_main():
        progress.say(describe_slow(found))


def _check_health(run: _Run, state: TrainState, step: int, metrics: dict[str, Any]) -> None:
    guards = run.config.guards
    limit = None if guards is None else guards.max_consecutive
    if not is_healthy(metrics, max_consecutive=limit):
        stop_sick_run(run.workdir, state, step, metrics, list(run.manager.all_steps()))
