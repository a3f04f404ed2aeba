"""Many runs from one line: which are started, and what happens when one fails."""

import sys
import threading
from pathlib import Path

import pytest

from bias_clip.cli import sweep
from bias_clip.cli.shared.shares import make_shares
from bias_clip.cli.sweep import Run, is_finished, part_of, plan, run_all


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


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_jobs_have_gpus_of_their_own(eight_cores):
    shares = make_shares(2, "cuda:5")
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0,2,4", "1,3"]
    assert [share.cores for share in shares] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    # The only run at a time has the whole memory of its GPUs, as JAX reserves it.
    assert all("XLA_CLIENT_MEM_FRACTION" not in share.environment for share in shares)


def test_more_jobs_than_gpus_share_their_memory(eight_cores, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    shares = [share.environment for share in make_shares(5, "cuda:2")]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["GPU-a", "GPU-b"] * 2 + ["GPU-a"]
    of_memory = {"GPU-a": 0.0, "GPU-b": 0.0}
    for share in shares:
        of_memory[share["CUDA_VISIBLE_DEVICES"]] += float(share["XLA_CLIENT_MEM_FRACTION"])
    assert of_memory == pytest.approx({"GPU-a": 0.9, "GPU-b": 0.9})


def test_a_job_has_one_tpu_chip(eight_cores):
    shares = [share.environment for share in make_shares(3, "tpu:4")]
    assert [share["TPU_VISIBLE_CHIPS"] for share in shares] == ["0", "1", "2"]
    assert {share["TPU_CHIPS_PER_PROCESS_BOUNDS"] for share in shares} == {"1,1,1"}


@pytest.mark.parametrize(
    ("jobs", "chips", "message"),
    [
        (1, "gpu:2", r"got chips 'gpu:2'; expected cuda:N or tpu:N"),
        (1, "cuda:0", r"expected cuda:N or tpu:N"),
        (3, "tpu:2", r"got 3 jobs for 2 TPU chips.* give --jobs 2 or fewer"),
        (1, "cuda:3", r"got chips cuda:3, but CUDA_VISIBLE_DEVICES is '4,5'"),
        (1, "cuda:1", r"CUDA_VISIBLE_DEVICES is ''"),
    ],
)
def test_chips_that_are_not_there_are_refused(jobs, chips, message, eight_cores, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "" if chips == "cuda:1" else "4,5")
    with pytest.raises(ValueError, match=message):
        make_shares(jobs, chips)


def test_a_run_sees_its_share(tmp_path, eight_cores):
    code = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).mkdir();"
    code += (
        "pathlib.Path(sys.argv[1], 'report.html').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    workdirs = [tmp_path / "a", tmp_path / "b"]
    runs = [Run(w.name, [sys.executable, "-c", code, str(w)], w) for w in workdirs]
    run_all(runs, 1, "cuda:3")
    assert [(w / "report.html").read_text() for w in workdirs] == ["0,1,2"] * 2


def test_hosts_do_parts_of_the_runs(tmp_path):
    runs = list(plan(["a.py", "b.py"], 3, [], tmp_path))
    parts = [part_of(runs, f"{k}/4") for k in range(1, 5)]
    assert sorted(run.workdir.name for part in parts for run in part) == sorted(
        run.workdir.name for run in runs
    )
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    for wrong in ("0/4", "5/4", "2", "1/0"):
        with pytest.raises(ValueError, match=r"expected K/N"):
            part_of(runs, wrong)


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
