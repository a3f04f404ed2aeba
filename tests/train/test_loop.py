"""Whole runs: what they write, how they stop, and that they continue as if nothing had happened."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter

from bias_clip.cli.shared.evaluate_run import evaluate_run
from bias_clip.core.storage import NotSavedError
from bias_clip.data.tables import write_table
from bias_clip.train import loop, stream
from bias_clip.train.display.goodput import PARTS as GOODPUT
from bias_clip.train.loop import Interrupted, train
from bias_clip.train.metrics import Clock
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from bias_clip.train.workdir import checkpoint
from tests.train.tiny import share_compiled, tiny_config, use_squares

TIMED = {"seconds", "examples_per_second", "mfu", "input_wait", "goodput"}
TIMED |= {f"goodput/{part}" for part in GOODPUT}


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)
    share_compiled(monkeypatch)


def lines(workdir):
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]


def final_state(workdir, config=None):
    setup = loop.make_setup(config or tiny_config(), mesh=make_mesh(), examples_per_epoch=40)
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=2) as manager:
        return checkpoint.restore(manager, manager.latest_step(), setup.abstract_state)


def assert_same_run(one, other):
    assert lines(one) == lines(other)
    for a, b in zip(*(jax.tree.leaves(final_state(w)) for w in (one, other)), strict=True):
        if not isinstance(a, float):  # seconds
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        share_compiled(patch)
        metrics = train(tiny_config(), workdir, command="a command")
    return workdir, metrics


def test_run_leaves_everything_that_is_promised(whole_run):
    workdir, metrics = whole_run
    names = {path.name for path in workdir.iterdir()}
    assert names >= {"config.json", "run.json", "metrics.jsonl", "evals", "checkpoints"}
    assert "a command" in (workdir / "report.html").read_text()
    assert json.loads((workdir / "run.json").read_text())["command"] == "a command"
    assert json.loads((workdir / "evals" / "color.json").read_text())["step"] == 8
    assert 0 <= metrics["eval/color/acc1"] <= 1


def test_metrics_have_a_line_per_logged_step_and_evaluation(whole_run):
    records = lines(whole_run[0])
    assert [r["step"] for r in records if "train/loss" in r] == [2, 4, 6, 8]
    assert [r["step"] for r in records if "eval/color/acc1" in r] == [4, 8]
    assert all(r["examples"] == 16 * r["step"] for r in records if "train/loss" in r)


@pytest.mark.parametrize(
    "crash_at", [1, 5, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 7))]
)
def test_crashed_run_continues_bit_for_bit(whole_run, tmp_path, monkeypatch, crash_at):
    make = stream.make_train_iterator

    def failing(*args, **kwargs):
        iterator = make(*args, **kwargs)
        original, count = type(iterator).__next__, 0

        class Failing(type(iterator)):
            def __next__(self):
                nonlocal count
                count += 1
                if count > crash_at:
                    raise RuntimeError("power cut")
                return original(self)

        iterator.__class__ = Failing
        return iterator

    with monkeypatch.context() as patch:
        patch.setattr(stream, "make_train_iterator", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tiny_config(), tmp_path, command="")
    train(tiny_config(), tmp_path, command="")
    assert_same_run(whole_run[0], tmp_path)


@pytest.mark.slow
def test_run_whose_metrics_found_no_room_continues_bit_for_bit(whole_run, tmp_path, monkeypatch):
    flush, calls = EventsWriter.flush, []

    def full(self):
        calls.append(0)
        if len(calls) == 5:  # at the start, steps 2 and 4, evaluation of 4, step 6
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return flush(self)

    with monkeypatch.context() as patch:
        patch.setattr(EventsWriter, "flush", full)
        with pytest.raises(NotSavedError, match=r"tensorboard cannot be written: .*No space left"):
            train(tiny_config(), tmp_path, command="")
    train(tiny_config(), tmp_path, command="")
    assert_same_run(whole_run[0], tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_the_same_line_continues_bit_for_bit(
    whole_run, tmp_path, monkeypatch, number
):
    evaluate = loop._evaluate

    def evaluate_then_signal(run, state, step):
        os.kill(os.getpid(), number)
        return evaluate(run, state, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_evaluate", evaluate_then_signal)
        with pytest.raises(Interrupted, match="after step 4; state saved"):
            train(tiny_config(), tmp_path, command="")
    train(tiny_config(), tmp_path, command="")
    assert_same_run(whole_run[0], tmp_path)


@pytest.mark.parametrize("use", ["thin", pytest.param("weight", marks=pytest.mark.slow)])
def test_balanced_run_stopped_at_the_switch_continues_bit_for_bit(
    whole_run, tmp_path, monkeypatch, use
):
    weights = {"id": [f"square/{i}" for i in range(40)], "weight": np.arange(40) / 39}
    write_table(tmp_path / "w.parquet", weights, {"kind": "weights"})
    config = tiny_config()
    config.evals = dict()
    config.data.balance = dict(
        table=str(tmp_path / "w.parquet"), use=use, first="plain", switch="50%"
    )
    evaluate = loop._evaluate

    def evaluate_then_signal(run, state, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(run, state, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_evaluate", evaluate_then_signal)
        with pytest.raises(Interrupted, match="after step 4"):
            train(config, tmp_path / "stopped", command="")
    train(config, tmp_path / "stopped", command="")
    train(config, tmp_path / "whole", command="")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    plain, balanced = lines(whole_run[0]), lines(tmp_path / "whole")
    losses = [[r["train/loss"] for r in run if "train/loss" in r] for run in (plain, balanced)]
    np.testing.assert_allclose(losses[0][:2], losses[1][:2], rtol=1e-6)  # steps 2 and 4
    assert losses[0][2:] != losses[1][2:]


def test_finished_run_is_not_trained_again(whole_run):
    workdir, metrics = whole_run
    before = lines(workdir)
    again = train(tiny_config(), workdir, command="a command")
    assert again == pytest.approx(metrics, rel=1e-6, nan_ok=True)
    assert lines(workdir) == before


def test_workdir_of_another_config_is_refused(whole_run):
    with pytest.raises(ValueError, match=r"another config.*seed: 0 there, 1 now"):
        train(tiny_config(seed=1), whole_run[0], command="")


def test_workdir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot be written"):
        train(tiny_config(), tmp_path / "file" / "run", command="")


def test_workdir_at_an_address_is_refused_and_no_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"workdir 's3:/bucket/run'; expected a folder on storage"):
        train(tiny_config(), Path("s3://bucket/run"), command="")
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_another_model_is_refused_with_what_differs(whole_run):
    other = tiny_config()
    other.model.image.width = 64
    other.model.text.out_dim = 64
    with pytest.raises(ValueError, match=r"another model.*\n.*saved \(.*this config makes \("):
        final_state(whole_run[0], other)


def test_diverged_run_stops_with_step_and_values_and_keeps_what_was_saved(tmp_path):
    config = tiny_config(
        optimizer__lr=1e30,
        schedule__warmup="4 steps",
        checkpoint__every="1 steps",
        guards__max_consecutive=2,
    )
    with pytest.raises(FloatingPointError, match=r"at step [2-8]; the state is in"):
        train(config, tmp_path, command="")
    assert any((tmp_path / "nonfinite").iterdir())
    assert any((tmp_path / "checkpoints").iterdir())


def test_evaluating_the_checkpoint_gives_the_numbers_of_the_run(whole_run):
    workdir, metrics = whole_run
    assert evaluate_run(workdir, None) == (8, pytest.approx(metrics, rel=1e-6, nan_ok=True))


def test_a_checkpoint_is_judged_by_the_evaluators_of_another_config(whole_run, tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    path = folder / "other.py"
    path.write_text(
        """
