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
from bias_clip.data.stream.pipeline import make_train_iterator
from tests.data.tiny import Patches

if __name__ == "__main__":
    stream = make_train_iterator(
        Patches(21),
        image_fn=lambda x, _: x,
        text_fn=lambda _: np.zeros(4, np.int32),
        batch_size=64,
        seed=0,
        num_workers=2,
        num_threads=0,
    )
    next(stream)
    signal.signal(getattr(signal, sys.argv[1]), lambda *_: None)
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(1)
    for _ in range(200):  # far more than what was made ahead
        next(stream)
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


def test_a_stream_that_nobody_closes_holds_nothing_up(start_run):
    run = start_run(close="")
    run.stdin.write("go on\n")
    run.stdin.flush()
    assert run.stdout.readline() == "done\n"
    assert run.wait(timeout=20) == 0
