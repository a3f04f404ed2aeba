"""Many runs from one line: which are started, and what happens when one fails."""

import sys
import threading
from pathlib import Path

import pytest

from bias_clip.cli import sweep
from bias_clip.cli.sweep import Run, is_finished, plan, run_all


def test_a_run_for_each_config_and_seed_with_its_own_workdir(tmp_path):
    configs = ["configs/emoji.py", "configs/emoji_debiased.py:clip"]
    runs = list(plan(configs, 2, ["total=7 steps"], tmp_path))
    assert [run.workdir.name for run in runs] == ["emoji_0", "clip_0", "emoji_1", "clip_1"]
    assert runs[3].command[3:] == [
        "--config=configs/emoji_debiased.py:clip",
        f"--workdir={tmp_path / 'clip_1'}",
        "--config.seed=1",
        "--config.total=7 steps",
    ]


@pytest.mark.parametrize(
    ("configs", "seeds", "overrides", "message"),
    [
        (["a/x.py", "b/x.py"], 1, [], "expected different names"),
        (["x.py"], 0, [], "got 0 seeds"),
        (["x.py"], 1, ["total"], "expected key=value"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(configs, seeds, overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        list(plan(configs, seeds, overrides, tmp_path))


def test_a_plan_in_a_bucket_is_refused():
    with pytest.raises(ValueError, match="'gs:/bucket/runs', an address"):
        list(plan(["x.py"], 1, [], Path("gs://bucket/runs")))


def fake(tmp_path, name, *, works=True):
    """A run that counts its starts and, if it works, leaves a report."""
    workdir = tmp_path / name
    code = (
        "import os, pathlib, sys; p = pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True);"
        "print(len(os.sched_getaffinity(0)), 'cores');"
        "(p / 'starts').open('a').write('x');"
        + ("(p / 'report.html').touch()" if works else "sys.exit('no luck')")
    )
    return Run(name, [sys.executable, "-c", code, str(workdir)], workdir)


def starts(run):
    return len((run.workdir / "starts").read_text()) if run.workdir.exists() else 0


def test_a_failed_run_stops_the_sweep_and_finished_ones_are_kept(tmp_path):
    good, bad, last = fake(tmp_path, "a"), fake(tmp_path, "b", works=False), fake(tmp_path, "c")
    with pytest.raises(RuntimeError, match=r"b failed; see .*b.log"):
        run_all([good, bad, last], jobs=1)
    assert "no luck" in (tmp_path / "b.log").read_text()
    assert (starts(good), starts(bad), starts(last)) == (1, 1, 0)
    mended = fake(tmp_path, "b")
    run_all([good, mended, last], jobs=1)
    assert all(map(is_finished, (good, mended, last)))
    assert (starts(good), starts(mended), starts(last)) == (1, 2, 1)


def test_runs_side_by_side_have_their_own_cores(tmp_path):
    runs = [fake(tmp_path, name) for name in "abc"]
    run_all(runs, jobs=2)
    assert all(map(is_finished, runs))
    with pytest.raises(ValueError, match="the cores at hand"):
        run_all(runs, jobs=1000)


def test_an_error_of_ours_ends_the_sweep_and_leaves_no_thread_waiting(monkeypatch, tmp_path):
    def full(_run, _cores):
        raise OSError("no space left")

    monkeypatch.setattr(sweep, "_call", full)
    runs = [Run("a", ["true"], tmp_path / str(i)) for i in range(3)]
    errors = []

    def attempt():
        try:
            run_all(runs, 1)
        except OSError as error:
            errors.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(60)
    assert errors == ["no space left"]
