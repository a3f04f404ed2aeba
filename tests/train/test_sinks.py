"""Trackers beside TensorBoard: imported when asked for, given all metrics, closed at the end."""

import sys
from types import SimpleNamespace

import pytest

from bias_clip.train.display.sinks import SINKS, open_sinks
from bias_clip.train.loop import train
from tests.train.tiny import tiny_config, use_squares


def fake(calls):
    """A package whose functions note what they are called with; `init` returns the run, as wandb's."""

    def noting(name):
        return lambda *args, **kwargs: calls.append((name, args, kwargs))

    run = SimpleNamespace(log=noting("log"), finish=noting("finish"))

    def init(**arguments):
        calls.append(("init", (), arguments))
        return run

    return SimpleNamespace(init=init, log=run.log, finish=run.finish)


@pytest.mark.parametrize("name", SINKS)
def test_a_tracker_gets_the_config_the_metrics_and_the_end(name, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setitem(sys.modules, name, fake(calls))
    (sink,) = open_sinks([name], workdir=tmp_path / "run", config={"seed": 0})
    sink.write(3, {"train/loss": 1.5})
    sink.close()
    (_, _, given), log, finish = calls
    assert given["project"] == "bias_clip"
    assert given["name"] == "run"
    assert given["resume"] == "allow"
    assert given["config"] == {"seed": 0}
    assert log == ("log", ({"train/loss": 1.5},), {"step": 3})
    assert finish == ("finish", (), {})


@pytest.mark.parametrize("name", SINKS)
def test_a_missing_package_is_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"pip install 'bias_clip\[{name}\]'"):
        open_sinks([name], workdir=tmp_path, config={})


def test_by_default_there_is_none(tmp_path):
    assert tuple(tiny_config().sinks) == ()
    assert open_sinks((), workdir=tmp_path, config={}) == []


@pytest.mark.slow
def test_a_run_tells_the_tracker_what_its_file_has(monkeypatch, tmp_path):
    use_squares(monkeypatch)
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", fake(calls))
    train(tiny_config(sinks=("wandb",)), tmp_path / "run", command="test")
    logged = [(kwargs["step"], args[0]) for name, args, kwargs in calls if name == "log"]
    assert [step for step, values in logged if "train/loss" in values] == [2, 4, 6, 8]
    assert [step for step, values in logged if "eval/color/acc1" in values] == [4, 8]
    assert all(isinstance(x, int | float) for _, values in logged for x in values.values())
    assert calls[-1][0] == "finish"