from tests.train.tiny import tiny_config


def get_config():
    config = tiny_config()
    config.evals = dict(other=dict(type="retrieval", source=dict(name="squares")))
    return config
"""
    )
    workdir = tmp_path / "copy"
    shutil.copytree(whole_run[0], workdir)
    _, metrics = evaluate_run(workdir, None, path)
    assert {name.split("/")[1] for name in metrics} == {"other"}


@pytest.mark.slow
def test_the_compilation_of_the_first_step_is_no_part_of_the_speed(monkeypatch, tmp_path):
    timed = []
    original = Clock.timed
    monkeypatch.setattr(
        Clock, "timed", lambda self, part, f, *a: timed.append(part) or original(self, part, f, *a)
    )
    calls = []
    setup = make_setup(tiny_config(), mesh=make_mesh(), examples_per_epoch=40)

    def counted(*arguments):
        calls.append(timed[-1])
        return setup.train_step(*arguments)

    monkeypatch.setattr(
        "bias_clip.train.loop.make_setup", lambda *_, **__: setup._replace(train_step=counted)
    )
    train(tiny_config(), tmp_path / "run", command="test")
    assert calls[0] == "compile"
    assert "compile" not in calls[1:]
    assert timed.count("compile") == 1


def test_checkpoint_that_is_not_there_is_refused_with_those_that_are(whole_run, tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint of step 99; it has \[6, 8\]"):
        evaluate_run(whole_run[0], 99)
    with pytest.raises(ValueError, match="holds no run"):
        evaluate_run(tmp_path, None)
