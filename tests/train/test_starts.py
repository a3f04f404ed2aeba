"""How a run starts and speaks: two starts, a signal before the loop, a log that cannot be written, damaged files."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from bias_clip.train.metrics import MetricWriter
from bias_clip.train.workdir.folder import open_workdir
from tests.train.hosts import pod
from tests.train.tiny import tiny_config


def steps_in(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]


def test_a_second_writer_is_refused_and_loses_no_line(tmp_path):
    first = MetricWriter(tmp_path, start_step=0)
    for step in (5, 10, 15):
        first.write(step, {"loss": 1.0})
    with pytest.raises(ValueError, match=r"another run is writing .*metrics\.jsonl: end it first"):
        MetricWriter(tmp_path, start_step=10)
    for step in (20, 25):
        first.write(step, {"loss": 1.0})
    first.close()
    assert steps_in(tmp_path) == [5, 10, 15, 20, 25]
    MetricWriter(tmp_path, start_step=20).close()
    assert steps_in(tmp_path) == [5, 10, 15, 20]


@pytest.mark.parametrize("end", ['{"step": 6, "lo', "\0" * 30, '{"st', "[", '{"step": 6}\n{"step'])
def test_the_half_last_line_of_a_killed_run_is_left_out(tmp_path, end):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n' + end)
    MetricWriter(tmp_path, start_step=6).close()
    assert steps_in(tmp_path) == ([5, 6] if "\n" in end else [5])


def test_a_whole_last_line_without_its_end_stays(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 6}')
    MetricWriter(tmp_path, start_step=6).close()
    assert steps_in(tmp_path) == [5, 6]


@pytest.mark.parametrize(
    "line", ["", "3", "[]", "\0\0", '{"step": "a"}', '{"step": true}', "{}", "\udcff"]
)
def test_a_damaged_line_of_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    content = f'{{"step": 5}}\n{line}\n{{"step": 6}}\n'.encode(errors="surrogateescape")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: .*remove that line") as caught:
        MetricWriter(tmp_path, start_step=6)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content", [b"", b'{"seed": 0, "tot', b"[]", b"3", b"\0" * 64, b"\xff\xfe"]
)
def test_a_damaged_config_of_a_workdir_is_one_line_that_names_it(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: got .*restore it from a copy") as caught:
        open_workdir(tmp_path, tiny_config())
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == content


SAYS = """
import sys
from bias_clip.train.hosts.log import settle_log
from bias_clip.train.display.terminal import Progress, say
progress = Progress(total_steps=3, start_step=0)
say("reading"); progress.say("starting"); progress.update(3, "loss 1"); progress.close()
settle_log()
sys.exit(75)
"""


@pytest.mark.parametrize("log", ["full", "pipe", "closed"])
def test_a_log_that_cannot_be_written_changes_nothing(log):
    line = [sys.executable, "-c", SAYS]
    if log == "closed":
        line = ["sh", "-c", 'exec "$@" 2>&-', "sh", *line]
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "w") as full, os.fdopen(write, "w") as pipe:
        into = {"full": full, "pipe": pipe, "closed": None}[log]
        done = subprocess.run(line, stderr=into, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (75, b"")


EARLY = """
import os, signal, sys, time
import bias_clip.train.__main__ as entry
def load():
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    time.sleep(20)
entry._load = load
entry.main(["--config=c.py", "--workdir=w"])
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_libraries_load_ends_with_75(name):
    done = subprocess.run(
        [sys.executable, "-c", EARLY, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 75
    assert done.stderr.count("\n") == 1
    assert f"stopped by signal {name} while no step was running" in done.stderr


TIMED = {"seconds", "examples_per_second", "mfu", "input_wait", "goodput"}


def result(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    metrics = [
        {k: v for k, v in line.items() if k.partition("/")[0] not in TIMED} for line in lines
    ]
    state = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / "20" / "state")
    return metrics, ocp.tree.to_flat_dict(state, sep="/")


def _wait_for(path, seconds=240):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_of_two_starts_on_one_workdir_one_runs_to_its_end_and_loses_nothing(tmp_path):
    """Real processes: the second comes while the first runs, which ends as one that was left alone."""
    workdir = tmp_path / "run"
    pod.finish(pod.start(tmp_path / "c", tmp_path / "alone", devices=1))
    first = pod.start(tmp_path / "a", workdir, devices=1)
    _wait_for(workdir / "lock")
    second = pod.start(tmp_path / "b", workdir, devices=1)
    said = second.communicate(timeout=300)[1]
    assert second.returncode == 1, said
    assert (
        f"another run is at work in {workdir}: process {first.pid} on {socket.gethostname()}, last"
        in said
    )
    assert (
        said.count("\n") == said.count("\n", 0, said.index("error: ")) + 1
    )  # one line, and the last
    first.communicate(timeout=300)
    assert first.returncode == 0
    assert sorted(set(steps_in(workdir))) == list(range(1, 21))
    assert not (workdir / "lock").exists()
    (metrics, state), (other_metrics, other) = result(workdir), result(tmp_path / "alone")
    assert metrics == other_metrics
    assert state.keys() == other.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.slow
def test_a_killed_runs_lock_is_taken_over_and_a_signal_before_the_loop_ends_with_75(tmp_path):
    workdir = tmp_path / "run"
    first = pod.start(tmp_path / "a", workdir, devices=1)
    _wait_for(workdir / "lock")
    first.kill()
    first.communicate()
    second = pod.start(tmp_path / "b", workdir, devices=1)
    end = time.monotonic() + 240
    while json.loads((workdir / "lock").read_text())["pid"] != second.pid:
        assert time.monotonic() < end
        time.sleep(0.02)
    second.send_signal(signal.SIGTERM)
    said = second.communicate(timeout=300)[1]
    assert second.returncode == 75, said
    assert "taking it over" in said
