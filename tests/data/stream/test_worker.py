"""Processes that prepare images: they outlive a signal that the run outlives, and not the run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RUN = """
import itertools, os, signal, sys, time
import numpy as np
from bias_clip.data.stream import worker
from bias_clip.data.stream.pipeline import make_train_iterator
from tests.data.tiny import Patches

worker.GRACE = float(os.environ.get("GRACE", worker.GRACE))  # of the processes, which read this too


def open_stream(num_workers):
    return make_train_iterator(
        Patches(21),
        image_fn=lambda x, _: x,
        text_fn=lambda _: np.zeros(4, np.int32),
        batch_size=64,
        seed=0,
        num_workers=num_workers,
        num_threads=0,
    )


if __name__ == "__main__":
    signal.alarm(120)  # a run that waits for ever ends too, and the test fails
    stream = open_stream(2)
    next(stream)
    signal.signal(getattr(signal, sys.argv[1]), lambda *_: None)
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(1)
    try:
        for _ in range(200):  # far more than what was made ahead
            next(stream)
    except ChildProcessError as error:
        print(error, flush=True)
        expected = open_stream(0)
        expected.set_state(stream.get_state())
        np.testing.assert_array_equal(next(stream)["index"], next(expected)["index"])
    print("done", flush=True)
    if sys.argv[2] == "close":
        stream.close()
"""


@pytest.fixture
def start_run(tmp_path, monkeypatch):
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runs = []

    def start(name="SIGTERM", close="close"):
        run = subprocess.Popen(
            [sys.executable, "run.py", name, close],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # signals to the group reach no one else
        )
        runs.append(run)
        assert run.stdout.readline() == "ready\n"
        return run

    yield start
    for run in runs:
        if alive(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


def alive(group):
    """Processes of the group, but for those that wait to be collected."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def all_gone(group):
    end = time.monotonic() + 20
    while alive(group) and time.monotonic() < end:
        time.sleep(0.2)
    return not alive(group)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_all_leaves_the_run_its_batches(start_run, name):
    run = start_run(name)
    assert len(alive(run.pid)) >= 3
    os.killpg(run.pid, getattr(signal, name))
    run.stdin.write("go on\n")
    run.stdin.flush()
    assert run.stdout.readline() == "done\n"
    assert run.wait(timeout=20) == 0
    assert all_gone(run.pid)


def test_processes_end_with_a_run_that_was_killed(start_run):
    run = start_run()
    assert len(alive(run.pid)) >= 3
    run.kill()
    run.wait()
    assert all_gone(run.pid)


def processes_that_prepare(run):
    """Of a run of two: the youngest, because the first is the run and the second tracks what they share."""
    return sorted(alive(run.pid))[-2:]


def test_a_run_names_a_process_that_was_killed_and_can_go_on(start_run):
    run = start_run()
    os.kill(processes_that_prepare(run)[0], signal.SIGKILL)
    run.stdin.write("go on\n")
    run.stdin.flush()
    message = run.stdout.readline()
    assert "has ended with status -9" in message
    assert "memory runs out. Lower data.num_workers" in message
    assert run.stdout.readline() == "done\n"
    assert run.wait(timeout=20) == 0
    assert all_gone(run.pid)


@pytest.mark.slow
def test_a_run_that_outlives_sigterm_too_long_names_its_process(start_run, monkeypatch):
    monkeypatch.setenv("GRACE", "0.1")
    run = start_run()
    os.kill(processes_that_prepare(run)[1], signal.SIGTERM)
    run.stdin.write("go on\n")
    run.stdin.flush()
    assert "has ended with status 143: ended by SIGTERM" in run.stdout.readline()
    assert run.stdout.readline() == "done\n"
    assert run.wait(timeout=20) == 0


def test_a_stream_that_nobody_closes_holds_nothing_up(start_run):
    run = start_run(close="")
    run.stdin.write("go on\n")
    run.stdin.flush()
    assert run.stdout.readline() == "done\n"
    assert run.wait(timeout=20) == 0
